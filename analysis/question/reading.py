"""What is read of a run of all prompts at once: activations, and final states at the scored positions."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant, changed_at
from steerscope.analysis.engine.run import run
from steerscope.analysis.model.nodes import Node

from .outputs import Outputs, with_logits
from .scored import Scored
from .scores import Projection, Score, taken

Activations = list[dict[tuple[str, int], Tensor]]  # by prompt


def read(
    scored: Scored, variants: Sequence[Variant], sites: Sequence[tuple[str, int]], budget: int | None, ends: bool
) -> tuple[Activations, Outputs | None]:
    """By prompt, activations: (site, layer) -> `[pos, ...]`; of a pattern `[head, query, key]`. And the final states.

    Args:
        variants: one of every prompt, in their order.
        ends: whether final states are wanted.
    """
    prompts, reads = scored.prompts.full, scored.reads if ends else "none"
    positions = scored.positions if ends else None
    found: Activations = [{} for _ in prompts]
    states: list[Tensor | None] = [None for _ in prompts]
    for chunk, readout in run(scored.model, prompts, variants, positions, reads=reads, sites=sites, budget=budget):
        for row, index in enumerate(chunk):
            kept = slice(len(prompts[index]))
            for site in sites:
                at = (slice(None), kept, kept) if site[0] == "pattern" else kept
                found[index][site] = readout.activations[site][row][at].clone()
        for index, state in zip(chunk, scored.split(readout) if ends else (), strict=ends):
            states[index] = state
    return found, scored.joined([state for state in states if state is not None]) if ends else None


def values_at(scored: Scored, outputs: Outputs, score: Score) -> Float[Tensor, " scored"]:
    """A score of a run at every scored position, not averaged; logits are made in pieces, and where it needs them."""
    if outputs.kept or isinstance(score, Projection):
        return taken(score, scored.readout(outputs, "logits" if outputs.kept else "hidden"))
    unembed, vocab = scored.model.bridge.unembed, scored.vocab
    parts = with_logits(scored.readout(outputs, "hidden"), unembed, vocab)
    return torch.cat([taken(score, part) for part in parts])


def set_to(node: Node, activations: Activations, starts: Sequence[int]) -> list[Edit]:
    """By prompt, the edit that sets a node to what it is in a run.

    Args:
        starts: by prompt, the first position that is set.
    """
    found = []
    for kept, start in zip(activations, starts, strict=True):
        x = kept[node.site.name, node.layer]
        x = x if node.head is None else x[:, node.head]
        found.append(Edit(node.site, "set", x[start:], tuple(range(start, len(x))) if start else None))
    return found


def first_change(edits: Sequence[Edit]) -> int:
    """The first position of a prompt at which edits change anything; all before it is as without them."""
    return min((place for edit in edits for place in changed_at(edit) or (0,)), default=0)
