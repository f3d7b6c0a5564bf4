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
Point = tuple[float, float]


def wiring(given: "nx.DiGraph[str]", unit: str, towards: int = 1) -> go.Figure:
    """Layers from left to right: a layer's heads in one column, its MLP in the next; an edge is as wide as what flows
    along it.

    Args:
        given: vertices with `kind` (a key of `SHAPES`) and `layer`; edges with `weight` and `inputs`, by which of a
            head's inputs how much of it flows.
        towards: 1 or -1: the sign of what carries the effect.
    """
    places = _places(given)
    tall = max((abs(y) for _, y in places.values()), default=1.0)
    chart = figure(height=int(180 + 64 * (2 * tall + 1)), margin={"l": 20, "r": 20, "t": 16, "b": 40})
    order = sorted(given.edges(data=True), key=lambda edge: abs(edge[2]["weight"]))
    largest = max((abs(float(data["weight"])) for *_, data in order), default=1.0) or 1.0
    for sender, receiver, data in order:
        xs, ys = _bow(places[sender], places[receiver], list(places.values()))
        text = [_hover(sender, receiver, data, unit)] * len(xs)
        chart.add_scatter(
            x=xs, y=ys, mode="lines", text=text, hoverinfo="text", hoveron="points", **_look(data, largest, towards)
        )
    for kind, symbol in SHAPES.items():
        own = [v for v, data in given.nodes(data=True) if data["kind"] == kind]
        if own:
            chart.add_scatter(
                x=[places[v][0] for v in own],
                y=[places[v][1] for v in own],
                mode="markers+text",
                text=[bold(v) for v in own],
                textposition="top center",
                hoverinfo="skip",
                textfont={"size": 13},
                marker={"symbol": symbol, "size": 17, "color": "#f5f5f2", "line": {"color": NEUTRAL, "width": 2}},
            )
    columns = sorted({(x, given.nodes[v]["layer"], given.nodes[v]["kind"]) for v, (x, _) in places.items()})
    names = {"mlp": "MLP {}", "shared": "keys, values {}", "head": "heads {}"}
    ticks = {x: names.get(kind, "").format(layer) for x, layer, kind in columns}
    chart.update_xaxes(showgrid=False, zeroline=False, tickvals=list(ticks), ticktext=list(ticks.values()))
    chart.update_yaxes(visible=False, range=[-tall - 0.8, tall + 0.9])
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


def _bow(start: Point, end: Point, vertices: Sequence[Point], points: int = 24) -> tuple[list[float], list[float]]:
    """A curve that leaves and enters level; over vertices on its way it bows away."""
    (x0, y0), (x1, y1) = start, end
    inside = any(x0 < x < x1 and y == y0 for x, y in vertices)
    lift = 0.4 + 0.12 * abs(x1 - x0) if y0 == y1 and inside else 0.0
    steps = [i / points for i in range(points + 1)]
    xs = [x0 + (x1 - x0) * t for t in steps]
    return xs, [y0 + (y1 - y0) * t * t * (3 - 2 * t) + lift * 4 * t * (1 - t) for t in steps]
