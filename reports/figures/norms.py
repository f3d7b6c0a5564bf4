"""Quantities at every norm of the model, in order: lines with bands, and the split of the normalized stream as bars."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.figures.coefficient import COLOURS
from steerscope.reports.figures.lines import line
from steerscope.reports.records import records
from steerscope.reports.theme import CONTROL, GRID, axis, figure

PARTS = {
    "rest": ("clean stream", "#9aa3ad"),
    "vector": ("the vector", "#c4501b"),
    "response": ("what nodes wrote because of it", "#2f7bbf"),
}


def order(table: pd.DataFrame) -> list[tuple[int, str]]:
    """The norms as they come: attention before MLP, the final one last."""
    rank = {"attention": 0, "mlp": 1, "final": 2}
    found = set(zip(table["layer"], table["norm"], strict=True))
    return sorted(found, key=lambda item: (item[0], rank.get(item[1], 3)))


def short(norm: tuple[int, str]) -> str:
    """`L0A`, `L0M`, `end`."""
    layer, name = norm
    return "end" if name == "final" else f"L{layer}{dict(attention='A', mlp='M').get(name, name)}"


def _names(norms: Sequence[tuple[int, str]]) -> list[str]:
    return [short(norm) for norm in norms]


def along(
    table: pd.DataFrame, series: Mapping[str, tuple[str, str]], title: str, log: bool = False, control: bool = False
) -> go.Figure:
    """A line for each entry of `series`: name -> (quantity, where).

    Args:
        control: whether the random vectors' band is drawn behind.
    """
    norms = order(table)
    chart = figure(
        height=320,
        margin={"l": 62, "r": 14, "t": 34, "b": 46},
        showlegend=True,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    )
    for (name, (quantity, where)), colour in zip(series.items(), cycle(COLOURS), strict=False):
        rows = table[(table["quantity"] == quantity) & (table["where"] == where)]
        rows = rows.assign(x=[norms.index(item) for item in zip(rows["layer"], rows["norm"], strict=True)]).sort_values(
            "x"
        )
        if rows.empty:
            continue
        if control and rows["control"].notna().any():
            chart.add_scatter(
                x=rows["x"],
                y=rows["control"],
                mode="lines",
                line={"color": CONTROL, "width": 1.4, "dash": "dot"},
                name=f"random: {escape(name)}",
                hoverinfo="skip",
            )
        hover = [
            (
                f"<b>{escape(name)}</b>, "
                f"{_names([(r.layer, r.norm)])[0]}<br>{words.number(r.value)}{words.between(r.low, r.high)}<br>random "
                f"vectors {words.number(r.control)}{words.between(r.control_low, r.control_high)}"
            )
            for r in records(rows)
        ]
        line(chart, rows, "x", "value", colour, hover=hover, name=escape(name), shown=True)
    chart.update_xaxes(
        axis("norm (A attention, M MLP)"),
        tickvals=list(range(len(norms))),
        ticktext=_names(norms),
        tickangle=-45 if len(norms) > 12 else 0,
    )
    chart.update_yaxes(axis(title), **({"type": "log"} if log else {"rangemode": "tozero"}))
    return chart


def split(table: pd.DataFrame, where: str) -> go.Figure:
    """What the normalized stream is made of at each norm; bars add up to 1."""
    norms = order(table)
    chart = figure(
        height=320,
        margin={"l": 62, "r": 14, "t": 34, "b": 46},
        barmode="relative",
        showlegend=True,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    )
    for part, (name, colour) in PARTS.items():
        rows = table[(table["quantity"] == part) & (table["where"] == where)]
        if rows.empty:
            continue
        at = [norms.index(item) for item in zip(rows["layer"], rows["norm"], strict=True)]
        hover = [
            (
                f"<b>{name}</b>, "
                f"{_names([(r.layer, r.norm)])[0]}<br>{words.percent(r.value)}"
                f"{words.between(r.low, r.high, words.percent)}<br>random "
                f"vectors {words.percent(r.control)}"
            )
            for r in records(rows)
        ]
        chart.add_bar(
            x=at,
            y=rows["value"],
            name=name,
            marker_color=colour,
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
        )
    chart.add_hline(y=1, line_width=1, line_color=GRID)
    chart.update_xaxes(
        axis("norm (A attention, M MLP)"),
        tickvals=list(range(len(norms))),
        ticktext=_names(norms),
        tickangle=-45 if len(norms) > 12 else 0,
    )
    chart.update_yaxes(axis("share of the normalized stream"), tickformat=".0%")
    return chart
