"""Curves over a plain axis of coefficients: lines with bands for vectors, grey for random ones."""

from collections.abc import Mapping
from itertools import cycle

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.figures.lines import COLOURS, band, line
from steerscope.reports.records import records
from steerscope.reports.theme import GRID, LEGEND, REFERENCE, axis, bold, figure


def over(
    series: Mapping[str, pd.DataFrame], title: str, *, randoms: pd.DataFrame | None = None, percent: bool = False
) -> go.Figure:
    """Lines over the coefficient.

    Args:
        series: by name, frames with coefficient, value, low and high.
        title: of the vertical axis.
        randoms: coefficient, value, low, high: drawn in grey.
        percent: whether values are shares.
    """
    show = words.percent if percent else words.number
    chart = figure(height=330, margin={"l": 62, "r": 14, "t": 34, "b": 46}, **LEGEND)
    if randoms is not None:
        rows = randoms.sort_values("coefficient")
        band(chart, rows, "coefficient", "low", "high", "rgba(150,155,165,0.22)", mode="lines")
        thin = {"color": REFERENCE, "width": 1.5}
        middle = {"x": rows["coefficient"], "y": rows["value"]}
        chart.add_scatter(mode="lines", line=thin, name="random vectors", hoverinfo="skip", **middle)
    for (name, given), colour in zip(series.items(), cycle(COLOURS), strict=False):
        rows = given.sort_values("coefficient")
        hover = [
            f"{bold(name)} at {words.number(r.coefficient)}\n{show(r.value)}{words.between(r.low, r.high, show)}"
            for r in records(rows)
        ]
        line(chart, rows, "coefficient", "value", colour, hover=hover, name=name, shown=True)
    chart.add_hline(y=0, line_width=1, line_color=GRID)
    chart.update_xaxes(axis("coefficient"))
    chart.update_yaxes(axis(title), **({"tickformat": ".0%"} if percent else {}))
    return chart
