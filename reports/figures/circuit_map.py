"""Circuits by layer: a node is as large as what it carries, coloured by role; one circuit and measure at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.records import records
from steerscope.reports.theme import LEGEND, NEUTRAL, axis, bold, figure, said, side

ENDS = ("input", "logits")
ROLES = ("#3f7fb5", "#d1822b", "#5a9a54", "#9a5fa8", "#c0504d", "#7a6a53", "#2f9a99", "#b0468c", "#8a8a2f", "#6b7280")
SMALLEST, LARGEST = 7.0, 34.0  # pixels across
LINES = 150  # edges that are drawn, the strongest
TOWARDS = 0.55  # of a layer: where its MLP stands
NAMED = 40  # nodes whose names have room
Place = tuple[float, float]


def circuit_map(nodes: pd.DataFrame, edges: pd.DataFrame, unit: str, towards: int = 1) -> go.Figure:
    """A menu chooses which circuit by which measure is shown.

    Args:
        nodes: the columns circuit, node, layer, kind, role, reached, measure, effect, low, high, share.
        edges: the columns circuit, sender, receiver, inputs, score.
        towards: the sign of the whole effect.
    """
    chart = figure(height=500, margin={"l": 30, "r": 20, "t": 96, "b": 50}, **LEGEND)
    sizes = nodes["share"].abs()
    largest = float(sizes.max()) if sizes.notna().any() else 0.0
    owners: list[tuple[str, str]] = []  # of each trace, which circuit by which measure; an edge is of all measures
    tall: dict[str, float] = {}
    for circuit in dict.fromkeys(nodes["circuit"]):
        own = nodes[nodes["circuit"] == circuit]
        lines = edges[edges["circuit"] == circuit]
        places = _places(own, {*lines["sender"], *lines["receiver"]})
        tall[circuit] = max((abs(y) for _, y in places.values()), default=1.0)
        for trace in _edges(lines, places):
            owners.append((circuit, ""))
            chart.add_trace(trace)
        for measure in dict.fromkeys(own["measure"]):
            for trace in _nodes(own[own["measure"] == measure], places, unit, largest, towards):
                owners.append((circuit, measure))
                chart.add_trace(trace)
    chosen = list(dict.fromkeys(zip(nodes["circuit"], nodes["measure"], strict=True)))
    buttons = []
    for circuit, measure in chosen:
        visible = [owner in ((circuit, ""), (circuit, measure)) for owner in owners]
        height = {"yaxis.range": [-tall[circuit] - 0.8, tall[circuit] + 0.9]}
        buttons.append({"label": f"{circuit}: {measure}", "method": "update", "args": [{"visible": visible}, height]})
    if buttons:
        for trace, shown in zip(chart.data, buttons[0]["args"][0]["visible"], strict=True):
            trace.visible = shown
        chart.update_yaxes(visible=False, **{"range": buttons[0]["args"][1]["yaxis.range"]})
    if len(buttons) > 1:
        menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.24, "yanchor": "bottom", "direction": "down"}
        chart.update_layout(updatemenus=[{**menu, "bgcolor": "#f5f5f2", "font": {"size": 12, "color": "#30343b"}}])
    layers = int(nodes["layer"].max()) + 1 if len(nodes) else 1
    ticks = list(range(0, layers, 1 if layers <= 16 else 2))
    chart.update_xaxes(axis("layer"), showgrid=False, zeroline=False, tickvals=ticks, range=[-0.9, layers + 0.1])
    return chart


def _places(nodes: pd.DataFrame, ends: set[str]) -> dict[str, Place]:
    """Heads of a layer in one column, sorted by role, its MLP in the next."""
    columns: dict[float, list[str]] = {}
    for row in records(nodes.drop_duplicates("node").sort_values(["layer", "role", "head"], kind="stable")):
        columns.setdefault(row.layer + (0.0 if row.kind == "head" else TOWARDS), []).append(row.node)
    last = int(nodes["layer"].max()) if len(nodes) else 0
    for end, x in zip(ENDS, (-0.6, last + 0.9), strict=True):
        if end in ends:
            columns.setdefault(x, []).append(end)
    return {
        node: (x, place - (len(column) - 1) / 2) for x, column in columns.items() for place, node in enumerate(column)
    }


def _edges(edges: pd.DataFrame, places: dict[str, Place]) -> list[go.Scatter]:
    """Lines from sender to receiver, in three widths by the circuit's own score."""
    scores = edges["score"].fillna(0.0).to_numpy(dtype=float)
    order = np.argsort(-scores, kind="stable")[:LINES]
    limit = scores.max(initial=0.0)
    found = []
    for low, high, width in ((-np.inf, 0.1, 0.6), (0.1, 0.4, 1.4), (0.4, np.inf, 2.6)):
        x: list[float | None] = []
        y: list[float | None] = []
        for place in order:
            part = scores[place] / limit if limit > 0 else 0.0
            ends = [places.get(edges[name].iloc[place]) for name in ("sender", "receiver")]
            if low < part <= high and ends[0] is not None and ends[1] is not None:
                x += [ends[0][0], ends[1][0], None]
                y += [ends[0][1], ends[1][1], None]
        if x:
            line = {"color": NEUTRAL, "width": width}
            found.append(go.Scatter(x=x, y=y, mode="lines", line=line, opacity=0.4, hoverinfo="skip", showlegend=False))
    ends_there = [end for end in ENDS if end in places]
    if ends_there:
        at = [places[end] for end in ends_there]
        marker = {"symbol": "diamond", "size": 14, "color": "#f5f5f2", "line": {"color": NEUTRAL, "width": 2}}
        found.append(
            go.Scatter(
                x=[x for x, _ in at],
                y=[y for _, y in at],
                mode="markers+text",
                text=ends_there,
                textposition="top center",
                hoverinfo="skip",
                marker=marker,
                showlegend=False,
            )
        )
    return found


