"""The table of effects that every method gives, and what exact patching knows beside it: intervals, reference vectors,
verdicts, as tidy frames."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import EFFECTS, TOTAL, Statistics, estimates, node_columns, nonzero
from steerscope.analysis.results.schema import Column, Frame
from steerscope.analysis.results.stats import holm, interval, nonzero_p, prediction_p, ratio_interval, stability
from steerscope.analysis.results.verdicts import LEAST, NOISE, TOLD, Basis, band, leave_one_out, wrong_way
from steerscope.analysis.tools.keeping import each
from steerscope.analysis.tools.patching import MEASURES, Effects, together

Values = NDArray[np.float64]
JOINT = ("told_necessity", "told_sufficiency", "all_necessity", "all_sufficiency")
STABLE = 0.8  # Jaccard overlap

CARRIERS: Frame = EFFECTS | {
    "stability": Column("share of resamples of the groups of prompts in which the node is told from noise")
}
TOTALS: Frame = {
    "quantity": Column(
        "total: steered minus clean; kl: disturbance of the steered run; told_necessity / told_sufficiency: all nodes "
        "told from noise patched at once; all_necessity / all_sufficiency: every node patched at once; "
        "unverified_necessity / unverified_sufficiency: every node that was not patched by itself, at once",
        role="label",
    ),
    **TOTAL,
    "reference": Column(
        "mean over the reference vectors: of the total, their own effects, each along its own change; of kl, theirs; "
        "of nodes patched at once, their own share times the total",
        "{unit}",
        "reference",
    ),
    "reference_low": Column("2.5th percentile over the reference vectors", "{unit}", "reference_low"),
    "reference_high": Column("97.5th percentile over the reference vectors", "{unit}", "reference_high"),
    "p": Column("t test over groups of prompts: the value differs from zero"),
    "wrong_way": Column("share of prompts with the opposite sign of the mean"),
}
VECTORS: Frame = {
    "vector": Column("steering for the real one, reference 1, reference 2, ... for the others", role="label"),
    "family": Column("of the reference: isotropic, covariance, shuffled, concepts or given", role="label"),
    "label": Column("the vector in words"),
    "norm": Column("root of the summed squares of coefficient times vector", "stream units"),
    "coefficient": Column("multiplies the vector"),
    "effect": Column("mean effect over prompts along the vector's own change of the logits", "logits", "estimate"),
    "low": Column("lower end of the interval over groups of prompts", "logits", "low"),
    "high": Column("upper end of the interval over groups of prompts", "logits", "high"),
    "kl": Column("disturbance: KL(steered || clean), mean over scored positions and prompts", "nats"),
    "kl_low": Column("lower end of the interval over groups of prompts", "nats"),
    "kl_high": Column("upper end of the interval over groups of prompts", "nats"),
}


def effect_table(
    nodes: Sequence[Node],
    measures: Sequence[str],
    along: Float[Values, "measure node prompt"],
    own: Float[Values, "vector measure node prompt"],
    basis: Basis,
    options: Statistics,
    tests: int | None = None,
    further: Float[Values, "measure node"] | None = None,
) -> pd.DataFrame:
    """The columns of `EFFECTS`: a row for every measure and node.

    Args:
        along: effects of the real vector along the metric.
        own: effects of all vectors, each along its own change of the output.
        tests, further: as in `estimates`.
    """
    frames = []
    for index, measure in enumerate(measures):
        error = 0.0 if further is None else further[index]
        columns = estimates(basis, along[index], own[:, index], options, tests, error)
        frames.append(pd.DataFrame(node_columns(nodes) | {"measure": measure} | columns))
    return pd.concat(frames, ignore_index=True)


def told(table: pd.DataFrame, measure: str) -> set[str]:
    """The nodes that are told from noise by a measure."""
    return set(table["node"][(table["measure"] == measure) & table["verdict"].isin(TOLD)])


def carrier_table(experiment: Experiment, raw: Effects, options: Statistics) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The columns of `CARRIERS`; and for the manifest how stable what is told is, and how the test checks itself."""
    tests = len(experiment.reachable)  # patched or not: which ones to patch was seen from the same prompts
    table = effect_table(raw.nodes, MEASURES, raw.along, raw.own, raw.basis, options, tests)
    overlaps, found_in = zip(
        *(_stability(raw.basis, raw.own[:, m], options, tests, experiment.seed) for m in range(len(MEASURES))),
        strict=True,
    )
    table = table.assign(stability=np.concatenate(found_in))
    about = {"stability": _steadiness(overlaps), **self_check(raw.basis, raw.own, MEASURES, options)}
    return _with_unreached(experiment, table), about


