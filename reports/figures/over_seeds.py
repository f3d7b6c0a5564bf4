"""One measure of several things that were made with several seeds: a point each, with its interval over seeds."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.records import records
from steerscope.reports.theme import NEUTRAL, POSITIVE, figure

from .dots import dots, names


def over_seeds(rows: pd.DataFrame, name: str, marked: Sequence[bool], left: int, symbol: Any = "circle") -> go.Figure:
    """A line for each row, in their order.

    Args:
        rows: with `value`, `low`, `high`, `unit` and `seeds`.
        name: of the column that names them.
        marked: of each row, whether it stands out.
        left: pixels for the names.
    """
    rows = rows.reset_index(drop=True)
    chart = figure(height=90 + 30 * max(4, len(rows)), margin={"l": left, "r": 14, "t": 10, "b": 46})
    labels = [str(label) for label in rows[name]]
    hovers = [
        f"{label}\n{words.ranged(r, 'value', unit=r.unit)}\n{r.seeds} seeds"
        for label, r in zip(labels, records(rows), strict=True)
    ]
    colour = [POSITIVE if one else NEUTRAL for one in marked]
    look: dict[str, Any] = {"symbol": symbol, "ends": ("low", "high"), "whisker": NEUTRAL, "showlegend": False}
    dots(chart, rows, range(len(rows)), "value", hovers, colour=colour, **look)
    names(chart, labels, showgrid=True)
    return chart


def common_unit(rows: pd.DataFrame) -> str:
    """The unit of their values; empty where there are none."""
    return str(rows["unit"].iloc[0]) if len(rows) else ""
