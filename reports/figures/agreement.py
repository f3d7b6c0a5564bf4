"""Estimates against exact values, a point a node or edge, with the line on which both are the same."""

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.theme import NEUTRAL, POSITIVE, axis, figure

GROUPS = {"top": POSITIVE, "sample": "#3a76b5"}


def agreement(
    names: Sequence[str], estimates: Sequence[float], exact: Sequence[float], groups: Sequence[str], unit: str
) -> go.Figure:
    """A scatter on two equal axes."""
    chart = figure(
        height=360, margin={"l": 64, "r": 16, "t": 30, "b": 54}, showlegend=True, legend={"orientation": "h", "y": 1.12}
    )
    ends = [*estimates, *exact, 0.0]
    margin = 0.06 * (max(ends) - min(ends) or 1.0)
    limits = [min(ends) - margin, max(ends) + margin]
    chart.add_scatter(
        x=limits, y=limits, mode="lines", line={"dash": "dot", "color": NEUTRAL}, hoverinfo="skip", showlegend=False
    )
    for group, colour in GROUPS.items():
        own = [i for i, g in enumerate(groups) if g == group]
        if own:
            chart.add_scatter(
                x=[estimates[i] for i in own],
                y=[exact[i] for i in own],
                mode="markers",
                name={"top": "largest estimates", "sample": "random sample"}[group],
                marker={"size": 9, "color": colour, "opacity": 0.85},
                hoverinfo="text",
                text=[
                    (
                        f"<b>{escape(names[i])}</b><br>estimate {words.signed(estimates[i])}, exact "
                        f"{words.signed(exact[i])}"
                    )
                    for i in own
                ],
            )
    chart.update_xaxes(axis(f"estimate ({unit})"), range=limits)
    chart.update_yaxes(axis(f"exact ({unit})"), range=limits)
    return chart
