"""Routes from left to right: bands as wide as what takes them, orange where it raises, blue where it lowers.

A route is a row of stops and a signed number. Bands between two stops are the routes that have both, one after the
other, those above zero and those below apart; so at every stop as much width comes in as goes out, whatever cancels.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.theme import NEGATIVE, NEUTRAL, POSITIVE, bold, figure, said

CLEAR = 0.42  # opacity of a band
LINE = 40  # height of a stop, in points
CARRIED = 0.74  # of the width, for all but the last column: its names stand before it


@dataclass(frozen=True)
class Route:
    """A way from the injection to a token, and what takes it.

    Attributes:
        stops: names in order, each with the column that it stands in; a name may stand in several columns.
    """

    stops: Sequence[tuple[int, str]]
    change: float


def sankey(routes: Sequence[Route], unit: str, ends: Mapping[str, float] | None = None) -> go.Figure:
    """The routes as bands.

    Args:
        ends: of the stops in the last column, the whole change: they are coloured by its sign, and the label says it.
    """
    ends = ends or {}
    places = sorted({stop for route in routes for stop in route.stops})
    at = {stop: number for number, stop in enumerate(places)}
    width: dict[tuple[int, int, bool], float] = defaultdict(float)
    through: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for route in routes:
        for stop in dict.fromkeys(route.stops):
            through[at[stop]][route.change < 0] += route.change
        for first, second in zip(route.stops, route.stops[1:], strict=False):
            width[at[first], at[second], route.change < 0] += abs(route.change)
    last = max((column for column, _ in places), default=0)
    links = [(key, value) for key, value in width.items() if value > 0]
    tall = max((sum(column == own for own, _ in places) for column in range(last + 1)), default=1)
    chart = figure(height=max(260, 60 + LINE * tall), margin={"l": 8, "r": 8, "t": 10, "b": 14})
    chart.add_sankey(
        arrangement="snap",
        textfont={"size": 12.5, "shadow": "none"},
        node={
            "label": [_label(name, ends if column == last else {}) for column, name in places],
            "color": [_colour(ends[name]) if column == last and name in ends else NEUTRAL for column, name in places],
            "x": [_across(column, last) for column, _ in places],
            "y": _heights(places, through, ends),
            "pad": 12,
            "thickness": 13,
            "line": {"width": 0},
            **said([_through(name, through[number], unit) for number, (_, name) in enumerate(places)]),
        },
        link={
            "source": [first for (first, _, _), _ in links],
            "target": [second for (_, second, _), _ in links],
            "value": [value for _, value in links],
            "color": [_faint(NEGATIVE if lowers else POSITIVE) for (_, _, lowers), _ in links],
            **said([_band(places, key, value, unit) for key, value in links]),
        },
    )
    return chart


def _across(column: int, last: int) -> float:
    """Where a column stands, from left to right."""
    return 0.999 if column == last else 0.001 + CARRIED * column / max(last - 1, 1)


def _heights(
    places: Sequence[tuple[int, str]], through: Mapping[int, list[float]], ends: Mapping[str, float]
) -> list[float]:
    """Where each stop stands in its column, with room in proportion to its width: the widest above; of ends, what gains
    most.
    """
    size = {number: through[number][0] - through[number][1] for number in range(len(places))}
    found, last = [0.5] * len(places), max((column for column, _ in places), default=0)
    for column in {column for column, _ in places}:
        own = [n for n, (c, _) in enumerate(places) if c == column]
        own.sort(key=lambda n: (-ends.get(places[n][1], 0.0) if column == last else 0.0, -size[n]))
        whole, above = sum(size[n] for n in own) or 1.0, 0.0
        for n in own:
            found[n] = min(max((above + size[n] / 2) / whole, 0.001), 0.999)
            above += size[n]
    return found


def _label(name: str, ends: Mapping[str, float]) -> str:
    return f"{name}  {words.signed(ends[name])}" if name in ends else name


def _colour(change: float) -> str:
    return POSITIVE if change > 0 else NEGATIVE if change < 0 else NEUTRAL


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{CLEAR})"


def _through(name: str, both: Sequence[float], unit: str) -> str:
    raises, lowers = both
    parts = [f"raises by {words.number(raises)} {unit}"] * (raises > 0)
    parts += [f"lowers by {words.number(-lowers)} {unit}"] * (lowers < 0)
    return f"{bold(name)}\n{words.listing(parts) if parts else 'nothing'}; in all {words.signed(raises + lowers)}"


def _band(places: Sequence[tuple[int, str]], key: tuple[int, int, bool], value: float, unit: str) -> str:
    first, second, lowers = key
    return (
        f"{bold(f'{places[first][1]} → {places[second][1]}')}\n{'lowers' if lowers else 'raises'} by "
        f"{words.number(value)} {unit}"
    )
