"""An effect's way through the model: injection, carriers by layer, logits; an edge is as wide as what flows along it"""

from collections.abc import Sequence
from html import escape
from typing import Any

import networkx as nx
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.theme import NEGATIVE, NEUTRAL, POSITIVE, figure

WIDEST, THINNEST = 11.0, 0.8  # pixels
SHAPES = {"injection": "diamond", "head": "circle", "mlp": "square", "shared": "hexagon", "logits": "diamond"}
ROW = 1.0
Point = tuple[float, float]


def graph(given: "nx.DiGraph[str]", unit: str) -> go.Figure:
    """Layers from left to right: a layer's heads in one column, its MLP in the next."""
    places = _places(given)
    tall = max((abs(y) for _, y in places.values()), default=1.0)
    chart = figure(height=int(180 + 64 * (2 * tall + 1)), margin={"l": 20, "r": 20, "t": 16, "b": 40})
    weights = [abs(float(data["weight"])) for *_, data in given.edges(data=True)]
    largest = max(weights, default=1.0) or 1.0
    order = sorted(given.edges(data=True), key=lambda edge: abs(edge[2]["weight"]))
    for sender, receiver, data in order:
        line = _bow(places[sender], places[receiver], list(places.values()))
        _edge(chart, line, sender, receiver, data, largest, unit)
    for kind, symbol in SHAPES.items():
        own = [v for v, data in given.nodes(data=True) if data["kind"] == kind]
        if own:
            chart.add_scatter(
                x=[places[v][0] for v in own],
                y=[places[v][1] for v in own],
                mode="markers+text",
                text=[f"<b>{escape(str(v))}</b>" for v in own],
                textposition="top center",
                hoverinfo="skip",
                textfont={"size": 13},
                marker={"symbol": symbol, "size": 17, "color": "#f5f5f2", "line": {"color": NEUTRAL, "width": 2}},
            )
    columns = sorted({(x, given.nodes[v]["layer"], given.nodes[v]["kind"]) for v, (x, _) in places.items()})
    ticks = {x: _column(layer, kind) for x, layer, kind in columns}
    chart.update_xaxes(showgrid=False, zeroline=False, tickvals=list(ticks), ticktext=list(ticks.values()))
    chart.update_yaxes(visible=False, range=[-tall - 0.8, tall + 0.9])
    return chart


def _column(layer: int, kind: str) -> str:
    if kind in ("injection", "logits"):
        return ""
    return f"MLP {layer}" if kind == "mlp" else f"keys, values {layer}" if kind == "shared" else f"heads {layer}"


def _places(given: "nx.DiGraph[str]") -> dict[str, Point]:
    stage = {"injection": 0.0, "shared": 0.02, "head": 0.38, "mlp": 0.72, "logits": 0.0}
    columns: dict[tuple[float, int], list[str]] = {}
    for vertex, data in given.nodes(data=True):
        at = data["layer"] + stage[data["kind"]]
        if data["kind"] == "injection":
            at = -0.15 + min((d["layer"] for v, d in given.nodes(data=True) if v != vertex), default=0)
        if data["kind"] == "logits":
            at = data["layer"] + 0.15
        columns.setdefault((at, 0), []).append(vertex)
    places = {}
    for (x, _), vertices in columns.items():
        # The strongest in the middle, so that the main way is a straight line.
        own = sorted(vertices, key=lambda v: -_through(given, v))
        for index, vertex in enumerate(own):
            step = (index + 1) // 2 * (1 if index % 2 else -1)
            places[vertex] = (x, step * ROW)
    return places


def _through(given: "nx.DiGraph[str]", vertex: str) -> float:
    ends = [*given.in_edges(vertex, data="weight"), *given.out_edges(vertex, data="weight")]
    return float(sum(abs(edge[2]) for edge in ends))


def _edge(
    chart: go.Figure,
    line: tuple[list[float], list[float]],
    sender: str,
    receiver: str,
    data: Any,
    largest: float,
    unit: str,
) -> None:
    weight = data["weight"]
    colour = NEUTRAL if weight == 0 else POSITIVE if weight > 0 else NEGATIVE
    width = max(THINNEST, WIDEST * abs(weight) / largest)
    xs, ys = line
    parts = ", ".join(f"{name} {words.signed(w)}" for name, w in data["inputs"].items() if name in "qkv")
    text = f"<b>{escape(sender)} → {escape(receiver)}</b><br>{words.signed(weight)} {escape(unit)}"
    text += f"<br>{escape(parts)}" if parts else ""
    routed = sum(abs(w) for name, w in data["inputs"].items() if name in ("q", "k"))
    dash = "dot" if routed > abs(weight) / 2 and parts else "solid"
    chart.add_scatter(
        x=xs,
        y=ys,
        mode="lines",
        line={"color": colour, "width": width, "dash": dash},
        opacity=0.35 + 0.5 * abs(weight) / largest,
        text=[text] * len(xs),
        hoverinfo="text",
        hoveron="points",
    )


def _bow(start: Point, end: Point, vertices: Sequence[Point], points: int = 24) -> tuple[list[float], list[float]]:
    """A curve that leaves and enters level; over vertices on its way it bows away."""
    (x0, y0), (x1, y1) = start, end
    inside = [v for v in vertices if x0 < v[0] < x1 and v[1] == y0]
    lift = 0.4 + 0.12 * abs(x1 - x0) if y0 == y1 and inside else 0.0
    xs, ys = [], []
    for i in range(points + 1):
        t = i / points
        xs.append(x0 + (x1 - x0) * t)
        ys.append(y0 + (y1 - y0) * t * t * (3 - 2 * t) + lift * 4 * t * (1 - t))
    return xs, ys
