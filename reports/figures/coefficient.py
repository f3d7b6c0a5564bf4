"""Anything against the coefficient: a signed logarithmic axis with both infinities at its ends."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import isinf, log10

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.figures.lines import COLOURS, band, line
from steerscope.reports.records import records
from steerscope.reports.theme import GRID, LEGEND, NEUTRAL, REFERENCE, axis, bars, bold, figure, said

FIRST = -2.0  # log10 of the size below which the axis is no longer logarithmic
GAP = 0.8  # between the largest coefficient and infinity
TICKS = (0.1, 10.0, 1000.0)


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

    def apply(self, chart: go.Figure, title: str) -> None:
        """Ticks and title."""
        sizes = [t for t in TICKS if t <= self.largest * 1.01]
        ticks = [s * t for s in sorted(self.signs) for t in sizes] + [0.0, *self.ends]
        places, names = [self.at(t) for t in ticks], [_tick(t) for t in ticks]
        chart.update_xaxes(axis(title), tickvals=places, ticktext=names, tickangle=0, zeroline=False)


def _tick(c: float) -> str:
    if isinf(c):
        return "∞" if c > 0 else "−∞"
    return f"{c:,g}".replace("-", "−")


def curves(
    series: Mapping[str, pd.DataFrame],
    unit: str,
    *,
    title: str,
    along: str = "coefficient",
    reference: pd.DataFrame | None = None,
    marks: Mapping[str, float] | None = None,
    percent: bool = False,
    legend: bool = True,
) -> go.Figure:
    """Lines with bands over the coefficient, limits as dots at infinity joined by a dotted line.

    Args:
        series: by name, frames with coefficient, value, low, high. title: of the vertical axis, `along` of the other.
        reference: coefficient, reference, reference_low, reference_high: drawn in grey.
        marks: vertical lines, by name.
        percent: whether values are shares.
    """
    place = Axis(pd.concat(list(series.values()))["coefficient"].tolist())
    show = words.percent if percent else words.number
    look = {**LEGEND, "showlegend": legend}
    chart = figure(height=330, margin={"l": 62, "r": 14, "t": 34, "b": 46}, **look)
    if reference is not None and reference["reference"].notna().any():
        _reference(chart, reference, place)
    for (name, rows), colour in zip(series.items(), cycle(COLOURS), strict=False):
        rows = rows.sort_values("coefficient").assign(x=[place.at(c) for c in sorted(rows["coefficient"])])
        hover = [
            f"{bold(name)} at {_tick(r.coefficient)}\n{show(r.value)}{words.between(r.low, r.high, show)} {unit}"
            for r in records(rows)
        ]
        finite = [not isinf(c) for c in rows["coefficient"]]
        labels = [h for h, f in zip(hover, finite, strict=True) if f]
        line(chart, rows[finite], "x", "value", colour, hover=labels, name=name, shown=True)
        _limits(chart, rows, hover, colour, name)
    chart.update_traces(marker_size=4, selector={"mode": "lines+markers"})
    for name, c in (marks or {}).items():
        text = {"annotation_text": name, "annotation_font_size": 11, "annotation_position": "top left"}
        chart.add_vline(x=place.at(c), line_width=1, line_dash="dash", line_color=NEUTRAL, **text)
    chart.add_hline(y=0, line_width=1, line_color=GRID)
    place.apply(chart, along)
    chart.update_yaxes(axis(f"{title} ({unit})" if unit else title), **({"tickformat": ".0%"} if percent else {}))
    return chart


def _limits(chart: go.Figure, rows: pd.DataFrame, hover: Sequence[str], colour: str, name: str) -> None:
    """The exact limits, each with a dotted line from the last finite point."""
    for i in (i for i, c in enumerate(rows["coefficient"]) if isinf(c)):
        near, own = i - 1 if rows["coefficient"].iloc[i] > 0 else i + 1, rows.iloc[[i]]
        if 0 <= near < len(rows):
            ends = rows.iloc[[near, i]]
            dots = {"color": colour, "dash": "dot", "width": 1.5}
            chart.add_scatter(
                x=ends["x"],
                y=ends["value"],
                mode="lines",
                line=dots,
                hoverinfo="skip",
                showlegend=False,
                legendgroup=name,
            )
        chart.add_scatter(
            x=own["x"],
            y=own["value"],
            mode="markers",
            marker={"size": 9, "symbol": "diamond", "color": colour},
            error_y=bars(own["value"], own["low"], own["high"], colour),
            showlegend=False,
            legendgroup=name,
            **said([hover[i]]),
        )


def _reference(chart: go.Figure, rows: pd.DataFrame, place: Axis) -> None:
    rows = rows[rows["reference"].notna()].sort_values("coefficient")
    rows = rows.assign(x=[place.at(c) for c in rows["coefficient"]])
    band(chart, rows, "x", "reference_low", "reference_high", "rgba(150,155,165,0.22)")
    thin = {"color": REFERENCE, "width": 1.5}
    chart.add_scatter(
        x=rows["x"], y=rows["reference"], mode="lines", name="reference vectors", line=thin, hoverinfo="skip"
    )
