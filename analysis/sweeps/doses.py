"""What whole trials do, and nodes with more of them: by the number of nodes, the coefficient and the design."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steerscope.analysis.results.schema import Column, Frame, Frames
from steerscope.analysis.sweeps import adding, estimate

from .design import KINDS
from .estimate import Estimate
from .tables import OUTCOME, OUTCOME_OR_LOSS, OUTCOMES, RANGE, Table

BINS = 6  # of k, at most
_LEVEL: Frame = {
    "by": Column("k or coefficient", role="label"),
    "level": Column("value of k (mean of its bin) or of the coefficient", role="axis"),
}
DOSES: Frames = {
    "response": {
        "node": Column("as in nodes", role="label"),
        **_LEVEL,
        "trials": Column("trials at this level"),
        **OUTCOME,
        "contribution": Column(
            "the same at this level; by k: what it adds to reach that many nodes", "{unit}", "estimate"
        ),
        **RANGE,
    },
    "dose": {
        **_LEVEL,
        "vector": Column("real or random; own_direction is each vector's own", role="label"),
        **OUTCOME_OR_LOSS,
        "trials": Column("trials at this level"),
        "mean": Column("mean outcome of a trial", "{unit}", "estimate"),
        **RANGE,
    },
    "designs": {
        "design": Column("design of the trials, or horizontal - vertical", role="label"),
        **OUTCOME_OR_LOSS,
        "trials": Column("how many"),
        "k": Column("mean number of nodes"),
        "norm": Column("mean injected norm", "stream norms"),
        "mean": Column(
            "mean outcome; in the row horizontal - vertical the difference at equal k and equal norm",
            "{unit}",
            "estimate",
        ),
        **RANGE,
        "p": Column("that the difference is zero; missing for means"),
    },
}


def response(table: Table) -> pd.DataFrame:
    """Contributions at each k and each coefficient."""
    parts = []
    k = table.rows.k
    for by, level, chosen in _levels(table):
        if by == "k":  # to reach so many nodes, from one fewer
            chosen = (k >= k[chosen].min() - 1) & (k <= k[chosen].max())
        trials = table.rows.trials(chosen & table.rows.real)
        found, adds = adding.contributions(trials)
        if adds != table.adds:
            continue
        common = {"node": table.about["node"], "by": by, "level": level, "trials": len(trials)}
        parts += [
            pd.DataFrame(common | {"outcome": outcome} | table.bounded("contribution", found, o, short=True))
            for o, outcome in enumerate(OUTCOMES[:2])
        ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(DOSES["response"]))


def dose(table: Table) -> pd.DataFrame:
    """Mean outcomes of whole trials at each k and each coefficient, real and random."""
    rows = table.rows
    levels = list(_levels(table)) or [("coefficient", float(rows.coefficient[0]), np.ones(len(rows.k), bool))]
    records = []
    for by, level, chosen in levels:
        for vector, which in (("real", rows.real), ("random", rows.random)):
            trials = rows.trials(chosen & which)
            if len(trials):
                common = {"by": by, "level": level, "vector": vector, "trials": len(trials)}
                records += [common | line for line in _lines(table, estimate.means(trials))]
    return pd.DataFrame(records, columns=list(DOSES["dose"]))


def whole(table: Table) -> dict[str, dict[str, float | None]]:
    """Mean outcomes of the fully steered run, over the prompts, for the manifest."""
    return {
        line["outcome"]: {k: float(line[k]) if np.isfinite(line[k]) else None for k in ("mean", "low", "high", "p")}
        for line in _lines(table, table.whole)
    }


def designs(table: Table) -> pd.DataFrame:
    """Mean outcomes of each design, and horizontal minus vertical at equal k and equal norm."""
    rows = table.rows
    records: list[dict[str, Any]] = []

    def note(name: str, chosen: NDArray[np.bool_], found: Estimate, **more: float) -> None:
        size = {"trials": int(chosen.sum()), "k": rows.k[chosen].mean(), "norm": rows.norm[chosen].mean()}
        records.extend({"design": name} | size | line | more for line in _lines(table, found))

    for number in np.unique(rows.design):
        chosen = rows.real & (rows.design == number)
        note(KINDS[number], chosen, estimate.means(rows.trials(chosen)), p=np.nan)
    first, second = (rows.real & (rows.design == KINDS.index(k)) for k in ("horizontal", "vertical"))
    if first.any() and second.any():
        everything = rows.trials(np.ones(len(rows.k), bool))
        note("horizontal - vertical", first | second, estimate.matched(everything, first, second, rows.norm))
    return pd.DataFrame(records, columns=list(DOSES["designs"]))


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
    return [
        {"outcome": outcome, **table.bounded("mean", found, o, short=True), "p": found.p[o]}
        for o, outcome in enumerate(OUTCOMES)
    ]
