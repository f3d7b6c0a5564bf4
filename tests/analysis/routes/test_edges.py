"""Edge scores against gradients of whole nodes, and against exact path patching."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from questions import PROMPTS, experiment
from torch import Tensor

from steerscope.analysis.engine.backward import backward
from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import Readout
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.effects import Statistics, estimates
from steerscope.analysis.results.verdicts import TOLD
from steerscope.analysis.routes import edges as module
from steerscope.analysis.routes.edge_scores import (
    Input,
    Layer,
    complete_scores,
    connected,
    edge_scores,
    inputs_of,
    senders_of,
)
from steerscope.analysis.routes.edges import COLUMNS, edges
from steerscope.analysis.routes.path_effect import Receiver, exact_paths
from steerscope.analysis.tools.gradients import _backward
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.random import random_like
from steerscope.reports.pages import edges as pages


def test_what_the_inputs_of_a_layer_hand_back_adds_up_to_its_gradient(every_architecture: Model) -> None:
    """The stream's gradient before a layer is that after it plus what each input alone hands back."""
    model = every_architecture
    seen: dict[int, dict[str, tuple[Tensor, Tensor]]] = {}

    def collect(indices: list[int], site: str, layer: int, x: Tensor, g: Tensor) -> None:
        seen.setdefault(layer, {})[site] = (x, g)

    def score(readout: Readout) -> Tensor:
        assert readout.logits is not None
        return readout.logits.log_softmax(-1)[:, 11]

    layers = [Layer(model, layer) for layer in range(model.n_layers)]
    sites = [(name, layer) for layer in range(model.n_layers) for name in layers[layer].sites]
    sites += [("resid_post", layer) for layer in range(model.n_layers)]
    backward(model, PROMPTS[:1], [[Variant(0)]], [(6,)], score, sites, collect)
    for layer in range(model.n_layers):
        own = {name: pair for name, pair in seen[layer].items() if name in layers[layer].sites}
        parts = torch.stack(list(layers[layer].streams(own).values())).sum(0)
        expected = seen[layer]["resid_pre"][1] - seen[layer]["resid_post"][1]
        torch.testing.assert_close(parts, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj", "gemma2", "native_attention_only"])
def test_edges_of_a_node_add_up_to_the_node_and_those_of_the_injection_to_the_effect(
    small_models: Any, name: str
) -> None:
    asked = experiment(small_models[name])
    scores = edge_scores(asked, steps=30)
    total = asked.effect()
    np.testing.assert_allclose(scores[0].sum(axis=0), total, rtol=0.02, atol=5e-3)
    if asked.model.post_norm:  # there a node's change and its write differ by the norm between
        return
    np.testing.assert_allclose(scores[1:].sum(axis=1), mean_gradients(asked, 30), rtol=1e-3, atol=1e-4)


def mean_gradients(asked: Experiment, steps: int) -> Any:
    """By node and prompt, the change of its output times its mean gradient along the coefficient."""
    points, weights = np.polynomial.legendre.leggauss(steps)
    found = np.zeros((len(asked.reachable), len(PROMPTS)))
    place = {node: i for i, node in enumerate(asked.reachable)}

    def product(site: tuple[str, int], rows: Tensor, back: Tensor) -> Any:
        mean = torch.einsum("k,k...->...", torch.tensor(weights / 2).to(back), back[1:-1])
        return ((rows[-1] - rows[0]) * mean).sum(dim=(0, -1)).double().numpy()

    def put(p: int, block: int, site: tuple[str, int], product: Any) -> None:
        for head in range(len(product)) if product.ndim else (None,):
            node = Node(site[1], head)
            if node in place and node.site.name == site[0]:
                found[place[node], p] = product if head is None else product[head]

    shares = [0.0, *((points + 1) / 2).tolist(), 1.0]
    _backward(asked, 0, [shares], asked.along, product, put, (), None)
    return found


def test_a_node_reaches_what_comes_after_it_alone(small_model: Model, small_models: Any) -> None:
    for model in (small_model, small_models["gptj"]):
        asked = experiment(model)
        scores = np.abs(edge_scores(asked, steps=1)).max(-1)
        senders, receivers = senders_of(asked), inputs_of(model, 0)
        late = receivers.index(Input(model.n_layers, "logits"))
        for row, sender in enumerate(senders):
            if sender is not None and not model.parallel:
                assert scores[row, late] > 0
            for column, receiver in enumerate(receivers[:-1]):
                there = sender is None or receiver.layer > sender.layer
                if sender is not None and receiver.layer == sender.layer and not model.parallel:
                    there = sender.head is not None and receiver.name == "mlp"
                if not there:
                    assert scores[row, column] == 0, f"{sender} -> {receiver}"
                elif receiver.layer < model.n_layers - 1:  # of the last queries few are read
                    assert scores[row, column] > 0, f"{sender} -> {receiver}"


def test_verified_edges_are_exact_and_calibrate_the_estimates(small_models: Any) -> None:
    """Keys of a shared head count for all its query heads, in the estimate and in the exact value."""
    asked = experiment(small_models["llama"], references=2)
    result = edges(asked, verify=8, sample=12, steps=12)
    assert {n: list(f.columns) for n, f in result.frames.items()} == {n: list(c) for n, c in COLUMNS.items()}
    table = result.frames["edges"]
    assert list(table["effect"].abs()) == sorted(table["effect"].abs(), reverse=True)
    assert set(result.frames["verified"]["verified"]) == {"top", "sample"}
    direct: Any = [(Node(0, 1), Receiver(None)), (None, Receiver(Node(1, 2), ("k",), shared=True))]
    exact = exact_paths(asked, direct).mean(-1)
    verified = result.frames["verified"]
    for (sender, receiver), values in zip((("L0H1", "logits"), ("injection", "L1H1.k")), exact.T, strict=True):
        found = verified[(verified["sender"] == sender) & (verified["receiver"] == receiver)]
        if len(found):
            own = found[["necessity", "sufficiency"]].to_numpy()[0]
            assert own == pytest.approx(values, abs=1e-5)
    calibration = result.frames["calibration"]
    both = calibration[(calibration["verified"] == "both") & (calibration["measure"] == "necessity")]
    assert both["pearson"].item() > 0.7
    assert result.manifest["complete"] and result.manifest["gap"] < 0.01


def test_steps_are_doubled_until_the_injections_edges_add_up(
    small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = experiment(small_model)
    found = complete_scores(asked, 0, 1)
    assert found.gap < 0.01 and found.steps > 1
    np.testing.assert_array_equal(found.values, edge_scores(asked, 0, found.steps))
    coarse = edge_scores(asked, 0, found.steps // 2)[0].sum(axis=0).mean()
    assert abs(coarse - asked.effect().mean()) > 0.01 * abs(asked.effect().mean())
    monkeypatch.setattr("steerscope.analysis.routes.edge_scores.COMPLETE", 0.0)
    monkeypatch.setattr(module, "COMPLETE", 0.0)
    result = edges(asked, steps=30, verify=4, sample=4)
    assert result.manifest["steps"] == 64 and not result.manifest["complete"]
    assert any(s.startswith("Even 64 steps along the coefficient were not enough") for s in pages.headline(result))


def steered(model: Model, texts: list[str], seed: int | None = None, references: int = 12) -> Experiment:
    """A word, or a random vector in its place."""
    vector = prompt_pair(model, " wedding", " ship", 0)
    injection = Injection(vector if seed is None else random_like(vector, seed), 2.0)
    return Experiment(model, (injection,), make_prompts(model, texts, groups="each"), references=references)


def test_edges_are_corrected_over_all_of_them_listed_or_not(
    tiny: Model, stories: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = steered(tiny, stories[:8])
    whole = edges(asked, verify=4, sample=4).frames["edges"]
    assert len(whole) == connected(asked).sum()
    monkeypatch.setattr(module, "LISTED", 10)
    result = edges(asked, verify=4, sample=4)
    pd.testing.assert_frame_equal(result.frames["edges"], whole.head(10))
    assert (result.manifest["count"], result.manifest["listed"]) == (len(whole), 10)


def test_references_are_scored_along_their_own_change(tiny: Model, stories: list[str]) -> None:
    asked = steered(tiny, stories[:6], references=4)
    table = edges(asked, verify=4, sample=4).frames["edges"]
    shares = []
    for vector in asked.vectors[1:]:
        scores = complete_scores(asked, vector, 5, asked.own(vector)).values
        shares.append(scores[connected(asked)].mean(-1) / asked.own_effect(vector).mean())
        np.testing.assert_allclose(scores[0].sum(axis=0).mean(), asked.own_effect(vector).mean(), rtol=0.01)
    np.testing.assert_allclose(sorted(table["noise_share"]), np.sort(np.mean(shares, axis=0)), rtol=1e-4, atol=1e-7)


def test_nothing_is_told_on_pure_noise(tiny: Model, stories: list[str]) -> None:
    """A random vector as the injection: of its edges none is its own, and the page says so."""
    result = edges(steered(tiny, stories[:8], 0), verify=4, sample=8)
    assert not result.frames["edges"]["verdict"].isin(TOLD).any()
    saying = "Nothing is specific to this vector: of no edge of 110 can it be said that it carries more of it than of "
    assert pages.headline(result)[0].startswith(saying)


def test_random_vectors_are_told_from_each_other_by_any_edge_as_rarely_as_is_said(
    tiny: Model, stories: list[str]
) -> None:
    """Each of 25 in turn as the injection, beside the others."""
    asked = steered(tiny, stories[:8], 77, references=24)
    basis, there = asked.basis(), connected(asked)
    own = np.stack([edge_scores(asked, v, 5, asked.own(v))[there] for v in asked.vectors])
    told = 0
    for vector in asked.vectors:
        order = [vector, *(v for v in asked.vectors if v != vector)]
        turned = replace(basis, total=basis.own[vector], own=basis.own[order], families=("", *["isotropic"] * 24))
        verdicts = estimates(turned, own[vector], own[order], Statistics(), len(own[vector]))["verdict"]
        told += bool(np.isin(verdicts, TOLD).any())
    assert told <= 3  # 95% of the time, at 5% each


def test_bad_options_are_refused(small_model: Model) -> None:
    with pytest.raises(BadArgument, match="steps=0; expected an integer from 1 to 256"):
        edges(experiment(small_model), steps=0)
