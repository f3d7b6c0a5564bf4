"""How many trials are enough: the width of the intervals, and the order of the nodes, from the first trials on."""

import math
from html import escape

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.figures.lines import COLOUR, NAME, units
from steerscope.reports.records import records
from steerscope.reports.theme import CONTROL, axis, figure


def width(table: pd.DataFrame, unit: str) -> go.Figure:
    """Interval width against trials, both on log axes; dotted: as one over the root of the trials, from the last
    point.
    """
    chart = _empty(table)
    for outcome in NAME:
        rows = _of(table, outcome, "width")
        rows = rows[rows["width"] > 0]
        if rows.empty:
            continue
        last = rows.iloc[-1]
        chart.add_scatter(
            x=rows["trials"],
            y=[last["width"] * (last["trials"] / n) ** 0.5 for n in rows["trials"]],
            mode="lines",
            line={"color": CONTROL, "width": 1.3, "dash": "dot"},
            hoverinfo="skip",
            name="1/√trials",
            legendgroup="root",
            showlegend=outcome == "effect",
        )
        _add(chart, rows, "width", outcome, units(outcome, unit))
    ticks = _ticks(table["width"])
    chart.update_yaxes(
        axis("median interval width (log scale)"), type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks]
    )
    return chart


def _ticks(values: pd.Series) -> list[float]:
    """1, 2 and 5 of each power of ten, as far as the values reach."""
    found = values[values > 0]
    powers = range(math.floor(math.log10(float(found.min()))), math.ceil(math.log10(float(found.max()))) + 1)
    return [digit * 10.0**power for power in powers for digit in (1, 2, 5)]


def agreement(table: pd.DataFrame) -> go.Figure:
    """Rank correlation of the contributions with those of all trials."""
    chart = _empty(table)
    for outcome in NAME:
        _add(chart, _of(table, outcome, "agreement"), "agreement", outcome, "")
    low = min(0.0, float(table["agreement"].min(skipna=True)) - 0.05)
    chart.update_yaxes(axis("rank agreement with all trials"), range=[low, 1.04])
    return chart


def _of(table: pd.DataFrame, outcome: str, column: str) -> pd.DataFrame:
    return table[table["outcome"] == outcome].dropna(subset=[column]).sort_values("trials")


def _empty(table: pd.DataFrame) -> go.Figure:
    chart = figure(height=330, margin={"l": 66, "r": 14, "t": 34, "b": 50})
    counts = sorted(int(n) for n in table["trials"].unique())
    chart.update_xaxes(
        axis("trials (log scale)"), type="log", tickvals=counts, ticktext=[f"{n:,}" for n in counts], tickangle=0
    )
    chart.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    return chart


def _add(chart: go.Figure, rows: pd.DataFrame, column: str, outcome: str, unit: str) -> None:
    hover = [
        f"<b>{r.trials:,} trials</b><br>{NAME[outcome]}: {words.number(getattr(r, column))} {escape(unit)}"
        for r in records(rows)
    ]
    if len(rows):
        chart.add_scatter(
            x=rows["trials"],
            y=rows[column],
            mode="lines+markers",
            line={"color": COLOUR[outcome], "width": 2},
            marker={"size": 7},
            name=f"{NAME[outcome]} ({escape(unit)})" if unit else NAME[outcome],
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
        )
