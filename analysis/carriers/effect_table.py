"""The tables of `localize`: raw effects as tidy frames, with intervals, controls and corrected p-values."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import BAND, Statistics, band, nonzero, over_controls, wrong_way
from steerscope.analysis.results.stats import (
    benjamini_hochberg,
    carrier_p,
    holm,
    interval,
    ratio_interval,
    sign_flip_p,
    stability,
)
from steerscope.analysis.tools.patching import MEASURES, Effects

Values = NDArray[np.float64]
JOINT = ("carriers_necessity", "carriers_sufficiency", "all_necessity", "all_sufficiency")


def effects_table(
    experiment: Experiment, raw: Effects, options: Statistics
) -> tuple[pd.DataFrame, dict[str, set[str]], dict[str, Any]]:
    """One row per node and measure; the significant nodes of each measure; how stable they are."""
    nodes = raw.nodes
    frames, found, overlaps = [], {}, []
    tests = len(experiment.reachable)  # patched or not: which ones to patch was seen from the same prompts
    for index, name in enumerate(MEASURES):
        real, controls = raw.along[0, index], raw.along[1:, index]
        own_real, own_controls = _shares(raw, index)
        low, high = interval(real, options.level, experiment.seed)
        p = carrier_p(real, over_controls(controls), seed=experiment.seed)
        p_own = sign_flip_p(own_real - over_controls(own_controls), seed=experiment.seed)
        adjusted, own_adjusted = benjamini_hochberg(p, tests), benjamini_hochberg(p_own, tests)
        overlap, share = _stability(real, over_controls(controls), experiment.seed, options.alpha, tests)
        overlaps.append(overlap)
        significant = adjusted < options.alpha
        found[name] = {str(n) for n, s in zip(nodes, significant, strict=True) if s}
        specific = (own_adjusted < options.alpha) & (
            np.abs(own_real.mean(-1)) > np.abs(over_controls(own_controls).mean(-1))
        )
        control_low, control_high = band(controls.mean(-1))
        own_low, own_high = band(own_controls.mean(-1))
        mean = real.mean(axis=-1)
        frames.append(
            pd.DataFrame(
                {
                    "node": [str(n) for n in nodes],
                    "layer": [n.layer for n in nodes],
                    "head": pd.array([n.head for n in nodes], dtype="Int64"),
                    "kind": [n.kind for n in nodes],
                    "measure": name,
                    "effect": mean,
                    "low": low,
                    "high": high,
                    "share": mean / nonzero(raw.total[0].mean()),
                    "control": over_controls(controls).mean(-1),
                    "control_low": control_low,
                    "control_high": control_high,
                    "p": p,
                    "p_adjusted": adjusted,
                    "p_holm": holm(p, tests),
                    "own_share": own_real.mean(-1),
                    "own_control": over_controls(own_controls).mean(-1),
                    "own_control_low": own_low,
                    "own_control_high": own_high,
                    "p_own": p_own,
                    "p_own_adjusted": own_adjusted,
                    "significant": significant,
                    "reach": np.where(~significant, "none", np.where(specific, "specific", "general")),
                    "wrong_way": wrong_way(real),
                    "stability": share,
                }
            )
        )
    table = pd.concat([*frames, *[_unreached(experiment, name) for name in MEASURES]], ignore_index=True)
    order = {name: i for i, name in enumerate(MEASURES)}
    table = table.sort_values(
        ["measure", "layer", "head"], key=lambda c: c.map(order) if c.name == "measure" else c, na_position="last"
    )
    return table.reset_index(drop=True), found, _steadiness(overlaps)


def _stability(real: Values, control: Values, seed: int, alpha: float, tests: int) -> tuple[Values, Values]:
    def find(weights: Values) -> NDArray[np.bool_]:
        p = carrier_p(real, control, weights, seed, resamples=4_999)
        return benjamini_hochberg(p, tests) < alpha

    return stability(find, real.shape[-1], seed)


def _unreached(experiment: Experiment, measure: str) -> pd.DataFrame:
    """Nodes before the injection: it cannot reach them, so their effects are zero and nothing is tested."""
    nodes = [node for node in experiment.model.nodes if node not in set(experiment.reachable)]
    columns = ["effect", "low", "high", "share", "control", "control_low", "control_high"]
    columns += ["own_share", "own_control", "own_control_low", "own_control_high", "wrong_way", "stability"]
    return pd.DataFrame(
        {
            "node": [str(n) for n in nodes],
            "layer": [n.layer for n in nodes],
            "head": pd.array([n.head for n in nodes], dtype="Int64"),
            "kind": [n.kind for n in nodes],
            "measure": measure,
            **dict.fromkeys(columns, 0.0),
            **dict.fromkeys(["p", "p_adjusted", "p_holm", "p_own", "p_own_adjusted"], 1.0),
            "significant": False,
            "reach": "none",
        }
    )


def _shares(raw: Effects, measure: int) -> tuple[Values, Values]:
    """Effects along each vector's own direction over the mean of its own total: [node, prompt], [control, node,
    prompt].
    """
    totals = np.array([nonzero(total.mean()) for total in raw.own_total])
    shares = raw.own[:, measure] / totals[:, None, None]
    return shares[0], shares[1:]


def _steadiness(overlaps: list[Values]) -> dict[str, Any]:
    """Jaccard overlap of the significant carriers over resamples of the prompts, for the manifest."""
    values = np.concatenate(overlaps)
    values = values[~np.isnan(values)]
    note = "overlap of the significant carriers on resampled prompts with those on all prompts; 0.8 is the field's bar"
    if len(values) == 0:
        return {
            "jaccard": None,
            "low": None,
            "high": None,
            "resamples": len(overlaps[0]),
            "note": "no node was ever significant",
        }
    low, high = np.percentile(values, BAND)
    mean = float(values.mean())
    return {"jaccard": mean, "low": float(low), "high": float(high), "resamples": len(overlaps[0]), "note": note}


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
                    "control": over_controls(raw.along[1:, i]).ravel(),
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
        joint: effects of the groups, `[vector, group, prompt]`. names: of the groups.
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
    control_low, control_high = band(values[1:].mean(-1))
    return {
        "quantity": name,
        "value": values[0].mean(),
        "low": float(low),
        "high": float(high),
        "unit": unit,
        "share": np.nan,
        "share_low": np.nan,
        "share_high": np.nan,
        "control": values[1:].mean() if len(values) > 1 else np.nan,
        "control_low": float(control_low),
        "control_high": float(control_high),
        "p": float(sign_flip_p(values[0] - over_controls(values[1:]), seed=experiment.seed)),
        "wrong_way": float(wrong_way(values[0])),
    }


def vectors(experiment: Experiment, raw: Effects, options: Statistics) -> pd.DataFrame:
    low, high = interval(raw.total, options.level, experiment.seed)
    kl_low, kl_high = interval(raw.kl, options.level, experiment.seed)
    return pd.DataFrame(
        {
            "vector": ["steering"] + [f"control {c}" for c in range(experiment.controls)],
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
