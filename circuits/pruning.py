"""The smallest circuit that is found: from scores of edges to a set of edges, each of which was tried.

1. Edges are ordered by the size of their mean score (conductance). Growing sets of the strongest are run until what a
   set loses is below half of what may be lost.
2. From the weakest of these on, edges are taken out in groups. A group that may go goes; one that may not is halved
   and waits until all others were tried, down to single edges: so every edge that stays was tried by itself (up to a
   number of trials).
3. Edges that lead nowhere go: into a node of which no edge leads on, or out of one that reads nothing (where nodes that
   are left out stay at the reference run, such an edge carries exactly nothing).

Loss by the score: |1 - F|, F as in `circuit_run.faithfulness`. By divergence: KL(circuit || whole) over that of no
edge. The score sees the task alone; divergence sees damage and heads that work against the task, too.

Source: Conmy et al. 2023 (arXiv 2304.14997), whose receivers in order are here groups by strength.
What it cannot see: other circuits that are as good. Run it on other prompts, and see what stays (`consensus`).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from tqdm.auto import tqdm

from .circuit_run import CircuitRuns
from .contrast import Contrast
from .masks import Mask, without_dead_ends

By = Literal["score", "divergence"]
Values = NDArray[np.float64]
GROWTH, FIRST = 1.5, 8  # of the sets of strongest edges
GROUPS = 32  # that edges are taken out in, to begin with


@dataclass(frozen=True, eq=False)
class Pruned:
    """A circuit that was found.

    Attributes:
        mask: its edges.
        strongest: how many edges the search began with.
        loss: of the circuit, on the prompts of the search.
        trials: circuits that were run.
        complete: whether every edge was tried by itself.
    """

    mask: Mask
    strongest: int
    loss: float
    trials: int
    complete: bool


def ordered(contrast: Contrast, scores: Float[Values, "sender receiver"]) -> NDArray[np.int64]:
    """All edges (flat), the strongest first."""
    edges = np.flatnonzero(contrast.connected)
    return edges[np.argsort(-np.abs(scores.ravel()[edges]), kind="stable")]


def strongest(contrast: Contrast, order: NDArray[np.int64], count: int) -> Mask:
    """The circuit of the first edges of an order."""
    mask = np.zeros(contrast.connected.size, dtype=bool)
    mask[order[:count]] = True
    return mask.reshape(contrast.connected.shape)


def prune(
    runs: CircuitRuns,
    scores: Float[Values, "sender receiver"],
    prompts: Sequence[int],
    *,
    lost: float = 0.1,
    by: By = "score",
    trials: int = 400,
) -> Pruned:
    """Steps 1 to 3.

    Args:
        scores: mean over prompts.
        prompts: that are searched with.
        lost: what a circuit may lose.
        trials: circuits that are run at most in step 2.
    """
    contrast, order = runs.contrast, ordered(runs.contrast, scores)
    loss, count = Loss(runs, prompts, by), min(FIRST, len(order))
    while not loss(strongest(contrast, order, count)) <= lost / 2 and count < len(order):
        count = min(int(np.ceil(count * GROWTH)), len(order))
    mask = without_dead_ends(contrast, strongest(contrast, order, count), runs.ablation == "resample")
    weakest, size = order[:count][::-1].tolist(), -(-count // GROUPS)
    waiting = deque(weakest[at : at + size] for at in range(0, count, size))
    begun, complete = loss.trials, True
    with tqdm(total=count, desc="taking out edges", delay=2, leave=False, dynamic_ncols=True, disable=None) as bar:
        while waiting:
            group = [edge for edge in waiting.popleft() if mask.flat[edge]]
            if not group:
                continue
            if loss.trials - begun >= trials:
                complete = False
                break
            less = mask.copy()
            less.flat[group] = False
            less = without_dead_ends(contrast, less, runs.ablation == "resample")
            if loss(less) <= lost:
                mask = less
                bar.update(len(group))
            elif len(group) == 1:
                bar.update(1)
            else:
                half = len(group) // 2
                waiting += [group[:half], group[half:]]
    return Pruned(mask, count, loss(mask), loss.trials, complete)


@dataclass(eq=False)
class Loss:
    """What circuits lose, on some prompts.

    Attributes:
        trials: how many were asked for.
    """

    runs: CircuitRuns
    prompts: Sequence[int]
    by: By = "score"
    trials: int = 0

    def __post_init__(self) -> None:
        contrast = self.runs.contrast
        self.scores = [contrast.score if self.by == "score" else contrast.divergence]
        self.empty = self._mean(np.zeros_like(contrast.connected))
        self.whole = float(contrast.values(1.0)[list(self.prompts)].mean()) if self.by == "score" else 0.0

    def _mean(self, mask: Mask) -> float:
        return float(self.runs.run([mask], self.scores, self.prompts).mean())

    def __call__(self, mask: Mask) -> float:
        self.trials += 1
        gained = (self._mean(mask) - self.empty) / ((self.whole - self.empty) or np.nan)
        return abs(1 - gained)
