"""A circuit of detectors becomes one of a model, with the heads that have its roles, or none."""

from dataclasses import replace

import pytest

import steerscope as st
from steerscope.analysis.errors import BadArgument, BadCircuit
from steerscope.analysis.results.result import Result


def census(name: str) -> tuple[st.Model, Result]:
    model = st.load(name, selfcheck=False)
    return model, st.detect_heads(model, sequences=24, causal=1)


def test_the_induction_head_of_a_toy_is_found_and_a_role_that_no_head_has_is_said() -> None:
    model, found = census("toy-induction")
    made = st.measured_circuit("induction", found)
    assert {role: list(map(str, nodes)) for role, nodes in made.roles.items()} == {"induction": ["L1H0"]}
    assert made.of(model) is made and made.confidence == "ours" and made.model == "toy-induction"
    scores = found.frames["scores"].set_index(["node", "role"])["score"]
    assert made.reported == {"induction, score of L1H0": scores["L1H0", "induction"]}
    [absent] = [caveat for caveat in made.caveats if "previous token" in caveat]
    assert "L0H0 (0.3" in absent  # under the threshold, and beyond its controls
    assert "seed 0" in made.sources[-1] and made.sources[0] == st.circuit("induction").sources[0]
    with pytest.raises(BadCircuit, match="tinystories-1l"):
        made.of(st.load("tinystories-1l", selfcheck=False))


@pytest.mark.parametrize("name", ["toy-repeat-by-position", "tinystories-1l"])
def test_a_model_without_such_heads_has_no_such_circuit(name: str) -> None:
    with pytest.raises(BadCircuit, match=f"no head of {name} is claimed to have a role of circuit induction"):
        st.measured_circuit("induction", census(name)[1])


def test_all_heads_of_a_role_are_in_it_with_the_thresholds_that_were_asked_for() -> None:
    model = st.load("tinystories-2l", selfcheck=False)
    found = st.detect_heads(model, sequences=12, causal=0, text=(), thresholds={"previous token": 0.3, "induction": 1})
    made = st.measured_circuit(st.circuit("induction"), found)
    rows = found.frames["scores"]
    held = rows[(rows["role"] == "previous token") & rows["holds"]]["node"]
    assert len(held) >= 2 and list(map(str, made.roles["previous token"])) == list(held)


def test_a_story_model_that_has_learned_induction_has_the_circuit_and_the_circuit_does_the_task() -> None:
    model = st.load("tinystories-2l-induction", selfcheck=False)
    made = st.measured_circuit("induction", st.detect_heads(model, sequences=24, causal=4, text=()))
    roles = {role: set(map(str, nodes)) for role, nodes in made.roles.items()}
    assert roles == {"previous token": {"L0H4", "L0H6"}, "induction": {"L1H2", "L1H5", "L1H6", "L1H8"}}
    vector = st.steering_vector(model, " wedding", " ", layer=1)
    asked = {"n": 32, "coefficients": [1.0], "randoms": 0, "find": "never"}
    found = st.stress(made, "induction-letters", {"wedding": st.Injection(vector, 3.0)}, model=model, **asked)
    [row] = found.frames["verdicts"].to_dict("records")
    assert row["P_0"] > 0.9 and row["F0_low"] > 0.8 and row["verdict"] == "unaffected"


def test_what_cannot_be_measured_is_refused() -> None:
    _, found = census("toy-induction")
    with pytest.raises(BadCircuit, match="circuit ioi has no detectors"):
        st.measured_circuit("ioi", found)
    with pytest.raises(BadArgument, match="expected head_census"):
        st.measured_circuit("induction", replace(found, kind="made"))
    rows = found.frames["scores"]
    less = replace(found, frames={**found.frames, "scores": rows[rows["role"] != "induction"]})
    with pytest.raises(BadCircuit, match="did not try the role 'induction'"):
        st.measured_circuit("induction", less)
    with pytest.raises(BadCircuit, match=r"measured_circuit\(circuit, detect_heads\(model\)\)"):
        st.circuit("induction").of(st.load("toy-induction", selfcheck=False))
