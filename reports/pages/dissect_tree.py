"""The tree of last writers, opened as far as there is room: what is largest first, five children and a remainder."""

import heapq
from collections.abc import Mapping

from steerscope.reports import words
from steerscope.reports.page import Branch
from steerscope.reports.pages.dissect_views import WHOLE, Target
from steerscope.reports.routes import FINAL, OTHERS, Place, named

WRITERS = 6  # with a bar of their own
CHILDREN = 5  # of a row that are shown; the others are one row
ROUNDED = 1e-9  # of the mass: a smaller remainder is none


def tree(place: Place, target: Target, rows: int) -> list[Branch]:
    """The last writers and what opens below them, about so many rows; the final norm's scale stands last."""
    largest = max(map(abs, target.writers.values()), default=0.0) or 1.0
    return _Grown(place, target, _opened(target, rows), largest).below(WHOLE)


def bars(shares: Mapping[str, float]) -> list[Branch]:
    """Shares of last writers as bars, the largest first; the final norm's scale stands last, without one."""
    own = {path: share for path, share in shares.items() if path != FINAL}
    shown = [(path, share) for path, share in own.items() if path != OTHERS][:WRITERS]
    largest = max(own.values(), default=1.0)
    found = [Branch(path, words.percent(share), "", share / largest) for path, share in shown]
    rest = sum(own.values()) - sum(share for _, share in shown)
    found += [Branch("all others", words.percent(rest), "", rest / largest)] if len(own) > len(shown) else []
    return [*found, Branch("final norm's scale", words.percent(shares.get(FINAL, 0.0)), "temperature", 0.0)]


def _opened(target: Target, rows: int) -> set[str]:
    """Nodes that are opened: by size, until there are enough rows."""
    opened: set[str] = set()
    waiting, count = [(0.0, WHOLE)], 0
    while waiting and count < rows:
        _, node = heapq.heappop(waiting)
        shown = _shown(target, node)
        opened.add(node)
        count += len(shown) + 1
        for child in shown:
            if target.below.get(child):
                heapq.heappush(waiting, (-abs(target.paths[child]), child))
    return opened


def _shown(target: Target, node: str) -> list[str]:
    """The children of a node that have rows of their own, largest first, the final norm's scale last."""
    own = [child for child in target.below[node] if not child.endswith(OTHERS) and child != FINAL]
    own.sort(key=lambda child: -abs(target.paths[child]))
    return own[:CHILDREN] + [child for child in target.below[node] if child == FINAL]


class _Grown:
    def __init__(self, place: Place, target: Target, opened: set[str], largest: float) -> None:
        self.place, self.target, self.opened, self.largest = place, target, opened, largest

    def below(self, node: str) -> list[Branch]:
        """The rows below a node: they add up to it."""
        shown, paths = _shown(self.target, node), self.target.paths
        found = [self._branch(child) for child in shown]
        closed = [child for child in self.target.below[node] if child not in shown]
        rest = sum(paths[child] for child in closed)
        if abs(rest) > ROUNDED * self.target.mass:
            single = sum(not child.endswith(OTHERS) for child in closed)
            name = f"{single} more{', and smaller ones' * (single < len(closed))}" if single else "smaller ones"
            last = bool(shown) and shown[-1] == FINAL
            found.insert(len(found) - last, self._row(name, rest, (), ""))
        return found

    def _branch(self, node: str) -> Branch:
        """A row; where all of it is one path, that path."""
        names = [named(node, self.place)]
        while node in self.opened and len(self.target.below[node]) == 1:
            [only] = self.target.below[node]
            if only.endswith(OTHERS):  # nothing of it was large enough to be opened
                return self._row(", ".join(names), self.target.paths[node], (), node)
            node = only
            names.append(named(node, self.place))
        parts = self.below(node) if node in self.opened else ()
        return self._row(", ".join(names), self.target.paths[node], parts, node)

    def _row(self, name: str, change: float, parts: "tuple[Branch, ...] | list[Branch]", address: str) -> Branch:
        share = words.percent(change / self.target.change) if self.target.clear else ""
        note = "temperature, not steering" if address == FINAL else share
        return Branch(name, words.signed(change), note, change / self.largest, address, parts)
