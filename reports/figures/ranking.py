"""The strongest nodes with error bars, each over the band of its controls."""

from html import escape

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports.figures.heatmap import Hover, hover
from steerscope.reports.records import largest, records
from steerscope.reports.theme import CONTROL, NEGATIVE, NEUTRAL, POSITIVE, axis, figure

SHOWN = 20


def ranking(
    table: pd.DataFrame,
    unit: str,
    limits: tuple[float, float] | None = None,
    *,
    describe: Hover = hover,
    title: str = "effect",
) -> go.Figure:
    """One measure's nodes, by the size of their effect: at most 20, those without any effect left out.

    Args:
        table: as for `heatmap`, with low, high, control_low and control_high; without a control there is no band.
        title: of the axis.
    """
    rows = largest(table[table["effect"] != 0], SHOWN)
    chart = figure(height=90 + 24 * max(4, len(rows)), margin={"l": 70, "r": 14, "t": 8, "b": 46})
    rows = rows.assign(name=[escape(str(node)) for node in rows["node"]])
    for row in records(rows.dropna(subset=["control_low", "control_high"])):
        chart.add_shape(
            type="rect",
            x0=row.control_low,
            x1=row.control_high,
            xref="x",
            yref="y",
            y0=row.name,
            y1=row.name,
            y0shift=-0.32,
            y1shift=0.32,
            fillcolor=CONTROL,
            opacity=0.4,
            line_width=0,
            layer="below",
        )
    colour = [
        NEUTRAL if not s else POSITIVE if e > 0 else NEGATIVE
        for e, s in zip(rows["effect"], rows["significant"], strict=True)
    ]
    chart.add_scatter(
        x=rows["effect"],
        y=rows["name"],
        mode="markers",
        customdata=[describe(r, unit) for r in records(rows)],
        hovertemplate="%{customdata}<extra></extra>",
        marker={"size": 9, "color": colour, "symbol": ["circle" if s else "circle-open" for s in rows["significant"]]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": rows["high"] - rows["effect"],
            "arrayminus": rows["effect"] - rows["low"],
            "thickness": 1.5,
            "width": 3,
            "color": NEUTRAL,
        },
    )
    chart.update_xaxes(axis(f"{title} ({unit})"), zeroline=True, range=limits)
    chart.update_yaxes(axis(), autorange="reversed", type="category")
    return chart
