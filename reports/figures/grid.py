"""A map of cells with names on both sides: nodes by places of a prompt, or by its tokens."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from steerscope.reports.theme import DIVERGING, axis, figure

GAP = 0.5  # before the columns that stand apart


def grid(
    values: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    hover: NDArray[np.object_],
    *,
    limit: float,
    text: NDArray[np.object_] | None = None,
    muted: NDArray[np.bool_] | None = None,
    apart: int = 0,
    title: str = "",
    tall: float = 0,
) -> go.Figure:
    """One cell for each row and column; missing ones stay empty.

    Args:
        rows, columns: names, already escaped. hover, text: of each cell, likewise.
        limit: the ends of the colour scale; what is beyond has its ends' colours.
        muted: cells in pale colour.
        apart: so many columns at the end stand apart.
        title: of the columns. tall: room for long names under them.
    """
    muted = np.zeros(values.shape, dtype=bool) if muted is None else muted
    head = len(columns) - apart
    at = np.arange(len(columns)) + np.where(np.arange(len(columns)) >= head, GAP, 0.0)
    chart = figure(
        height=round(100 + tall + 27 * len(rows)),
        margin={"l": 62, "r": 8, "t": 8, "b": 46 + tall},
        plot_bgcolor="#ffffff",
    )
    for chosen, opacity in ((muted, 0.35), (~muted, 1.0)):
        for part in (slice(0, head), slice(head, None)):
            z = np.where(chosen, values, np.nan)[:, part]
            if z.size and not np.isnan(z).all():
                chart.add_heatmap(
                    x=at[part],
                    y=list(range(len(rows))),
                    z=z,
                    customdata=hover[:, part],
                    opacity=opacity,
                    xgap=2,
                    ygap=2,
                    colorscale=DIVERGING,
                    zmin=-limit,
                    zmax=limit,
                    showscale=False,
                    hoverongaps=False,
                    hovertemplate="%{customdata}<extra></extra>",
                )
    if text is not None:
        y, x = np.nonzero(~np.isnan(values))
        strong = np.abs(values[y, x]) > 0.55 * limit
        chart.add_scatter(
            x=at[x],
            y=y,
            mode="text",
            text=text[y, x],
            hoverinfo="skip",
            textfont={
                "size": 10,
                "color": [
                    "#8a8f98" if m else "#ffffff" if s else "#1d2026" for m, s in zip(muted[y, x], strong, strict=True)
                ],
            },
        )
    names: dict[str, object] = {"showgrid": False, "zeroline": False}
    chart.update_xaxes(
        axis(title),
        tickvals=at,
        ticktext=list(columns),
        tickangle=-45 if tall else -30,
        tickfont={"size": 11},
        range=[-0.6, at[-1] + 0.6],
        **names,
    )
    chart.update_yaxes(
        axis(), tickvals=list(range(len(rows))), ticktext=list(rows), range=[len(rows) - 0.5, -0.5], **names
    )
    return chart
