"""Names with points beside them: a mark with its interval for each measure, over the band of its references."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports.theme import GRID, REFERENCE, axis, bars, said


def dots(
    chart: go.Figure,
    rows: pd.DataFrame,
    at: Sequence[float],
    column: str,
    hover: Sequence[str],
    *,
    colour: Any,
    ends: tuple[str, str] | None = None,
    whisker: str = "",
    symbol: Any = "circle",
    **more: Any,
) -> None:
    """One point a row at the heights `at`; the interval in the columns `ends`, by default those named after it."""
    low, high = ends or (f"{column}_low", f"{column}_high")
    marker = {"size": 9, "color": colour, "symbol": symbol, **more.pop("marker", {})}
    interval = bars(rows[column], rows[low], rows[high], whisker or colour)
    chart.add_scatter(
        x=rows[column], y=list(at), mode="markers", marker=marker, error_x=interval, **said(hover), **more
    )


def bands(
    chart: go.Figure,
    at: Sequence[float],
    low: Any,
    high: Any,
    half: float,
    opacity: float = 0.35,
    colour: str = REFERENCE,
    edge: float = 0,
) -> None:
    """The references' bands behind the points, where there are any.

    Args:
        edge: width of the line around them.
    """
    line = {"width": edge, "color": colour}
    for y, x0, x1 in zip(at, low, high, strict=True):
        if pd.notna(x0) and pd.notna(x1):
            box = {"x0": x0, "x1": x1, "y0": y - half, "y1": y + half, "fillcolor": colour, "line": line}
            chart.add_shape(type="rect", opacity=opacity, layer="below", **box)


def named(chart: go.Figure, name: str, colour: str, symbol: str = "square", opacity: float = 1.0) -> None:
    """A line of the legend, on a trace without points."""
    look = {"size": 10, "color": colour, "symbol": symbol, "opacity": opacity}
    chart.add_scatter(x=[None], y=[None], mode="markers", name=name, marker=look, hoverinfo="skip", showlegend=True)


def names(chart: go.Figure, labels: Sequence[str], **more: Any) -> None:
    """A name at each whole height, from the top down."""
    places = {"tickvals": list(range(len(labels))), "ticktext": list(labels), "range": [len(labels) - 0.5, -0.5]}
    chart.update_yaxes(axis(), **{**places, "showgrid": False, "zeroline": False, **more})


def none_and_all(chart: go.Figure, title: str) -> None:
    """An axis of shares, with lines at 0 and 1."""
    chart.add_vline(x=0, line_width=1, line_color=GRID, line_dash="solid")
    chart.add_vline(x=1, line_width=1, line_color=REFERENCE, line_dash="dot")
    chart.update_xaxes(axis(title), tickformat=".0%", zeroline=False)
