"""The frames of a sweep's result, from the estimates: columns as in `columns.COLUMNS["sweep"]`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from steerscope.analysis.columns import COLUMNS
from steerscope.analysis.results.stats import benjamini_hochberg, holm
from steerscope.analysis.sweeps import estimate

from .design import KINDS
from .estimate import Estimate, Trials

if TYPE_CHECKING:
    from .summary import Rows

OUTCOMES = ("effect", "kl", "loss")
BINS = 6  # of k, at most


@dataclass(frozen=True)
class Unit:
    """A unit by its name, as far as tables need it."""

    name: str
    layer: int
    head: int | None
    kind: str

    @classmethod
    def parse(cls, name: str) -> "Unit":
        match = re.fullmatch(r"L(\d+)(?:H(\d+)|(M|A))", name)
        assert match, name
        kind = "head" if match[2] else "mlp" if match[3] == "M" else "attention"
        return cls(name, int(match[1]), int(match[2]) if match[2] else None, kind)


@dataclass(frozen=True)
class Table:
    """Rows, and what every frame is made with."""

    rows: "Rows"
    units: list[Unit]
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

    def units_of(self, outcome: str) -> str:
        return self.unit if outcome == "effect" else "nats"

    def bounds(self, found: Estimate) -> tuple[Any, Any]:
        return found.interval(self.level)


def nodes(table: Table) -> pd.DataFrame:
    """One row for each unit and outcome."""
    difference = estimate.differences(table.real)
    bounds, of_difference = table.bounds(table.contributions), table.bounds(difference)
    control = table.controls
    x, y = table.real.x, table.real.y
    frames = []
    for o, outcome in enumerate(OUTCOMES):
        p = _filled(table.contributions.p[:, o])
        specific = np.full(len(table.units), np.nan)
        if control is not None:
            specific = benjamini_hochberg(_filled((table.contributions - control).p[:, o]))
        low, high = table.bounds(control) if control is not None else (None, None)
        adjusted = benjamini_hochberg(p)
        frames.append(
            pd.DataFrame(
                {
                    "node": [u.name for u in table.units],
                    "layer": [u.layer for u in table.units],
                    "head": pd.array([u.head for u in table.units], dtype="Int64"),
                    "kind": [u.kind for u in table.units],
                    "outcome": outcome,
                    "unit": table.units_of(outcome),
                    "sampled": x.sum(0),
                    "mean_in": _mean(x, y[:, o]),
                    "mean_out": _mean(~x, y[:, o]),
                    "difference": difference.value[:, o],
                    "difference_low": of_difference[0][:, o],
                    "difference_high": of_difference[1][:, o],
                    "contribution": table.contributions.value[:, o],
                    "low": bounds[0][:, o],
                    "high": bounds[1][:, o],
                    "control": np.nan if control is None else control.value[:, o],
                    "control_low": np.nan if low is None else low[:, o],
                    "control_high": np.nan if high is None else high[:, o],
                    "p": p,
                    "p_adjusted": adjusted,
                    "p_holm": holm(p),
                    "p_specific": specific,
                    "significant": adjusted < table.alpha,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def frontier(table: Table) -> pd.DataFrame:
    """Effect against disturbance of every unit: which are responsive, which useful."""
    found, (low, high) = table.contributions, table.bounds(table.contributions)
    effect, kl = found.value[:, 0], found.value[:, 1]
    ratio = found.map(lambda v: v[:, 0] / np.where(np.abs(v[:, 1]) > 1e-12, v[:, 1], np.nan))
    unclear = (low[:, 1] <= 0) & (high[:, 1] >= 0) | np.isnan(low[:, 1])
    efficiency = np.where(unclear, np.nan, ratio.value)
    ends = [np.where(unclear, np.nan, end) for end in table.bounds(ratio)]
    rows = nodes(table).query("outcome == 'effect'")
    further = (rows["contribution"] - rows["control"]) * rows["contribution"] > 0
    beyond = (rows["control"].isna() | (rows["p_specific"] < table.alpha) & further).to_numpy()
    responsive = rows["significant"].to_numpy() & beyond
    typical = effect.sum() / kl.sum() if kl.sum() > 0 else np.inf
    better = [not bool(((effect > e) & (kl < d)).any()) for e, d in zip(effect, kl, strict=True)]
    return pd.DataFrame(
        {
            "node": [u.name for u in table.units],
            "layer": [u.layer for u in table.units],
            "kind": [u.kind for u in table.units],
            "effect": effect,
            "effect_low": low[:, 0],
            "effect_high": high[:, 0],
            "kl": kl,
            "kl_low": low[:, 1],
            "kl_high": high[:, 1],
            "loss": found.value[:, 2],
            "efficiency": efficiency,
            "efficiency_low": ends[0],
            "efficiency_high": ends[1],
            "responsive": responsive,
            "useful": responsive & (effect > 0) & (kl <= effect / typical),
            "frontier": better,
        }
    )


def response(table: Table) -> pd.DataFrame:
    """Contributions at each k and each coefficient."""
    parts = []
    for by, level, chosen in _levels(table):
        trials = table.rows.trials(chosen & table.rows.real)
        found = estimate.contributions(trials)
        low, high = table.bounds(found)
        parts += [
            pd.DataFrame(
                {
                    "node": [u.name for u in table.units],
                    "by": by,
                    "level": level,
                    "trials": len(trials),
                    "outcome": outcome,
                    "contribution": found.value[:, o],
                    "low": low[:, o],
                    "high": high[:, o],
                }
            )
            for o, outcome in enumerate(OUTCOMES[:2])
        ]
    return pd.concat(parts, ignore_index=True) if parts else _empty("response")


def dose(table: Table) -> pd.DataFrame:
    """Mean outcomes of whole trials at each k and each coefficient, real and random."""
    levels = list(_levels(table)) or [
        ("coefficient", float(table.rows.coefficient[0]), np.ones(len(table.rows.k), bool))
    ]
    records = []
    for by, level, chosen in levels:
        for vector, which in (("real", table.rows.real), ("random", table.rows.random)):
            trials = table.rows.trials(chosen & which)
            if len(trials):
                records += [
                    {"by": by, "level": level, "vector": vector, "trials": len(trials)} | line
                    for line in _lines(table, estimate.means(trials))
                ]
    return pd.DataFrame(records)[list(COLUMNS["sweep"]["dose"])]


def whole(table: Table) -> dict[str, dict[str, float | None]]:
    """Mean outcomes of the fully steered run, over the prompts, for the manifest."""
    rows = table.rows
    trials = Trials(np.zeros((len(rows.k), 0), bool), rows.whole, rows.prompt, rows.cell)
    return {
        line["outcome"]: {k: _json(line[k]) for k in ("mean", "low", "high")}
        for line in _lines(table, estimate.means(trials.where(rows.real)))
    }


def _json(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def pairs(table: Table) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Interactions, largest first, and how they were estimated."""
    chosen, together, found, method = estimate.pairs(table.real)
    low, high = table.bounds(found)
    frames = []
    for o, outcome in enumerate(OUTCOMES[:2]):
        p = _filled(found.p[:, o])
        adjusted = benjamini_hochberg(p)
        frames.append(
            pd.DataFrame(
                {
                    "first": [table.units[i].name for i in chosen[:, 0]],
                    "second": [table.units[i].name for i in chosen[:, 1]],
                    "outcome": outcome,
                    "together": together,
                    "interaction": found.value[:, o],
                    "low": low[:, o],
                    "high": high[:, o],
                    "p": p,
                    "p_adjusted": adjusted,
                    "significant": adjusted < table.alpha,
                }
            ).sort_values("interaction", key=np.abs, ascending=False)
        )
    return pd.concat(frames, ignore_index=True), {"method": method, "tested": len(chosen)}


