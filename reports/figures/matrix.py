"""Interactions of pairs as a symmetric matrix, nodes in the order of the model."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.figures.heatmap import Hover, add_bar
from steerscope.reports.records import records
from steerscope.reports.theme import axis, bold, diverging, figure, said

SHOWN = 40
ROOM = 12  # nodes whose numbers fit into the cells
UNSEEN = "#d5d8dc"


def strongest(pairs: pd.DataFrame, most: int = SHOWN) -> list[str]:
    """Nodes of the most significant or largest interactions, in the order of the model.

    Outcomes have units of their own, so each interaction counts relative to the largest of its outcome.
    """
    largest = pairs.groupby("outcome")["interaction"].transform(lambda column: column.abs().max())
    size = pairs["interaction"].abs() / largest.where(largest > 0, 1.0)
    order = pairs.assign(size=size).sort_values(["significant", "size"], ascending=False)
    chosen: dict[str, None] = {}
    for first, second in zip(order["first"], order["second"], strict=True):
        if len({*chosen, first, second}) <= most:
            chosen |= {first: None, second: None}
        if len(chosen) >= most - 1:
            break
    return sorted(chosen, key=_place)


def matrix(
    pairs: pd.DataFrame,
    nodes: Sequence[str],
    unit: str,
    describe: Hover | None = None,
    *,
    towards: int = 1,
    numbers: bool = False,
) -> go.Figure:
    """One outcome's interactions between some nodes; what is not significant is muted, what was not seen grey.

    Args:
        numbers: whether they stand in the cells, where there is room.
        towards: the sign of the whole effect.
    """
    describe = describe or _hover
    at = {node: i for i, node in enumerate(nodes)}
    rows = pairs[pairs["first"].isin(at) & pairs["second"].isin(at)]
    limit = float(rows["interaction"].abs().max()) if len(rows) else 1.0
    side = 92 + max(13 * len(nodes), 300)
    chart = figure(height=side, margin={"l": 52, "r": 10, "t": 10, "b": 52}, plot_bgcolor="#ffffff")
    seen = np.eye(len(nodes), dtype=bool)
    for significant, opacity in ((False, 0.35), (True, 1.0)):
        z, text = np.full(seen.shape, np.nan), np.full(seen.shape, "", dtype=object)
        for row in records(rows[rows["significant"] == significant]):
            for i, j in ((at[row.first], at[row.second]), (at[row.second], at[row.first])):
                z[i, j], text[i, j], seen[i, j] = row.interaction, describe(row, unit), True
        shown = [[words.short(value) if math.isfinite(value) else "" for value in line] for line in z]
        chart.add_heatmap(
            z=z,
            **said(text),
            hoverongaps=False,
            opacity=opacity,
            xgap=1,
            ygap=1,
            colorscale=diverging(towards),
            zmin=-(limit or 1.0),
            zmax=limit or 1.0,
            showscale=False,
            **({"text": shown, "texttemplate": "%{text}"} if numbers and len(nodes) <= ROOM else {}),
        )
    chart.add_heatmap(
        z=np.where(seen, np.nan, 1.0),
        colorscale=[[0, UNSEEN], [1, UNSEEN]],
        showscale=False,
        xgap=1,
        ygap=1,
        hoverinfo="skip",
    )
    add_bar(chart, limit or 1.0, towards)
    _add_layers(chart, nodes)
    ticks: dict[str, Any] = {
        "tickvals": list(range(len(nodes))),
        "ticktext": [n for n in nodes],
        "showgrid": False,
        "zeroline": False,
        "tickfont": {"size": 11 if len(nodes) <= 24 else 9},
        "range": [-0.5, len(nodes) - 0.5],
    }
    chart.update_xaxes(axis(), tickangle=-90, **ticks)
    chart.update_yaxes(axis(), **(ticks | {"range": [len(nodes) - 0.5, -0.5]}))
    return chart


def _place(node: str) -> tuple[int, int, int]:
    """Layer, then heads by number, then what stands for a whole layer."""
    match = re.fullmatch(r"L(\d+)(?:H(\d+)|(M|A))", node)
    if match is None:
        return (10**9, 0, 0)
    return int(match[1]), {"A": 1, "M": 2}.get(match[3] or "", 0), int(match[2] or 0)


def _add_layers(chart: go.Figure, nodes: Sequence[str]) -> None:
    """A line between layers."""
    layers = [_place(node)[0] for node in nodes]
    for i, (before, after) in enumerate(zip(layers, layers[1:], strict=False)):
        if before != after:
            for way in ("x", "y"):
                ends = {f"{way}0": i + 0.5, f"{way}1": i + 0.5}
                other = "y" if way == "x" else "x"
                chart.add_shape(
                    type="line",
                    **ends,
                    **{f"{other}0": -0.5, f"{other}1": len(nodes) - 0.5},
                    line={"color": "#9aa0a8", "width": 0.7},
                )


def _hover(row: Any, unit: str) -> str:
    return "\n".join(
        [
            bold(f"{row.first} and {row.second}"),
            f"{words.signed(row.interaction)} {unit} beyond the sum{words.between(row.low, row.high)}",
            f"{words.p_value(row.p_adjusted)} (adjusted), together in {row.together:,} trials",
        ]
    )
