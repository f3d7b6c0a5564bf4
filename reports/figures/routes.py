"""The paths of a place as bands: from what is injected through heads and MLPs to the tokens that gain and lose."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import plotly.graph_objects as go

from steerscope.reports.figures.sankey import Route, sankey
from steerscope.reports.routes import FINAL, OTHERS, Place, Step, steps
from steerscope.reports.theme import visible

CARRIERS = 6  # of a column that have a name
SMALLER = "smaller paths"


class Ends(Protocol):
    """A token, its change, and the paths that add up to it."""

    @property
    def token(self) -> str: ...
    @property
    def change(self) -> float: ...
    @property
    def ends(self) -> dict[str, float]: ...


def bands(place: Place, position: int, targets: Sequence[Ends], unit: str) -> go.Figure:
    """A picture of all paths to some tokens.

    Args:
        position: where they are read: from there comes what no head moves.
    """
    layers = 1 + max((step.layer for t in targets for path in t.ends for step in steps(path)), default=0)
    found = [
        (path, change, [*_stops(place, position, path, layers), (2 * layers + 2, visible(t.token))])
        for t in targets
        for path, change in t.ends.items()
    ]
    size: dict[tuple[int, str], float] = defaultdict(float)
    for _, change, stops in found:
        for stop in stops[1:-1]:
            size[stop] += abs(change)
    order = sorted(size, key=lambda stop: -size[stop])
    by_column: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for stop in order:
        by_column[stop[0]].append(stop)
    named = {stop for own in by_column.values() for stop in (own if len(own) <= CARRIERS + 1 else own[:CARRIERS])}
    routes = [
        Route(tuple(s if s in named or n in (0, len(stops) - 1) else (s[0], _more(s)) for n, s in enumerate(stops)), c)
        for _, c, stops in found
    ]
    return sankey(routes, unit, {visible(t.token): t.change for t in targets})


def _more(stop: tuple[int, str]) -> str:
    return f"other heads of layer {(stop[0] - 1) // 2}"


def _stops(place: Place, position: int, path: str, layers: int) -> list[tuple[int, str]]:
    """From the injection to the last writer."""
    along = list(reversed(steps(path)))
    if path == FINAL:
        return [(0, "everything"), (2 * layers + 1, "final norm's scale")]
    stops = [(0, _origin(place, position, along))]
    for step in along:
        if step.layer >= 0:
            stop = (1 + 2 * step.layer + step.node.endswith("M"), step.node)
            if stop != stops[-1]:
                stops.append(stop)
    return stops


def _origin(place: Place, position: int, along: Sequence[Step]) -> str:
    """Where a path begins, as far as it was opened."""
    deep = along[0].layer > 0 and along[0].source >= 0
    if along[0].node.endswith(OTHERS) or along[0].channel == "scale" or deep:
        return SMALLER
    source = next((step.source for step in along if step.source >= 0), position)
    return visible(place.tokens[source]) + f" at {source}" if 0 <= source < len(place.tokens) else f"position {source}"
