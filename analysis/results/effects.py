"""The columns that every table of effects has, and how they are worked out: means over prompts with their intervals,
references and p-values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.model.nodes import Node

from .schema import Column, Frame
from .stats import benjamini_hochberg, carrier_p, holm, interval

Values = NDArray[np.float64]
BAND = (2.5, 97.5)  # percentiles over the references

NODE: Frame = {
    "node": Column("head (L5H3) or MLP (L5M)", role="node"),
    "layer": Column("layer of the node", role="layer"),
    "head": Column("head within the layer; missing for an MLP", role="head"),
    "kind": Column("head or mlp"),
}
MEASURE: Frame = {
    "measure": Column(
        "necessity: effect lost when the node is set to its clean value in the steered run; "
        "sufficiency: effect that appears when only this node is set to its steered value in the clean run",
        role="measure",
    )
}
NUMBERS: Frame = {
    "effect": Column(
        "mean over prompts; of the total's sign it works along the effect, of the other against it",
        "{metric}",
        "estimate",
    ),
    "low": Column("lower end of the interval over prompts", "{metric}", "low"),
    "high": Column("upper end of the interval over prompts", "{metric}", "high"),
    "reference": Column(
        "mean of the same measure for random vectors of equal norm, along the same metric", "{metric}", "reference"
    ),
    "reference_low": Column(
        "lower end of the band of the references (2.5th percentile over vectors)", "{metric}", "reference_low"
    ),
    "reference_high": Column(
        "upper end of the band of the references (97.5th percentile over vectors)", "{metric}", "reference_high"
    ),
    "p": Column(
        "sign-flip tests over prompts: the effect differs from zero and goes beyond the mean reference in the same "
        "direction (the larger of the two p-values, two-sided)"
    ),
    "p_adjusted": Column("p after Benjamini-Hochberg over nodes"),
    "p_holm": Column("p after Holm over nodes, for claims in words"),
    "significant": Column("p_adjusted below the manifest's alpha", role="verdict"),
    "wrong_way": Column("share of prompts whose effect has the opposite sign of the mean"),
    "share": Column("effect over the total effect; shares of different layers do not add up", role="share"),
}
TOTAL: Frame = {
    "value": Column("mean over prompts", "{unit}", "estimate"),
    "low": Column("lower end of the interval over prompts", "{unit}", "low"),
    "high": Column("upper end of the interval over prompts", "{unit}", "high"),
    "unit": Column("unit of value, low and high"),
    "share": Column("value over the total effect (missing for total and kl)", role="share"),
    "share_low": Column("lower end of the interval of the share"),
    "share_high": Column("upper end of the interval of the share"),
}
ENOUGH = 8  # pairs of numbers that a correlation is worked out from
AGREEMENT: Frame = {
    "pearson": Column(f"correlation of estimates with exact effects; missing for fewer than {ENOUGH}", role="estimate"),
    "kendall": Column("rank correlation of the same"),
    "worst_error": Column("largest difference", "{metric}"),
    "worst_share": Column("the same over the total effect"),
}
EFFECTS: Frame = NODE | MEASURE | NUMBERS
"""What `frames["effects"]` has, whichever method found it; a method may add columns."""


@dataclass(frozen=True)
class Statistics:
    """Level of the intervals, and the threshold on adjusted p-values."""

    level: float = 0.95
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if not (0 < self.level < 1 and 0 < self.alpha < 1):
            raise BadArgument(
                f"level={self.level}, alpha={self.alpha}; expected both between 0 and 1; 0.95 and 0.05 are usual"
            )


def estimates(
    values: Float[Values, "vector item prompt"], options: Statistics, seed: int = 0, tests: int | None = None
) -> dict[str, Values]:
    """Columns effect, low, high, reference, reference_low, reference_high, p, p_adjusted, p_holm, significant, wrong_way.

    Args:
        values: effects by vector (0 is the real one, the others are references).
        tests: how many items there were to choose from, those that were not made counting as p = 1.
    """
    real, references = values[0], values[1:]
    low, high = interval(real, options.level, seed)
    p = carrier_p(real, over_references(references), seed=seed)
    adjusted = benjamini_hochberg(p, tests)
    reference_low, reference_high = band(references.mean(-1))
    reference = over_references(references).mean(-1)
    return {
        "effect": real.mean(-1),
        "low": low,
        "high": high,
        "reference": reference if len(references) else np.full(len(reference), np.nan),
        "reference_low": reference_low,
        "reference_high": reference_high,
        "p": p,
        "p_adjusted": adjusted,
        "p_holm": holm(p, tests),
        "significant": adjusted < options.alpha,
        "wrong_way": wrong_way(real),
    }


def node_columns(nodes: Sequence[Node]) -> dict[str, Any]:
    """The columns of `NODE`."""
    return {
        "node": [str(n) for n in nodes],
        "layer": [n.layer for n in nodes],
        "head": pd.array([n.head for n in nodes], dtype="Int64"),
        "kind": [n.kind for n in nodes],
    }


def agreement(estimate: Values, exact: Values, total: float) -> dict[str, float]:
    """The columns of `AGREEMENT`: how far estimates are from exact effects."""
    worst = float(np.abs(estimate - exact).max()) if len(exact) else np.nan
    few = len(exact) < ENOUGH or np.ptp(estimate) == 0 or np.ptp(exact) == 0
    return {
        "pearson": np.nan if few else float(stats.pearsonr(estimate, exact).statistic),
        "kendall": np.nan if few else float(stats.kendalltau(estimate, exact).statistic),
        "worst_error": worst,
        "worst_share": worst / abs(nonzero(total)),
    }


def over_references(references: Float[Values, "reference ..."]) -> Float[Values, "..."]:
    """Mean over reference vectors; zero where there are none."""
    return references.mean(axis=0) if len(references) else np.zeros(references.shape[1:])


def band(references: Float[Values, "reference ..."]) -> tuple[Float[Values, "..."], Float[Values, "..."]]:
    """Percentiles over reference vectors; missing where there are none."""
    if len(references) == 0:
        nothing = np.full(references.shape[1:], np.nan)
        return nothing, nothing
    low, high = np.percentile(references, BAND, axis=0)
    return low, high


def nonzero(value: float) -> float:
    """A number to divide by: missing instead of zero."""
    return float(value) if value != 0 else float("nan")


def wrong_way(values: Float[Values, "... prompt"]) -> Float[Values, "..."]:
    """Share of the prompts that move against the mean."""
    mean = values.mean(axis=-1, keepdims=True)
    return np.asarray((np.sign(values) * np.sign(mean) < 0).mean(axis=-1))
