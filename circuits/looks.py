"""Where heads look from the last position of a task's prompts: mean attention on its named places."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.model.nodes import Node

from .contrast import Contrast

LEAST = 0.1  # mean attention that is told
FIRST = "first"


def attended(
    contrast: Contrast, nodes: Sequence[Node], places: Sequence[Mapping[str, int]]
) -> dict[Node, dict[str, Float[NDArray[np.float64], " prompt"]]]:
    """Of every head, its attention from the last position to each named place and to the first position.

    Args:
        places: by prompt, where its named places are; `END` is where it is looked from. Nothing without.
    """
    heads = [node for node in nodes if node.head is not None and node in contrast.nodes]
    if not heads or not places:
        return {}
    names = sorted(set.intersection(*map(set, places)) - {"END"}, key=lambda name: places[0][name])
    seen = contrast.activations([("pattern", layer) for layer in sorted({node.layer for node in heads})], 1.0)
    found = {}
    for node in heads:
        rows = [own["pattern", node.layer][node.head, at["END"]] for own, at in zip(seen, places, strict=True)]
        on = {name: np.array([float(row[at[name]]) for row, at in zip(rows, places, strict=True)]) for name in names}
        found[node] = on | {FIRST: np.array([float(row[0]) for row in rows])}
    return found


def looks(contrast: Contrast, nodes: Sequence[Node], places: Sequence[Mapping[str, int]]) -> dict[Node, str]:
    """The same in words: the places that have a tenth of a head's attention or more, at most three."""
    found = {}
    for node, on in attended(contrast, nodes, places).items():
        mean = {name: float(values.mean()) for name, values in on.items()}
        best = sorted((name for name in mean if mean[name] >= LEAST), key=lambda name: -mean[name])
        found[node] = ", ".join(f"{name} {mean[name]:.2f}" for name in best[:3])
    return found