def self_check(
    basis: Basis, own: Float[Values, "vector measure node prompt"], measures: Sequence[str], options: Statistics
) -> dict[str, Any]:
    """How often reference vectors, each playing the real one, are told from the others, for the manifest.

    `leave_one_out`: by measure, the worst of the kinds of references; `reference_tests`: each by itself.
    """
    rows, worst = [], {}
    for m, measure in enumerate(measures):
        rates = leave_one_out(basis.shares(own[:, m]), basis, options.alpha)
        known = {kind: rate for kind, rate in rates.items() if rate is not None}
        worst[measure] = max(known.values(), default=None)
        for kind, rate in rates.items():
            given = [name for name in basis.families if name and (name in NOISE) == (kind == "noise")]
            if given:
                used = len(basis.members(kind == "noise"))
                trusted = rate is not None and rate <= 2 * options.alpha
                about = {"kind": kind, "measure": measure, "vectors": len(given), "used": used}
                rows.append(about | {"least": LEAST, "told": rate, "trusted": trusted})
    return {"leave_one_out": worst, "reference_tests": rows}


def _stability(
    basis: Basis, own: Float[Values, "vector node prompt"], options: Statistics, tests: int, seed: int
) -> tuple[Values, Values]:
    """Of the test over vectors: which nodes are told from noise on resampled groups."""
    noise = basis.members(True)
    noise = noise if len(noise) >= LEAST else basis.members(False)

    def find(weights: Values) -> NDArray[np.bool_]:
        shares = basis.shares(own, weights)
        if len(noise) < LEAST or not basis.clear[0]:
            return np.zeros(own.shape[1], dtype=bool)
        others = shares[noise]
        p = np.where(shares[0] > others.mean(axis=0), prediction_p(shares[0], others), 1.0)
        return np.asarray((holm(p, tests) < options.alpha) & (shares[0] >= options.smallest))

    return stability(find, basis.groups, seed)


def _with_unreached(experiment: Experiment, table: pd.DataFrame) -> pd.DataFrame:
    """Nodes before the injection too: it cannot reach them, so their effects are zero and nothing is tested."""
    nodes = [node for node in experiment.model.nodes if node not in set(experiment.reachable)]
    if nodes:
        numbers = {str(c): float(str(c).startswith("p")) for c in table if table[c].dtype == float}
        about = {"verdict": "untested"}
        rest = [pd.DataFrame(node_columns(nodes) | {"measure": m} | numbers | about) for m in MEASURES]
        table = pd.concat([table, *rest], ignore_index=True)
    return table.sort_values(["measure", "layer", "head"], na_position="last", ignore_index=True)


def _steadiness(overlaps: Sequence[Values]) -> dict[str, Any]:
    """Jaccard overlap of the nodes told from noise over resamples of the groups, for the manifest."""
    values = np.concatenate(overlaps)
    values = values[~np.isnan(values)]
    about: dict[str, Any] = {"jaccard": None, "low": None, "high": None, "resamples": len(overlaps[0])}
    if len(values) == 0:
        return about | {"note": "no node was ever told from noise"}
    low, high = np.percentile(values, [2.5, 97.5])
    note = (
        "overlap of the nodes told from noise on resampled groups of prompts with those on all prompts; "
        f"{STABLE} is the field's bar"
    )
    return about | {"jaccard": float(values.mean()), "low": float(low), "high": float(high), "note": note}


