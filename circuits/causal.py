"""What an induction head does: how much of the repetition's log-probability it carries.

1. In random tokens said twice, the log-probability of each token of the second copy, given the one before it.
2. Again with the output of one head, at the second copy, set to that of a run whose first part are other tokens: the
   same head at the same tokens and places, when there is nothing to repeat.
3. The score is the mean drop of the log-probability of the token that is repeated next. Its control is the drop of all
   other tokens of the repeated part: a head that raises whatever was said before drops both.

Source: Olsson et al. 2022 (arXiv 2209.11895); the counterfactual run is that of resample ablation.
What it cannot see: heads that others make up for.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import Readout, measure, run
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node

from .repeats import Repeats
from .roles import PERMUTATIONS, Measured, Values, tail

SEQUENCES = 32  # at most: a pass for every head and sequence


def causal(model: Model, texts: Repeats, nodes: Sequence[Node], seed: int, budget: int | None) -> Measured:
    """The causal score of some heads, on the first of the sequences."""
    prompts, other = texts.repeated[:SEQUENCES], texts.unrepeated[:SEQUENCES]
    second, n = texts.second, texts.length
    outputs = _outputs(model, other, sorted({node.layer for node in nodes}), budget)
    variants = [Variant(p) for p in range(len(prompts))]
    for node in nodes:
        for p in range(len(prompts)):
            value = outputs[node.layer][p, list(second), node.head]
            variants.append(Variant(p, (Edit(node.site, "set", value, tuple(second)),)))
    said = torch.tensor([ids[second.start :] for ids in prompts], device=model.device)

    def score(readout: Readout) -> Tensor:
        """Log-probabilities of all tokens of the part, at each of its places but the last: `[row, place x token]`."""
        assert readout.logits is not None
        logits = readout.logits.float()
        found = logits.gather(1, said[readout.prompt]) - logits.logsumexp(-1, keepdim=True)
        return found.view(len(readout.variants), -1)

    places = [tuple(second[:-1]) for _ in prompts]
    values = measure(model, prompts, variants, places, score, budget=budget, what="induction heads")
    table = values.double().cpu().numpy().reshape(1 + len(nodes), len(prompts), n - 1, n)
    drop = table[0] - table[1:]
    at = np.arange(n - 1)
    own = drop[:, :, at, at + 1].mean(axis=-1)
    others = (drop.sum(axis=(2, 3)) / (n - 1) - own) / (n - 1)
    dice, mean = np.random.default_rng([seed, n]), drop.mean(axis=1)
    permuted = [mean[:, at, (at + 1 + dice.integers(1, n, n - 1)) % n].mean(axis=-1) for _ in range(PERMUTATIONS)]
    chance = tail(np.stack(permuted, axis=-1))
    return Measured("induction, causal", tuple(nodes), own, {"other tokens of the repeated part": others}, chance)


def repetition(model: Model, texts: Repeats, budget: int | None) -> Float[Values, "kind sequence"]:
    """Mean log-probability of the tokens of the second part, said before or not: does the model repeat at all?"""
    prompts = [*texts.repeated[:SEQUENCES], *texts.unrepeated[:SEQUENCES]]
    second = texts.second
    said = torch.tensor([ids[second.start + 1 :] for ids in prompts], device=model.device)

    def score(readout: Readout) -> Tensor:
        assert readout.logits is not None
        logits = readout.logits.float()
        following = said[readout.prompt, readout.position - second.start]
        found = logits.gather(1, following[:, None])[:, 0] - logits.logsumexp(-1)
        return readout.mean(found)

    places = [tuple(second[:-1]) for _ in prompts]
    values = measure(model, prompts, [Variant(p) for p in range(len(prompts))], places, score, budget=budget)
    return values.double().cpu().numpy().reshape(2, -1)


def _outputs(
    model: Model, prompts: Sequence[Sequence[int]], layers: Sequence[int], budget: int | None
) -> dict[int, Tensor]:
    """By layer, what its heads give: `[prompt, pos, head, d_head]`."""
    sites = [("z", layer) for layer in layers]
    variants = [Variant(p) for p in range(len(prompts))]
    found: dict[int, dict[int, Tensor]] = {layer: {} for layer in layers}
    for rows, readout in run(model, prompts, variants, reads="none", sites=sites, budget=budget):
        for layer in layers:
            found[layer].update(zip(rows, readout.activations["z", layer], strict=True))
    return {layer: torch.stack([own[p] for p in range(len(prompts))]) for layer, own in found.items()}
