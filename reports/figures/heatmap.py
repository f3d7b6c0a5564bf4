"""Heads by layers, the MLPs in a column of their own; what is not told from noise is visibly muted."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.records import records, verdicts
from steerscope.reports.theme import CORNER, INK, MARKS, PALE, WHITE, axis, bold, claimed, diverging, figure, said

Hover = Callable[[Any, str], str]
EXTRA = {"attention": "attention, all heads", "mlp": "MLP"}  # columns beside the heads, by kind
CROWDED = 150  # cells from which on numbers no longer fit


def hover(row: Any, unit: str) -> str:
    """All that is known of a node, for its hover label."""
    lines = [
        f"{bold(row.node)} {row.measure}",
        words.verdict(row.verdict),
        *words.estimate(row, unit),
        f"wrong way on {words.percent(row.wrong_way)} of the prompts",
    ]
    if words.finite(getattr(row, "stability", None)):
        lines[-1] += f"; told from noise on {words.percent(row.stability)} of resamples"
    return "\n".join(lines)


def heatmap(
    table: pd.DataFrame,
    unit: str,
    limit: float | None = None,
    *,
    describe: Hover = hover,
    factor: float = 1.0,
    bar: bool = False,
    towards: int = 1,
) -> go.Figure:
    """One measure's effects.

    Args:
        table: rows of `effects` of one measure, or of any frame with the columns node, layer, head, kind,
            effect and verdict, and those that `describe` reads.
        limit: the scale's end, so that two maps can share it; the largest effect by default.
        describe: from a row and the unit to its hover label.
        factor: multiplies the numbers in the cells, for effects too small for two decimals.
        bar: whether there is a colour bar where the cells have no room for numbers.
        towards: the sign of the whole effect.
    """
    # White behind the cells in dark mode, too: muted colours are mixed with it.
    layers, places = int(table["layer"].max()) + 1, _places(table)
    heads = len(places) - len(_extra(table))
    column = np.array(
        [places[kind if pd.isna(head) else int(head)] for kind, head in zip(table["kind"], table["head"], strict=True)]
    )
    limit = limit or float(table["effect"].abs().max()) or 1.0
    chart = figure(
        height=max(190, 92 + 34 * layers), margin={"l": 56, "r": 10, "t": 10, "b": 46}, plot_bgcolor="#ffffff"
    )
    scale = {"colorscale": diverging(towards), "zmin": -limit, "zmax": limit, "showscale": False}
    said = verdicts(table)
    full = np.array([claimed(v) for v in said], dtype=bool)
    for clear, opacity in ((False, 0.35), (True, 1.0)):
        for part in (table["kind"] == kind for kind in ("head", *EXTRA)):
            rows = (full == clear) & part.to_numpy()
            if rows.any():
                cells = _cells(table[rows], column[rows], unit, describe)
                chart.add_trace(cells.update(opacity=opacity, **scale))
    crowded = layers * heads > CROWDED
    if not crowded:
        inks = [_ink(e, limit, s) for e, s in zip(table["effect"], full, strict=True)]
        text = [_short(e * factor) for e in table["effect"]]
        text = [bold(t) if s else t for t, s in zip(text, full, strict=True)]
        font = {"size": 10, "color": inks}
        chart.add_scatter(x=column, y=table["layer"], mode="text", hoverinfo="skip", text=text, textfont=font)
    _mark(chart, table, column, said, limit, crowded)
    if crowded and bar:
        add_bar(chart, limit, towards)
    ticks = list(range(heads)) if heads <= 16 else list(range(0, heads, 2))
    extra = _extra(table)
    chart.update_xaxes(
        axis("head" if heads else ""),
        showgrid=False,
        zeroline=False,
        tickvals=[*ticks, *(places[kind] for kind in extra)],
        ticktext=[*map(str, ticks), *(EXTRA[kind] for kind in extra)],
        range=[-0.6, round(max(places.values()) + 0.6, 6)],
    )
    chart.update_yaxes(
        axis("layer"),
        showgrid=False,
        zeroline=False,
        autorange="reversed",
        tickvals=list(range(0, layers, 1 if layers <= 24 else 4)),
    )
    if bar:
        chart.update_yaxes(autorange=False, range=[layers - 0.5, -0.5])
    return chart


def _extra(table: pd.DataFrame) -> list[str]:
    return [kind for kind in EXTRA if (table["kind"] == kind).any()]


def _places(table: pd.DataFrame) -> dict[int | str, float]:
    """Where each head, and each column beside the heads, stands."""
    last = table["head"].max(skipna=True)
    heads = 0 if pd.isna(last) else int(last) + 1
    start = heads + 0.6 if heads else 0.0
    places: dict[int | str, float] = {head: float(head) for head in range(heads)}
    return places | {kind: start + i for i, kind in enumerate(_extra(table))}


def add_bar(chart: go.Figure, limit: float, towards: int = 1) -> None:
    """A thin colour bar over the drawing, on a trace without points."""
    scale = {
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "ypad": 4,
        "xpad": 0,
        "len": 0.45,
        "thickness": 7,
        "outlinewidth": 0,
        "tickfont": {"size": 11},
        "nticks": 5,
        "ticklabelposition": "outside top",
    }
    chart.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        hoverinfo="skip",
        marker={
            "color": [0.0],
            "cmin": -limit,
            "cmax": limit,
            "colorscale": diverging(towards),
            "showscale": True,
            "colorbar": scale,
        },
    )
    chart.update_layout(margin_t=40, height=chart.layout.height + 30)


def _cells(table: pd.DataFrame, column: np.ndarray, unit: str, describe: Hover) -> go.Heatmap:
    """Cells of one kind and significance, on the full grid, so that every cell has the same size."""
    layers = np.arange(table["layer"].min(), table["layer"].max() + 1)
    columns = np.arange(column.min(), column.max() + 1)
    z = np.full((len(layers), len(columns)), np.nan)
    text = np.full(z.shape, "", dtype=object)
    for row, at in zip(records(table), column, strict=True):
        layer, place = int(row.layer) - int(layers[0]), round(float(at) - float(columns[0]))
        z[layer, place], text[layer, place] = row.effect, describe(row, unit)
    size = {"dx": 1, "dy": 1, "x0": float(columns[0]), "y0": int(layers[0])}
    return go.Heatmap(z=z, **said(text), xgap=2, ygap=2, hoverongaps=False, **size)


def _short(effect: float) -> str:
    """Two decimals without the leading zero, to fit a cell; a dot for what rounds to nothing."""
    if np.isnan(effect):
        return ""
    if abs(effect) < 0.005:
        return "·"
    text = f"{effect:.2f}" if abs(effect) < 10 else f"{effect:.0f}"
    return text.replace("-", "−").replace("0.", ".", 1) if abs(effect) < 1 else text.replace("-", "−")


def _ink(effect: float, limit: float, clear: bool) -> str:
    return PALE if not clear else WHITE if abs(effect) > 0.55 * limit else INK


def _mark(
    chart: go.Figure, table: pd.DataFrame, column: np.ndarray, said: list[Any], limit: float, crowded: bool
) -> None:
    """A symbol in the cells of what something is said of: in a corner, beside a number, or alone where none fits.

    Truth values have a dot where no number fits, since opacity alone is lost in grey print.
    """
    x, y = (0.0, 0.0) if crowded else CORNER
    looks = [MARKS.get(str(v), MARKS["specific" if claimed(v) and crowded else "untested"]) for v in said]
    at = [i for i, look in enumerate(looks) if look.sign]
    if not at:
        return
    effect = table["effect"].to_numpy()
    inks = [_ink(effect[i], limit, True) if claimed(said[i]) else looks[i].colour for i in at]
    marker = {"symbol": [looks[i].symbol for i in at], "size": 5, "color": inks}
    chart.add_scatter(
        x=column[at] + x, y=table["layer"].to_numpy()[at] + y, mode="markers", marker=marker, hoverinfo="skip"
    )
