"""`circuit_found`: the smallest circuit that explains a task in a contrast, of edges (`pruning`) or of nodes.

Of nodes, by the same steps: they are ordered by the conductance that leaves them, growing sets of the strongest are run
until one loses less than half of what may be lost, then nodes go in groups, which are halved where they may not.
"""

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node

from .circuit import Circuit
from .circuit_run import CircuitRuns
from .conductance import edge_conductance
from .contrast import Contrast
from .masks import Mask, leaving, mask_of
from .pruning import Loss, prune

Units = Literal["nodes", "edges"]
ORDERED = 4  # prompts whose conductance orders what is tried
TRIALS = 200  # circuits that are run at most, after the growing sets
GROUP = 16


def circuit_found(runs: CircuitRuns, prompts: Sequence[int], lost: float, units: Units) -> Mask:
    """A small circuit that explains the task.

    Args:
        prompts: that it is looked for on.
        lost: what it may lose, as a share of the task, on either side.
    """
    contrast = runs.contrast
    scores = edge_conductance(contrast, list(prompts)[:ORDERED]).conductance.mean(-1)
    if units == "edges":
        return prune(runs, scores, prompts, lost=lost, trials=TRIALS).mask
    return leaving(contrast, _nodes(runs, scores, prompts, lost))


def _nodes(
    runs: CircuitRuns, scores: Float[NDArray[np.float64], "sender receiver"], prompts: Sequence[int], lost: float
) -> set[Node]:
    contrast = runs.contrast
    order = [contrast.nodes[i] for i in np.argsort(-np.abs(scores[1:].sum(axis=1)), kind="stable")]
    loss = Loss(runs, prompts)

    def lost_with(members: Collection[Node]) -> float:
        return loss(leaving(contrast, members))

    count = 2
    while count < len(order) and not lost_with(order[:count]) <= lost / 2:
        count = min(2 * count, len(order))
    kept, weakest = set(order[:count]), order[:count][::-1]
    waiting = [weakest[at : at + GROUP] for at in range(0, count, GROUP)][::-1]
    for _ in range(TRIALS):
        if not waiting:
            break
        group = waiting.pop()
        if lost_with(kept - set(group)) <= lost:
            kept -= set(group)
        elif len(group) > 1:
            half = len(group) // 2
            waiting += [group[half:], group[:half]]
    return kept


def claimed(contrast: Contrast, circuit: Circuit) -> Mask:
    """The edges of a circuit (`mask_of`). One of nodes that names no MLP says nothing of them: they count as in it.

    Raises:
        BadCircuit: it is one of another model.
    """
    model = contrast.model
    if circuit.level == "exact" or not headed(circuit, model):
        return mask_of(contrast, circuit)
    return leaving(contrast, {*circuit.nodes, *(node for node in model.nodes if node.head is None)})


def headed(circuit: Circuit, model: Model) -> bool:
    """Whether a circuit is one of heads, in a model that has MLPs."""
    return model.has_mlp and all(node.head is not None for node in circuit.nodes)
