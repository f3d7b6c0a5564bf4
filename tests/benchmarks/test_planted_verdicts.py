"""Planted circuits under steering: what the input decides, the common push and the circuits are those of the plan."""

import pytest

from benchmarks.planted import NORMS, TARGET
from benchmarks.planted_verdicts import SIGNAL, VERDICTS, Reading, faithful, plant_verdict, read
from steerscope.analysis.errors import BadArgument
from steerscope.tinystories.dissect import dissect

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


# By verdict, what the exact decomposition must give: the change of the target's logit by last writer, as
# (push, share of the signal that is gained); all else is nothing.
WRITERS: dict[str, dict[str, tuple[float, float]]] = {
    "unaffected": {},
    "weaker": {"A1": (0.0, -0.5)},
    "rerouted": {"A1": (0.0, -1.0), "B1": (0.0, 1.0)},
    "overwritten": {"C1": (6.0, 0.0)},
    "silenced": {"A1": (4.0, -1.0)},
}


@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_decomposition_says_what_steering_does_to_the_circuit(verdict: str) -> None:
    planted = plant_verdict(verdict, idle=0, prompts=4)
    found = dissect(planted.experiment, tokens=[TARGET], readout="raw", share=0, audit=False).frames
    assert (found["totals"]["gap"].abs() <= 1e-9 * (1 + found["totals"]["parts_mass"])).all()
    names = {str(node): role.split(":")[0] for node, role in planted.roles.items()}
    sums = found["parts"].groupby(["prompt", "writer"])["change"].sum()
    for p, label in enumerate(planted.labels):
        expected = {name: push + gain * SIGNAL * label for name, (push, gain) in WRITERS[verdict].items()}
        for node, name in names.items():
            assert sums.get((p, node), 0.0) == pytest.approx(expected.get(name, 0.0), abs=1e-3)


@pytest.mark.parametrize("norm", ["LN", "RMS"])
def test_a_rerouted_circuit_shows_in_the_paths_although_nothing_changes(norm: str) -> None:
    planted = plant_verdict("rerouted", norm=norm, prompts=4)
    found = dissect(planted.experiment, tokens=[TARGET], readout="raw", share=0, audit=False).frames
    assert (found["totals"]["gap"].abs() <= 1e-9 * (1 + found["totals"]["parts_mass"])).all()
    nodes = {role.split(":")[0]: str(node) for node, role in planted.roles.items()}
    sums = found["parts"].groupby(["prompt", "writer"])["change"].sum()
    totals = found["totals"].set_index("prompt")["change"]
    for p, label in enumerate(planted.labels):
        old, new = (label * sums[p, nodes[name]] for name in ("A1", "B1"))
        assert old < -1.5 and new > 1.5 and abs(totals[p]) < 0.3
