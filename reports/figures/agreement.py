"""Estimates against exact values, a point a node or edge, with the line on which both are the same."""

from collections.abc import Iterable

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.records import records
from steerscope.reports.theme import NEUTRAL, POSITIVE, axis, bold, figure

GROUPS = {"top": (POSITIVE, "largest estimates"), "sample": ("#3a76b5", "random sample")}


def agreement(
    names: Iterable[str], estimates: Iterable[float], exact: Iterable[float], groups: Iterable[str], unit: str
) -> go.Figure:
    """A scatter on two equal axes."""
    table = pd.DataFrame({"name": list(names), "x": list(estimates), "y": list(exact), "group": list(groups)})
    chart = figure(
        height=360, margin={"l": 64, "r": 16, "t": 30, "b": 54}, showlegend=True, legend={"orientation": "h", "y": 1.12}
    )
    ends = [*table["x"], *table["y"], 0.0]
    margin = 0.06 * (max(ends) - min(ends) or 1.0)
    limits = [min(ends) - margin, max(ends) + margin]
    same = {"dash": "dot", "color": NEUTRAL}
    chart.add_scatter(x=limits, y=limits, mode="lines", line=same, hoverinfo="skip", showlegend=False)
    for group, (colour, name) in GROUPS.items():
        own = table[table["group"] == group]
        if len(own):
            hover = [f"{bold(r.name)}\nestimate {words.signed(r.x)}, exact {words.signed(r.y)}" for r in records(own)]
            look = {"size": 9, "color": colour, "opacity": 0.85}
            chart.add_scatter(
                x=own["x"], y=own["y"], mode="markers", name=name, marker=look, hoverinfo="text", text=hover
            )
    chart.update_xaxes(axis(f"estimate ({unit})"), range=limits)
    chart.update_yaxes(axis(f"exact ({unit})"), range=limits)
    return chart
