"""Circuit runs against patched nodes, exact paths, and plain passes; on every architecture."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from questions import PROMPTS, experiment

import steerscope as st
from benchmarks.planted import OTHER, TARGET
from benchmarks.planted_verdicts import plant_verdict
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.errors import BadArgument, BadInjection, BadPrompt, UnsupportedModel
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.prompts import Prompts
from steerscope.analysis.routes.edges import _receiver
from steerscope.analysis.routes.path_effect import exact_paths
from steerscope.circuits.circuit_run import CircuitRuns, faithfulness
from steerscope.circuits.contrast import contrast_of, contrast_of_task
from steerscope.circuits.masks import leaving
from steerscope.circuits.solving import log_odds

CLOSE: dict[str, Any] = {"rtol": 2e-4, "atol": 2e-5}


def left_alone(asked: Experiment, kept: list[Node]) -> np.ndarray[Any, Any]:
    """The metric where all other nodes are patched to what they are without the injection."""
    others = [node for node in asked.reachable if node not in kept]
    clean, edits = asked.patches(None, others), asked.edits(0)
    return asked.score([Variant(p, (*edits[p], *(clean[n][p] for n in others))) for p in range(len(edits))])


def test_all_edges_and_a_circuit_of_nodes_are_what_patching_makes_of_them(every_architecture: Model) -> None:
    asked = experiment(every_architecture)
    if every_architecture.post_norm:
        with pytest.raises(UnsupportedModel, match="add up in the stream"):
            contrast_of(asked)
        return
    contrast = contrast_of(asked)
    runs = CircuitRuns(contrast)
    assert runs.check() < 1e-4
    np.testing.assert_allclose(contrast.effect, asked.effect(), **CLOSE)
    kept = [node for node in asked.reachable if (node.layer + (node.head or 0)) % 2]
    np.testing.assert_allclose(runs.values([leaving(contrast, kept)])[0], left_alone(asked, kept), **CLOSE)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj", "native_attention_only"])
def test_one_edge_less_loses_what_its_exact_path_carries(small_models: Any, name: str) -> None:
    asked = experiment(small_models[name])
    contrast = contrast_of(asked)
    runs = CircuitRuns(contrast)
    senders, receivers = np.nonzero(contrast.connected)
    chosen = np.random.default_rng(0).permutation(len(senders))[:8]
    paths = [(contrast.senders[senders[e]], _receiver(asked.model, contrast.receivers[receivers[e]])) for e in chosen]
    known = exact_paths(asked, paths)[0]
    masks = [np.ones_like(contrast.connected) for _ in chosen]
    for mask, e in zip(masks, chosen, strict=True):
        mask[senders[e], receivers[e]] = False
    np.testing.assert_allclose(contrast.values(1.0) - runs.values(masks), known, rtol=1e-3, atol=3e-5)


@pytest.mark.parametrize("ablation", ["mean", "zero"])
def test_ablations_of_all_nodes_but_one_are_what_patching_makes_of_them(small_models: Any, ablation: Any) -> None:
    asked = replace(experiment(small_models["llama"]), prompts=[PROMPTS[0], [7, *PROMPTS[0][1:]]])
    edits, nodes = asked.edits(0), asked.reachable
    clean, kept = asked.patches(None, nodes), nodes[-2]
    rows = []
    for p, own in enumerate(edits):
        made = []
        for node in nodes:
            values = [clean[node][q].value for q in range(len(edits))]
            assert isinstance(values[0], torch.Tensor) and isinstance(values[1], torch.Tensor)
            mean = (values[0] + values[1]) / 2
            made += [Edit(node.site, "set", mean * (ablation == "mean"))] if node != kept else []
        rows.append(Variant(p, (*own, *made)))
    contrast = contrast_of(asked)
    runs = CircuitRuns(contrast, ablation)
    np.testing.assert_allclose(runs.values([leaving(contrast, [kept])])[0], asked.score(rows), **CLOSE)
    if ablation == "mean":  # nothing is left of the prompt
        assert runs.ends[0][0] == pytest.approx(runs.ends[0][1], abs=1e-5)


def test_means_need_prompts_of_equal_length(small_models: Any) -> None:
    contrast = contrast_of(experiment(small_models["llama"]))
    with pytest.raises(BadArgument, match="two or more of each length"):
        CircuitRuns(contrast, "mean").values([contrast.connected])


def pair(model: Model) -> tuple[Prompts, Prompts]:
    made = [
        Prompts(ids, tuple(map(str, ids)), targets=((5,), (9,)), against=((6,), (3,)))
        for ids in (((1, 2, 3, 4), (4, 5, 6)), ((1, 8, 3, 4), (2, 5, 7)))
    ]
    return made[0], made[1]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_task_is_the_way_from_the_corrupted_to_the_clean_prompts(small_models: Any, name: str) -> None:
    model = small_models[name]
    clean, corrupted = pair(model)
    contrast = contrast_of_task(model, clean, corrupted)
    for share, prompts in ((1.0, clean), (0.0, corrupted)):
        known = log_odds(model, Prompts(prompts.ids, prompts.texts, targets=clean.targets, against=clean.against))
        np.testing.assert_allclose(contrast.values(share), known, **CLOSE)
    assert CircuitRuns(contrast).check() < 1e-4


def test_a_task_under_steering_is_steered_in_both_runs(small_models: Any) -> None:
    model = small_models["llama"]
    clean, corrupted = pair(model)
    vector = st.random_like(st.steering_vector(model, [5], [6], layer=1), seed=1)
    injection = st.Injection(vector, 3.0, layer=1, positions="last")
    contrast = contrast_of_task(model, clean, corrupted, [injection])
    asked = Experiment(
        model, injection, clean, st.log_prob(st.PerPrompt([5, 9]), against=st.PerPrompt([6, 3])), references=0
    )
    np.testing.assert_allclose(contrast.values(1.0), asked.value(0), **CLOSE)
    assert CircuitRuns(contrast).check() < 1e-4
    assert abs(contrast.effect - contrast_of_task(model, clean, corrupted).effect).max() > 1e-3


def test_a_planted_circuit_is_faithful_and_loses_everything_with_its_last_edges() -> None:
    planted = plant_verdict("unaffected", prompts=6, length=7)
    clean, corrupted = (asked.prompts for asked in (planted.experiment, planted.counterfactual))
    sides = [(TARGET, OTHER) if label > 0 else (OTHER, TARGET) for label in planted.labels]
    clean = replace(clean, targets=tuple((a,) for a, _ in sides), against=tuple((b,) for _, b in sides))
    contrast = contrast_of_task(planted.model, clean, corrupted)
    assert contrast.effect.mean() == pytest.approx(4, abs=0.2)
    runs = CircuitRuns(contrast)
    mask = leaving(contrast, planted.circuits.clean)
    less = mask.copy()
    less[:, -1] = False  # nothing reaches the logits
    found = faithfulness(runs.values([mask, less]), runs.ends)
    assert found[0] == pytest.approx(1, abs=0.05)
    assert found[1] == 0


def test_pairs_that_do_not_fit_are_refused(small_models: Any) -> None:
    model = small_models["gpt2"]
    clean, corrupted = pair(model)
    short = Prompts(((1, 2, 3), (2, 5, 7)), ("a", "b"))
    with pytest.raises(BadPrompt, match="pair 1 has 4 and 3 tokens"):
        contrast_of_task(model, clean, short)
    with pytest.raises(BadPrompt, match="without answers"):
        contrast_of_task(model, Prompts(clean.ids, clean.texts), corrupted)
    with pytest.raises(BadPrompt, match="2 clean prompts and 1"):
        contrast_of_task(model, clean, Prompts(corrupted.ids[:1], corrupted.texts[:1]))
    vector = st.steering_vector(model, [5], [6], layer=1)
    with pytest.raises(BadInjection, match="a task under ablate"):
        contrast_of_task(model, clean, corrupted, [st.Injection(vector, 1.0, operation="ablate")])