def trends(table: Table) -> pd.DataFrame:
    """Mean contribution by layer and kind, and its slope over layers."""
    records: list[dict[str, Any]] = []
    for kind in dict.fromkeys(u.kind for u in table.units):
        members = [i for i, u in enumerate(table.units) if u.kind == kind]
        layers = sorted({table.units[i].layer for i in members})
        of = np.array([[table.units[i].layer == layer for i in members] for layer in layers], float)
        of /= of.sum(axis=1, keepdims=True)
        by_layer = table.contributions.map(lambda v, of=of, at=members: of @ v[at])  # type: ignore[misc]
        records += _trend(table, kind, layers, [int(n) for n in (of > 0).sum(1)], by_layer)
        if len(layers) > 1:
            centred = np.array(layers, float) - np.mean(layers)
            slope = by_layer.map(lambda v, c=centred: c @ v / (c @ c))  # type: ignore[misc]
            alone = Estimate(slope.value[None], slope.replicates[:, None])
            records += _trend(table, kind, [None], [len(members)], alone)
    return pd.DataFrame(records)[list(COLUMNS["sweep"]["trends"])].astype({"layer": "Int64"})


def _trend(table: Table, kind: str, layers: list[Any], counts: list[int], found: Estimate) -> list[dict[str, Any]]:
    low, high = table.bounds(found)
    return [
        {
            "kind": kind,
            "layer": layer,
            "outcome": outcome,
            "nodes": counts[i],
            "contribution": found.value[i, o],
            "low": low[i, o],
            "high": high[i, o],
            "p": found.p[i, o],
        }
        for i, layer in enumerate(layers)
        for o, outcome in enumerate(OUTCOMES[:2])
    ]


