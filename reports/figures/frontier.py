"""Effect without disruption: every node's contribution to the effect against that to the disturbance."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.figures.labels import Point, offsets
from steerscope.reports.figures.lines import clear
from steerscope.reports.records import records
from steerscope.reports.theme import LEGEND, NEUTRAL, POSITIVE, REFERENCE, axis, bars, bold, figure, said

RESPONSIVE = "#3a76b5"
LINE = "#9a6db8"
NAMED = 14  # names that a figure has room for
HEIGHT, WIDTH = 520, 960  # of the figure; names are placed for a page of full width


def frontier(table: pd.DataFrame, unit: str) -> go.Figure:
    """One point a node with both intervals; the Pareto frontier as stairs; the ratio of all nodes together dotted."""
    chart = figure(height=HEIGHT, margin={"l": 70, "r": 20, "t": 40, "b": 54}, **LEGEND)
    rank = np.select([table[name].astype(bool) for name in ("useful", "responsive", "frontier")], [0, 1, 2], 3)
    ranked = table.assign(rank=rank, size=-table["effect"].abs()).sort_values(["rank", "size"])
    named = ranked[ranked["rank"] < (2 if (rank < 2).any() else 3)].head(NAMED)  # without any, those on the frontier
    xs, ys = (_limits(table, named, column) for column in ("kl", "effect"))
    _add_line_of_all(chart, table, xs, ys, unit)
    steps = table[table["frontier"].astype(bool)].sort_values(["kl", "effect"])
    stairs = {"color": LINE, "width": 1.6, "shape": "hv"}
    chart.add_scatter(
        x=steps["kl"], y=steps["effect"], mode="lines", line=stairs, opacity=0.8, name="frontier", hoverinfo="skip"
    )
    for kind, colour, symbol, opacity, rows in (
        ("not responsive", NEUTRAL, "circle-open", min(0.35, 40 / max(1, len(table))), table[rank > 1]),
        ("responsive, not useful", RESPONSIVE, "circle", 0.9, table[rank == 1]),
        ("useful", POSITIVE, "circle", 1.0, table[rank == 0]),
    ):
        bar = (clear(colour, 0.7 * opacity), 1, 0)
        chart.add_scatter(
            x=rows["kl"],
            y=rows["effect"],
            mode="markers",
            name=kind,
            marker={"size": 8, "color": colour, "symbol": symbol},
            error_x=bars(rows["kl"], rows["kl_low"], rows["kl_high"], *bar),
            error_y=bars(rows["effect"], rows["effect_low"], rows["effect_high"], *bar),
            showlegend=bool(len(rows)),
            **said([_hover(r, unit) for r in records(rows)]),
        )
    _add_names(chart, table, named, steps, xs, ys)
    chart.update_xaxes(axis("contribution to the disturbance (nats)"), range=xs)
    chart.update_yaxes(axis(f"contribution to the effect ({unit})"), range=ys)
    return chart


def _limits(table: pd.DataFrame, named: pd.DataFrame, column: str) -> list[float]:
    """Every point, and the intervals of those with a name; long bars of the others may leave the drawing."""
    parts = [[0.0], table[column], named[f"{column}_low"].dropna(), named[f"{column}_high"].dropna()]
    values = np.concatenate([np.asarray(part, dtype=float) for part in parts])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.06 * (high - low or 1.0)
    return [low - margin, high + margin]


def _add_line_of_all(chart: go.Figure, table: pd.DataFrame, xs: list[float], ys: list[float], unit: str) -> None:
    effect, kl = float(table["effect"].sum()), float(table["kl"].sum())
    if kl <= 0:
        return
    slope, ends = effect / kl, xs
    if slope:  # cut at the drawing's edge
        at = sorted([ys[0] / slope, ys[1] / slope])
        ends = [max(xs[0], at[0]), min(xs[1], at[1])]
    name = f"all nodes together: {words.number(slope)} {unit} per nat"
    line = {"color": REFERENCE, "width": 1.3, "dash": "dot"}
    chart.add_scatter(x=ends, y=[slope * x for x in ends], mode="lines", line=line, name=name, hoverinfo="skip")


def _add_names(
    chart: go.Figure, table: pd.DataFrame, named: pd.DataFrame, steps: pd.DataFrame, xs: list[float], ys: list[float]
) -> None:
    size = (WIDTH, HEIGHT - 94.0)

    def pixels(rows: pd.DataFrame, x: str = "kl", y: str = "effect") -> Sequence[Point]:
        right = (rows[x] - xs[0]) / (xs[1] - xs[0]) * size[0]
        down = (ys[1] - rows[y]) / (ys[1] - ys[0]) * size[1]
        return list(zip(right.astype(float), down.astype(float), strict=True))

    occupied = [
        *zip(pixels(named, x="kl_low"), pixels(named, x="kl_high"), strict=True),
        *zip(pixels(named, y="effect_low"), pixels(named, y="effect_high"), strict=True),
    ]
    for (x, y), (right, up) in pairwise(pixels(steps)):
        occupied += [((x, y), (right, y)), ((right, y), (right, up))]
    texts = [str(node) for node in named["node"]]
    moves = offsets(texts, pixels(named), pixels(table), occupied, size)
    for row, text, (dx, dy) in zip(records(named), texts, moves, strict=True):
        chart.add_annotation(
            x=row.kl,
            y=row.effect,
            text=text,
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


def _hover(row: Any, unit: str) -> str:
    lines = [
        f"{bold(row.node)}{' on the frontier' if row.frontier else ''}",
        f"effect {words.ranged(row, 'effect', words.signed, unit)}",
        f"disturbance {words.ranged(row, 'kl', words.signed, 'nats')}",
        f"loss of the true text {words.signed(row.loss)} nats",
    ]
    if pd.notna(row.efficiency):
        lines.append(words.ranged(row, "efficiency", unit=f"{unit} per nat"))
    return "\n".join(lines)
