"""Quantities by layer, a line a run; and what a lens reads at every layer and position of one prompt."""

from html import escape
from itertools import cycle

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.figures.coefficient import COLOURS
from steerscope.reports.figures.lines import line
from steerscope.reports.records import records
from steerscope.reports.theme import axis, figure, visible


def by_layer(table: pd.DataFrame, by: str, title: str, last: int | None = None, log: bool = False) -> go.Figure:
    """A line with its band for each value of the column `by`.

    Args:
        table: layer, value, low, high. last: the layer that stands for the end of the model.
    """
    chart = figure(
        height=320,
        margin={"l": 62, "r": 14, "t": 34, "b": 46},
        showlegend=True,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    )
    for name, colour in zip(dict.fromkeys(table[by]), cycle(COLOURS), strict=False):
        rows = table[table[by] == name].sort_values("layer")
        hover = [
            (
                f"<b>{escape(str(name))}</b>, "
                f"{_layer(r.layer, last)}<br>{words.number(r.value)}{words.between(r.low, r.high)}"
            )
            for r in records(rows)
        ]
        line(chart, rows, "layer", "value", colour, hover=hover, name=escape(str(name)), shown=True)
    layers = sorted(set(table["layer"]))
    every = max(1, len(layers) // 12)
    ticks = layers[::every]
    chart.update_xaxes(axis("before layer"), tickvals=ticks, ticktext=["end" if t == last else f"{t:g}" for t in ticks])
    chart.update_yaxes(axis(title), **({"type": "log"} if log else {"rangemode": "tozero"}))
    return chart


def _layer(layer: float, last: int | None) -> str:
    return "at the end" if layer == last else f"before layer {layer:g}"


def read(table: pd.DataFrame, largest: float) -> go.Figure:
    """One run of one prompt: a row a layer, a column a position, the most probable token in each cell, its entropy as
    colour.

    Args:
        largest: entropy at the end of the colour scale.
    """
    layers = sorted(set(table["layer"]), reverse=True)
    positions = sorted(set(table["position"]))
    tokens = table.drop_duplicates("position").sort_values("position")["token"]
    z, text = np.full((len(layers), len(positions)), np.nan), np.full((len(layers), len(positions)), "", dtype=object)
    hover = text.copy()
    for r in records(table):
        at = layers.index(r.layer), positions.index(r.position)
        z[at], text[at] = r.entropy, visible(r.top)[:9]
        hover[at] = (
            f"after <b>{visible(r.token)}</b>, {_layer(r.layer, layers[0])}<br>most probable: "
            f"<b>{visible(r.top)}</b><br>entropy {words.number(r.entropy)} nats"
            f"<br>KL of the final prediction {words.number(r.kl_final)}<br>KL from the clean run "
            f"{words.number(r.kl_clean)}"
        )
    chart = figure(height=round(110 + 30 * len(layers)), margin={"l": 56, "r": 8, "t": 8, "b": 76})
    chart.add_heatmap(
        x=positions,
        y=list(range(len(layers))),
        z=z,
        text=text,
        texttemplate="%{text}",
        textfont={"size": 10},
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        colorscale=[[0, "#8cb8dd"], [0.5, "#eef1f4"], [1, "#f2b48c"]],
        zmin=0,
        zmax=largest,
        showscale=False,
        xgap=2,
        ygap=2,
    )
    chart.update_xaxes(
        axis(), tickvals=positions, ticktext=[visible(t) for t in tokens], tickangle=-45, showgrid=False, zeroline=False
    )
    names = ["end" if layer == layers[0] else f"L{layer:g}" for layer in layers]
    chart.update_yaxes(
        axis(), tickvals=list(range(len(layers))), ticktext=names, autorange="reversed", showgrid=False, zeroline=False
    )
    return chart
