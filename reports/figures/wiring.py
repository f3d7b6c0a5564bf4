"""Edges between nodes as a drawing: layers from left to right, edges as wide as what flows along them."""

from collections.abc import Sequence
from typing import Any

import networkx as nx
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.theme import NEUTRAL, bold, figure, side

WIDEST, THINNEST = 11.0, 0.8  # pixels
SHAPES = {"injection": "diamond", "head": "circle", "mlp": "square", "shared": "hexagon", "logits": "diamond"}
STAGE = {"injection": 0.0, "shared": 0.02, "head": 0.38, "mlp": 0.72, "logits": 0.0}  # within a layer
DEEP, FAR = 12, 24  # columns that are drawn from left to right; how far an edge goes that bows the most
OUTLINE = {"color": NEUTRAL, "width": 2}
Point = tuple[float, float]


def wiring(given: "nx.DiGraph[str]", unit: str, towards: int = 1) -> go.Figure:
    """Layers from left to right: a layer's heads in one column, its MLP in the next; an edge is as wide as what flows
    along it. Many columns are drawn as lines from the top down instead, evenly spaced, what goes with the effect on the
    right of what it passes and what works against it on the left.

    Args:
        given: vertices with `kind` (a key of `SHAPES`) and `layer`; edges with `weight` and `inputs`, by which of a
            head's inputs how much of it flows.
        towards: 1 or -1: the sign of what carries the effect.
    """
    places = _places(given)
    columns = sorted({x for x, _ in places.values()})
    deep = len(columns) > DEEP
    if deep:
        places = {v: (float(columns.index(x)), y) for v, (x, y) in places.items()}
    order = sorted(given.edges(data=True), key=lambda edge: abs(edge[2]["weight"]))
    largest = max((abs(float(data["weight"])) for *_, data in order), default=1.0) or 1.0
    chart, aside = (
        figure(height=400, margin={"l": 20, "r": 20, "t": 16, "b": 40}),
        [y for _, y in places.values()] or [1.0],
    )
    for sender, receiver, data in order:
        against = deep and data["weight"] * towards < 0
        curve = _bow(places[sender], places[receiver], list(places.values()), -1 if against else 1)
        aside += curve[1]
        x, y = reversed(curve) if deep else curve
        text = [_hover(sender, receiver, data, unit)] * len(x)
        look = _look(data, largest, towards)
        chart.add_scatter(x=x, y=y, mode="lines", text=text, hoverinfo="text", hoveron="points", **look)
    for kind, symbol in SHAPES.items():
        own = [v for v, data in given.nodes(data=True) if data["kind"] == kind]
        if own:
            x, y = ([places[v][axis] for v in own] for axis in ((1, 0) if deep else (0, 1)))
            chart.add_scatter(
                x=x,
                y=y,
                mode="markers+text",
                text=[bold(v) for v in own],
                textposition="middle right" if deep else "top center",
                hoverinfo="skip",
                textfont={"size": 12 if deep else 13},
                marker={"symbol": symbol, "size": 13 if deep else 17, "color": "#f5f5f2", "line": OUTLINE},
            )
    low, high = min(aside), max(aside)
    kinds = sorted({(places[v][0], given.nodes[v]["layer"], given.nodes[v]["kind"]) for v in places})
    names = {"mlp": "MLP {}", "shared": "keys, values {}", "head": "heads {}"}
    ticks = {at: names.get(kind, "").format(layer) for at, layer, kind in kinds}
    along = {"showgrid": False, "zeroline": False, "tickvals": list(ticks), "ticktext": list(ticks.values())}
    if deep:
        chart.update_yaxes(**along, range=[len(columns) - 0.4, -0.6])
        chart.update_xaxes(visible=False, range=[low - 0.5, high + 0.9])
        chart.update_layout(height=80 + 34 * len(columns), margin={"l": 110})
    else:
        chart.update_xaxes(**along)
        chart.update_yaxes(visible=False, range=[low - 0.8, high + 0.9])
        chart.update_layout(height=int(116 + 64 * (high - low + 2)))
    return chart


def _places(given: "nx.DiGraph[str]") -> dict[str, Point]:
    columns: dict[float, list[str]] = {}
    for vertex, data in given.nodes(data=True):
        at = data["layer"] + STAGE[data["kind"]]
        if data["kind"] == "injection":
            at = -0.15 + min((d["layer"] for v, d in given.nodes(data=True) if v != vertex), default=0)
        if data["kind"] == "logits":
            at = data["layer"] + 0.15
        columns.setdefault(at, []).append(vertex)
    places = {}
    for x, vertices in columns.items():
        # The strongest in the middle, so that the main way is a straight line.
        for index, vertex in enumerate(sorted(vertices, key=lambda v: -_through(given, v))):
            places[vertex] = (x, (index + 1) // 2 * (1.0 if index % 2 else -1.0))
    return places


def _through(given: "nx.DiGraph[str]", vertex: str) -> float:
    ends = [*given.in_edges(vertex, data="weight"), *given.out_edges(vertex, data="weight")]
    return float(sum(abs(edge[2]) for edge in ends))


def _hover(sender: str, receiver: str, data: Any, unit: str) -> str:
    parts = _parts(data)
    text = f"{bold(f'{sender} → {receiver}')}\n{words.signed(data['weight'])} {unit}"
    return text + (f"\n{parts}" if parts else "")


def _parts(data: Any) -> str:
    return ", ".join(f"{name} {words.signed(w)}" for name, w in data["inputs"].items() if name in "qkv")


def _look(data: Any, largest: float, towards: int) -> dict[str, Any]:
    """Colour, width and opacity of an edge; dotted where queries or keys have most of it."""
    weight = data["weight"]
    routed = sum(abs(w) for name, w in data["inputs"].items() if name in ("q", "k"))
    dash = "dot" if routed > abs(weight) / 2 and _parts(data) else "solid"
    line = {"color": side(weight, towards), "width": max(THINNEST, WIDEST * abs(weight) / largest), "dash": dash}
    return {"line": line, "opacity": 0.35 + 0.5 * abs(weight) / largest}


def _bow(
    start: Point, end: Point, vertices: Sequence[Point], towards: int = 1, points: int = 24
) -> tuple[list[float], list[float]]:
    """A curve that leaves and enters level; over vertices on its way it bows away, to the one side or the other."""
    (x0, y0), (x1, y1) = start, end
    inside = any(x0 < x < x1 and y == y0 for x, y in vertices)
    lift = towards * (0.4 + 0.12 * min(abs(x1 - x0), FAR)) if y0 == y1 and inside else 0.0
    steps = [i / points for i in range(points + 1)]
    xs = [x0 + (x1 - x0) * t for t in steps]
    return xs, [y0 + (y1 - y0) * t * t * (3 - 2 * t) + lift * 4 * t * (1 - t) for t in steps]
