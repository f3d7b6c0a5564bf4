"""What nodes contribute, as tables: each node, its efficiency, pairs, trends over layers, convergence."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

from steerscope.analysis.results.effects import NUMBERS, Statistics
from steerscope.analysis.results.schema import Column, Frame, Frames
from steerscope.analysis.results.stats import benjamini_hochberg, holm
from steerscope.analysis.sweeps import adding, estimate

from .compared import compared, filled, told
from .design import KINDS
from .estimate import Array, Estimate, Trials
from .rows import Rows
from .units import Unit

OUTCOMES = ("effect", "kl", "loss")

RANGE: Frame = {
    "low": Column("lower end of its interval over groups of prompts", "{unit}", "low"),
    "high": Column("upper end of its interval over groups of prompts", "{unit}", "high"),
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
        "difference_low": Column("lower end of its interval over groups of prompts", "{unit}"),
        "difference_high": Column("upper end of its interval over groups of prompts", "{unit}"),
        "contribution": Column(
            "what injecting into the node adds beside as many other nodes; where the number of nodes never varies "
            "(manifest: adds is false) what it does beyond the mean of those that it is exchanged for",
            "{unit}",
            "estimate",
        ),
        **RANGE,
        "share": Column("contribution over the same outcome of the whole injection", role="share"),
        "verdict": NUMBERS["verdict"],
        "own_share": Column(
            "share of the whole effect along the vector's own change of logits (kl, loss: share): what is compared "
            "with random vectors"
        ),
        "reference": Column(
            "what it would be if the node had as large a share as for random vectors, each along its own change; mean "
            "over these (kl, loss: their mean contribution)",
            "{unit}",
            "reference",
        ),
        "reference_low": Column("lower end of their band (2.5th percentile over vectors)", "{unit}", "reference_low"),
        "reference_high": Column(
            "upper end of their band (97.5th percentile over vectors)", "{unit}", "reference_high"
        ),
        "vectors": Column("random vectors that inject into the node often enough to be compared with"),
        "p": Column(
            "t over groups of prompts: the contribution is zero; where adds is false, that it is not beyond zero"
        ),
        "p_noise": Column("prediction t over vectors: own_share is one more of the shares of random vectors"),
        "p_adjusted": Column("different from zero and beyond random vectors, after Benjamini-Hochberg over nodes"),
        "p_holm": NUMBERS["p_holm"],
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
        "verdict": NUMBERS["verdict"],
        "useful": Column(
            "told from random vectors, along the whole effect, and with more effect for each nat of disturbance than "
            "all nodes have together"
        ),
        "frontier": Column("no other node has both more effect, in the whole effect's direction, and less disturbance"),
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
        "p_holm": Column("p after Holm over pairs"),
        "significant": Column(
            "p_holm below the manifest's alpha; random vectors are not compared with", role="verdict"
        ),
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
    options: Statistics
    unit: str

    @cached_property
    def real(self) -> Trials:
        return self.rows.trials(self.rows.real)

    @property
    def vertical(self) -> NDArray[np.bool_]:
        """Which of the real trials are vertical."""
        return np.asarray(self.rows.design[self.rows.real] == KINDS.index("vertical"))

    @cached_property
    def random(self) -> Trials:
        return self.rows.trials(self.rows.random)

    @cached_property
    def _contributions(self) -> tuple[Estimate, bool]:
        return adding.contributions(self.real)

    @property
    def contributions(self) -> Estimate:
        return self._contributions[0]

    @property
    def adds(self) -> bool:
        """Whether contributions are what a node adds; else, what it does beyond the others."""
        return self._contributions[1]

    @cached_property
    def vectors(self) -> Float[Array, "vector unit outcome"]:
        """Contributions of each random vector, from its own trials."""
        if not len(self.random):
            return np.zeros((0, len(self.units), len(OUTCOMES) + 1))
        return adding.of_each(self.random, self.rows.control[self.rows.random], self.adds)

    @cached_property
    def whole(self) -> Estimate:
        """`[outcome]`: of the whole injection, over prompts."""
        return estimate.means(self.rows.injections(self.rows.real))

    @cached_property
    def wholes(self) -> Float[Array, "vector outcome"]:
        """The same of each random vector."""
        control, found = self.rows.control, []
        for vector in np.unique(control[control >= 0]):
            each = estimate.means(self.rows.injections(control == vector))
            found.append(each.value)
        return np.array(found).reshape(-1, len(OUTCOMES) + 1)

    @cached_property
    def judged(self) -> dict[str, dict[str, Any]]:
        """By outcome, what is compared with random vectors, and the verdicts."""
        vectors = (self.contributions, self.whole, self.vectors, self.wholes)
        return {outcome: compared(*vectors, o, self.options, self.adds) for o, outcome in enumerate(OUTCOMES)}

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
        bounds = found.interval(self.options.level)
        return {name: found.value.T[o], low: bounds[0].T[o], high: bounds[1].T[o]}


def nodes(table: Table) -> pd.DataFrame:
    """One row for each unit and outcome."""
    difference = estimate.differences(table.real)
    x, y = table.real.x, table.real.y
    frames = []
    for o, outcome in enumerate(OUTCOMES):
        columns = {
            **table.about,
            "outcome": outcome,
            "unit": table.unit if outcome == "effect" else "nats",
            "sampled": x.sum(0),
            "mean_in": _mean(x, y[:, o]),
            "mean_out": _mean(~x, y[:, o]),
            **table.bounded("difference", difference, o),
            **table.bounded("contribution", table.contributions, o, short=True),
            **table.judged[outcome],
        }
        frames.append(pd.DataFrame(columns)[list(NODES["nodes"])])
    return pd.concat(frames, ignore_index=True)


def frontier(table: Table) -> pd.DataFrame:
    """Effect against disturbance of every unit, and which are useful; no rows where nothing tells what they add."""
    if not table.adds:
        return pd.DataFrame(columns=list(NODES["frontier"]))
    found, (low, high) = table.contributions, table.contributions.interval(table.options.level)
    effect, kl = found.value[:, 0], found.value[:, 1]
    ratio = found.map(lambda v: v[:, 0] / np.where(np.abs(v[:, 1]) > 1e-12, v[:, 1], np.nan))
    unclear = (low[:, 1] <= 0) & (high[:, 1] >= 0) | np.isnan(low[:, 1])
    efficiency, *ends = (np.where(unclear, np.nan, x) for x in (ratio.value, *ratio.interval(table.options.level)))
    towards = np.sign(table.whole.value[0])
    along, verdict = towards * effect, table.judged["effect"]["verdict"]
    typical = np.nansum(along) / np.nansum(kl) if np.nansum(kl) > 0 else np.inf
    with np.errstate(invalid="ignore"):  # nothing of infinitely much
        above = kl * typical < along
    columns = {
        **table.about,
        **table.bounded("effect", found, 0),
        **table.bounded("kl", found, 1),
        "loss": found.value[:, 2],
        "efficiency": efficiency,
        "efficiency_low": ends[0],
        "efficiency_high": ends[1],
        "verdict": verdict,
        "useful": told(verdict) & (along > 0) & (typical > 0) & above,
        "frontier": [not bool(((along > e) & (kl < d)).any()) for e, d in zip(along, kl, strict=True)],
    }
    return pd.DataFrame(columns)[list(NODES["frontier"])]


def pairs(table: Table) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Interactions, largest first, and how they were estimated."""
    trials = table.real
    if table.rows.spacing != "any":  # of three nodes in a row of layers, not every two can be left out
        trials = trials.where((trials.size <= 2) | ~table.vertical)
    chosen, together, found = adding.pairs(trials)
    frames = []
    for o, outcome in enumerate(OUTCOMES[:2]):
        p = filled(found.p[:, o])
        corrected = holm(p)
        columns = {
            "first": [table.units[i].name for i in chosen[:, 0]],
            "second": [table.units[i].name for i in chosen[:, 1]],
            "outcome": outcome,
            "together": together,
            **table.bounded("interaction", found, o, short=True),
            "p": p,
            "p_adjusted": benjamini_hochberg(p),
            "p_holm": corrected,
            "significant": corrected < table.options.alpha,
        }
        frames.append(pd.DataFrame(columns).sort_values("interaction", key=np.abs, ascending=False))
    return pd.concat(frames, ignore_index=True), {"tested": len(chosen)}


