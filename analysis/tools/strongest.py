"""Which nodes a method looks at: those that are given, or the strongest carriers by exact patching.

Patching all nodes with the real vector alone is cheap beside what follows. In a large model only the
nodes that gradients rank highest are patched.
"""

from collections.abc import Sequence

import numpy as np

from steerscope.analysis.errors import BadArgument, BadNode
from steerscope.analysis.model.nodes import Node, parse_node
from steerscope.analysis.question.experiment import Experiment

from .gradients import rank
from .patching import MEASURES, effects

LARGE = 200  # nodes; in larger models gradients say which of them are patched
SPARE = 4  # times as many as are wanted, then


def chosen(
    experiment: Experiment, nodes: Sequence[Node | str] | None, count: int, measures: Sequence[str] = MEASURES
) -> tuple[tuple[Node, ...], str]:
    """The nodes, strongest first or in the order of the model where they are given, and how they were chosen.

    Args:
        count: how many, where none are given.
        measures: the effects that are compared; the largest of a node counts.

    Raises:
        BadNode: a node that is not there, or that the injection cannot reach.
        BadArgument: an empty list.
    """
    if nodes is not None:
        return given(experiment, nodes), "given"
    tried, how = experiment.reachable, f"of all {len(experiment.reachable)} nodes"
    if len(tried) > LARGE and not experiment.metric.flat_at_clean:
        guess = np.abs(rank(experiment)[0]).max(axis=0)
        tried = tuple(tried[i] for i in np.argsort(-guess, kind="stable")[: SPARE * count].tolist())
        how = f"of the {len(tried)} nodes that gradients rank highest of {len(experiment.reachable)}"
    raw = effects(experiment.fewer(0), tried)
    rows = [MEASURES.index(measure) for measure in measures]
    size = np.abs(raw.along[rows].mean(axis=-1)).max(axis=0)
    best = np.argsort(-size, kind="stable")[:count].tolist()
    return tuple(tried[i] for i in best), f"the largest exact {' or '.join(measures)} {how}"


def given(experiment: Experiment, nodes: Sequence[Node | str]) -> tuple[Node, ...]:
    """The nodes by name, in the order of the model.

    Raises:
        BadNode, BadArgument: as `chosen`.
    """
    reachable = experiment.reachable
    found = {parse_node(node) if isinstance(node, str) else node: None for node in nodes}
    if not found:
        raise BadArgument("nodes is empty; expected at least one node such as L0H3; leave it out for the default")
    for node in found:
        experiment.model.check(node.site)
        if node not in set(reachable):
            raise BadNode(
                f"{node} lies before the injection, which cannot reach it; expected a node from layer "
                f"{reachable[0].layer} on; leave it out"
            )
    return tuple(node for node in reachable if node in found)
