"""A map of cells with names on both sides: nodes by places of a prompt, or by its tokens."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from steerscope.reports.records import records
from steerscope.reports.theme import CORNER, INK, MARKS, PALE, WHITE, axis, diverging, figure, said

GAP = 0.5  # before the columns that stand apart


def grid(
    table: pd.DataFrame,
    by: tuple[str, str],
    rows: Mapping[Any, str],
    columns: Mapping[Any, str],
    describe: Callable[[Any], str],
    *,
    value: str = "effect",
    limit: float,
    towards: int = 1,
    cell: Callable[[Any], str] | None = None,
    muted: Callable[[Any], bool] = lambda row: False,
    marked: Callable[[Any], str] = lambda row: "",
    apart: int = 0,
    title: str = "",
    tall: float = 0,
) -> go.Figure:
    """One cell for each row of a table; what is not there stays empty.

    Args:
        by: the columns that say where in the map a row of the table stands.
        rows, columns: names of what stands there, in order.
        describe, cell: from a row of the table to the hover label and the text of its cell.
        limit: the ends of the colour scale; what is beyond has its ends' colours.
        towards: the sign of the whole effect.
        muted: whether a cell is pale. marked: the verdict whose mark stands in its corner.
        apart: so many columns at the end stand apart.
        title: of the columns. tall: room for long names under them.
    """
    shape = (len(rows), len(columns))
    values, pale = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    text, hover = np.full(shape, "", dtype=object), np.full(shape, "", dtype=object)
    marks: list[tuple[int, int, str]] = []
    places = [{key: i for i, key in enumerate(names)} for names in (rows, columns)]
    for r in records(table):
        at = places[0][getattr(r, by[0])], places[1][getattr(r, by[1])]
        values[at], pale[at], hover[at] = getattr(r, value), muted(r), describe(r)
        text[at] = cell(r) if cell else ""
        if MARKS.get(marked(r), MARKS["untested"]).sign:
            marks.append((*at, marked(r)))
    head = len(columns) - apart
    across = np.arange(len(columns)) + np.where(np.arange(len(columns)) >= head, GAP, 0.0)
    margin = {"l": 62, "r": 8, "t": 8, "b": 46 + tall}
    chart = figure(height=round(100 + tall + 27 * len(rows)), margin=margin, plot_bgcolor="#ffffff")
    for chosen, opacity in ((pale, 0.35), (~pale, 1.0)):
        for part in (slice(0, head), slice(head, None)):
            z = np.where(chosen, values, np.nan)[:, part]
            if z.size and not np.isnan(z).all():
                chart.add_heatmap(
                    x=across[part],
                    y=list(range(len(rows))),
                    z=z,
                    opacity=opacity,
                    xgap=2,
                    ygap=2,
                    colorscale=diverging(towards),
                    zmin=-limit,
                    zmax=limit,
                    showscale=False,
                    hoverongaps=False,
                    **said(hover[:, part]),
                )
    if cell:
        y, x = np.nonzero(~np.isnan(values))
        strong = np.abs(values[y, x]) > 0.55 * limit
        colour = np.where(pale[y, x], PALE, np.where(strong, WHITE, INK)).tolist()
        font = {"size": 10, "color": colour}
        chart.add_scatter(x=across[x], y=y, mode="text", text=text[y, x], hoverinfo="skip", textfont=font)
    if marks:
        inks = [
            MARKS[said].colour if pale[i, j] else WHITE if abs(values[i, j]) > 0.55 * limit else INK
            for i, j, said in marks
        ]
        look = {"symbol": [MARKS[said].symbol for *_, said in marks], "size": 5, "color": inks}
        corners = [(across[j] + CORNER[0], i + CORNER[1]) for i, j, _ in marks]
        middle = {"x": [x for x, _ in corners], "y": [y for _, y in corners]}
        chart.add_scatter(mode="markers", marker=look, hoverinfo="skip", **middle)
    plain: dict[str, Any] = {"showgrid": False, "zeroline": False}
    ticks = {"tickvals": across, "ticktext": list(columns.values()), "tickfont": {"size": 11}}
    ends = [-0.6, across[-1] + 0.6]
    chart.update_xaxes(axis(title), tickangle=-45 if tall else -30, range=ends, **ticks, **plain)
    names = {"tickvals": list(range(len(rows))), "ticktext": list(rows.values()), "range": [len(rows) - 0.5, -0.5]}
    chart.update_yaxes(axis(), **names, **plain)
    return chart
