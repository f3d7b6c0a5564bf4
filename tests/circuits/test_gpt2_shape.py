"""The circuits of GPT-2 from end to end on a random model of its shape, with the real tokenizer: what a user with the
weights types. What they would find needs the weights."""

from typing import Any

import numpy as np
import pytest
from checkpoints import save_gpt2_shape

import steerscope as st
from steerscope.circuits.circuit_run import CircuitRuns
from steerscope.circuits.contrast import contrast_of_task
from steerscope.circuits.library import circuits
from steerscope.circuits.masks import mask_of

LISTED = circuits()
OF_GPT2 = LISTED[(LISTED["model"] == "gpt2") & (LISTED["task"] != "") & (LISTED["nodes"] != "measured")][
    "name"
].tolist()
pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = save_gpt2_shape(tmp_path_factory.mktemp("gpt2"), width=768)
    return st.load(folder, name="gpt2", selfcheck=False)


@pytest.mark.parametrize("name", OF_GPT2)
def test_a_circuit_of_gpt2_is_run_on_its_task(gpt2: Any, name: str) -> None:
    circuit = st.circuit(name)
    assert circuit.of(gpt2) is circuit
    made = st.task(circuit.task)(gpt2, n=3, ask=True)
    contrast = contrast_of_task(gpt2, made.clean, made.corrupted)
    runs, mask = CircuitRuns(contrast), mask_of(contrast, circuit)
    assert runs.check() < 1e-2 and 0 < mask.sum() < contrast.connected.sum()
    [value] = runs.values([mask])
    assert np.isfinite(value).all() and not np.allclose(value, contrast.values(0.0))


def test_steering_is_mapped_onto_them_and_their_task_is_stressed(gpt2: Any) -> None:
    injection = st.Injection(st.steering_vector(gpt2, " wedding", " ", layer=3), 4.0)
    made = st.task("ioi")(gpt2, n=4, ask=True)
    asked = st.Experiment(gpt2, injection, list(made.clean.texts), references=0)
    names = ["ioi", "ioi-eap-ig"]
    mapped = st.map_effect(asked, names, sets=2, permutations=20, controls=0)
    assert set(mapped.frames["circuits"]["circuit"]) == set(names)
    stressed = st.stress("ioi", made, injection, model=gpt2, coefficients=[1.0], randoms=1)
    assert set(stressed.frames["verdicts"]["verdict"]) == {"undetermined"}  # a random model decides nothing
