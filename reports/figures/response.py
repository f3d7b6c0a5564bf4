"""Response: nodes at each k and coefficient, as small multiples; and the dose curve of whole trials."""

from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports.figures.lines import COLOUR, NAME, levels, line, units
from steerscope.reports.theme import CONTROL, POSITIVE, axis, figure

ALONG = {"k": "k (nodes)", "coefficient": "coefficient"}
OUTCOMES = ("effect", "kl", "loss")
ROW = 150


def response(table: pd.DataFrame, nodes: Sequence[str], unit: str) -> go.Figure:
    """A column a node, a row for each outcome over each of k and coefficient; a row shares its scale."""
    rows = [
        (by, outcome)
        for by in ALONG
        for outcome in OUTCOMES
        if ((table["by"] == by) & (table["outcome"] == outcome)).any()
    ]
    chart = figure(height=70 + (ROW + 34) * len(rows), margin={"l": 74, "r": 12, "t": 30, "b": 52})
    chart.set_subplots(
        rows=len(rows),
        cols=len(nodes),
        shared_yaxes="rows",
        horizontal_spacing=0.012,
        vertical_spacing=min(0.14, 0.34 / len(rows)),
        subplot_titles=[escape(node) for node in nodes],
    )
    chart.update_annotations(font_size=13)
    for i, (by, outcome) in enumerate(rows, 1):
        part = table[(table["by"] == by) & (table["outcome"] == outcome)]
        for j, node in enumerate(nodes, 1):
            own, of = part[part["node"] == node], units(outcome, unit)
            hover = levels(own, "contribution", escape(of), f"<b>{escape(node)}</b><br>")
            line(chart, own, "level", "contribution", COLOUR[outcome], hover=hover, place={"row": i, "col": j})
            middle = j == (len(nodes) + 1) // 2
            chart.update_xaxes(axis(ALONG[by] if middle else "", **_ticks(part, 4)), row=i, col=j)
            title = f"{NAME[outcome]} ({of})" if j == 1 else ""
            chart.update_yaxes(axis(title, nticks=5, rangemode="tozero"), row=i, col=j)
    return chart


def _ticks(table: pd.DataFrame, most: int) -> dict[str, Any]:
    """Whole numbers where there are few of them."""
    levels = table["level"]
    return (
        {"dtick": 1}
        if 1 < levels.nunique() and levels.max() - levels.min() < most and (levels % 1 == 0).all()
        else {"nticks": most}
    )


def dose(table: pd.DataFrame, unit: str) -> go.Figure:
    """Mean outcomes of whole trials, real against random vectors: a column an outcome, a row for k and coefficient."""
    ways = [by for by in ALONG if (table["by"] == by).any()]
    outcomes = [o for o in OUTCOMES if (table["outcome"] == o).any()]
    chart = figure(height=60 + 250 * len(ways), margin={"l": 66, "r": 12, "t": 34, "b": 52})
    chart.set_subplots(rows=len(ways), cols=len(outcomes), horizontal_spacing=0.075, vertical_spacing=0.2)
    for i, by in enumerate(ways, 1):
        for j, outcome in enumerate(outcomes, 1):
            part, of = (table[(table["by"] == by) & (table["outcome"] == outcome)], units(outcome, unit))
            for vector, colour in (("random", CONTROL), ("real", POSITIVE)):
                own = part[part["vector"] == vector]
                hover = levels(own, "mean", escape(of), f"<b>{vector} vectors</b><br>")
                if len(own):
                    line(
                        chart,
                        own,
                        "level",
                        "mean",
                        colour,
                        hover=hover,
                        name=f"{vector} vectors",
                        shown=i == j == 1,
                        place={"row": i, "col": j},
                    )
            chart.update_xaxes(axis(ALONG[by], **_ticks(part, 8)), row=i, col=j)
            chart.update_yaxes(axis(f"{NAME[outcome]} ({of})", nticks=6, rangemode="tozero"), row=i, col=j)
    chart.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    return chart
