"""The report of `edges`: the way of an effect through the model."""

from collections.abc import Sequence
from typing import Any

import networkx as nx
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.circuits.edge_graph import INJECTION, LOGITS, edge_graph
from steerscope.reports import words
from steerscope.reports.figures.agreement import agreement
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.attribute import steps_taken
from steerscope.reports.pages.common import everything, layout, metric_unit, of, opponents
from steerscope.reports.pages.path_effect import told
from steerscope.reports.reading import drawing
from steerscope.reports.records import records, sides, total, way
from steerscope.reports.theme import NEUTRAL, bold, figure, side

MEASURES = ("necessity", "sufficiency")
SHOWN = 40  # edges that the graph begins with
WIDEST, THINNEST = 11.0, 0.8  # pixels
SHAPES = {"injection": "diamond", "head": "circle", "mlp": "square", "shared": "hexagon", "logits": "diamond"}
STAGE = {"injection": 0.0, "shared": 0.02, "head": 0.38, "mlp": 0.72, "logits": 0.0}  # within a layer
Point = tuple[float, float]


@drawing
def headline(result: Result) -> list[str]:
    """What is told from reference vectors, the widest way, the strongest edges, how good the estimates are."""
    exact, towards, whole = result.frames["verified"], way(result), total(result) or float("nan")
    large = exact["necessity"].abs() >= result.manifest.get("smallest", 0.02) * abs(whole)
    along, against = (
        [
            f"{r.sender} → {r.receiver} ({words.signed(r.estimate)}, exactly {words.signed(r.necessity)}, "
            f"{words.percent(r.necessity / whole)})"
            for r in records(rows.sort_values("necessity", key=abs, ascending=False).head(4))
        ]
        for rows in sides(exact[large], towards, "necessity")
    )
    path = _widest(edge_graph(result, SHOWN), towards)
    said = "; ".join(f"{r.measure}: {words.agreement(r)}" for r in records(of(result, "calibration", verified="both")))
    count, table = result.manifest.get("count", "?"), result.frames["edges"]
    named = table.assign(node=table["sender"] + " → " + table["receiver"])
    return [
        *told(result, named, f"edge of {count}"),
        *([f"The widest way, whether told from noise or not, is {' → '.join(path)}."] if path else []),
        f"The strongest of {count} edges as they are, in {metric_unit(result)} and of the effect: "
        f"{words.listing(along)}{opponents(against)}.",
        f"Estimates against exact path patching of {len(exact)} edges: {said}.",
        *steps_taken(result),
    ]


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    text = [
        "An edge is what one node writes into the stream and one input of another node reads there, with everything "
        "else as it is. Scores are integrated gradients along the coefficient; those that leave the injection add up "
        "to the effect. An edge's exact necessity is the effect lost when this path alone is set back to clean, its "
        "sufficiency what it brings alone.",
        "Verdicts come from a test over vectors, each read along its own change, corrected by Holm over all edges, "
        "listed or not.",
    ]
    return layout(
        result,
        "Which way does {vector} take through {model}?",
        "integrated gradients on all edges, the strongest patched exactly",
        headline(result),
        [_way(result), _verified(result), _agreement(result), _edges(result)],
        text=text,
    )


def _widest(given: "nx.DiGraph[str]", towards: int) -> list[str]:
    """The way from the injection to the logits, along edges that carry the effect, whose narrowest edge is widest; of
    those, whose next narrowest is, and so on.
    """
    ways: dict[str, tuple[list[float], list[str]]] = {INJECTION: ([], [INJECTION])}
    for vertex in nx.topological_sort(given):
        for before, _, data in given.in_edges(vertex, data=True):
            size = data["weight"] * towards if data["inputs"] else float("inf")
            if before in ways and size > 0:
                narrow, way = ways[before]
                found = sorted([*narrow, size]), [*way, vertex]
                if vertex not in ways or [*found[0], float("inf")] > [*ways[vertex][0], float("inf")]:
                    ways[vertex] = found
    return ways.get(LOGITS, ([], []))[1]


def _way(result: Result) -> Section:
    given = edge_graph(result, SHOWN)
    text = (
        f"The strongest {SHOWN} edges, as far as they lie on a way from the injection to the logits. Width is the "
        "score; orange carries the effect, blue works against it; dotted edges act through queries or keys (where a "
        "head looks), full ones through values, MLPs or the logits (what is moved). Point at an edge for its numbers."
    )
    panel = Panel("Graph", None, "no way from the injection to the logits among the strongest edges")
    if given:
        panel = Panel("From the injection to the logits", _graph(given, metric_unit(result), way(result)))
    return Section("The way", [text], [panel])


def _graph(given: "nx.DiGraph[str]", unit: str, towards: int = 1) -> go.Figure:
    """Layers from left to right: a layer's heads in one column, its MLP in the next; an edge is as wide as what flows
    along it.
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


def _verified(result: Result) -> Section:
    rows = [
        [r.sender, r.receiver, r.verified, *map(words.signed, (r.estimate, r.necessity, r.sufficiency))]
        for r in records(result.frames["verified"].head(20))
    ]
    titles = ["from", "to", "why", f"estimate ({metric_unit(result)})", "exact necessity", "exact sufficiency"]
    return Section("The strongest edges, patched exactly", [], table=Table(titles, rows, frozenset(titles[3:])))


def _agreement(result: Result) -> Section:
    table, unit = result.frames["verified"], metric_unit(result)
    names = table["sender"] + " → " + table["receiver"]
    panels = [
        Panel(m.capitalize(), agreement(names, table["estimate"], table[m], table["verified"], unit)) for m in MEASURES
    ]
    return Section("How good the estimates are", [], panels)


def _edges(result: Result) -> Section:
    columns = ["sender", "receiver", "effect", "low", "high", "share", "verdict", "noise_share", "concepts_share"]
    columns += ["p", "p_noise", "p_concepts", "p_holm", "p_specific"]
    return everything(result.frames["edges"].head(300), columns, "All edges (the strongest 300)", result)
