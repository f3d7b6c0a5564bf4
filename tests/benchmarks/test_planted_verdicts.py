"""Planted circuits under steering: what the input decides, the common push and the circuits are those of the plan."""

import pytest

from benchmarks.planted import NORMS
from benchmarks.planted_verdicts import VERDICTS, Reading, faithful, plant_verdict, read
from steerscope.analysis.errors import BadArgument

# Decided, pushed and right answers: clean, then steered. Without norm and idle heads, by the plan's own arithmetic.
CLEAN = (4.0, 0.0, 1.0)
STEERED = {
    "unaffected": (4.0, 0.0, 1.0),
    "weaker": (2.0, 0.0, 1.0),
    "rerouted": (4.0, 0.0, 1.0),
    "overwritten": (4.0, 6.0, 0.5),
    "silenced": (0.0, 4.0, 0.5),
}


def numbers(found: Reading) -> tuple[float, float, float]:
    return found.decided, found.pushed, found.accuracy


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_plan_without_noise_gives_exactly_what_it_says(verdict: str) -> None:
    planted = plant_verdict(verdict, idle=0)
    assert numbers(read(planted, False)) == pytest.approx(CLEAN, abs=1e-3)
    assert numbers(read(planted, True)) == pytest.approx(STEERED[verdict], abs=1e-3)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_verdict_stays_among_idle_heads_and_under_norms(verdict: str, norm: str | None) -> None:
    planted = plant_verdict(verdict, norm=norm, seed=1)
    clean, steered = read(planted, False), read(planted, True)
    kept, push = steered.decided / clean.decided, abs(steered.pushed - clean.pushed)
    assert clean.decided > 3 and clean.accuracy == 1
    outvoted = push >= steered.decided / 2 and push > clean.decided / 4
    assert outvoted == (verdict in ("overwritten", "silenced"))
    low, high = {"weaker": (0.2, 0.7), "silenced": (-0.1, 0.1)}.get(verdict, (0.9, 1.1))
    assert low < kept < high
    assert steered.accuracy == (0.5 if outvoted else 1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("verdict", [v for v in VERDICTS if v != "silenced"])
def test_the_circuits_are_those_that_were_planted(verdict: str, norm: str | None) -> None:
    planted = plant_verdict(verdict, norm=norm)
    before, after = planted.circuits.clean, planted.circuits.steered
    assert after is not None
    assert faithful(planted, before, False) == pytest.approx(1, abs=0.05)
    assert faithful(planted, after, True) == pytest.approx(1, abs=0.05)
    same = verdict != "rerouted"
    assert faithful(planted, before, True) == pytest.approx(float(same), abs=0.05)
    assert faithful(planted, after, False) == pytest.approx(float(same), abs=0.05)


def test_what_cannot_be_planted_is_refused() -> None:
    with pytest.raises(BadArgument, match="expected one of unaffected"):
        plant_verdict("dead")
    with pytest.raises(BadArgument, match="idle=-1"):
        plant_verdict("weaker", idle=-1)
