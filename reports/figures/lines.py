"""Lines with their intervals as bands, alone or in small multiples."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.records import records
from steerscope.reports.theme import LEGEND, REFERENCE, bars, figure, said

EFFECT, DISTURBANCE, LOSS = "#c4501b", "#2f7bbf", "#8f63ad"
COLOUR = {"effect": EFFECT, "kl": DISTURBANCE, "loss": LOSS}
NAME = {"effect": "effect", "kl": "disturbance", "loss": "loss"}
COLOURS = (EFFECT, DISTURBANCE, LOSS, "#4f8f4f", "#b08a1e", "#5f666f", "#b84a7a", "#3b9c9c")


def units(outcome: str, unit: str) -> str:
    """The unit of an outcome, where `unit` is the metric's."""
    return unit if outcome == "effect" else "nats"


def lines(
    series: Mapping[str, pd.DataFrame],
    x: str,
    y: str,
    describe: Callable[[str, Any], str],
    colours: Sequence[str] = COLOURS,
    dotted: str = "",
    reference: str = "",
    **layout: Any,
) -> go.Figure:
    """A line with its band for each name; axes are left to the caller.

    Args:
        describe: from a name and a row to its hover label.
        dotted: a column that is drawn dotted; in grey, if `reference` is its name in the legend (`random: {}`).
    """
    chart = figure(**{"height": 320, "margin": {"l": 62, "r": 14, "t": 34, "b": 46}, **LEGEND, **layout})
    for (name, rows), colour in zip(series.items(), cycle(colours), strict=False):
        rows = rows.sort_values(x)
        if dotted and rows[dotted].notna().any():
            chart.add_scatter(
                x=rows[x],
                y=rows[dotted],
                mode="lines",
                line={"color": REFERENCE if reference else colour, "width": 1.4, "dash": "dot"},
                name=reference.format(name),
                showlegend=bool(reference),
                hoverinfo="skip",
                legendgroup=None if reference else name,
            )
        hover = [describe(name, r) for r in records(rows)]
        line(chart, rows, x, y, colour, hover=hover, name=name, shown=True)
    return chart


def line(
    chart: go.Figure,
    rows: pd.DataFrame,
    x: str,
    y: str,
    colour: str,
    *,
    hover: Sequence[str],
    name: str = "",
    shown: bool = False,
    place: dict[str, int] | None = None,
) -> None:
    """Draws the column `y` over `x`, the interval from `low` to `high` as a band; single points have bars.

    Args:
        shown: whether the legend names it.
        place: row and column among small multiples.
    """
    rows = rows.sort_values(x).reset_index(drop=True)
    same: dict[str, Any] = {"legendgroup": name, **(place or {})}
    bounded = rows.dropna(subset=["low", "high"])
    if len(bounded) > 1:
        band(chart, bounded, x, "low", "high", clear(colour), mode="lines", **same)
    chart.add_scatter(
        x=rows[x],
        y=rows[y],
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"size": 6, "color": colour},
        error_y=bars(rows[y], rows["low"], rows["high"], colour) if len(rows) == 1 else None,
        name=name,
        showlegend=shown,
        **said(hover),
        **same,
    )


def band(chart: go.Figure, rows: pd.DataFrame, x: str, low: str, high: str, colour: str, **more: Any) -> None:
    """The area between two columns; `rows` in the order of `x`."""
    chart.add_scatter(
        x=[*rows[x], *rows[x][::-1]],
        y=[*rows[high], *rows[low][::-1]],
        fill="toself",
        fillcolor=colour,
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        **more,
    )


def levels(rows: pd.DataFrame, y: str, unit: str, head: str = "") -> list[str]:
    """Hover labels of a frame with columns by, level, trials, low and high."""
    return [
        f"{head}{r.by} {words.number(r.level)}\n{words.signed(getattr(r, y))} "
        f"{unit}{words.between(r.low, r.high)}\n{r.trials:,} trials"
        for r in records(rows.sort_values("level"))
    ]


def clear(colour: str, opacity: float = 0.18) -> str:
    """A colour that lets what is behind it through."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"