def _nodes(rows: pd.DataFrame, places: dict[str, Place], unit: str, largest: float, towards: int) -> list[go.Scatter]:
    found = []
    names = len(rows) <= NAMED
    for index, role in enumerate(dict.fromkeys(rows["role"])):
        own = rows[rows["role"] == role]
        reached = own["reached"].to_numpy(dtype=bool)
        sizes = [_size(share, largest) for share in own["share"]]
        edges = [side(effect, towards) if words.finite(effect) else NEUTRAL for effect in own["effect"]]
        marker = {
            "symbol": ["circle" if there else "x-thin-open" for there in reached],
            "size": sizes,
            "color": ROLES[index % len(ROLES)],
            "opacity": 1.0,
            "line": {"color": edges, "width": [min(2.5, size / 7) for size in sizes]},
        }
        at = [places[node] for node in own["node"]]
        found.append(
            go.Scatter(
                x=[x for x, _ in at],
                y=[y for _, y in at],
                mode="markers+text" if names else "markers",
                text=list(own["node"]),
                textposition="top center",
                textfont={"size": 11},
                marker=marker,
                name=str(role) or "no role",
                **said(_hover(own, unit)),
            )
        )
    return found


def _size(share: Any, largest: float) -> float:
    """Area by share, so that a glance does not mislead."""
    if not words.finite(share) or largest <= 0:
        return SMALLEST
    return max(SMALLEST, LARGEST * float(abs(share) / largest) ** 0.5)


def _hover(rows: pd.DataFrame, unit: str) -> Sequence[str]:
    found = []
    for row in records(rows):
        numbers = f"{words.ranged(row, 'effect', words.signed, unit)}, {words.percent(row.share)} of the effect"
        lines = [bold(row.node), row.role or "no role"]
        lines += (
            [row.measure, numbers, words.verdict(row.verdict)] if row.reached else ["before the injection: undefined"]
        )
        if row.reached and not words.finite(row.effect):
            lines[3:] = ["not patched by itself"]
        found.append("\n".join(lines))
    return found
