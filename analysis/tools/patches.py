"""Former names of what an experiment does by itself: `read` and `patches`."""

from collections.abc import Sequence

from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Activations, Edits, Experiment, Patches

__all__ = ["Patches", "activations", "patches"]


def activations(experiment: Experiment, edits: Edits, sites: Sequence[tuple[str, int]]) -> Activations:
    """`Experiment.read`."""
    return experiment.read(edits, sites)


def patches(experiment: Experiment, edits: Edits, nodes: Sequence[Node]) -> Patches:
    """`Experiment.patches`, of any edits."""
    found = experiment.read(edits, sorted({(node.site.name, node.layer) for node in nodes}))

    def patch(node: Node, p: int) -> Edit:
        x = found[p][node.site.name, node.layer]
        return Edit(node.site, "set", x if node.head is None else x[:, node.head])

    return {node: [patch(node, p) for p in range(len(found))] for node in nodes}
