"""Conductance: exact at its cuts and through nodes, against a fine grid of plain integrated gradients, and pruning."""

from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np
import pytest
from architectures import AT_ONCE
from questions import experiment

import steerscope as st
from benchmarks.planted_verdicts import plant_verdict
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.routes.edge_scores import edge_scores
from steerscope.circuits import conductance as module
from steerscope.circuits.circuit import Circuit
from steerscope.circuits.circuit_run import CircuitRuns, faithfulness
from steerscope.circuits.conductance import edge_conductance
from steerscope.circuits.contrast import Contrast, contrast_of
from steerscope.circuits.found import graph_of
from steerscope.circuits.masks import Mask, leaving, mask_of, without_dead_ends
from steerscope.circuits.pruning import ordered, prune, strongest


def through(contrast: Contrast, scores: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """What comes into every node, and what leaves it; keys and values that heads share are left out of both."""
    into = np.array([scores[:, contrast.owners[:, s]].sum() for s in range(1, len(contrast.senders))])
    return into, scores[1:].sum(1)


@pytest.mark.parametrize("name", AT_ONCE)
def test_edges_across_any_cut_add_up_to_the_effect(
    small_models: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_models[name]
    if model.post_norm:
        return
    monkeypatch.setattr(module, "GAP", 5e-3)
    contrast = contrast_of(experiment(model))
    found = edge_conductance(contrast, points=1000)
    size = np.abs(contrast.effect).mean()
    assert found.gaps.mean() < 5e-3
    for layer in range(contrast.starts[0] + 1, model.n_layers):  # from all below to all from there on
        below = [s for s, node in enumerate(contrast.senders) if node is None or node.layer < layer]
        above = [r for r, receiver in enumerate(contrast.receivers) if receiver.layer >= layer]
        cut = found.conductance[np.ix_(below, above)].sum((0, 1))
        np.testing.assert_allclose(cut, contrast.effect, atol=0.02 * size)
    if model.n_heads == model.n_kv_heads:
        into, out = through(contrast, found.conductance.sum(-1))
        np.testing.assert_allclose(into, out, atol=0.02 * size)
    assert not found.conductance[~contrast.connected].any()


def test_integrated_gradients_are_those_of_a_fine_grid(small_models: Any) -> None:
    asked = experiment(small_models["gpt2"])
    found = edge_conductance(contrast_of(asked))
    known = edge_scores(asked, 0, 64)
    np.testing.assert_allclose(found.integrated, known, atol=0.02 * np.abs(known).max())


def test_some_prompts_have_the_scores_that_they_have_among_all(small_models: Any) -> None:
    contrast = contrast_of(experiment(small_models["llama"]))
    whole, part = edge_conductance(contrast, points=4), edge_conductance(contrast, [1], points=4)
    np.testing.assert_allclose(part.conductance[:, :, 0], whole.conductance[:, :, 1], atol=1e-5)
    assert part.intervals.tolist() == [4] and whole.intervals.tolist() == [4, 4]


def steered(verdict: str, norm: str | None = None) -> tuple[Any, Contrast]:
    planted = plant_verdict(verdict, norm=norm, prompts=6)
    return planted, contrast_of(replace(planted.experiment, metric=st.log_prob([1], [2])))


@pytest.mark.parametrize("by", ["score", "divergence"])
def test_a_circuit_that_is_found_keeps_what_it_may_not_lose_and_no_edge_too_many(small_models: Any, by: Any) -> None:
    contrast = contrast_of(experiment(small_models["gpt2"]))
    runs = CircuitRuns(contrast)
    scores = edge_conductance(contrast).conductance.mean(-1)
    found = prune(runs, scores, [0, 1], lost=0.2, by=by, trials=10_000)
    assert found.complete and found.loss <= 0.2 and 0 < found.mask.sum() < found.strongest
    if by == "score":
        assert abs(1 - faithfulness(runs.values([found.mask]), runs.ends)[0]) == pytest.approx(found.loss, abs=1e-5)
    assert (without_dead_ends(contrast, found.mask) == found.mask).all()
    some = prune(runs, scores, [0, 1], lost=0.2, by=by, trials=3)
    assert not some.complete and some.loss <= 0.2


def test_a_planted_carrier_is_all_that_is_found() -> None:
    planted, contrast = steered("overwritten")
    scores = edge_conductance(contrast).conductance.mean(-1)
    found = prune(CircuitRuns(contrast), scores, range(6), lost=0.05)
    writer = [node for node, role in planted.roles.items() if role.startswith("C1")]
    members = [contrast.senders[s] for s in np.flatnonzero(found.mask.any(1))]
    assert members == [None, *writer]


def test_edges_that_lead_nowhere_go(small_models: Any) -> None:
    contrast = contrast_of(experiment(small_models["llama"]))
    place = {str(r): i for i, r in enumerate(contrast.receivers)}
    mask = np.zeros_like(contrast.connected)
    mask[0, place["L0M"]] = mask[0, place["L1M"]] = True  # put in -> L0M, and nothing reads L0M
    mask[contrast.senders.index(Node(1)), -1] = True
    mask[contrast.senders.index(Node(0, 1)), -1] = True  # a head that reads nothing
    kept = without_dead_ends(contrast, mask)
    assert kept.sum() == 2 and not kept[0, place["L0M"]]
    assert without_dead_ends(contrast, mask, inputs=False).sum() == 3


def drawn(contrast: Contrast, mask: Mask, scores: np.ndarray[Any, Any]) -> Any:
    """A mask as the graph of a circuit."""
    names = ["input", *map(str, contrast.senders[1:])]
    edges = [(names[s], str(contrast.receivers[r]), scores[s, r]) for s, r in zip(*np.nonzero(mask), strict=True)]
    return graph_of(edges, contrast.model.n_heads // contrast.model.n_kv_heads)


def test_a_mask_is_a_circuit_and_back(small_models: Any) -> None:
    contrast = contrast_of(experiment(small_models["llama"]))  # two query heads a key-value head
    scores = edge_conductance(contrast).conductance.mean(-1)
    mask = without_dead_ends(contrast, strongest(contrast, ordered(contrast, scores), 40))
    made = Circuit("mine", "t", "llama", drawn(contrast, mask, scores), level="exact")
    assert (mask_of(contrast, made) == mask).all()
    assert (mask_of(contrast, Circuit("its nodes", "t", "llama", made.graph)) == leaving(contrast, made.nodes)).all()
    unsaid: Any = nx.DiGraph([("input", "L1H1"), ("L1H1", "logits")])
    found = mask_of(contrast, Circuit("two", "t", "llama", unsaid, level="exact"))
    names = [str(contrast.receivers[r]) for r in np.flatnonzero(found[0])]
    assert names == ["L1H1.q", "L1H0.k", "L1H0.v"] and found.sum() == 4
