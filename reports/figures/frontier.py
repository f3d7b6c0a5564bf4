"""Effect without disruption: every node's contribution to the effect against that to the disturbance."""

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.figures.labels import Point, offsets
from steerscope.reports.records import records
from steerscope.reports.theme import CONTROL, NEUTRAL, POSITIVE, axis, figure

RESPONSIVE = "#3a76b5"
LINE = "#9a6db8"
NAMED = 14  # names that a figure has room for
HEIGHT, WIDTH = 520, 960  # of the figure; names are placed for a page of full width


def frontier(table: pd.DataFrame, unit: str) -> go.Figure:
    """One point a node with both intervals; the Pareto frontier as stairs; the ratio of all nodes together dotted."""
    chart = figure(height=HEIGHT, margin={"l": 70, "r": 20, "t": 40, "b": 54})
    named = names(table)
    xs, ys = _limits(table, named)
    _add_line_of_all(chart, table, xs, ys, unit)
    _add_stairs(chart, table)
    for kind, colour, symbol, opacity in (
        ("not responsive", NEUTRAL, "circle-open", min(0.35, 40 / max(1, len(table)))),
        ("responsive, not useful", RESPONSIVE, "circle", 0.9),
        ("useful", POSITIVE, "circle", 1.0),
    ):
        rows = table[_kinds(table) == kind]
        chart.add_scatter(
            x=rows["kl"],
            y=rows["effect"],
            mode="markers",
            name=kind,
            marker={"size": 8, "color": colour, "symbol": symbol},
            error_x=_bars(rows, "kl", colour, opacity),
            error_y=_bars(rows, "effect", colour, opacity),
            customdata=[_hover(r, unit) for r in records(rows)],
            hovertemplate="%{customdata}<extra></extra>",
            showlegend=bool(len(rows)),
        )
    _add_names(chart, table, named, xs, ys)
    chart.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    chart.update_xaxes(axis("contribution to the disturbance (nats)"), range=xs)
    chart.update_yaxes(axis(f"contribution to the effect ({unit})"), range=ys)
    return chart


def names(table: pd.DataFrame) -> pd.DataFrame:
    """The nodes that get a name: useful ones first, then other responsive ones; without any, those on the frontier."""
    rank = np.select([_flag(table, "useful"), _flag(table, "responsive"), _flag(table, "frontier")], [0, 1, 2], 3)
    order = table.assign(rank=rank, size=-table["effect"].abs()).sort_values(["rank", "size"])
    return order[order["rank"] < (2 if (rank < 2).any() else 3)].head(NAMED)


def _flag(table: pd.DataFrame, name: str) -> Any:
    return table[name].astype(bool).to_numpy()


def _kinds(table: pd.DataFrame) -> Any:
    return np.select(
        [_flag(table, "useful"), _flag(table, "responsive")], ["useful", "responsive, not useful"], "not responsive"
    )


def _limits(table: pd.DataFrame, named: pd.DataFrame) -> tuple[list[float], list[float]]:
    """Every point, and the intervals of those with a name; long bars of the others may leave the drawing."""
    found = []
    for column in ("kl", "effect"):
        parts = [[0.0], table[column], named[f"{column}_low"].dropna(), named[f"{column}_high"].dropna()]
        values = np.concatenate([np.asarray(part, dtype=float) for part in parts])
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        margin = 0.06 * (high - low or 1.0)
        found.append([low - margin, high + margin])
    return found[0], found[1]


def _add_line_of_all(chart: go.Figure, table: pd.DataFrame, xs: list[float], ys: list[float], unit: str) -> None:
    effect, kl = float(table["effect"].sum()), float(table["kl"].sum())
    if kl <= 0:
        return
    slope = effect / kl
    ends = [xs[0], xs[1]]
    if slope:  # cut at the drawing's edge
        at = sorted([ys[0] / slope, ys[1] / slope])
        ends = [max(xs[0], at[0]), min(xs[1], at[1])]
    chart.add_scatter(
        x=ends,
        y=[slope * x for x in ends],
        mode="lines",
        line={"color": CONTROL, "width": 1.3, "dash": "dot"},
        name=f"all nodes together: {words.number(slope)} {escape(unit)} per nat",
        hoverinfo="skip",
    )


def _add_stairs(chart: go.Figure, table: pd.DataFrame) -> None:
    rows = table[_flag(table, "frontier")].sort_values(["kl", "effect"])
    chart.add_scatter(
        x=rows["kl"],
        y=rows["effect"],
        mode="lines",
        line={"color": LINE, "width": 1.6, "shape": "hv"},
        opacity=0.8,
        name="frontier",
        hoverinfo="skip",
    )


def _add_names(chart: go.Figure, table: pd.DataFrame, named: pd.DataFrame, xs: list[float], ys: list[float]) -> None:
    size = (WIDTH, HEIGHT - 94.0)

    def pixels(rows: pd.DataFrame, x: str = "kl", y: str = "effect") -> Sequence[Point]:
        right = (rows[x] - xs[0]) / (xs[1] - xs[0]) * size[0]
        down = (ys[1] - rows[y]) / (ys[1] - ys[0]) * size[1]
        return list(zip(right.astype(float), down.astype(float), strict=True))

    bars = [
        *zip(pixels(named, x="kl_low"), pixels(named, x="kl_high"), strict=True),
        *zip(pixels(named, y="effect_low"), pixels(named, y="effect_high"), strict=True),
    ]
    steps = pixels(table[_flag(table, "frontier")].sort_values(["kl", "effect"]))
    for (x, y), (right, up) in pairwise(steps):
        bars += [((x, y), (right, y)), ((right, y), (right, up))]
    texts = [str(node) for node in named["node"]]
    moves = offsets(texts, pixels(named), pixels(table), bars, size)
    for row, text, (dx, dy) in zip(records(named), texts, moves, strict=True):
        chart.add_annotation(
            x=row.kl,
            y=row.effect,
            text=escape(text),
            ax=dx,
            ay=dy,
            showarrow=True,
            arrowhead=0,
            arrowwidth=0.8,
            arrowcolor="rgba(128,134,144,0.8)",
            standoff=5,
            borderpad=0,
            font={"size": 11},
        )


def _bars(rows: pd.DataFrame, column: str, colour: str, opacity: float) -> dict[str, Any]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return {
        "type": "data",
        "symmetric": False,
        "array": rows[f"{column}_high"] - rows[column],
        "arrayminus": rows[column] - rows[f"{column}_low"],
        "thickness": 1,
        "width": 0,
        "color": f"rgba({red},{green},{blue},{0.7 * opacity:g})",
    }


def _hover(row: Any, unit: str) -> str:
    lines = [
        f"<b>{escape(str(row.node))}</b>{' on the frontier' if row.frontier else ''}",
        f"effect {words.signed(row.effect)} {escape(unit)}{words.between(row.effect_low, row.effect_high)}",
        f"disturbance {words.signed(row.kl)} nats{words.between(row.kl_low, row.kl_high)}",
        f"loss of the true text {words.signed(row.loss)} nats",
    ]
    if pd.notna(row.efficiency):
        lines.append(
            f"{words.number(row.efficiency)} {escape(unit)} per "
            f"nat{words.between(row.efficiency_low, row.efficiency_high)}"
        )
    return "<br>".join(lines)
