"""Learned weights against an added vector: both disturb alike, and the model stays as it was."""

from typing import Any

import numpy as np
import pytest
import torch

import steerscope as st
from steerscope.analysis.engine.plain import plain_logits
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.results.result import Result
from steerscope.tinystories import task_vector as module
from steerscope.tinystories.fine_tune import changed, random_task, task_of, weights_of
from steerscope.tinystories.task_vector import ACTIVATION, OWN, SKIPPED, _size, _Texts
from steerscope.tinystories.topics import TOPICS

QUICK: dict[str, Any] = {"seeds": 2, "steps": 8, "kl": 0.05}


@pytest.fixture(scope="module")
def model() -> st.Model:
    return st.load("tinystories-1l")


@pytest.fixture(scope="module")
def result(model: st.Model) -> Result:
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "TEXTS", 9)
    patch.setattr(module, "LEARNED", 40)
    found: Result = st.task_vector(model, "wedding", **QUICK)
    patch.undo()
    return found


def value(result: Result, arm: str, measure: str) -> float:
    rows = result.frames["arms"]
    return float(rows[(rows["arm"] == arm) & (rows["measure"] == measure)]["value"].iloc[0])


def test_the_model_has_its_own_weights_again(model: st.Model, result: Result) -> None:
    assert all(check["passed"] for check in result.manifest["checks"])
    assert st.load("tinystories-1l").weights_hash == model.weights_hash == st.load(model.bridge).weights_hash


def test_every_change_disturbs_as_much_and_who_learned_the_topic_does_best_on_it(result: Result) -> None:
    assert result.frames["runs"]["kl"].to_numpy() == pytest.approx(QUICK["kl"], rel=0.02)
    assert value(result, OWN, "on topic") < value(result, "random weights", "on topic")
    assert value(result, OWN, "on topic") < value(result, "task vector, another topic", "on topic")


def test_cosines_are_1_of_a_change_with_itself_and_small_of_random_ones(result: Result) -> None:
    assert value(result, ACTIVATION, "cosine with the activation vector") == pytest.approx(1.0)
    assert value(result, OWN, "cosine with task vectors") > 0.5
    assert abs(value(result, "random vector, front", "cosine with task vectors")) < 0.4


def test_losses_are_those_of_plain_passes(model: st.Model, result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TEXTS", 9)
    runs = result.frames["runs"]
    row = runs[(runs["arm"] == ACTIVATION) & (runs["measure"] == "on topic")].iloc[0]
    vector = st.steering_vector(model, " wedding", " ")
    edit = st.Edit(st.Site("resid_pre", 0), "add", float(row["scale"]) * vector.values[1:2], (1,))
    others = [entry.name for entry in TOPICS if entry.name != "wedding"]

    def loss(edits: list[Any]) -> float:
        nats = []
        for ids in _Texts.of(model, "wedding", others).on:
            logits = plain_logits(model, ids, edits)[SKIPPED:-1].log_softmax(-1)
            nats.append(-float(logits.gather(1, torch.tensor(ids)[SKIPPED + 1 :, None]).mean()))
        return float(np.mean(nats))

    assert row["value"] == pytest.approx(loss([edit]) - loss([]), abs=1e-4)


def test_weights_are_changed_for_a_block_alone_and_random_ones_are_as_large(model: st.Model) -> None:
    base = weights_of(model)
    task = task_of(model, base, [[0, 5, 6, 7]] * 4, steps=2, batch=2, rate=1e-3, seed=0)
    assert all(torch.equal(weight, base[name]) for name, weight in model.bridge.named_parameters())
    with changed(model, base, task, 2.0):
        for name, weight in model.bridge.named_parameters():
            assert torch.allclose(weight, base[name] + 2 * task[name])
    assert all(torch.equal(weight, base[name]) for name, weight in model.bridge.named_parameters())
    other = random_task(task, 0)
    assert all(float(other[n].norm()) == pytest.approx(float(task[n].norm()), rel=1e-4) for n in task)


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_the_size_of_a_disturbance_is_found_or_said_not_to_be_there(power: float) -> None:
    found = _size(lambda scale: 3 * scale**power, 0.2)
    assert found is not None and 3 * found**power == pytest.approx(0.2, rel=0.02)
    assert _size(lambda scale: 0.1 * scale / (1 + scale), 0.2) is None  # it saturates


def test_a_topic_that_is_not_known_is_refused(model: st.Model) -> None:
    with pytest.raises(BadArgument, match="no topic 'taxes'; expected one that the grammar knows"):
        st.task_vector(model, "taxes")
