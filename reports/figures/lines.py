"""Lines with their intervals as bands, alone or in small multiples."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.records import records

EFFECT, DISTURBANCE, LOSS = "#c4501b", "#2f7bbf", "#8f63ad"
COLOUR = {"effect": EFFECT, "kl": DISTURBANCE, "loss": LOSS}
NAME = {"effect": "effect", "kl": "disturbance", "loss": "loss"}


def units(outcome: str, unit: str) -> str:
    """The unit of an outcome, where `unit` is the metric's."""
    return unit if outcome == "effect" else "nats"


def line(
    chart: go.Figure,
    rows: pd.DataFrame,
    x: str,
    y: str,
    colour: str,
    *,
    hover: Sequence[str],
    name: str = "",
    shown: bool = False,
    place: dict[str, int] | None = None,
) -> None:
    """Draws the column `y` over `x`, the interval from `low` to `high` as a band; single points have bars.

    Args:
        shown: whether the legend names it.
        place: row and column among small multiples.
    """
    rows = rows.sort_values(x).reset_index(drop=True)
    at: dict[str, Any] = place or {}
    bounded = rows.dropna(subset=["low", "high"])
    if len(bounded) > 1:
        chart.add_scatter(
            x=[*bounded[x], *bounded[x][::-1]],
            y=[*bounded["high"], *bounded["low"][::-1]],
            fill="toself",
            fillcolor=_clear(colour),
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            legendgroup=name,
            **at,
        )
    bars = None
    if len(rows) == 1:
        bars = {
            "type": "data",
            "symmetric": False,
            "array": rows["high"] - rows[y],
            "arrayminus": rows[y] - rows["low"],
            "thickness": 1.5,
            "width": 3,
            "color": colour,
        }
    chart.add_scatter(
        x=rows[x],
        y=rows[y],
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"size": 6, "color": colour},
        error_y=bars,
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        name=name,
        showlegend=shown,
        legendgroup=name,
        **at,
    )


def levels(rows: pd.DataFrame, y: str, unit: str, head: str = "") -> list[str]:
    """Hover labels of a frame with columns by, level, trials, low and high."""
    return [
        f"{head}{r.by} {words.number(r.level)}<br>{words.signed(getattr(r, y))} {unit}{words.between(r.low, r.high)}"
        f"<br>{r.trials:,} trials"
        for r in records(rows.sort_values("level"))
    ]


def _clear(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