def designs(table: Table) -> pd.DataFrame:
    """Mean outcomes of each design, and horizontal minus vertical at equal k and equal norm."""
    rows, records = table.rows, []
    for number in np.unique(rows.design):
        chosen = rows.real & (rows.design == number)
        common = {"design": KINDS[number], **_size(rows, chosen)}
        records += [common | line | {"p": np.nan} for line in _lines(table, estimate.means(rows.trials(chosen)))]
    first, second = (rows.real & (rows.design == KINDS.index(k)) for k in ("horizontal", "vertical"))
    if first.any() and second.any():
        everything = rows.trials(np.ones(len(rows.k), bool))
        found = estimate.matched(everything, first, second, rows.norm)
        common = {"design": "horizontal - vertical", **_size(rows, first | second)}
        records += [common | line for line in _lines(table, found)]
    return pd.DataFrame(records)[list(COLUMNS["sweep"]["designs"])]


def _size(rows: "Rows", chosen: NDArray[np.bool_]) -> dict[str, Any]:
    return {"trials": int(chosen.sum()), "k": rows.k[chosen].mean(), "norm": rows.norm[chosen].mean()}


def convergence(table: Table) -> pd.DataFrame:
    """The width of the intervals, and the order of the nodes, from the first trials on."""
    final, count = table.contributions.value, len(table.real)
    records = []
    for part in sorted({max(50, count >> halvings) for halvings in range(8)} & set(range(count + 1))):
        found = estimate.contributions(table.real.where(np.arange(count) < part))
        low, high = table.bounds(found)
        for o, outcome in enumerate(OUTCOMES[:2]):
            same = _agreement(found.value[:, o], final[:, o])
            records.append(
                {"trials": part, "outcome": outcome, "width": np.median(high[:, o] - low[:, o]), "agreement": same}
            )
    return pd.DataFrame(records) if records else _empty("convergence")


def _agreement(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(stats.spearmanr(first, second).statistic)


def _levels(table: Table) -> Iterator[tuple[str, float, NDArray[np.bool_]]]:
    """k in at most six bins, and the coefficients, where there are several."""
    k, coefficient = table.rows.k, table.rows.coefficient
    values = np.unique(k)
    if len(values) > 1:
        for part in np.array_split(values, min(BINS, len(values))):
            chosen = np.isin(k, part)
            yield "k", float(k[chosen].mean()), chosen
    if len(grid := np.unique(coefficient)) > 1:
        for level in grid:
            yield "coefficient", float(level), coefficient == level


def _lines(table: Table, found: Estimate) -> list[dict[str, Any]]:
    low, high = table.bounds(found)
    return [
        {"outcome": outcome, "mean": found.value[o], "low": low[o], "high": high[o], "p": found.p[o]}
        for o, outcome in enumerate(OUTCOMES)
    ]


def _mean(chosen: NDArray[np.bool_], y: NDArray[np.float64]) -> NDArray[np.float64]:
    count = chosen.sum(axis=0)
    return np.where(count > 0, y @ chosen / np.maximum(count, 1), np.nan)


def _filled(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """No interval, no claim: a missing p counts as 1."""
    return np.where(np.isnan(p), 1.0, p)


def _empty(frame: str) -> pd.DataFrame:
    return pd.DataFrame(columns=list(COLUMNS["sweep"][frame]))