def trends(table: Table) -> pd.DataFrame:
    """Mean contribution by layer and kind, and its slope over layers."""
    frames = []
    known = np.asarray(np.isfinite(table.contributions.value).all(axis=1))
    for kind in dict.fromkeys(u.kind for u in table.units) if table.adds else ():
        members = [i for i, u in enumerate(table.units) if u.kind == kind and known[i]]
        if not members:
            continue
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
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(NODES["trends"]))


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
        found, adds = adding.contributions(table.real.where(np.arange(count) < part))
        if adds != table.adds:
            continue
        low, high = found.interval(table.options.level)
        for o, outcome in enumerate(OUTCOMES[:2]):
            same = _agreement(found.value[:, o], final[:, o])
            records.append((part, outcome, _median(high[:, o] - low[:, o]), same))
    return pd.DataFrame(records, columns=list(NODES["convergence"]))


def _agreement(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    known = np.isfinite(first) & np.isfinite(second)
    first, second = first[known], second[known]
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(stats.spearmanr(first, second).statistic)


def _median(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def _mean(chosen: NDArray[np.bool_], y: NDArray[np.float64]) -> NDArray[np.float64]:
    count = chosen.sum(axis=0)
    return np.where(count > 0, y @ chosen / np.maximum(count, 1), np.nan)
