"""The library's circuit of SmolLM2 on prompts that it was not found with; and what its heads do."""

from typing import Any

import numpy as np
import pytest

import steerscope as st
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.model.norms import norm_of
from steerscope.analysis.tools.writes import head_writes
from steerscope.circuits.circuit_run import CircuitRuns, faithfulness
from steerscope.circuits.consensus import random_like
from steerscope.circuits.contrast import Contrast, contrast_of_task
from steerscope.circuits.masks import mask_of
from steerscope.circuits.task import TaskPrompts

pytestmark = pytest.mark.llm


@pytest.fixture(scope="module")
def asked(smollm2_unbegun: Any) -> tuple[TaskPrompts, Contrast]:
    made = st.task("ioi")(smollm2_unbegun, n=12, seed=7)
    return made, contrast_of_task(smollm2_unbegun, made.clean, made.corrupted)


def test_the_circuit_is_faithful_to_other_prompts_and_random_ones_are_not(asked: tuple[TaskPrompts, Contrast]) -> None:
    _, contrast = asked
    runs, mask = CircuitRuns(contrast), mask_of(contrast, st.circuit("ioi-smollm2"))
    assert mask.sum() == 393 and runs.check() < 1e-3
    random = next(random_like(contrast, mask, 1, np.random.default_rng(0)))
    own, other = faithfulness(runs.values([mask, random]), runs.ends)
    assert own > 0.35 > other


def written(asked: tuple[TaskPrompts, Contrast], head: Node) -> tuple[float, float]:
    """Mean direct effect on the indirect object's logit and on the subject's, clean minus corrupted."""
    made, contrast = asked
    model, site = contrast.model, ("z", head.layer)
    last = ("resid_post", model.n_layers - 1)
    clean, corrupted = contrast.activations([site, last], 1.0), contrast.activations([site], 0.0)
    norm, found = norm_of(model, model.bridge.ln_final), []
    assert norm is not None
    for own, other, at, sides in zip(
        clean, corrupted, made.places, zip(made.clean.targets, made.clean.against, strict=True), strict=True
    ):
        change = (head_writes(model, head.layer, own[site]) - head_writes(model, head.layer, other[site]))[
            head.head or 0
        ]
        part = norm.part(change[at["END"]], norm.scale(own[last][at["END"]]))
        found.append([float((part @ model.bridge.unembed.W_U[:, side[0]]).detach()) for side in sides])
    wanted, against = np.mean(found, axis=0)
    return float(wanted), float(against)


def test_what_looks_at_the_second_subject_lowers_it_and_moves_no_name(asked: tuple[TaskPrompts, Contrast]) -> None:
    wanted, against = written(asked, Node(23, 3))
    assert against < -1 and abs(wanted) < 0.6
    for mover in (Node(23, 0), Node(23, 7)):
        assert written(asked, mover)[0] > 0.3
    assert written(asked, Node(24, 4))[0] < -0.5
