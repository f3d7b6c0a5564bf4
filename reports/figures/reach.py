"""Specific or general: a node's share of the real vector's own change against its share of random vectors' own
changes.
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.records import records
from steerscope.reports.theme import CONTROL, NEUTRAL, POSITIVE, axis, figure

COLOUR = {"specific": POSITIVE, "general": "#5b6b7a", "none": NEUTRAL}


def reach(table: pd.DataFrame) -> go.Figure:
    """Nodes of one measure; on the diagonal a node carries as much of this vector as of any other."""
    rows = table[(table["own_share"] != 0) | (table["own_control"] != 0)]
    chart = figure(height=380)
    values = np.concatenate([rows["own_share"], rows["own_control_low"], rows["own_control_high"], [0.0]])
    values = values[np.isfinite(values)]
    low, high = values.min() - 0.03, values.max() * 1.08 + 0.03
    chart.add_shape(
        type="line", x0=low, y0=low, x1=high, y1=high, line={"color": CONTROL, "width": 1, "dash": "dot"}, layer="below"
    )
    order = rows["own_share"].abs().sort_values(ascending=False).index
    named = set(rows.loc[order[:5], "node"]) & set(rows[rows["significant"]]["node"])
    for kind in ("none", "general", "specific"):
        part = rows[rows["reach"] == kind]
        chart.add_scatter(
            x=part["own_control"],
            y=part["own_share"],
            mode="markers+text",
            name=kind,
            textposition="top center",
            text=[n if n in named else "" for n in part["node"]],
            marker={"size": 9, "color": COLOUR[kind], "symbol": "circle-open" if kind == "none" else "circle"},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": part["own_control_high"] - part["own_control"],
                "arrayminus": part["own_control"] - part["own_control_low"],
                "thickness": 0.8,
                "width": 0,
                "color": CONTROL,
            },
            customdata=[
                f"<b>{r.node}</b> {r.reach}<br>{words.percent(r.own_share)} of this vector's own change<br>"
                f"{words.percent(r.own_control)}{words.between(r.own_control_low, r.own_control_high, words.percent)} "
                "of random vectors' own<br>"
                f"{words.p_value(r.p_own_adjusted)} (adjusted)"
                for r in records(part)
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    chart.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.08, "x": 0})
    chart.update_xaxes(
        axis("share of random vectors' own changes (mean and band)"), tickformat=".0%", range=[low, high]
    )
    chart.update_yaxes(axis("share of this vector's own change"), tickformat=".0%", range=[low, high])
    return chart
