"""`Conditions`: a task without steering and under it, and what circuits explain of it there.

1. Prompts are split by groups: circuits are looked for on one half and measured on the other. A circuit that is given
   is measured on all.
2. A condition is what is injected. Its runs are made when a circuit is first measured in it, and kept for the last one
   alone, beside the unsteered one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.injection import Injection

from .circuit_run import Ablation, CircuitRuns
from .contrast import contrast_of_task
from .masks import Mask, members, without
from .pairs import Pairs
from .searched import Units, circuit_found
from .verdict import Explained

Half = Bool[NDArray[np.bool_], " prompt"]
Injections = tuple[Injection, ...]


@dataclass(frozen=True, eq=False)
class Condition:
    """A task under some injections.

    Attributes:
        measured: prompts that found circuits are measured on; the others are those they are looked for on.
        keep: share of the task that a found circuit must explain. units: of what it is made.
    """

    pairs: Pairs
    injections: Injections
    measured: Half
    ablation: Ablation
    keep: float
    units: Units

    @cached_property
    def runs(self) -> CircuitRuns:
        pairs = self.pairs
        made = contrast_of_task(pairs.model, pairs.clean, pairs.corrupted, self.injections, budget=pairs.budget)
        return CircuitRuns(made, self.ablation)

    def explained(self, masks: Sequence[Mask], found: bool = False) -> list[Explained]:
        """What circuits explain, by prompt.

        Args:
            found: whether they were looked for on the other half.
        """
        empty, whole = self.runs.ends
        known = self.measured if found else np.ones(len(whole), dtype=bool)
        parts = self.runs.values(masks) - empty
        return [Explained(np.where(known, part, np.nan), np.where(known, whole - empty, np.nan)) for part in parts]

    @cached_property
    def found(self) -> Mask:
        """The circuit that is found here, on the half that it is not measured on."""
        half = self.measured if self.measured.all() else ~self.measured
        return circuit_found(self.runs, np.flatnonzero(half).tolist(), 1 - self.keep, self.units)

    def left(self, circuit: Mask, parts: Sequence[Sequence[Node]]) -> list[Explained]:
        """What is left of the task without a circuit's edges, then without some nodes, part by part."""
        contrast, full = self.runs.contrast, self.runs.contrast.connected
        return self.explained([full & ~circuit, *(without(contrast, full, set(part)) for part in parts)])


@dataclass(eq=False)
class Conditions:
    """The conditions of a task: unsteered, and the steered one that was asked for last."""

    pairs: Pairs
    ablation: Ablation
    keep: float
    units: Units
    seed: int
    _last: Condition | None = field(default=None, init=False)

    @cached_property
    def measured(self) -> Half:
        """The half that found circuits are measured on; all prompts, where there is but one group."""
        groups = self.pairs.groups
        number = int(groups.max()) + 1
        if number < 2:
            return np.ones(len(groups), dtype=bool)
        order = np.random.default_rng(self.seed).permutation(number)
        return np.isin(groups, order[: (number + 1) // 2])

    @cached_property
    def unsteered(self) -> Condition:
        return self._under(())

    def steered(self, injections: Injections) -> Condition:
        """Under some injections."""
        if self._last is None or self._last.injections != injections:
            self._last = self._under(injections)
        return self._last

    def _under(self, injections: Injections) -> Condition:
        return Condition(self.pairs, injections, self.measured, self.ablation, self.keep, self.units)


def overlap(one: Mask, other: Mask, of: Condition) -> float:
    """Jaccard of the nodes of two circuits; NaN of two empty ones."""
    first, second = (set(members(of.runs.contrast, mask)) for mask in (one, other))
    union = len(first | second)
    return len(first & second) / union if union else float("nan")
