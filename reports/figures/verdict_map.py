"""Verdicts as a map: a row for each vector, a column for each coefficient, a colour for each verdict."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from steerscope.reports.records import records
from steerscope.reports.theme import INK, WHITE, axis, figure, said

# By verdict, a colour and a word that fits a cell: colour says nothing alone.
LOOKS: Mapping[str, tuple[str, str]] = {
    "unaffected": ("#4f8f4f", "same"),
    "weaker": ("#c79a2b", "weaker"),
    "rerouted": ("#8f63ad", "rerouted"),
    "overwritten": ("#c4501b", "over"),
    "mixed": ("#2f7bbf", "mixed"),
    "undetermined": ("#c3c7cd", "?"),
}
WIDE = 8  # columns up to which words stand in full
DARK = ("unaffected", "rerouted", "overwritten", "mixed")  # that white stands on


def verdict_map(
    table: pd.DataFrame, rows: Sequence[str], columns: Mapping[float, str], describe: Callable[[Any], str], title: str
) -> go.Figure:
    """One cell for each row of a table with vector, coefficient and verdict; what is not there stays empty.

    Args:
        rows: names of vectors, in order. columns: names of coefficients, in order.
        describe: from a row to its hover label.
        title: of the columns.
    """
    down, across = ({key: place for place, key in enumerate(keys)} for keys in (rows, columns))
    kinds = list(LOOKS)
    z = np.full((len(rows), len(columns)), np.nan)
    hover = np.full(z.shape, "", dtype=object)
    marks: list[tuple[int, int, str]] = []
    for row in records(table):
        at = down[row.vector], across[row.coefficient]
        verdict = row.verdict if row.verdict in LOOKS else "undetermined"
        z[at], hover[at] = kinds.index(verdict), describe(row)
        marks.append((*at, verdict))
    colours = [LOOKS[kind][0] for kind in kinds]
    steps = [(edge / len(kinds), colours[i]) for i in range(len(kinds)) for edge in (i, i + 1)]
    wide = max((len(name) for name in rows), default=0)
    chart = figure(height=100 + 27 * len(rows), margin={"l": min(40 + 7 * wide, 320), "r": 8, "t": 8, "b": 46})
    chart.add_heatmap(
        z=z,
        colorscale=steps,
        zmin=-0.5,
        zmax=len(kinds) - 0.5,
        showscale=False,
        hoverongaps=False,
        xgap=2,
        ygap=2,
        **said(hover),
    )
    chart.add_scatter(
        x=[j for _, j, _ in marks],
        y=[i for i, _, _ in marks],
        mode="text",
        text=[kind if len(columns) <= WIDE else LOOKS[kind][1] for *_, kind in marks],
        textfont={"size": 11, "color": [WHITE if kind in DARK else INK for *_, kind in marks]},
        hoverinfo="skip",
    )
    plain: dict[str, Any] = {"showgrid": False, "zeroline": False}
    chart.update_xaxes(axis(title), tickvals=list(across.values()), ticktext=list(columns.values()), **plain)
    names = {"tickvals": list(down.values()), "ticktext": list(rows), "range": [len(rows) - 0.5, -0.5]}
    chart.update_yaxes(axis(), **names, **plain)
    return chart
