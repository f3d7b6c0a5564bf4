"""All edges of an effect: from the injection and every node to every later input, by integrated gradients.

1. For every edge u -> v: what u writes differently in the steered run, times the gradient of the metric with
   respect to the stream that v reads *as v alone sees it*, averaged along the coefficient from 0 to its value.
   A head has three inputs (queries, keys, values; keys and values of a shared head count for all its query
   heads at once), an MLP one, and the logits read the final stream.
2. The gradient of v's own input goes back to the stream through its projection and its norm (in closed form).
   Of injections at several layers an input reads those before it. What operations other than addition do is held as
   what they add in the steered run (`Experiment.held`).
3. Edges that leave the injection add up to the whole effect: until the gap is below 1% of it, or the finest number of
   steps is reached, the number of steps is doubled (`complete_scores`).
4. The strongest edges and a random sample are patched exactly (`path_effect`): that is the calibration.

Source: Hanna et al. 2024 (arXiv 2403.17806) for integrated gradients on edges; here the contrast is the same
prompt with and without the injection.
What it cannot see: what gradients cannot (see `gradient`); small edges are ranked badly (Kendall below Pearson).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.backward import backward
from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.model.norms import Norm, norm_of
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.scores import Score
from steerscope.analysis.tools.gradients import COMPLETE, finer, gap
from steerscope.analysis.tools.writes import changes, injected_stream, stage

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


def connected(experiment: Experiment) -> Bool[NDArray[np.bool_], "sender receiver"]:
    """Whether the receiver's stream holds what the sender writes: where an edge can be."""
    model, injected = experiment.model, injected_at(experiment)
    receivers = inputs_of(model, experiment.reachable[0].layer)
    return np.array([[reads(model, s, r, injected) for r in receivers] for s in senders_of(experiment)])


def reads(model: Model, sender: Node | None, receiver: Input, injected: tuple[int, int]) -> bool:
    if sender is None:
        return injected <= reads_at(model, receiver)
    written = (sender.layer, 1) if sender.head is not None and not model.parallel else (sender.layer, 2)
    return written <= reads_at(model, receiver)


def reads_at(model: Model, receiver: Input) -> tuple[int, int]:
    return receiver.layer, 1 if receiver.name == "mlp" and not model.parallel else 0


