"""Mean contribution of the nodes of each layer, by kind."""

from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.figures.lines import line
from steerscope.reports.records import records
from steerscope.reports.theme import axis, figure

COLOUR = {"head": "#2f7bbf", "attention": "#2f7bbf", "mlp": "#c4501b"}
NAME = {"head": "heads", "attention": "attention, all heads", "mlp": "MLPs"}


def trends(table: pd.DataFrame, unit: str) -> go.Figure:
    """One outcome's lines over layers with their intervals."""
    chart = figure(height=330, margin={"l": 66, "r": 14, "t": 34, "b": 48})
    rows = table[table["layer"].notna()].astype({"layer": int})
    for kind in rows["kind"].unique():
        own = rows[rows["kind"] == kind]
        hover = [_hover(r, unit) for r in records(own.sort_values("layer"))]
        line(chart, own, "layer", "contribution", COLOUR[kind], hover=hover, name=NAME[kind], shown=True)
    layers = sorted(rows["layer"].unique())
    chart.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    chart.update_xaxes(
        axis("layer"),
        zeroline=False,
        tickvals=layers[:: max(1, -(-len(layers) // 16))],
        range=[min(layers) - 0.3, max(layers) + 0.3],
    )
    chart.update_yaxes(axis(f"mean contribution ({unit})"))
    return chart


def _hover(row: Any, unit: str) -> str:
    return (
        f"<b>layer {row.layer}, {NAME[row.kind]}</b> (mean of {row.nodes})<br>"
        f"{words.signed(row.contribution)} {escape(unit)}{words.between(row.low, row.high)}<br>{words.p_value(row.p)}"
    )
