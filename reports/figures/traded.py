"""Effect against damage along the knob of each way to inject."""

from html import escape
from itertools import cycle

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.figures.coefficient import COLOURS
from steerscope.reports.records import records
from steerscope.reports.theme import NEUTRAL, axis, figure


def traded(
    table: pd.DataFrame, by: str, x: str, y: str, titles: tuple[str, str], target: float | None = None
) -> go.Figure:
    """A line for each value of the column `by`; lower at the same effect is better.

    Args:
        target: an effect at which all are compared.
    """
    chart = figure(
        height=380,
        margin={"l": 62, "r": 14, "t": 52, "b": 50},
        showlegend=True,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    )
    for name, colour in zip(dict.fromkeys(table[by]), cycle(COLOURS), strict=False):
        rows = table[table[by] == name]
        knob = rows["knob"] if "knob" in rows else rows["coefficient"]
        hover = [
            (
                f"<b>{escape(str(name))}</b>, {words.number(k)}<br>{escape(titles[0])} "
                f"{words.number(getattr(r, x))}<br>{escape(titles[1])} {words.number(getattr(r, y))}"
            )
            for r, k in zip(records(rows), knob, strict=True)
        ]
        chart.add_scatter(
            x=[0, *rows[x]],
            y=[0, *rows[y]],
            mode="lines+markers",
            name=escape(str(name)),
            line={"color": colour, "width": 2},
            marker={"size": 5, "color": colour},
            customdata=["none", *hover],
            hovertemplate="%{customdata}<extra></extra>",
        )
    if target is not None:
        chart.add_vline(x=target, line_width=1, line_dash="dash", line_color=NEUTRAL)
    chart.update_xaxes(axis(titles[0]))
    chart.update_yaxes(axis(titles[1]))
    return chart