def injected_at(experiment: Experiment) -> tuple[int, int]:
    """The first place where something is injected: layer, and 0 before attention, 1 before the MLP, 2 after it."""
    return min(stage(i.site) for i in experiment.injections)


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of all edges, of one vector.

    Attributes:
        values: zero where there is no edge; senders and receivers as `senders_of` and `inputs_of` list them.
        steps: how many the integration took in the end.
        gap: how far the edges that leave the injection are from adding up to the effect, over the effect.
    """

    values: Float[Values, "sender receiver prompt"]
    steps: int
    gap: float


def complete_scores(experiment: Experiment, vector: int, steps: int, score: Score | None = None) -> Scores:
    """Scores of all edges, with as many steps as make those that leave the injection add up to the effect.

    Args:
        steps: to begin with.
        score: whose effect; the metric's by default.
    """
    whole = float((experiment.value(vector, score) - experiment.value(None, score)).mean())
    for number in finer(steps):
        values = edge_scores(experiment, vector, number, score)
        found = Scores(values, number, gap(float(values[0].sum(axis=0).mean()), whole))
        if found.gap < COMPLETE:
            break
    return found


def edge_scores(
    experiment: Experiment, vector: int = 0, steps: int = 5, score: Score | None = None
) -> Float[Values, "sender receiver prompt"]:
    """Scores of all edges by a fixed number of steps; zero where there is none. Senders and receivers as `senders_of`
    and `inputs_of` list them.
    """
    model, prompts, first = experiment.model, experiment.prompts.full, experiment.reachable[0].layer
    experiment = experiment.held
    points, weights = np.polynomial.legendre.leggauss(steps)
    moved, injected = _moved(experiment, vector), _injected(experiment, vector)
    place = {receiver: i for i, receiver in enumerate(inputs_of(model, first))}
    found = np.zeros((len(senders_of(experiment)), len(place), len(prompts)))
    collect = AtInputs(model, first, (weights / 2).tolist(), [len(ids) for ids in prompts])

    def put(read: list[tuple[Input, int, Tensor]]) -> None:
        for receiver, p, mean in read:
            own_scores = torch.einsum("spm,pm->s", moved[p], mean)
            found[1:, place[receiver], p] = own_scores.double().cpu().numpy()
            found[0, place[receiver], p] = float((injected[p][reads_at(model, receiver)] * mean).sum())

    steered = [experiment.edits(vector, float(x + 1) / 2) for x in points]
    backward(
        model,
        prompts,
        [[Variant(p, edits[p]) for edits in steered] for p in range(len(prompts))],
        experiment.scored_positions.positions,
        score or experiment.along,
        collect.streams.sites,
        collect,
        put,
        reads=experiment.reads,
        budget=experiment.budget,
        name=experiment.metric.name,
    )
    return np.where(connected(experiment)[:, :, None], found, 0.0)


@dataclass(frozen=True, eq=False)
class AtInputs:
    """Gradients with respect to the stream, as each input sees it, averaged over steps: what `backward` collects.

    Attributes:
        first: the first layer that is wanted.
        weights: of the steps.
        lengths: of the prompts.
    """

    model: Model
    first: int
    weights: Sequence[float]
    lengths: Sequence[int]

    @cached_property
    def streams(self) -> "Streams":
        return Streams(self.model, self.first)

    def __call__(
        self, indices: list[int], site: str, layer: int, x: Tensor, g: Tensor
    ) -> list[tuple[Input, int, Float[Tensor, "pos d_model"]]] | None:
        """Receiver, prompt and mean, as soon as a layer has all that it takes."""
        streams = self.streams(indices, site, layer, x, g)
        if streams is None:
            return None
        steps, found = len(self.weights), []
        for receiver, gradient in streams.items():
            weight = torch.tensor(self.weights, dtype=torch.float64).to(gradient)
            for at in range(0, len(indices), steps):
                p = indices[at] // steps
                rows = gradient[at : at + steps, : self.lengths[p]]
                found.append((receiver, p, torch.einsum("k,kpm->pm", weight, rows)))
        return found


@dataclass(frozen=True, eq=False)
class Streams:
    """The way back from all inputs to the stream, as activations and gradients come out of `backward`, site by site.

    Attributes:
        first: the first layer that is wanted.
    """

    model: Model
    first: int
    waiting: dict[tuple[int, int], dict[str, tuple[Tensor, Tensor]]] = field(default_factory=dict)

    @cached_property
    def layers(self) -> dict[int, "Layer"]:
        return {layer: Layer(self.model, layer) for layer in range(self.first, self.model.n_layers)}

    @cached_property
    def sites(self) -> list[tuple[str, int]]:
        """What `backward` must hand over."""
        found = [("resid_post", self.model.n_layers - 1)]
        return found + [(name, layer) for layer, one in self.layers.items() for name in one.sites]

    def __call__(
        self, indices: list[int], site: str, layer: int, x: Tensor, g: Tensor
    ) -> dict[Input, Float[Tensor, "row pos d_model"]] | None:
        """Gradients as each input of a layer alone sees the stream, as soon as the layer has all that it takes."""
        if site == "resid_post":
            return {Input(self.model.n_layers, "logits"): g}
        own = self.waiting.setdefault((layer, indices[0]), {})
        own[site] = (x, g)
        if len(own) < len(self.layers[layer].sites):
            return None
        return self.layers[layer].streams(self.waiting.pop((layer, indices[0])))


def _moved(experiment: Experiment, vector: int) -> list[Float[Tensor, "node pos d_model"]]:
    """By prompt, what every node writes differently in the steered run."""
    sites = sorted({(node.site.name, node.layer) for node in experiment.reachable})
    clean, steered = (experiment.activations(v, sites) for v in (None, vector))
    return [changes(experiment.model, experiment.reachable, a, b) for a, b in zip(clean, steered, strict=True)]


def _injected(experiment: Experiment, vector: int) -> list[dict[tuple[int, int], Float[Tensor, "pos d_model"]]]:
    """By prompt, what is injected before each place where something reads the stream."""
    model = experiment.model
    places = {reads_at(model, receiver) for receiver in inputs_of(model, experiment.reachable[0].layer)}
    return [
        {place: injected_stream(model, edits, len(ids), place) for place in places}
        for ids, edits in zip(experiment.prompts.full, experiment.edits(vector), strict=True)
    ]


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
