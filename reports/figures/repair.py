"""From the direct loss of a removed carrier to the loss that is left, as a staircase."""

from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.records import records
from steerscope.reports.theme import NEGATIVE, NEUTRAL, POSITIVE, axis, figure

SHOWN = 5  # later nodes with a step of their own
LOSS = "#5f666f"


def staircase(parts: pd.DataFrame, later: pd.DataFrame, unit: str) -> go.Figure:
    """Bars from left to right: orange adds to the loss, blue repairs it; whiskers are intervals of each step.

    Args:
        parts: rows of `carriers` of one node. later: rows of `later` of the same.
    """
    by = {r.part: r for r in records(parts)}
    steps = _steps(by, later)
    chart = figure(height=110 + 27 * len(steps), margin={"l": 132, "r": 14, "t": 8, "b": 46})
    names, base, widths, colours, hover, low, high = [], [], [], [], [], [], []
    level = 0.0
    for name, row, step in steps:
        start = 0.0 if step is None else level
        width = row.effect if step is None else -row.effect
        level = start + width
        names.append(name)
        base.append(start)
        widths.append(width)
        colours.append(LOSS if step is None else POSITIVE if width * by["direct"].effect > 0 else NEGATIVE)
        low.append(max(0.0, row.effect - row.low) if row.low == row.low else 0.0)
        high.append(max(0.0, row.high - row.effect) if row.high == row.high else 0.0)
        hover.append(_hover(name, row, unit, step is not None))
    chart.add_bar(
        x=widths,
        base=base,
        y=list(range(len(steps))),
        orientation="h",
        marker_color=colours,
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        text=[_label(row, step) for _, row, step in steps],
        textposition="auto",
        insidetextanchor="middle",
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [h if s is None else lo for (_, _, s), h, lo in zip(steps, high, low, strict=True)],
            "arrayminus": [lo if s is None else h for (_, _, s), h, lo in zip(steps, high, low, strict=True)],
            "thickness": 1.3,
            "width": 3,
            "color": NEUTRAL,
        },
    )
    ends = [0.0, *base, *(b + w for b, w in zip(base, widths, strict=True))]
    margin = 0.16 * (max(ends) - min(ends) or 1.0)  # for numbers beside their bars
    chart.update_xaxes(
        axis(f"loss ({unit})"), zeroline=True, range=[min(ends) - margin * (min(ends) < 0), max(ends) + margin]
    )
    chart.update_yaxes(
        axis(),
        tickvals=list(range(len(steps))),
        ticktext=names,
        range=[len(steps) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    return chart


def _steps(by: dict[str, Any], later: pd.DataFrame) -> Sequence[tuple[str, Any, str | None]]:
    """(name, row, kind) of each bar; the two losses have no kind."""
    order = later.sort_values("effect", key=abs, ascending=False)
    order = order[order["effect"] != 0]
    steps: list[tuple[str, Any, str | None]] = [("direct loss", by["direct"], None)]
    steps += [(escape(str(r.node)), r, "node") for r in records(order.head(SHOWN))]
    rest = order.iloc[SHOWN:]
    if len(rest):
        row = type(by["direct"])(
            effect=float(rest["effect"].sum()),
            low=float("nan"),
            high=float("nan"),
            control=float("nan"),
            p_adjusted=float("nan"),
        )
        steps.append((f"{len(rest)} other nodes", row, "node"))
    steps += [
        (name, by[part], "part")
        for name, part in (("final norm", "norm"), ("together", "remainder"))
        if by[part].effect != 0
    ]
    return [*steps, ("net loss", by["net"], None)]


def _label(row: Any, step: str | None) -> str:
    return words.number(row.effect if step is None else -row.effect)


def _hover(name: str, row: Any, unit: str, step: bool) -> str:
    verb = ("repairs" if row.effect > 0 else "adds") if step else "loss"
    lines = [
        f"<b>{name}</b>",
        (
            f"{verb} {words.number(abs(row.effect) if step else row.effect)} "
            f"{escape(unit)}{words.between(row.low, row.high)}"
        ),
        f"random vectors {words.signed(row.control)}",
    ]
    return "<br>".join(
        [*lines, f"{words.p_value(row.p_adjusted)} (adjusted)"] if row.p_adjusted == row.p_adjusted else lines
    )
