"""Circuits by layer: a node is as large as what it carries, coloured by role; one circuit and measure at a time."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.records import records
from steerscope.reports.theme import LEGEND, NEUTRAL, axis, bold, figure, said, side

ENDS = ("input", "logits")
ROLES = ("#3f7fb5", "#d1822b", "#5a9a54", "#9a5fa8", "#c0504d", "#7a6a53", "#2f9a99", "#b0468c", "#8a8a2f", "#6b7280")
SMALLEST, LARGEST = 7.0, 34.0  # pixels across
LINES = 150  # edges that are drawn: those that were measured, then those that the circuit scores highest
THIN, WIDE, STEPS = 1.0, 9.0, 6  # pixels, and how many widths there are
ROW = 40  # pixels between the nodes of a layer
TOWARDS = 0.55  # of a layer: where its MLP stands
NAMED = 40  # nodes whose names have room
Place = tuple[float, float]


def circuit_map(nodes: pd.DataFrame, edges: pd.DataFrame, unit: str, towards: int = 1) -> go.Figure:
    """A menu chooses which circuit by which measure is shown.

    Args:
        nodes: the columns circuit, node, layer, kind, role, reached, measure, effect, low, high, share.
        edges: the columns circuit, sender, receiver, inputs, score, measure, effect, low, high, share.
        towards: the sign of the whole effect.
    """
    limits = [float(part["share"].abs().max()) for part in (nodes, edges)]
    owners: list[tuple[str, str]] = []  # of each trace, which circuit by which measure
    tall: dict[tuple[str, str], float] = {}
    traces: list[go.Scatter] = []
    for chosen, own in nodes.groupby(["circuit", "measure"], sort=False):
        key = str(chosen[0]), str(chosen[1])
        lines = edges[(edges["circuit"] == key[0]) & (edges["measure"] == key[1])]
        places = _places(own, {*lines["sender"], *lines["receiver"]})
        tall[key] = max((abs(y) for _, y in places.values()), default=1.0)
        found = [*_edges(lines, places, unit, limits[1], towards), *_nodes(own, places, unit, limits[0], towards)]
        owners += [key] * len(found)
        traces += found
    height = int(260 + 2 * ROW * max(tall.values(), default=1.0))
    chart = figure(height=height, margin={"l": 30, "r": 20, "t": 110, "b": 50}, **LEGEND)
    first = owners[0] if owners else None
    for owner, trace in zip(owners, traces, strict=True):
        chart.add_trace(trace.update(visible=owner == first))
    if len(tall) > 1:
        chart.update_layout(updatemenus=[_menu(owners, tall, height)])
    start, stop = (int(nodes["layer"].min()), int(nodes["layer"].max()) + 1) if len(nodes) else (0, 1)
    ticks = list(range(start, stop, 1 if stop - start <= 16 else 2))
    margin = 0.04 * (stop - start)
    room = [start - 0.9 - margin, stop + 0.1 + margin]
    chart.update_xaxes(axis("layer"), showgrid=False, zeroline=False, tickvals=ticks, range=room)
    chart.update_yaxes(visible=False, range=_range(tall[first]) if first else [-1.0, 1.0])
    return chart


def _menu(owners: Sequence[tuple[str, str]], tall: dict[tuple[str, str], float], height: int) -> dict[str, Any]:
    buttons = [
        {
            "label": f"{key[0]}: {key[1]}",
            "method": "update",
            "args": [{"visible": [owner == key for owner in owners]}, {"yaxis.range": _range(size)}],
        }
        for key, size in tall.items()
    ]
    above = 1 + 60 / (height - 160)  # of the drawing, so that the legend has room below
    look = {"bgcolor": "#f5f5f2", "font": {"size": 12, "color": "#30343b"}, "direction": "down"}
    return {"buttons": buttons, "x": 0, "xanchor": "left", "y": above, "yanchor": "bottom", **look}


def _range(tall: float) -> list[float]:
    return [-tall - 0.8, tall + 0.9]


def _places(nodes: pd.DataFrame, ends: set[str]) -> dict[str, Place]:
    """Heads of a layer in one column, sorted by role, its MLP in the next."""
    columns: dict[float, list[str]] = {}
    for row in records(nodes.drop_duplicates("node").sort_values(["layer", "role", "head"], kind="stable")):
        columns.setdefault(row.layer + (0.0 if row.kind == "head" else TOWARDS), []).append(row.node)
    first, last = (int(nodes["layer"].min()), int(nodes["layer"].max())) if len(nodes) else (0, 0)
    for end, x in zip(ENDS, (first - 0.6, last + 0.9), strict=True):
        if end in ends:
            columns.setdefault(x, []).append(end)
    return {
        node: (x, place - (len(column) - 1) / 2) for x, column in columns.items() for place, node in enumerate(column)
    }


def _edges(edges: pd.DataFrame, places: dict[str, Place], unit: str, largest: float, towards: int) -> list[go.Scatter]:
    """Lines from sender to receiver: as wide as what flows along them; thin and grey where that was not measured."""
    rows = [r for r in records(edges) if r.sender in places and r.receiver in places]
    rows = sorted(rows, key=lambda r: (words.finite(r.effect), abs(r.score) if words.finite(r.score) else 0.0))[-LINES:]
    looks: dict[tuple[str, float], list[Any]] = {}
    for row in rows:
        known = words.finite(row.share) and words.finite(largest) and largest > 0
        step = min(STEPS, int(STEPS * abs(row.share) / largest)) if known else 0
        colour = side(row.effect, towards) if words.finite(row.effect) else NEUTRAL
        looks.setdefault((colour, THIN + step * (WIDE - THIN) / STEPS), []).append(row)
    found = []
    for (colour, width), own in looks.items():
        ends = [(places[row.sender], places[row.receiver]) for row in own]
        x: list[float | None] = [at for a, b in ends for at in (a[0], b[0], None)]
        y: list[float | None] = [at for a, b in ends for at in (a[1], b[1], None)]
        line = {"color": colour, "width": width}
        found.append(go.Scatter(x=x, y=y, mode="lines", line=line, opacity=0.55, hoverinfo="skip", showlegend=False))
    measured = [row for row in rows if words.finite(row.effect)]
    if measured:
        middle = [_middle(places[row.sender], places[row.receiver]) for row in measured]
        label = [
            f"{bold(f'{r.sender} → {r.receiver}')} {r.inputs}\n{r.measure} of this path alone\n"
            f"{words.ranged(r, 'effect', words.signed, unit)}, {words.percent(r.share)} of the effect"
            for r in measured
        ]
        marker = {"size": 5, "color": [side(row.effect, towards) for row in measured]}
        at = {"x": [x for x, _ in middle], "y": [y for _, y in middle]}
        found.append(go.Scatter(**at, mode="markers", marker=marker, showlegend=False, **said(label)))
    return [*found, *_ends(places)]


def _middle(start: Place, end: Place) -> Place:
    return (start[0] + end[0]) / 2, (start[1] + end[1]) / 2


def _ends(places: dict[str, Place]) -> list[go.Scatter]:
    """Tokens and logits, where edges lead there."""
    there = [end for end in ENDS if end in places]
    if not there:
        return []
    marker = {"symbol": "diamond", "size": 14, "color": "#f5f5f2", "line": {"color": NEUTRAL, "width": 2}}
    at = {"x": [places[end][0] for end in there], "y": [places[end][1] for end in there]}
    look = {"text": there, "textposition": "top center", "hoverinfo": "skip", "marker": marker, "showlegend": False}
    return [go.Scatter(**at, mode="markers+text", **look)]


def _nodes(rows: pd.DataFrame, places: dict[str, Place], unit: str, largest: float, towards: int) -> list[go.Scatter]:
    found = []
    for index, role in enumerate(dict.fromkeys(rows["role"])):
        own = rows[rows["role"] == role]
        there = own["reached"].astype(bool)
        for symbol, part in (("circle", own[there]), ("x-thin-open", own[~there])):
            if part.empty:
                continue
            sizes = [_size(share, largest) for share in part["share"]]
            rims = [side(effect, towards) if words.finite(effect) else NEUTRAL for effect in part["effect"]]
            line = {"color": rims, "width": [min(2.5, size / 7) for size in sizes]}
            at = [places[node] for node in part["node"]]
            found.append(
                go.Scatter(
                    x=[x for x, _ in at],
                    y=[y for _, y in at],
                    mode="markers+text" if len(rows) <= NAMED else "markers",
                    text=list(part["node"]),
                    textposition="top center",
                    textfont={"size": 11},
                    marker={
                        "symbol": symbol,
                        "size": sizes,
                        "color": ROLES[index % len(ROLES)],
                        "line": line,
                        "opacity": 1.0,
                    },
                    name=str(role) or "no role",
                    legendgroup=str(role),
                    showlegend=symbol == "circle" or not there.any(),
                    **said(_hover(part, unit)),
                )
            )
    return found


def _size(share: Any, largest: float) -> float:
    """Area by share, so that a glance does not mislead."""
    if not words.finite(share) or largest <= 0:
        return SMALLEST
    return float(max(SMALLEST, LARGEST * (abs(share) / largest) ** 0.5))


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
