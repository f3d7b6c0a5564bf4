"""Edge scores against gradients of whole nodes, and against exact path patching."""

from typing import Any

import numpy as np
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
from steerscope.analysis.routes.edge_scores import Input, Layer, edge_scores, inputs_of, senders_of
from steerscope.analysis.routes.edges import COLUMNS, edges
from steerscope.analysis.routes.path_effect import Receiver, exact_paths
from steerscope.analysis.tools.gradients import estimate


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
    nodes = estimate(asked, "ig", steps=30).values[0]
    np.testing.assert_allclose(scores[1:].sum(axis=1), nodes, rtol=1e-3, atol=1e-4)


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
    [check] = result.manifest["checks"]
    assert check["name"].startswith("edges that leave the injection") and check["value"] < 0.1


def test_bad_options_are_refused(small_model: Model) -> None:
    with pytest.raises(BadArgument, match="steps=0, verify=20, sample=20"):
        edges(experiment(small_model), steps=0)
