"""The columns that every table of effects has, and how they are worked out: means over prompts with their intervals,
references and p-values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

from steerscope.analysis.gate import Level, Share, gated
from steerscope.analysis.model.nodes import Node

from .schema import Column, Frame
from .verdicts import VERDICTS, Basis, judged, measured

Values = NDArray[np.float64]

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
    "low": Column("lower end of the interval over groups of prompts", "{metric}", "low"),
    "high": Column("upper end of the interval over groups of prompts", "{metric}", "high"),
    "share": Column("effect over the total effect; shares of different layers do not add up", role="share"),
    "verdict": Column("; ".join(f"{name}: {what}" for name, what in VERDICTS.items()), role="verdict"),
    "own_share": Column("share of the vector's own change of the output: what is compared with references"),
    "reference": Column(
        "what it would be if the node carried as large a share as of random vectors of equal norm, each along its own "
        "change; mean over these vectors",
        "{metric}",
        "reference",
    ),
    "reference_low": Column("lower end of their band (2.5th percentile over vectors)", "{metric}", "reference_low"),
    "reference_high": Column("upper end of their band (97.5th percentile over vectors)", "{metric}", "reference_high"),
    "concepts": Column("the same for other concepts, or for the vectors that were given, at equal norm", "{metric}"),
    "concepts_low": Column("lower end of their band (2.5th percentile over vectors)", "{metric}"),
    "concepts_high": Column("upper end of their band (97.5th percentile over vectors)", "{metric}"),
    "noise_share": Column("mean share of random vectors' own changes"),
    "concepts_share": Column("mean share of the other concepts' own changes"),
    "needed": Column("own_share from which on it would have been told from noise: how fine the test is"),
    "p": Column("t test over groups of prompts: the effect differs from zero"),
    "p_noise": Column("prediction t over vectors: own_share differs from the shares of random vectors"),
    "p_concepts": Column("prediction t over vectors: own_share differs from the shares of other concepts"),
    "p_adjusted": Column("beyond noise and different from zero, after Benjamini-Hochberg over nodes"),
    "p_holm": Column("the same after Holm over nodes: below the manifest's alpha the node is told from noise"),
    "p_specific": Column("beyond other concepts too, after Holm over nodes: below alpha the node is specific"),
    "wrong_way": Column("share of prompts whose effect has the opposite sign of the mean"),
}
TOTAL: Frame = {
    "value": Column("mean over prompts", "{unit}", "estimate"),
    "low": Column("lower end of the interval over groups of prompts", "{unit}", "low"),
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


@gated
@dataclass(frozen=True)
class Statistics:
    """Level of the intervals, the threshold on corrected p-values, and the smallest effect of interest (a share)."""

    level: Level = 0.95
    alpha: Level = 0.05
    smallest: Share = 0.02


def estimates(
    basis: Basis,
    values: Float[Values, "item prompt"],
    own: Float[Values, "vector item prompt"],
    options: Statistics,
    tests: int | None = None,
    further: Float[Values, " item"] | float = 0.0,
) -> dict[str, Any]:
    """The columns of `NUMBERS`.

    Args:
        values: effects of the real vector along the metric.
        own: effects of all vectors (0 is the real one), each along its own change of the output.
        tests: how many items there were to choose from, those that were not made counting as p = 1.
        further: standard error of the values' means beyond that over prompts, such as sampled coalitions.
    """
    basis = replace(basis, smallest=options.smallest)
    found = measured(basis, values, own, options.level, further)
    return _columns(found, judged(found, basis, options.alpha, tests))


def partial_estimates(
    basis: Basis,
    values: Float[Values, "item prompt"],
    own: Float[Values, "vector item prompt"],
    options: Statistics,
    tests: int | None = None,
) -> dict[str, Any]:
    """The same where some prompts lack some items (missing values); and `prompts`, how many have it."""
    basis = replace(basis, smallest=options.smallest)
    here = ~np.isnan(values)
    parts: dict[str, Any] = {}
    for present in np.unique(here, axis=0):
        rows = (here == present).all(axis=1)
        found = measured(basis.where(present), values[rows][:, present], own[:, rows][:, :, present], options.level)
        for name, column in found.items():
            parts.setdefault(name, np.empty((len(here), *column.shape[1:]), column.dtype))[rows] = column
    return _columns(parts, judged(parts, basis, options.alpha, tests)) | {"prompts": here.sum(axis=1)}


def _columns(*found: Mapping[str, Any]) -> dict[str, Any]:
    every: dict[str, Any] = {}
    for part in found:
        every |= part
    return {name: every[name] for name in NUMBERS}


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


def nonzero(value: float) -> float:
    """A number to divide by: missing instead of zero."""
    return float(value) if value != 0 else float("nan")
