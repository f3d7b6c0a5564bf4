"""What nodes contribute, as tables: each node, its efficiency, pairs, trends over layers, convergence."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from steerscope.analysis.results.effects import NUMBERS
from steerscope.analysis.results.schema import Column, Frame, Frames
from steerscope.analysis.results.stats import benjamini_hochberg, holm
from steerscope.analysis.sweeps import estimate

from .estimate import Estimate, Trials
from .rows import Rows
from .units import Unit

OUTCOMES = ("effect", "kl", "loss")

RANGE: Frame = {
    "low": Column("lower end of its interval over prompts", "{unit}", "low"),
    "high": Column("upper end of its interval over prompts", "{unit}", "high"),
}
OUTCOME: Frame = {"outcome": Column("effect or kl", role="measure")}
OUTCOME_OR_LOSS: Frame = {"outcome": Column("effect, kl or loss", role="measure")}
_NODE: Frame = {
    "node": Column("head (L5H3), MLP (L5M), or all heads of a layer (L5A) in mode shared", role="node"),
    "layer": Column("layer of the node", role="layer"),
    "head": Column("head within the layer; missing for an MLP or a whole layer", role="head"),
    "kind": Column("head, mlp or attention"),
}
NODES: Frames = {
    "nodes": {
        **_NODE,
        "outcome": Column(
            "effect: the metric; kl: disturbance; loss: rise of the log-perplexity of the true text", role="measure"
        ),
        "unit": Column("unit of the outcome"),
        "sampled": Column("trials that inject into the node"),
        "mean_in": Column("mean outcome of the trials that inject into the node", "{unit}"),
        "mean_out": Column("mean outcome of those that do not", "{unit}"),
        "difference": Column("mean_in minus mean_out, within prompts", "{unit}"),
        "difference_low": Column("lower end of its interval over prompts", "{unit}"),
        "difference_high": Column("upper end of its interval over prompts", "{unit}"),
        "contribution": Column(
            "marginal contribution: coefficient of the node in a regression on all nodes, prompts as blocks",
            "{unit}",
            "estimate",
        ),
        **RANGE,
        "reference": Column("the same contribution for random vectors of equal norm", "{unit}", "reference"),
        "reference_low": Column("lower end of its interval over prompts", "{unit}", "reference_low"),
        "reference_high": Column("upper end of its interval over prompts", "{unit}", "reference_high"),
        "p": Column("that the contribution is zero"),
        "p_adjusted": NUMBERS["p_adjusted"],
        "p_holm": NUMBERS["p_holm"],
        "p_specific": Column("that the contribution is that of random vectors, after Benjamini-Hochberg"),
        "significant": NUMBERS["significant"],
    },
    "frontier": {
        **{name: _NODE[name] for name in ("node", "layer", "kind")},
        "effect": Column("marginal contribution to the effect", "{metric}", "estimate"),
        "effect_low": Column("lower end of its interval", "{metric}", "low"),
        "effect_high": Column("upper end of its interval", "{metric}", "high"),
        "kl": Column("marginal contribution to the disturbance", "nats"),
        "kl_low": Column("lower end of its interval", "nats"),
        "kl_high": Column("upper end of its interval", "nats"),
        "loss": Column("marginal contribution to the log-perplexity of the true text", "nats"),
        "efficiency": Column(
            "effect for each nat of disturbance; missing where the disturbance's interval holds zero",
            "{metric} per nat",
        ),
        "efficiency_low": Column("lower end of its interval", "{metric} per nat"),
        "efficiency_high": Column("upper end of its interval", "{metric} per nat"),
        "responsive": Column(
            "a significant effect of either sign, and beyond that of random vectors in its own direction",
            role="verdict",
        ),
        "useful": Column(
            "a significant positive effect, beyond that of random vectors, and more effect for each nat of disturbance "
            "than all nodes have together",
            role="verdict",
        ),
        "frontier": Column("no other node has both more effect and less disturbance"),
    },
    "pairs": {
        "first": Column("a node", role="label"),
        "second": Column("another node", role="label"),
        **OUTCOME,
        "together": Column("trials that inject into both"),
        "interaction": Column(
            "what both together do beyond the sum of their contributions; against the sign of these they stand in for "
            "each other",
            "{unit}",
            "estimate",
        ),
        **RANGE,
        "p": Column("that there is no interaction"),
        "p_adjusted": Column("p after Benjamini-Hochberg over pairs"),
        "significant": NUMBERS["significant"],
    },
    "trends": {
        "kind": Column("head, mlp or attention", role="label"),
        "layer": Column("layer; missing in the row that holds the slope over layers", role="axis"),
        **OUTCOME,
        "nodes": Column("how many nodes"),
        "contribution": Column("mean contribution of these nodes, or its slope per layer", "{unit}", "estimate"),
        **RANGE,
        "p": Column("that it is zero"),
    },
    "convergence": {
        "trials": Column("the first so many trials", role="axis"),
        **OUTCOME,
        "width": Column("width of the interval of a contribution, median over nodes", "{unit}", "estimate"),
        "agreement": Column("rank correlation of the contributions with those of all trials"),
    },
}


@dataclass(frozen=True)
class Table:
    """Rows, and what every frame is made with."""

    rows: Rows
    units: Sequence[Unit]
    level: float
    alpha: float
    unit: str

    @cached_property
    def real(self) -> Trials:
        return self.rows.trials(self.rows.real)

    @cached_property
    def random(self) -> Trials:
        return self.rows.trials(self.rows.random)

    @cached_property
    def contributions(self) -> Estimate:
        return estimate.contributions(self.real)

    @cached_property
    def controls(self) -> Estimate | None:
        """Of random vectors; on the same groups of prompts, so that the two can be compared."""
        same = np.isin(self.real.group, np.unique(self.random.group)).all() if len(self.random) else False
        return estimate.contributions(self.random) if same else None

    @property
    def about(self) -> dict[str, Any]:
        """The columns that say which node a row is of."""
        return {
            "node": [u.name for u in self.units],
            "layer": [u.layer for u in self.units],
            "head": pd.array([u.head for u in self.units], dtype="Int64"),
            "kind": [u.kind for u in self.units],
        }

    def bounded(self, name: str, found: Estimate | None, o: int, short: bool = False) -> dict[str, Any]:
        """The columns of an outcome's estimate and its interval (`short`: low and high); missing where there is none"""
        low, high = ("low", "high") if short else (f"{name}_low", f"{name}_high")
        if found is None:
            return dict.fromkeys((name, low, high), np.nan)
        bounds = found.interval(self.level)
        return {name: found.value.T[o], low: bounds[0].T[o], high: bounds[1].T[o]}


