"""Colours, fonts and the plotly layout that all figures share.

Figures have no background of their own: the page gives it, light or dark, and a few lines of script
give text and grid the page's colours. The diverging scale (blue, grey, vermilion) is safe for the
colour-blind and keeps its order in grey print. Vermilion is what works along the whole effect, blue what works
against it, whatever the sign of the effect itself. A verdict has a colour and a symbol, the same in every figure.

Texts of a figure are plain text: plotly reads a subset of HTML, and `page.render` is the one place that writes it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from steerscope.analysis.results.verdicts import TOLD, VERDICTS

FONT = 'ui-sans-serif, system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
POSITIVE, NEGATIVE, NEUTRAL, REFERENCE = "#c4501b", "#2166ac", "#8a8f98", "#9aa0a8"
CONCEPTS = "#8f63ad"  # reference vectors that mean something, beside the grey of those that do not
DIVERGING: list[tuple[float, str]] = [
    (0.0, "#1b4f8f"),
    (0.25, "#6fa3d4"),
    (0.5, "#f1f1ef"),
    (0.75, "#eb9c6b"),
    (1.0, "#a63a0c"),
]
PALE, INK, WHITE = "#8a8f98", "#1d2026", "#ffffff"  # in cells
CORNER = (-0.36, -0.3)  # of a cell, where its mark stands beside a number
# Characters that no text may hold (Unicode keeps them for a program's own use); the page makes tags of them.
BOLD, PLAIN, NAMELESS = "\ufdd0", "\ufdd1", "\ufdd2"
GRID = "rgba(128,134,144,0.25)"
LEGEND = {"showlegend": True, "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}}


@dataclass(frozen=True)
class Mark:
    """How a verdict is drawn.

    Attributes:
        symbol: of plotly. sign: the same in text; empty for what has no mark in a map.
    """

    colour: str
    symbol: str
    sign: str = ""


# Symbols say what colours say, for grey print and for the colour-blind; marks stand out from either paper (3:1).
MARKS = {
    "specific": Mark(POSITIVE, "circle", "●"),
    "concept": Mark("#d97a35", "diamond", "◆"),
    "shared": Mark("#5f7386", "square", "■"),
    "less": Mark("#3f8580", "triangle-down", "▼"),
    "against": Mark(NEGATIVE, "x", "✕"),
    "small": Mark(NEUTRAL, "circle-open"),
    "untested": Mark(NEUTRAL, "circle-open"),
}
CLAIMS = (*TOLD, "against")  # in full colour; everything else is pale


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


def mark(verdict: Any, effect: float, towards: int = 1) -> Mark:
    """How a row is drawn: by its verdict; by its side where that is a truth value, or a word of another list."""
    if str(verdict) in MARKS:
        return MARKS[str(verdict)]
    return Mark(side(effect, towards), "circle", "●") if claimed(verdict) else MARKS["untested"]


def claimed(verdict: Any) -> bool:
    """Whether a row is drawn in full colour: told from noise, or against the effect; or true."""
    return bool(verdict) if isinstance(verdict, bool | np.bool_) else str(verdict) in CLAIMS or verdict not in VERDICTS


def key(verdicts: Iterable[Any]) -> str:
    """What the marks of the verdicts that are there mean, in a sentence or two."""
    there = set(map(str, verdicts))
    marked = [f"{look.sign} {name}: {VERDICTS[name]}" for name, look in MARKS.items() if name in there and look.sign]
    plain = [name for name, look in MARKS.items() if name in there and not look.sign]
    rest = f"Open circles, and cells without a mark, are {' or '.join(plain)}." if plain else ""
    return " ".join(part for part in (f"{'; '.join(marked)}." if marked else "", rest) if part)


def diverging(towards: int = 1) -> list[tuple[float, str]]:
    """The scale of effects, its warm end where the whole effect is; of a whole effect of zero no end is."""
    if towards == 0:
        return [(0.0, NEUTRAL), (0.5, DIVERGING[2][1]), (1.0, NEUTRAL)]
    return DIVERGING if towards > 0 else [(1 - at, colour) for at, colour in reversed(DIVERGING)]


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """An axis with a quiet grid."""
    return {
        "title": {"text": title, "standoff": 8, "font": {"size": 13}},
        "gridcolor": GRID,
        "zerolinecolor": "rgba(128,134,144,0.7)",
        "automargin": True,
        **more,
    }


def said(labels: Any) -> dict[str, Any]:
    """Hover labels, one for each point."""
    return {"customdata": labels, "hovertemplate": f"%{{customdata}}{NAMELESS}"}


def bold(text: Any) -> str:
    """A text in bold letters."""
    return f"{BOLD}{text}{PLAIN}"


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
    """A token as text that shows its spaces."""
    return token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "∅"
