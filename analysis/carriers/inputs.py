"""What reaches the output through each head's queries, keys and values, the softmax recomputed.

A softmax saturates, so a gradient through it misses what a large change of queries or keys does. The
pattern is computed again instead, with the queries (or keys) of one run and the keys (or queries) of the
other; what it does then is linear: with g the gradient of the metric with respect to z,

    queries: sum g . (P(q, k) - P(q', k)) v,  keys: sum g . (P(q, k) - P(q, k')) v,  values: sum g . P (v - v')

where a prime marks the other run: necessity at the steered run, sufficiency at the clean one.

Source: AtP* (Kramar et al. 2024, arXiv 2403.00745), its first repair.
What it cannot see: queries and keys that only matter when they change together.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.backward import backward, gradients
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.experiment import Activations, Experiment
from steerscope.analysis.tools.patching import MEASURES

INPUTS = ("q", "k", "v")
Values = NDArray[np.float64]


def input_estimates(experiment: Experiment) -> Float[Values, "measure input head prompt"]:
    """Estimates for every head that the injection can reach, in the order of `experiment.reachable`."""
    model, prompts = experiment.model, experiment.prompts.full
    layers = sorted({node.layer for node in experiment.reachable})
    backs = _gradients(experiment, layers)
    found = np.zeros((len(MEASURES), len(INPUTS), len(layers), model.n_heads, len(prompts)))
    for place, layer in enumerate(layers):
        sites = [(name, layer) for name in (*INPUTS, "pattern")]  # not kept: patterns of all layers would be large
        runs = [experiment.read(experiment.edits_of(vector), sites) for vector in (None, 0)]
        mixed = _mixed(experiment, layer, runs[0])
        for p in range(len(prompts)):
            clean, steered = (r[p]["pattern", layer] for r in runs)
            other_q, other_k = mixed["q"][p], mixed["k"][p]
            values = [_repeated(r[p]["v", layer], model.n_heads) for r in runs]
            for measure, (back, own, q, k, v, w) in enumerate(
                (
                    (backs[p][layer][1], steered, other_q, other_k, values[1], values[0]),
                    (backs[p][layer][0], clean, other_k, other_q, values[0], values[1]),
                )
            ):
                sign = 1.0 if measure == 0 else -1.0
                through = torch.einsum("qhd,khd->hqk", back, v)  # gradient of the pattern
                parts = [
                    ((own - q) * through).sum((1, 2)),
                    ((own - k) * through).sum((1, 2)),
                    torch.einsum("qhd,hqk,khd->h", back, own, v - w),
                ]
                found[measure, :, place, :, p] = sign * torch.stack(parts).double().cpu().numpy()
    return found.reshape(len(MEASURES), len(INPUTS), -1, len(prompts))


def _gradients(experiment: Experiment, layers: list[int]) -> list[dict[int, list[Tensor]]]:
    """By prompt and layer, the gradients of z in the clean and in the steered run."""
    prompts = experiment.prompts.full
    found: list[dict[int, list[Tensor]]] = [{} for _ in prompts]

    def put(seen: tuple[list[int], tuple[str, int], Tensor]) -> None:
        indices, (_, layer), g = seen
        for row, index in enumerate(indices):
            p = index // 2
            found[p].setdefault(layer, []).append(g[row, : len(prompts[p])])

    groups = [[Variant(p), Variant(p, experiment.edits(0)[p])] for p in range(len(prompts))]
    backward(
        experiment.model,
        prompts,
        groups,
        experiment.scored_positions.positions,
        experiment.along,
        [("z", layer) for layer in layers],
        gradients,
        put,
        reads=experiment.reads,
        budget=experiment.budget,
        name=experiment.metric.name,
    )
    return found


def _mixed(experiment: Experiment, layer: int, clean: Activations) -> dict[str, list[Tensor]]:
    """By prompt, the pattern `[head, query, key]` of the steered run with clean queries, or with clean keys."""
    found = {}
    for name in ("q", "k"):
        edits = []
        for steering, kept in zip(experiment.edits(0), clean, strict=True):
            x = kept[name, layer]
            edits.append((*steering, *(Edit(Site(name, layer, h), "set", x[:, h]) for h in range(x.shape[1]))))
        found[name] = [own["pattern", layer] for own in experiment.read(tuple(edits), [("pattern", layer)])]
    return found


def _repeated(values: Tensor, heads: int) -> Tensor:
    """Values of key-value heads, one for each query head."""
    return values.repeat_interleave(heads // values.shape[1], dim=1)