def nodes(table: Table) -> pd.DataFrame:
    """One row for each unit and outcome."""
    difference, control = estimate.differences(table.real), table.controls
    x, y = table.real.x, table.real.y
    frames = []
    for o, outcome in enumerate(OUTCOMES):
        p = _filled(table.contributions.p[:, o])
        adjusted = benjamini_hochberg(p)
        columns = {
            **table.about,
            "outcome": outcome,
            "unit": table.unit if outcome == "effect" else "nats",
            "sampled": x.sum(0),
            "mean_in": _mean(x, y[:, o]),
            "mean_out": _mean(~x, y[:, o]),
            **table.bounded("difference", difference, o),
            **table.bounded("contribution", table.contributions, o, short=True),
            **table.bounded("reference", control, o),
            "p": p,
            "p_adjusted": adjusted,
            "p_holm": holm(p),
            "p_specific": np.nan
            if control is None
            else benjamini_hochberg(_filled((table.contributions - control).p[:, o])),
            "significant": adjusted < table.alpha,
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def frontier(table: Table, rows: pd.DataFrame) -> pd.DataFrame:
    """Effect against disturbance of every unit: which are responsive, which useful.

    Args:
        rows: the table of `nodes`.
    """
    found, (low, high) = table.contributions, table.contributions.interval(table.level)
    effect, kl = found.value[:, 0], found.value[:, 1]
    ratio = found.map(lambda v: v[:, 0] / np.where(np.abs(v[:, 1]) > 1e-12, v[:, 1], np.nan))
    unclear = (low[:, 1] <= 0) & (high[:, 1] >= 0) | np.isnan(low[:, 1])
    efficiency, *ends = (np.where(unclear, np.nan, x) for x in (ratio.value, *ratio.interval(table.level)))
    rows = rows.query("outcome == 'effect'")
    further = (rows["contribution"] - rows["reference"]) * rows["contribution"] > 0
    beyond = (rows["reference"].isna() | (rows["p_specific"] < table.alpha) & further).to_numpy()
    responsive = rows["significant"].to_numpy() & beyond
    typical = effect.sum() / kl.sum() if kl.sum() > 0 else np.inf
    better = [not bool(((effect > e) & (kl < d)).any()) for e, d in zip(effect, kl, strict=True)]
    columns = {
        **table.about,
        **table.bounded("effect", found, 0),
        **table.bounded("kl", found, 1),
        "loss": found.value[:, 2],
        "efficiency": efficiency,
        "efficiency_low": ends[0],
        "efficiency_high": ends[1],
        "responsive": responsive,
        "useful": responsive & (effect > 0) & (kl <= effect / typical),
        "frontier": better,
    }
    return pd.DataFrame(columns)[list(NODES["frontier"])]


def pairs(table: Table) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Interactions, largest first, and how they were estimated."""
    chosen, together, found, method = estimate.pairs(table.real)
    frames = []
    for o, outcome in enumerate(OUTCOMES[:2]):
        p = _filled(found.p[:, o])
        adjusted = benjamini_hochberg(p)
        columns = {
            "first": [table.units[i].name for i in chosen[:, 0]],
            "second": [table.units[i].name for i in chosen[:, 1]],
            "outcome": outcome,
            "together": together,
            **table.bounded("interaction", found, o, short=True),
            "p": p,
            "p_adjusted": adjusted,
            "significant": adjusted < table.alpha,
        }
        frames.append(pd.DataFrame(columns).sort_values("interaction", key=np.abs, ascending=False))
    return pd.concat(frames, ignore_index=True), {"method": method, "tested": len(chosen)}


def trends(table: Table) -> pd.DataFrame:
    """Mean contribution by layer and kind, and its slope over layers."""
    frames = []
    for kind in dict.fromkeys(u.kind for u in table.units):
        members = [i for i, u in enumerate(table.units) if u.kind == kind]
        layers = sorted({table.units[i].layer for i in members})
        of = np.array([[table.units[i].layer == layer for i in members] for layer in layers], float)
        counts = of.sum(axis=1)
        of /= counts[:, None]
        by_layer = table.contributions.map(lambda v, of=of, at=members: of @ v[at])  # type: ignore[misc]
        frames.append(_trend(table, kind, layers, counts, by_layer))
        if len(layers) > 1:
            centred = np.array(layers, float) - np.mean(layers)
            slope = by_layer.map(lambda v, c=centred: c @ v / (c @ c))  # type: ignore[misc]
            alone = Estimate(slope.value[None], slope.replicates[:, None])
            frames.append(_trend(table, kind, [None], counts.sum(keepdims=True), alone))
    return pd.concat(frames, ignore_index=True)


def _trend(
    table: Table, kind: str, layers: Sequence[int | None], counts: NDArray[np.float64], found: Estimate
) -> pd.DataFrame:
    frames = [
        pd.DataFrame(
            {
                "kind": kind,
                "layer": pd.array(layers, dtype="Int64"),
                "outcome": outcome,
                "nodes": counts.astype(int),
                **table.bounded("contribution", found, o, short=True),
                "p": found.p[:, o],
            }
        )
        for o, outcome in enumerate(OUTCOMES[:2])
    ]
    return pd.concat(frames).sort_index(kind="stable")  # both outcomes of a layer together


def convergence(table: Table) -> pd.DataFrame:
    """The width of the intervals, and the order of the nodes, from the first trials on."""
    final, count = table.contributions.value, len(table.real)
    records = []
    for part in sorted({max(50, count >> halvings) for halvings in range(8)} & set(range(count + 1))):
        found = estimate.contributions(table.real.where(np.arange(count) < part))
        low, high = found.interval(table.level)
        for o, outcome in enumerate(OUTCOMES[:2]):
            same = _agreement(found.value[:, o], final[:, o])
            records.append((part, outcome, np.median(high[:, o] - low[:, o]), same))
    return pd.DataFrame(records, columns=list(NODES["convergence"]))


def _agreement(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(stats.spearmanr(first, second).statistic)


def _mean(chosen: NDArray[np.bool_], y: NDArray[np.float64]) -> NDArray[np.float64]:
    count = chosen.sum(axis=0)
    return np.where(count > 0, y @ chosen / np.maximum(count, 1), np.nan)


def _filled(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """No interval, no claim: a missing p counts as 1."""
    return np.where(np.isnan(p), 1.0, p)
