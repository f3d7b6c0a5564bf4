"""An order of nodes whose beginnings do much jointly, found by exact joint patching within a budget.

1. It starts with the best single node, and grows by the node that adds most to what is there, among the few that added
   most when they were last tried; after 1, 2, 4 and 8 nodes (for at most half of what is left), and where none of the
   few helps, all others are tried.
2. Where none helps at all, the node that is strongest by the other measure joins: what is backed up does nothing by
   itself, and its backup shows only when it is there. If nothing helps then either, the search ends.
3. Of a set that has 80%, members that are not needed are dropped, and the one that is missed least is exchanged, while
   that helps. Then it grows on.
4. The others follow by what they added when they were last tried.

What it cannot see: the smallest set there is, and three or more nodes that show only when all of them are there.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Values = NDArray[np.float64]
Order = list[int]
Ask = Callable[[Sequence[Sequence[int]]], Values]  # from sets of nodes to their shares of the effect

ENOUGH = 0.8  # of the effect: the size that is reported
NEARLY = 0.95  # of the effect: where a set stops growing by search
SMALL = 0.005  # of the effect: what adds less does not help
MOST = 16  # nodes that are found by search
BEAM = 6  # candidates at each step
WIDE = (1, 2, 4, 8)  # sizes at which all others are tried


def search(ask: Ask, first: Float[Values, " node"], second: Float[Values, " node"], budget: int) -> Order:
    """All nodes in an order whose beginnings do much jointly.

    Args:
        ask: exact shares of the effect, of sets.
        first: shares of the nodes one by one; second: the same by the other measure, which knows of backups.
        budget: sets that may be asked; without any the order is that of `first`.
    """
    looking = _Search(ask, np.nan_to_num(first), np.nan_to_num(second), budget)
    looking.grow(ENOUGH)
    looking.improve()
    looking.grow(NEARLY)
    return looking.order + looking.others


class _Search:
    """A set that grows.

    Attributes:
        order: its nodes.
        share: of the effect, that they have jointly.
        gain: what each of the others added when it was last tried.
        left: of the budget.
    """

    def __init__(self, ask: Ask, first: Float[Values, " node"], second: Float[Values, " node"], budget: int) -> None:
        self.order: Order = []
        self.share, self.gain, self.left = 0.0, first.copy(), budget
        self._ask, self._second = ask, second

    @property
    def others(self) -> Order:
        """What is not in the set, the most promising first."""
        return [n for n in descending(self.gain) if n not in set(self.order)]

    def grow(self, enough: float) -> None:
        """Adds nodes while that helps, until the set has enough."""
        waits = False  # for its backup, which shows only beside it
        while self.others and len(self.order) < MOST and self.share < enough:
            best = self._best()
            helps = bool(self.gain[best] > SMALL)
            if not helps:
                best = max(self.others, key=self._second.__getitem__)
            if self.left < 1 or not helps and (waits or self._second[best] <= SMALL):
                break
            waits = not helps
            self.order.append(best)
            self.share = float(self._asked([self.order])[0])
        if waits:
            self.share -= float(self.gain[self.order.pop()])

    def _best(self) -> int:
        """The node that adds most; of a set that is still empty that is known already."""
        others = self.others
        wide = len(self.order) in WIDE and self.left >= 2 * len(others)
        best = others[0]
        for tried in ((others,) if wide else (others[:BEAM], others)) if self.order else ():
            if self.left >= len(tried):
                self.gain[tried] = self._asked([[*self.order, n] for n in tried]) - self.share
                best = max(tried, key=self.gain.__getitem__)
                if self.gain[best] > SMALL:
                    break
        return best

    def improve(self) -> None:
        """Drops members without which there is still enough, and exchanges the one that is missed least."""
        while len(self.order) > 1 and self.left >= len(self.order):
            without = [[n for n in self.order if n != out] for out in self.order]
            found = self._asked(without)
            at = int(np.argmax(found))
            weakest, rest, loss = self.order[at], without[at], self.share - float(found[at])
            if found[at] >= min(ENOUGH, self.share):
                self.order, self.share = rest, float(found[at])
                self.gain[weakest] = loss
                continue
            tried = self.others[:BEAM]
            if not tried or self.left < len(tried):
                break
            swapped = self._asked([[*rest, n] for n in tried])
            best = int(np.argmax(swapped))
            if swapped[best] <= self.share + SMALL:
                break
            self.order, self.share = [*rest, tried[best]], float(swapped[best])
            self.gain[weakest] = loss

    def _asked(self, sets: Sequence[Sequence[int]]) -> Values:
        self.left -= len(sets)
        return self._ask(sets)


def descending(values: Float[Values, " node"]) -> Order:
    found: Order = np.argsort(-values, kind="stable").tolist()
    return found
