"""Nodes patched at once: what a circuit, its roles, and other sets of its make carry together, exactly.

Shares of single nodes do not add up: of two in a row both carry the same.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from steerscope.analysis.model.nodes import Node
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.tools.patching import together

from .enrichment import Matched, Test, compared

ROWS = 256  # of edited runs that are asked for at a time: a bar must move
Values = NDArray[np.float64]
Group = tuple[str, Sequence[Node]]  # a measure, and nodes


def jointly(
    experiment: Experiment, groups: Sequence[Group], what: str = "sets of nodes"
) -> Float[Values, "group prompt"]:
    """Effects of groups of nodes patched at once, under a bar."""
    step = max(1, ROWS // len(experiment.prompts))
    starts = range(0, len(groups), step)
    parts = [together(experiment, groups[start : start + step]) for start in track(starts, what)]
    return np.concatenate(parts) if parts else np.zeros((0, len(experiment.prompts)))


def joint_test(
    experiment: Experiment,
    nodes: Sequence[Node],
    matched: Matched,
    measure: str,
    most: int,
    what: str = "sets of nodes",
) -> Test:
    """The share that the tested nodes of a set carry together, beside that of other sets of its make."""
    sets, whole = matched.others(most, experiment.seed)
    groups = [(measure, chosen(nodes, flags)) for flags in (matched.tested, *sets)]
    shares = jointly(experiment, groups, what).mean(axis=-1) / experiment.effect().mean()
    return compared(float(shares[0]), shares[1:], whole)


def chosen(nodes: Sequence[Node], flags: Bool[NDArray[np.bool_], " node"]) -> list[Node]:
    """The nodes that are flagged."""
    return [node for node, flag in zip(nodes, flags, strict=True) if flag]
