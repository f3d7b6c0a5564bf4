"""Quantities by layer, a line a run; and what a lens reads at every layer and position of one prompt."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.figures.lines import lines
from steerscope.reports.records import records
from steerscope.reports.theme import axis, bold, figure, said, visible


def by_layer(table: pd.DataFrame, by: str, title: str, last: int | None = None, log: bool = False) -> go.Figure:
    """A line with its band for each value of the column `by`.

    Args:
        table: layer, value, low, high. last: the layer that stands for the end of the model.
    """

    def hover(name: str, r: Any) -> str:
        value = f"{words.number(r.value)}{words.between(r.low, r.high)}"
        return f"{bold(name)}, {_layer(r.layer, last)}\n{value}"

    chart = lines({str(name): table[table[by] == name] for name in dict.fromkeys(table[by])}, "layer", "value", hover)
    layers = sorted(set(table["layer"]))
    ticks = layers[:: max(1, len(layers) // 12)]
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
            f"after {bold(visible(r.token))}, {_layer(r.layer, layers[0])}\nmost probable: "
            f"{bold(visible(r.top))}\nentropy {words.number(r.entropy)} nats\nKL of the final prediction "
            f"{words.number(r.kl_final)}\nKL from the clean run {words.number(r.kl_clean)}"
        )
    chart = figure(height=round(110 + 30 * len(layers)), margin={"l": 56, "r": 8, "t": 8, "b": 76})
    chart.add_heatmap(
        x=positions,
        y=list(range(len(layers))),
        z=z,
        text=text,
        texttemplate="%{text}",
        textfont={"size": 10},
        colorscale=[[0, "#8cb8dd"], [0.5, "#eef1f4"], [1, "#f2b48c"]],
        zmin=0,
        zmax=largest,
        showscale=False,
        xgap=2,
        ygap=2,
        **said(hover),
    )
    plain: dict[str, Any] = {"showgrid": False, "zeroline": False}
    chart.update_xaxes(axis(), tickvals=positions, ticktext=[visible(t) for t in tokens], tickangle=-45, **plain)
    names = ["end" if layer == layers[0] else f"L{layer:g}" for layer in layers]
    chart.update_yaxes(axis(), tickvals=list(range(len(layers))), ticktext=names, autorange="reversed", **plain)
    return chart
