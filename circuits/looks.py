"""Where heads look from the last position of a task's prompts: mean attention on its named places."""

from collections.abc import Mapping, Sequence

import numpy as np

from steerscope.analysis.model.nodes import Node

from .contrast import Contrast

LEAST = 0.1  # mean attention that is told


def looks(contrast: Contrast, nodes: Sequence[Node], places: Sequence[Mapping[str, int]]) -> dict[Node, str]:
    """Of every head, the places that it attends to, in words; nothing without named places.

    Args:
        places: by prompt, where its named places are; `END` is where it is looked from.
    """
    heads = [node for node in nodes if node.head is not None]
    if not heads or not places:
        return {}
    names = sorted(set.intersection(*map(set, places)) - {"END"}, key=lambda name: places[0][name])
    layers = sorted({node.layer for node in heads})
    seen = contrast.activations([("pattern", layer) for layer in layers], 1.0)
    found = {}
    for node in heads:
        rows = [own["pattern", node.layer][node.head, at["END"]] for own, at in zip(seen, places, strict=True)]
        on = {
            name: float(np.mean([float(row[at[name]]) for row, at in zip(rows, places, strict=True)])) for name in names
        }
        on["first"] = float(np.mean([float(row[0]) for row in rows]))
        best = sorted((name for name in on if on[name] >= LEAST), key=lambda name: -on[name])
        found[node] = ", ".join(f"{name} {on[name]:.2f}" for name in best[:3])
    return found
