"""Effect against disturbance: the real vector among its controls."""

from html import escape

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.records import records
from steerscope.reports.theme import CONTROL, POSITIVE, axis, figure


def disturbance(vectors: pd.DataFrame, unit: str) -> go.Figure:
    """Every vector as a point: KL to the right, effect upwards, intervals over prompts as bars."""
    chart = figure(height=340)
    for real in (False, True):
        rows = vectors[(vectors["vector"] == "steering") == real]
        colour = POSITIVE if real else CONTROL
        chart.add_scatter(
            x=rows["kl"],
            y=rows["effect"],
            mode="markers+text" if real else "markers",
            text=["  steering vector"] * len(rows) if real else None,
            textposition="middle left",
            customdata=[_hover(r, unit) for r in records(rows)],
            hovertemplate="%{customdata}<extra></extra>",
            marker={"size": 11 if real else 7, "color": colour},
            error_x=_bars(rows, "kl", "kl_low", "kl_high", colour),
            error_y=_bars(rows, "effect", "low", "high", colour),
        )
    chart.update_xaxes(axis("disturbance: KL(steered || clean), nats"), rangemode="tozero")
    chart.update_yaxes(axis(f"effect ({unit})"))
    return chart


def _bars(rows: pd.DataFrame, middle: str, low: str, high: str, colour: str) -> dict[str, object]:
    return {
        "type": "data",
        "symmetric": False,
        "array": rows[high] - rows[middle],
        "arrayminus": rows[middle] - rows[low],
        "thickness": 1,
        "width": 0,
        "color": colour,
    }


def _hover(row: object, unit: str) -> str:
    get = row.__getattribute__
    return (
        f"<b>{escape(str(get('vector')))}</b><br>effect {words.signed(get('effect'))} {escape(unit)}"
        f"{words.between(get('low'), get('high'))}<br>KL {words.number(get('kl'))} "
        f"nats{words.between(get('kl_low'), get('kl_high'))}"
        f"<br>coefficient {words.number(get('coefficient'))}"
    )
