"""The table of effects that every method gives, and what exact patching knows beside it: intervals, references and
corrected p-values as tidy frames."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import (
    BAND,
    EFFECTS,
    TOTAL,
    Statistics,
    band,
    estimates,
    node_columns,
    nonzero,
    over_references,
    wrong_way,
)
from steerscope.analysis.results.schema import Column, Frame
from steerscope.analysis.results.stats import (
    benjamini_hochberg,
    carrier_p,
    interval,
    ratio_interval,
    sign_flip_p,
    stability,
)
from steerscope.analysis.tools.patching import MEASURES, Effects

Values = NDArray[np.float64]
JOINT = ("carriers_necessity", "carriers_sufficiency", "all_necessity", "all_sufficiency")

CARRIERS: Frame = EFFECTS | {
    "own_share": Column("share of the vector's own logit change that the node carries"),
    "own_reference": Column("the same share for random vectors, each along its own logit change; mean"),
    "own_reference_low": Column("2.5th percentile of that share over the random vectors"),
    "own_reference_high": Column("97.5th percentile of that share over the random vectors"),
    "p_own": Column("sign-flip test over prompts of own share minus the references' mean own share"),
    "p_own_adjusted": Column("p_own after Benjamini-Hochberg over nodes"),
    "reach": Column(
        "specific: carries this vector more than it carries random ones; "
        "general: carries whatever is put there; none: not significant",
        role="verdict",
    ),
    "stability": Column("share of bootstrap resamples of the prompts in which the node is significant"),
}
TOTALS: Frame = {
    "quantity": Column(
        "total: steered minus clean; kl: disturbance of the steered run; carriers_necessity / carriers_sufficiency: "
        "all significant carriers patched at once; all_necessity / all_sufficiency: every node patched at once; "
        "unverified_necessity / unverified_sufficiency: every node that was not patched by itself, at once",
        role="label",
    ),
    **TOTAL,
    "reference": Column("mean of the same quantity over the random vectors", "{unit}", "reference"),
    "reference_low": Column("2.5th percentile over the random vectors", "{unit}", "reference_low"),
    "reference_high": Column("97.5th percentile over the random vectors", "{unit}", "reference_high"),
    "p": Column("sign-flip test over prompts of value minus mean reference"),
    "wrong_way": Column("share of prompts with the opposite sign of the mean"),
}


def effect_table(
    nodes: Sequence[Node],
    measures: Sequence[str],
    values: Float[Values, "vector measure node prompt"],
    total: Float[Values, " prompt"],
    options: Statistics,
    seed: int = 0,
    tests: int | None = None,
) -> pd.DataFrame:
    """The columns of `EFFECTS`: a row for every measure and node.

    Args:
        values: effects by vector (0 is the real one).
        total: the whole effect, which shares are shares of.
        tests: as in `estimates`.
    """
    frames = []
    for index, measure in enumerate(measures):
        columns = estimates(values[:, index], options, seed, tests)
        share = columns["effect"] / nonzero(total.mean())
        frames.append(pd.DataFrame(node_columns(nodes) | {"measure": measure} | columns | {"share": share}))
    return pd.concat(frames, ignore_index=True)


def carrier_table(
    experiment: Experiment, raw: Effects, options: Statistics
) -> tuple[pd.DataFrame, dict[str, set[str]], dict[str, Any]]:
    """The columns of `CARRIERS`; the significant nodes of each measure; how stable they are."""
    seed, alpha = experiment.seed, options.alpha
    tests = len(experiment.reachable)  # patched or not: which ones to patch was seen from the same prompts
    table = effect_table(raw.nodes, MEASURES, raw.along, raw.total[0], options, seed, tests)
    shares = experiment.own_shares(raw.own)
    own, references, reference = shares[0], shares[1:], over_references(shares[1:])
    low, high = band(references.mean(-1))
    p = sign_flip_p(own - reference, seed=seed)
    adjusted = np.stack([benjamini_hochberg(of_measure, tests) for of_measure in p])
    specific = (adjusted < alpha) & (np.abs(own.mean(-1)) > np.abs(reference.mean(-1)))
    overlaps, found_in = zip(
        *(
            _stability(real, over_references(raw.along[1:, index]), seed, alpha, tests)
            for index, real in enumerate(raw.along[0])
        ),
        strict=True,
    )
    table = table.assign(
        own_share=own.mean(-1).ravel(),
        own_reference=reference.mean(-1).ravel() if len(references) else np.nan,
        own_reference_low=low.ravel(),
        own_reference_high=high.ravel(),
        p_own=p.ravel(),
        p_own_adjusted=adjusted.ravel(),
        reach=np.where(~table["significant"], "none", np.where(specific.ravel(), "specific", "general")),
        stability=np.concatenate(found_in),
    )
    found = {name: set(table["node"][table["significant"] & (table["measure"] == name)]) for name in MEASURES}
    return _with_unreached(experiment, table), found, _steadiness(overlaps)


def _stability(real: Values, reference: Values, seed: int, alpha: float, tests: int) -> tuple[Values, Values]:
    def find(weights: Values) -> NDArray[np.bool_]:
        p = carrier_p(real, reference, weights, seed, resamples=4_999)
        return benjamini_hochberg(p, tests) < alpha

    return stability(find, real.shape[-1], seed)


def _with_unreached(experiment: Experiment, table: pd.DataFrame) -> pd.DataFrame:
    """Nodes before the injection too: it cannot reach them, so their effects are zero and nothing is tested."""
    nodes = [node for node in experiment.model.nodes if node not in set(experiment.reachable)]
    if nodes:
        numbers = {str(c): float(str(c).startswith("p")) for c in table if table[c].dtype == float}
        about = {"significant": False, "reach": "none"}
        rest = [pd.DataFrame(node_columns(nodes) | {"measure": m} | numbers | about) for m in MEASURES]
        table = pd.concat([table, *rest], ignore_index=True)
    return table.sort_values(["measure", "layer", "head"], na_position="last", ignore_index=True)


def _steadiness(overlaps: Sequence[Values]) -> dict[str, Any]:
    """Jaccard overlap of the significant carriers over resamples of the prompts, for the manifest."""
    values = np.concatenate(overlaps)
    values = values[~np.isnan(values)]
    about: dict[str, Any] = {"jaccard": None, "low": None, "high": None, "resamples": len(overlaps[0])}
    if len(values) == 0:
        return about | {"note": "no node was ever significant"}
    low, high = np.percentile(values, BAND)
    note = "overlap of the significant carriers on resampled prompts with those on all prompts; 0.8 is the field's bar"
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
                    "effect": raw.along[0, i].ravel(),
                    "reference": over_references(raw.along[1:, i]).ravel(),
                }
            )
            for i, name in enumerate(MEASURES)
        ],
        ignore_index=True,
    )


def totals(
    experiment: Experiment, raw: Effects, joint: Values, options: Statistics, names: Sequence[str] = JOINT
) -> pd.DataFrame:
    """The whole effect, the disturbance, and what groups of nodes do when they are patched at once.

    Args:
        joint: effects of the groups, `[vector, group, prompt]`.
        names: of the groups.
    """
    unit = experiment.metric.unit
    rows = [_total(experiment, "total", raw.total, unit, options), _total(experiment, "kl", raw.kl, "nats", options)]
    for index, name in enumerate(names):
        values = joint[:, index]
        row = _total(experiment, name, values, unit, options)
        low, high = ratio_interval(values[0], raw.total[0], options.level, experiment.seed)
        rows.append(row | {"share": row["value"] / nonzero(raw.total[0].mean()), "share_low": low, "share_high": high})
    return pd.DataFrame(rows)


def _total(experiment: Experiment, name: str, values: Values, unit: str, options: Statistics) -> dict[str, Any]:
    low, high = interval(values[0], options.level, experiment.seed)
    reference_low, reference_high = band(values[1:].mean(-1))
    return {
        "quantity": name,
        "value": values[0].mean(),
        "low": float(low),
        "high": float(high),
        "unit": unit,
        "share": np.nan,
        "share_low": np.nan,
        "share_high": np.nan,
        "reference": values[1:].mean() if len(values) > 1 else np.nan,
        "reference_low": float(reference_low),
        "reference_high": float(reference_high),
        "p": float(sign_flip_p(values[0] - over_references(values[1:]), seed=experiment.seed)),
        "wrong_way": float(wrong_way(values[0])),
    }


def vectors(experiment: Experiment, raw: Effects, options: Statistics) -> pd.DataFrame:
    low, high = interval(raw.total, options.level, experiment.seed)
    kl_low, kl_high = interval(raw.kl, options.level, experiment.seed)
    return pd.DataFrame(
        {
            "vector": ["steering"] + [f"reference {c}" for c in range(experiment.references)],
            "norm": [
                float(np.sqrt(sum((i.coefficient * i.vector.norms).square().sum().item() for i in group)))
                for group in experiment.steering
            ],
            "coefficient": [group[0].coefficient for group in experiment.steering],
            "effect": raw.total.mean(-1),
            "low": low,
            "high": high,
            "own_effect": raw.own_total.mean(-1),
            "kl": raw.kl.mean(-1),
            "kl_low": kl_low,
            "kl_high": kl_high,
        }
    )
