"""Tests of a circuit among other sets of its make: joint shares, numbers of carriers, sums of shares."""

from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd

from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.results.stats import holm

from .carried import Carried, write_norms
from .circuit import Circuit
from .enrichment import UNTESTED, Matched, Test, counted_in, summed, thirds
from .joint import joint_test
from .map_columns import COLUMNS, MATCHED


def test_table(
    carried: Carried,
    circuits: Sequence[Circuit],
    options: Statistics,
    experiment: Experiment | None,
    sets: int,
    permutations: int,
) -> pd.DataFrame:
    """The columns of `tests`; joint shares, and sets that write as much, only of an experiment."""
    makes: dict[str, list[Hashable]] = {MATCHED[0]: list(carried.strata)}
    if experiment is not None:
        norms = write_norms(experiment, carried.nodes)
        makes[MATCHED[1]] = list(thirds(carried.strata, norms))
    rows = []
    for circuit in circuits:
        for name, strata in makes.items():
            matched = Matched(strata, carried.holds(circuit.nodes))
            known = bool(matched.tested.any()) and carried.clear
            about = {"circuit": circuit.name, "matched": name, "tested": int(matched.tested.sum())}
            for m, measure in enumerate(carried.measures):
                found: dict[str, Test] = {}
                if experiment is not None and sets:
                    said = f"sets like {circuit.name}"
                    found["joint"] = (
                        joint_test(experiment, carried.nodes, matched, measure, sets, said) if known else UNTESTED
                    )
                if carried.told is not None:
                    found["carriers"] = counted_in(matched, carried.told[m]) if known else UNTESTED
                found["sum"] = summed(matched, carried.shares[m], permutations, carried.seed) if known else UNTESTED
                rows += [{**about, "measure": measure, "test": what, **_told(test)} for what, test in found.items()]
    return _corrected(pd.DataFrame(rows))[list(COLUMNS["tests"])]


def _told(test: Test) -> dict[str, Any]:
    return {
        "value": test.value,
        "expected": test.expected,
        "others_low": test.low,
        "others_high": test.high,
        "p": test.above,
        "p_below": test.below,
        "least": test.least,
        "sets": test.sets,
    }


def _corrected(table: pd.DataFrame) -> pd.DataFrame:
    """Holm over the circuits of which something was tested, within a measure, a test and a make."""
    for name in ("p", "p_below"):
        table[f"{name}_holm"] = 1.0
        for _, own in table[table["sets"] > 0].groupby(["measure", "test", "matched"]):
            table.loc[own.index, f"{name}_holm"] = holm(own[name].to_numpy(dtype=float))
    return table
