"""Colours, fonts and the plotly layout that all figures share.

Figures have no background of their own: the page gives it, light or dark, and a few lines of script
give text and grid the page's colours. The diverging scale (blue, grey, vermilion) is safe for the
colour-blind and keeps its order in grey print. Vermilion is what works along the whole effect, blue what works
against it, whatever the sign of the effect itself.
"""

from html import escape
from typing import Any

import plotly.graph_objects as go

FONT = 'ui-sans-serif, system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
POSITIVE, NEGATIVE, NEUTRAL, REFERENCE = "#c4501b", "#2166ac", "#8a8f98", "#9aa0a8"
DIVERGING: list[tuple[float, str]] = [
    (0.0, "#1b4f8f"),
    (0.25, "#6fa3d4"),
    (0.5, "#f1f1ef"),
    (0.75, "#eb9c6b"),
    (1.0, "#a63a0c"),
]
GRID = "rgba(128,134,144,0.25)"
LEGEND = {"showlegend": True, "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}}


def figure(height: int, **layout: Any) -> go.Figure:
    """An empty figure in the house's style."""
    return go.Figure(
        layout={
            "height": height,
            "font": {"family": FONT, "size": 13, "color": "#30343b"},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 60, "r": 20, "t": 34, "b": 46},
            "hoverlabel": {"align": "left", "font": {"family": FONT, "size": 12}},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "rgba(128,134,144,0.5)"},
            "showlegend": False,
            **layout,
        }
    )


def side(effect: float, towards: int = 1) -> str:
    """The colour of an effect: along the whole effect, whose sign is given, against it, or neither."""
    turned = effect * towards
    return POSITIVE if turned > 0 else NEGATIVE if turned < 0 else NEUTRAL


def diverging(towards: int = 1) -> list[tuple[float, str]]:
    """The scale of effects, its warm end where the whole effect is; of a whole effect of zero no end is."""
    if towards == 0:
        return [(0.0, NEUTRAL), (0.5, DIVERGING[2][1]), (1.0, NEUTRAL)]
    return DIVERGING if towards > 0 else [(1 - at, colour) for at, colour in reversed(DIVERGING)]


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """An axis with a quiet grid."""
    return {
        "title": {"text": escape(title), "standoff": 8, "font": {"size": 13}},
        "gridcolor": GRID,
        "zerolinecolor": "rgba(128,134,144,0.7)",
        "automargin": True,
        **more,
    }


def said(labels: Any) -> dict[str, Any]:
    """Hover labels, one for each point."""
    return {"customdata": labels, "hovertemplate": "%{customdata}<extra></extra>"}


def bars(middle: Any, low: Any, high: Any, colour: Any, thickness: float = 1.5, width: int = 3) -> dict[str, Any]:
    """Intervals around points."""
    return {
        "type": "data",
        "symmetric": False,
        "array": high - middle,
        "arrayminus": middle - low,
        "thickness": thickness,
        "width": width,
        "color": colour,
    }


def visible(token: str) -> str:
    """A token as text that shows its spaces, escaped for plotly (which reads a subset of HTML)."""
    shown = token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    return escape(shown or "∅")
