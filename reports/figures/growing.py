"""Shares of the effect against the number of nodes patched jointly: a growing set, and what stands beside."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.figures.lines import DISTURBANCE, EFFECT, LOSS, band, clear
from steerscope.reports.records import records
from steerscope.reports.theme import GRID, LEGEND, NEUTRAL, REFERENCE, axis, bars, bold, figure, said

CROWDED = 40  # nodes beyond which the axis is logarithmic


@dataclass(frozen=True)
class Look:
    """How a set is drawn.

    Attributes:
        name: in the legend.
        marks: whether its sizes are points; a line alone otherwise.
    """

    name: str
    colour: str
    dash: str = "solid"
    marks: bool = False


NODES: Mapping[str, Look] = {
    "random": Look("random sets", REFERENCE),
    "noise": Look("these, random vectors", NEUTRAL, "dot"),
    "meaning": Look("these, other concepts", LOSS, "dot"),
    "rest": Look("all others", DISTURBANCE, "dash"),
    "best": Look("these nodes", EFFECT, marks=True),
}
VECTORS: Mapping[str, Look] = {
    "own_noise": Look("random vectors", NEUTRAL),
    "own_meaning": Look("other concepts", LOSS),
    "own": Look("this vector", EFFECT, marks=True),
}


def growing(table: pd.DataFrame, looks: Mapping[str, Look], names: Mapping[int, str] | None = None) -> go.Figure:
    """One measure's sets: lines with their intervals or ranges as bands.

    Args:
        table: size, set, share, low, high.
        looks: of the sets that are drawn, those in front last.
        names: by size, the node that joins.
    """
    table = table[table["set"].isin(list(looks)) & table["share"].notna()]
    legend = LEGEND["legend"] | {"font": {"size": 11}}  # type: ignore[operator]
    chart = figure(height=340, margin={"l": 62, "r": 14, "t": 44, "b": 46}, showlegend=True, legend=legend)
    for name, look in looks.items():
        rows = table[table["set"] == name].sort_values("size")
        if rows.empty:
            continue
        bounded = rows.dropna(subset=["low", "high"])
        if len(bounded) > 1:
            band(chart, bounded, "size", "low", "high", clear(look.colour), mode="lines", legendgroup=name)
        chart.add_scatter(
            x=rows["size"],
            y=rows["share"],
            mode="lines+markers" if look.marks or len(rows) == 1 else "lines",
            line={"color": look.colour, "width": 2 if look.marks else 1.5, "dash": look.dash},
            marker={"size": 6, "color": look.colour},
            error_y=bars(rows["share"], rows["low"], rows["high"], look.colour) if len(rows) == 1 else None,
            name=look.name,
            legendgroup=name,
            **said([_hover(r, look, (names or {}) if look.marks else {}) for r in records(rows)]),
        )
    chart.add_hline(y=1, line_width=1, line_dash="dot", line_color=NEUTRAL)
    chart.add_hline(y=0, line_width=1, line_color=GRID)
    last = int(table["size"].max()) if len(table) else 1
    ticks = [2**k for k in range(20) if 2**k <= last]
    crowded = {"type": "log", "tickvals": ticks, "ticktext": [f"{t:,}" for t in ticks]} if last > CROWDED else {}
    chart.update_xaxes(axis("nodes patched jointly"), zeroline=False, **crowded)
    chart.update_yaxes(axis("share of the effect"), tickformat=".0%")
    return chart


def _hover(row: Any, look: Look, names: Mapping[int, str]) -> str:
    joins = f", {names[row.size]} joins" if row.size in names else ""
    share = words.percent(row.share) + words.between(row.low, row.high, words.percent)
    return f"{bold(look.name)}\n{row.size:,} {'node' if row.size == 1 else 'nodes'}{joins}\n{share}"