def per_prompt(raw: Effects) -> pd.DataFrame:
    prompts = raw.along.shape[-1]
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "prompt": np.tile(np.arange(prompts), len(raw.nodes)),
                    "node": np.repeat([str(n) for n in raw.nodes], prompts),
                    "measure": name,
                    "effect": raw.along[i].ravel(),
                }
            )
            for i, name in enumerate(MEASURES)
        ],
        ignore_index=True,
    )


def totals(
    experiment: Experiment,
    raw: Effects,
    groups: Sequence[tuple[str, Sequence[Node]]],
    options: Statistics,
    names: Sequence[str] = JOINT,
) -> tuple[pd.DataFrame, Float[Values, "group prompt"]]:
    """The whole effect, the disturbance, and what groups of nodes do when they are patched at once, of all vectors.

    Args:
        groups: (measure, nodes). names: of the groups.

    Returns:
        the table, and the real vector's effects of the groups.
    """
    given = [f"{measure}: {' '.join(map(str, members))}" for measure, members in groups]
    kept = each(experiment, "joint patching", lambda vector: (together(experiment, groups, vector),), *given)
    joint = np.stack([effect for (effect,) in kept])
    basis, unit = raw.basis, experiment.metric.unit
    whole, references = basis.total, np.arange(1, len(basis.families))
    shares = basis.shares(joint)[1:] * nonzero(whole.mean())
    rows = [
        _total("total", whole, unit, basis, options, basis.own[references].mean(axis=-1)),
        _total("kl", raw.kl[0], "nats", basis, options, raw.kl[1:].mean(axis=-1)),
    ]
    for index, name in enumerate(names):
        row = _total(name, joint[0, index], unit, basis, options, shares[:, index])
        low, high = ratio_interval(joint[0, index], whole, options.level, basis.groups)
        rows.append(
            row | {"share": row["value"] / nonzero(whole.mean()), "share_low": float(low), "share_high": float(high)}
        )
    return pd.DataFrame(rows), joint[0]


def _total(
    name: str, values: Values, unit: str, basis: Basis, options: Statistics, references: Values
) -> dict[str, Any]:
    low, high = interval(values, options.level, basis.groups)
    references = references[np.isfinite(references)]
    reference_low, reference_high = band(references)
    return {
        "quantity": name,
        "value": values.mean(),
        "low": float(low),
        "high": float(high),
        "unit": unit,
        "share": np.nan,
        "share_low": np.nan,
        "share_high": np.nan,
        "reference": references.mean() if len(references) else np.nan,
        "reference_low": float(reference_low),
        "reference_high": float(reference_high),
        "p": float(nonzero_p(values, basis.groups)),
        "wrong_way": float(wrong_way(values)),
    }


def vectors(experiment: Experiment, raw: Effects, options: Statistics) -> pd.DataFrame:
    """The columns of `VECTORS`."""
    low, high = interval(raw.basis.own, options.level, raw.basis.groups)
    kl_low, kl_high = interval(raw.kl, options.level, raw.basis.groups)
    return pd.DataFrame(
        {
            "vector": ["steering"] + [f"reference {n}" for n in experiment.vectors[1:]],
            "family": list(raw.basis.families),
            "label": [" and ".join(dict.fromkeys(i.vector.label for i in g)) for g in experiment.steering],
            "norm": [
                float(np.sqrt(sum((i.coefficient * i.vector.norms).square().sum().item() for i in group)))
                for group in experiment.steering
            ],
            "coefficient": [group[0].coefficient for group in experiment.steering],
            "effect": raw.basis.own.mean(-1),
            "low": low,
            "high": high,
            "kl": raw.kl.mean(-1),
            "kl_low": kl_low,
            "kl_high": kl_high,
        }
    )
