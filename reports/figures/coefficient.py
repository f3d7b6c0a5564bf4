"""Anything against the coefficient: a signed logarithmic axis with both infinities at its ends."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle
from math import isinf, log10

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.figures.lines import line
from steerscope.reports.records import records
from steerscope.reports.theme import CONTROL, GRID, NEUTRAL, axis, figure

FIRST = -2.0  # log10 of the size below which the axis is no longer logarithmic
GAP = 0.8  # between the largest coefficient and infinity
TICKS = (0.1, 10.0, 1000.0)
COLOURS = ("#c4501b", "#2f7bbf", "#8f63ad", "#4f8f4f", "#b08a1e", "#5f666f", "#b84a7a", "#3b9c9c")


class Axis:
    """Where coefficients stand on the axis."""

    def __init__(self, coefficients: Sequence[float]) -> None:
        finite = [abs(c) for c in coefficients if not isinf(c) and c]
        self.largest = max(finite, default=1.0)
        self.ends = [c for c in coefficients if isinf(c)]
        self.signs = {(c > 0) - (c < 0) for c in coefficients if c}

    def at(self, c: float) -> float:
        """The place of a coefficient."""
        sign = (c > 0) - (c < 0)
        size = self.largest if isinf(c) else abs(c)
        place = max(0.0, log10(size) - FIRST + 1) if size >= 10**FIRST else size / 10**FIRST
        return sign * (place + (GAP if isinf(c) else 0.0))

    def apply(self, chart: go.Figure, title: str = "coefficient", **where: int) -> None:
        """Ticks and title."""
        sizes = [t for t in TICKS if t <= self.largest * 1.01]
        ticks = [s * t for s in sorted(self.signs) for t in sizes] + [0.0, *self.ends]
        chart.update_xaxes(
            axis(title),
            tickvals=[self.at(t) for t in ticks],
            ticktext=[_tick(t) for t in ticks],
            tickangle=0,
            zeroline=False,
            **where,
        )


def _tick(c: float) -> str:
    if isinf(c):
        return "∞" if c > 0 else "−∞"
    return f"{c:,g}".replace("-", "−")


def curves(
    series: Mapping[str, pd.DataFrame],
    unit: str,
    *,
    title: str,
    control: pd.DataFrame | None = None,
    marks: Mapping[str, float] | None = None,
    percent: bool = False,
    height: int = 330,
    legend: bool = True,
) -> go.Figure:
    """Lines with bands over the coefficient, limits as dots at infinity joined by a dotted line.

    Args:
        series: by name, frames with coefficient, value, low, high. title: of the vertical axis.
        control: coefficient, control, control_low, control_high: drawn in grey.
        marks: vertical lines, by name.
        percent: whether values are shares.
    """
    everything = pd.concat(list(series.values()))
    place = Axis(everything["coefficient"].tolist())
    show = words.percent if percent else words.number
    chart = figure(
        height=height,
        margin={"l": 62, "r": 14, "t": 34, "b": 46},
        showlegend=legend,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    )
    if control is not None and control["control"].notna().any():
        _control(chart, control, place)
    for (name, rows), colour in zip(series.items(), cycle(COLOURS), strict=False):
        rows = rows.sort_values("coefficient").assign(x=[place.at(c) for c in sorted(rows["coefficient"])])
        hover = [
            (
                f"<b>{escape(name)}</b> at "
                f"{_tick(r.coefficient)}<br>{show(r.value)}{words.between(r.low, r.high, show)} {escape(unit)}"
            )
            for r in records(rows)
        ]
        finite = [not isinf(c) for c in rows["coefficient"]]
        labels = [h for h, f in zip(hover, finite, strict=True) if f]
        line(chart, rows[finite], "x", "value", colour, hover=labels, name=name, shown=True)
        _limits(chart, rows, hover, colour, name)
    chart.update_traces(marker_size=4, selector={"mode": "lines+markers"})
    for name, c in (marks or {}).items():
        chart.add_vline(
            x=place.at(c),
            line_width=1,
            line_dash="dash",
            line_color=NEUTRAL,
            annotation_text=escape(name),
            annotation_font_size=11,
            annotation_position="top left",
        )
    chart.add_hline(y=0, line_width=1, line_color=GRID)
    place.apply(chart)
    chart.update_yaxes(axis(f"{title} ({unit})" if unit else title), **({"tickformat": ".0%"} if percent else {}))
    return chart


def _limits(chart: go.Figure, rows: pd.DataFrame, hover: Sequence[str], colour: str, name: str) -> None:
    """The exact limits, each with a dotted line from the last finite point."""
    at = [i for i, c in enumerate(rows["coefficient"]) if isinf(c)]
    for i in at:
        near = i - 1 if rows["coefficient"].iloc[i] > 0 else i + 1
        chart.add_scatter(
            x=rows["x"].iloc[[near, i]],
            y=rows["value"].iloc[[near, i]],
            mode="lines",
            line={"color": colour, "dash": "dot", "width": 1.5},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=name,
        )
        low, high = rows["low"].iloc[i], rows["high"].iloc[i]
        value = rows["value"].iloc[i]
        chart.add_scatter(
            x=[rows["x"].iloc[i]],
            y=[value],
            mode="markers",
            marker={"size": 9, "symbol": "diamond", "color": colour},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [high - value],
                "arrayminus": [value - low],
                "thickness": 1.5,
                "width": 3,
                "color": colour,
            },
            customdata=[hover[i]],
            hovertemplate="%{customdata}<extra></extra>",
            showlegend=False,
            legendgroup=name,
        )


def _control(chart: go.Figure, rows: pd.DataFrame, place: Axis) -> None:
    rows = rows[rows["control"].notna()].sort_values("coefficient")
    x = [place.at(c) for c in rows["coefficient"]]
    chart.add_scatter(
        x=[*x, *x[::-1]],
        y=[*rows["control_high"], *rows["control_low"][::-1]],
        fill="toself",
        fillcolor="rgba(150,155,165,0.22)",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
    )
    chart.add_scatter(
        x=x,
        y=rows["control"],
        mode="lines",
        name="random vectors",
        line={"color": CONTROL, "width": 1.5},
        hoverinfo="skip",
    )
