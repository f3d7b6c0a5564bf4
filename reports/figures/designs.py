"""Designs of trials side by side: mean outcomes, and the fair difference of horizontal and vertical."""

from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.figures.lines import NAME, units
from steerscope.reports.records import records
from steerscope.reports.theme import NEGATIVE, NEUTRAL, POSITIVE, axis, figure

DIFFERENCE = "horizontal - vertical"


def designs(table: pd.DataFrame, unit: str) -> go.Figure:
    """A column an outcome; each design's mean in grey, the difference at equal k and norm in colour, open where it may
    be zero.
    """
    outcomes = [o for o in NAME if (table["outcome"] == o).any()]
    order = sorted(table["design"].unique(), key=lambda name: name == DIFFERENCE)
    chart = figure(height=96 + 34 * len(order), margin={"l": 150, "r": 16, "t": 10, "b": 50})
    chart.set_subplots(rows=1, cols=len(outcomes), shared_yaxes=True, horizontal_spacing=0.04)
    for j, outcome in enumerate(outcomes, 1):
        rows = table[table["outcome"] == outcome].set_index("design").reindex(order).reset_index()
        of = units(outcome, unit)
        colour = [_colour(r) for r in records(rows)]
        chart.add_scatter(
            x=rows["mean"],
            y=[_name(d) for d in order],
            mode="markers",
            marker={
                "size": 9,
                "color": colour,
                "symbol": ["circle" if _clear(r) else "circle-open" for r in records(rows)],
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": rows["high"] - rows["mean"],
                "arrayminus": rows["mean"] - rows["low"],
                "thickness": 1.5,
                "width": 3,
                "color": NEUTRAL,
            },
            customdata=[_hover(r, of) for r in records(rows)],
            hovertemplate="%{customdata}<extra></extra>",
            row=1,
            col=j,
        )
        chart.update_xaxes(axis(f"{NAME[outcome]} ({of})", nticks=6, zeroline=True), rangemode="tozero", row=1, col=j)
        chart.update_yaxes(axis(), autorange="reversed", type="category", row=1, col=j)
    return chart


def _name(design: str) -> str:
    return "<b>horizontal − vertical</b>  " if design == DIFFERENCE else escape(f"mean of {design}  ")


def _colour(row: Any) -> str:
    if row.design != DIFFERENCE or not _clear(row):
        return NEUTRAL
    return POSITIVE if row.mean > 0 else NEGATIVE


def _clear(row: Any) -> bool:
    """Whether the interval of a difference leaves zero out; means are always filled."""
    return bool(row.design != DIFFERENCE or row.low * row.high > 0)


def _hover(row: Any, unit: str) -> str:
    return (
        f"<b>{escape(str(row.design))}</b>, {row.trials:,} trials<br>{words.signed(row.mean)} {escape(unit)}"
        f"{words.between(row.low, row.high)}<br>k {words.number(row.k)}, norm {words.number(row.norm)} stream norms"
    )
