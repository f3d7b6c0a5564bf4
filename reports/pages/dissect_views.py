"""A dissected result, seen one prompt and position at a time: its targets, and the tree of paths of each."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports.records import records
from steerscope.reports.routes import FINAL, Place, cut

AT = ["prompt", "position"]
WHOLE = "total"  # the root of a tree
CLEAR = 3.0  # how many times a total its mass may be for parts to be told as shares of it
NOTHING = 1e-9  # of a change, in logits: below it nothing is told


@dataclass(frozen=True)
class Target:
    """A token whose logit is explained at a place.

    Attributes:
        chosen: why it is read.
        mass: the size of all last writers together, whatever cancels.
        paths: of each node of its tree, by address: its change.
        below: addresses of the children of each node.
    """

    token: str
    chosen: str
    change: float
    mass: float
    paths: Mapping[str, float]
    below: Mapping[str, Sequence[str]]

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
        targets: the tokens that gain, largest first, then those that lose.
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
    vector = _vector(result)
    found = []
    for (prompt, position), rows in result.frames["totals"].groupby(AT, sort=False):
        targets = [
            Target(
                *(str(r.token), str(r.chosen), float(r.change), float(r.mass)),
                *trees.get((prompt, position, r.token_id), ({}, {})),
            )
            for r in records(rows.sort_values("change", ascending=False, kind="stable"))
        ]
        at = frozenset(injected[prompt])
        place = Place(tokens[prompt], {layer: at for layer in vector})
        found.append(View(int(prompt), int(position), place, at, targets))
    return found


def _vector(result: Result) -> Iterator[int]:
    """The layer whose heads read the vector itself: where all injections are, if that is before its attention."""
    sites = {str(one.get("site", "")) for one in result.manifest.get("injections", [])}
    if len(sites) == 1 and (site := sites.pop()).endswith(".resid_pre"):
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


def _tree(rows: pd.DataFrame) -> tuple[dict[str, float], dict[str, list[str]]]:
    below: dict[str, list[str]] = defaultdict(list)
    paths: dict[str, float] = {}
    for path, parent, change in zip(rows["path"], rows["parent"], rows["change"], strict=True):
        paths[str(path)] = float(change)
        if path != WHOLE:
            below[str(parent)].append(str(path))
    return paths, below
