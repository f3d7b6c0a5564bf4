"""A dissected result, seen one prompt and position at a time: its targets, and the tree of paths of each."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports.records import records
from steerscope.reports.routes import FINAL, Place, cut

AT = ["prompt", "position"]
OWN = "target"  # why a token of the vector's own is read
WHOLE = "total"  # the root of a tree
CLEAR = 3.0  # how many times a total its mass may be for parts to be told as shares of it
NEURONS = 5  # of an MLP that are listed
NOTHING = 1e-9  # of a change, in logits: below it nothing is told


@dataclass(frozen=True)
class Target:
    """A token whose logit is explained at a place.

    Attributes:
        chosen: why it is read.
        mass: the size of all last writers together, whatever cancels.
        paths: of each node of its tree, by address: its change.
        below: addresses of the children of each node.
        neurons: those of each MLP that are listed, and the rest of them.
    """

    token: str
    chosen: str
    change: float
    mass: float
    paths: Mapping[str, float]
    below: Mapping[str, Sequence[str]]
    neurons: Sequence[Any] = ()

    @cached_property
    def writers(self) -> dict[str, float]:
        """What the last writers, and the scale of the final norm, add: largest first."""
        found = {path: self.paths[path] for path in self.below.get(WHOLE, ())}
        return dict(sorted(found.items(), key=lambda item: -abs(item[1])))

    @property
    def clear(self) -> bool:
        """Whether the total is clear of zero against what cancels in it, so that shares of it say something."""
        return self.mass > NOTHING and CLEAR * abs(self.change) >= self.mass

    @property
    def nothing(self) -> bool:
        """Whether nothing changes, and nothing cancels either."""
        return self.mass <= NOTHING and abs(self.change) <= NOTHING

    @property
    def final(self) -> float:
        """What the scale of the final norm alone gives: temperature."""
        return self.paths.get(FINAL, 0.0)

    @cached_property
    def ends(self) -> dict[str, float]:
        """Paths that are not opened further; they add up to the change."""
        return {path: change for path, change in self.paths.items() if path != WHOLE and not self.below.get(path)}

    @cached_property
    def routes(self) -> dict[str, float]:
        """The ends, down to the last move between positions, added up: largest first."""
        found: dict[str, float] = defaultdict(float)
        for path, change in self.ends.items():
            found[cut(path)] += change
        return dict(sorted(found.items(), key=lambda item: -abs(item[1])))


@dataclass(frozen=True)
class View:
    """A prompt at a position.

    Attributes:
        injected: positions with something added.
        targets: the vector's own tokens; then those that gain, largest first, and those that lose.
    """

    prompt: int
    position: int
    place: Place
    injected: frozenset[int]
    targets: Sequence[Target]

    @property
    def tokens(self) -> Sequence[str]:
        return self.place.tokens


def views(result: Result) -> list[View]:
    """All places, in the order of the prompts."""
    tokens, injected = _texts(result)
    trees = {key: _tree(rows) for key, rows in result.frames["paths"].groupby([*AT, "token_id"], sort=False)}
    neurons = {key: _neurons(rows) for key, rows in result.frames["neurons"].groupby([*AT, "token_id"], sort=False)}
    vector = list(_vector(result))
    found = []
    places: Iterable[Any] = result.frames["totals"].groupby(AT, sort=False)
    for (prompt, position), rows in places:
        targets = [
            Target(
                *(str(r.token), str(r.chosen), float(r.change), float(r.mass)),
                *trees.get((prompt, position, r.token_id), ({}, {})),
                neurons.get((prompt, position, r.token_id), ()),
            )
            for r in sorted(records(rows), key=lambda r: (r.chosen != OWN, -r.change))
        ]
        at = frozenset(injected[prompt])
        place = Place(tokens[prompt], {layer: at for layer in vector})
        found.append(View(int(prompt), int(position), place, at, targets))
    return found


def _vector(result: Result) -> Iterator[int]:
    """The layer whose heads read the vector itself: where all injections add it, if that is before its attention."""
    injections = result.manifest.get("injections", [])
    sites = {str(one.get("site", "")) for one in injections}
    adds = all(one.get("operation", "add") == "add" for one in injections)
    if adds and len(sites) == 1 and (site := sites.pop()).endswith(".resid_pre"):
        yield int(site.removeprefix("L").split(".")[0])


def _texts(result: Result) -> tuple[dict[Any, list[str]], dict[Any, list[int]]]:
    """By prompt, its tokens, and the positions that something is added to."""
    tokens: dict[Any, list[str]] = defaultdict(list)
    injected: dict[Any, list[int]] = defaultdict(list)
    for r in records(result.frames["texts"].sort_values(AT, kind="stable")):
        tokens[r.prompt].append(str(r.token))
        if r.injected:
            injected[r.prompt].append(int(r.position))
    return tokens, injected


def _neurons(rows: pd.DataFrame) -> list[Any]:
    """The neurons of one token, the rest of each MLP behind its own."""
    found = []
    for node, own in rows.groupby("node", sort=True):
        listed, rest = own[own["neuron"] >= 0], own[own["neuron"] < 0]
        largest = listed.sort_values("flow", key=abs, ascending=False, kind="stable")
        others = pd.concat([largest.iloc[NEURONS:], rest])
        found += [SimpleNamespace(name=f"{node}, {int(r.neuron)}", **_numbers(r)) for r in records(largest[:NEURONS])]
        whole = {"clean": math.nan, "steered": math.nan, **{c: float(others[c].sum()) for c in ("change", "flow")}}
        found.append(SimpleNamespace(name=f"{node}, all others", **whole))
    return found


def _numbers(row: Any) -> dict[str, float]:
    return {name: float(getattr(row, name)) for name in ("clean", "steered", "change", "flow")}


def _tree(rows: pd.DataFrame) -> tuple[dict[str, float], dict[str, list[str]]]:
    below: dict[str, list[str]] = defaultdict(list)
    paths: dict[str, float] = {}
    for path, parent, change in zip(rows["path"], rows["parent"], rows["change"], strict=True):
        paths[str(path)] = float(change)
        if path != WHOLE:
            below[str(parent)].append(str(path))
    return paths, below
