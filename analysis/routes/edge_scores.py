"""All edges of an effect: from the injection and every node to every later input, by integrated gradients.

1. For every edge u -> v: what u writes differently in the steered run, times the gradient of the metric with
   respect to the stream that v reads *as v alone sees it*, averaged along the coefficient from 0 to its value.
   A head has three inputs (queries, keys, values; keys and values of a shared head count for all its query
   heads at once), an MLP one, and the logits read the final stream.
2. The gradient of v's own input goes back to the stream through its projection and its norm (in closed form).
3. The strongest edges and a random sample are patched exactly (`path_effect`): that is the calibration.

Source: Hanna et al. 2024 (arXiv 2403.17806) for integrated gradients on edges; here the contrast is the same
prompt with and without the injection.
What it cannot see: what gradients cannot (see `gradient`); small edges are ranked badly (Kendall below Pearson).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.backward import backward
from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.model.norms import Norm, norm_of
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import compose
from steerscope.analysis.tools.patches import activations
from steerscope.analysis.tools.writes import changes, injected_stream

Values = NDArray[np.float64]
INPUTS = ("q", "k", "v")


@dataclass(frozen=True)
class Input:
    """What reads the stream: a head's queries, a key-value head's keys or values, an MLP, or the logits (layer =
    n_layers).

    Attributes:
        head: counts key-value heads for k and v.
    """

    layer: int
    name: str
    head: int | None = None

    def __str__(self) -> str:
        if self.name == "logits":
            return "logits"
        return f"L{self.layer}M" if self.head is None else f"L{self.layer}H{self.head}.{self.name}"


def inputs_of(model: Model, first: int) -> list[Input]:
    """All inputs from a layer on, in the order in which they read."""
    found = []
    for layer in range(first, model.n_layers):
        found += [Input(layer, n, h) for n in INPUTS for h in range(model.heads(n))]
        found += [Input(layer, "mlp")] if model.has_mlp else []
    return [*found, Input(model.n_layers, "logits")]


def senders_of(experiment: Experiment) -> list[Node | None]:
    """The injection (None), then the nodes that it can reach."""
    return [None, *experiment.reachable]


def reads(model: Model, sender: Node | None, receiver: Input, injected: tuple[int, int]) -> bool:
    """Whether the receiver's stream holds what the sender writes.

    Args:
        injected: where the injection stands: layer, and 0 before attention, 1 before the MLP, 2 after it.
    """
    stage = {"mlp": 0 if model.parallel else 1, "logits": 0}.get(receiver.name, 0)
    if sender is None:
        return injected <= (receiver.layer, stage)
    written = (sender.layer, 1) if sender.head is not None and not model.parallel else (sender.layer, 2)
    return written <= (receiver.layer, stage)


def edge_scores(experiment: Experiment, vector: int = 0, steps: int = 5) -> Float[Values, "sender receiver prompt"]:
    """Scores of all edges; zero where there is none. Senders and receivers as `senders_of` and `inputs_of` list them"""
    model, prompts = experiment.model, experiment.prompts.full
    senders, first = senders_of(experiment), experiment.reachable[0].layer
    receivers = inputs_of(model, first)
    points, weights = np.polynomial.legendre.leggauss(steps)
    shares, weights = (points + 1) / 2, weights / 2
    moved = _moved(experiment, vector)
    found = np.zeros((len(senders), len(receivers), len(prompts)))
    place = {receiver: i for i, receiver in enumerate(receivers)}
    layers = [Layer(model, layer) for layer in range(model.n_layers)]
    last = model.n_layers - 1
    sites = [("resid_post", last)]
    for layer in range(first, model.n_layers):
        sites += [(name, layer) for name in layers[layer].sites]
    waiting: dict[tuple[int, int], dict[str, tuple[Tensor, Tensor]]] = {}

    def collect(indices: list[int], site: str, layer: int, x: Tensor, g: Tensor) -> None:
        if site == "resid_post":
            streams = {Input(model.n_layers, "logits"): g}
        else:
            own = waiting.setdefault((layer, indices[0]), {})
            own[site] = (x, g)
            if len(own) < len(layers[layer].sites):
                return
            streams = layers[layer].streams(waiting.pop((layer, indices[0])))
        for receiver, gradient in streams.items():
            for at in range(0, len(indices), steps):
                p = indices[at] // steps
                length = len(prompts[p])
                weight = torch.as_tensor(weights).to(gradient)
                mean = torch.einsum("k,kpm->pm", weight, gradient[at : at + steps, :length])
                own_scores = torch.einsum("spm,pm->s", moved[p], mean)
                found[:, place[receiver], p] = own_scores.double().cpu().numpy()

    groups = [_steps(experiment, vector, p, shares.tolist()) for p in range(len(prompts))]
    scored = experiment.scored_positions
    backward(
        model,
        prompts,
        groups,
        scored.positions,
        experiment.metric.prepare(scored, experiment.clean, experiment.steered),
        sites,
        collect,
        reads=experiment.reads,
        budget=experiment.budget,
        name=experiment.metric.name,
    )
    injected = injected_at(experiment)
    there = [[reads(model, s, r, injected) for r in receivers] for s in senders]
    return np.where(np.array(there)[:, :, None], found, 0.0)


def injected_at(experiment: Experiment) -> tuple[int, int]:
    """The first place where something is injected: layer, and 0 before attention, 1 before the MLP, 2 after it."""
    stages = {"resid_pre": 0, "mlp_out": 2}
    return min((i.site.layer, stages.get(i.site.name, 1)) for i in experiment.injections)


def _steps(experiment: Experiment, vector: int, p: int, shares: Sequence[float]) -> list[Variant]:
    length, bos = len(experiment.prompts.ids[p]), experiment.model.bos is not None
    return [
        Variant(
            p, compose([replace(i, coefficient=x * i.coefficient) for i in experiment.steering[vector]], length, bos)
        )
        for x in shares
    ]


def _moved(experiment: Experiment, vector: int) -> list[Float[Tensor, "sender pos d_model"]]:
    """By prompt, what the injection and every node write differently in the steered run."""
    model, nodes = experiment.model, experiment.reachable
    sites = sorted({(node.site.name, node.layer) for node in nodes})
    edits = experiment.edits(vector)
    clean, steered = (activations(experiment, e, sites) for e in (experiment.nothing, edits))
    found = []
    for p, ids in enumerate(experiment.prompts.full):
        written = changes(model, nodes, clean[p], steered[p])
        found.append(torch.cat([injected_stream(model, edits[p], len(ids)).to(written)[None], written]))
    return found


@dataclass(frozen=True, eq=False)
class Layer:
    """The way back from a layer's inputs to the stream."""

    model: Model
    layer: int
    sites: tuple[str, ...] = field(init=False)
    attention: Norm | None = field(init=False)
    mlp: Norm | None = field(init=False)

    def __post_init__(self) -> None:
        block = self.model.bridge.blocks[self.layer]
        names = ["resid_pre", *INPUTS]
        names += ["attn_out", "mlp_in"] if self.model.has_mlp else []
        object.__setattr__(self, "sites", tuple(names))
        object.__setattr__(self, "attention", norm_of(self.model, getattr(block, "ln1", None)))
        second = getattr(block, "ln2", None) or (getattr(block, "ln1", None) if self.model.parallel else None)
        object.__setattr__(self, "mlp", norm_of(self.model, second))

    def streams(self, seen: dict[str, tuple[Tensor, Tensor]]) -> dict[Input, Float[Tensor, "row pos d_model"]]:
        """Gradients with respect to the stream, as each input alone sees it."""
        before = seen["resid_pre"][0]
        attention = self.model.bridge.blocks[self.layer].attn
        found = {}
        for name in INPUTS:
            gradient = seen[name][1]
            matrix = getattr(attention, f"W_{name.upper()}").to(gradient)
            for head in range(gradient.shape[2]):
                normed = gradient[:, :, head] @ matrix[head].T
                found[Input(self.layer, name, head)] = back(self.attention, before, normed)
        if self.model.has_mlp:
            read = before if self.model.parallel else before + seen["attn_out"][0]
            found[Input(self.layer, "mlp")] = back(self.mlp, read, seen["mlp_in"][1])
        return found


def back(
    norm: Norm | None, x: Float[Tensor, "*rows d_model"], gradient: Float[Tensor, "*rows d_model"]
) -> Float[Tensor, "*rows d_model"]:
    """The gradient with respect to a norm's input, from that of its output."""
    if norm is None:
        return gradient
    through = norm.weight.to(gradient) * gradient
    scale = norm.scale(x)[..., None]
    normed = norm.centre(x) / scale
    through = through - normed * (through * normed).mean(dim=-1, keepdim=True)
    return norm.centre(through) / scale
