"""What breaks a model: what goes when each mechanism is undone alone, and its share among all."""

from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.records import records
from steerscope.reports.theme import CONTROL, GRID, axis, figure

NAME = {
    "patterns": "where heads look (patterns)",
    "seen": "injected positions are seen",
    "values": "what heads move from them (values)",
    "scales": "what norms divide by",
    "norm": "length of the injected stream",
    "mean": "part along the mean stream",
    "rogue": "part in the largest dimensions",
    "sink": "part along the first position",
    "all of them": "all of them",
}
LOOKS = {
    "gone": ("damage that goes, undone alone", "#c4501b", "circle", -0.22),
    "shapley": ("share of the damage (Shapley)", "#8f63ad", "square", 0.0),
    "effect": ("steering that stays, undone alone", "#2f7bbf", "diamond", 0.22),
}


def causes(table: pd.DataFrame) -> go.Figure:
    """A row a mechanism, largest Shapley share first; all together last."""
    rows = table[table["kind"] == "mechanism"].sort_values("shapley", ascending=False)
    rows = pd.concat([rows, table[table["kind"] == "together"]])
    names = [escape(NAME.get(c, str(c))) for c in rows["cause"]]
    chart = figure(height=110 + 44 * len(names), margin={"l": 230, "r": 20, "t": 34, "b": 46})
    for column, (title, colour, symbol, offset) in LOOKS.items():
        own = rows[column]
        chart.add_scatter(
            x=own,
            y=[i + offset for i in range(len(names))],
            mode="markers",
            name=title,
            marker={"color": colour, "symbol": symbol, "size": 9},
            customdata=[_hover(r) for r in records(rows)],
            hovertemplate="%{customdata}<extra></extra>",
            error_x={
                "type": "data",
                "symmetric": False,
                "array": rows[f"{column}_high"] - own,
                "arrayminus": own - rows[f"{column}_low"],
                "thickness": 1.4,
                "width": 3,
                "color": colour,
            },
        )
    for x in (0, 1):
        chart.add_vline(
            x=x, line_width=1, line_color=GRID if x == 0 else CONTROL, line_dash="solid" if x == 0 else "dot"
        )
    chart.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    chart.update_xaxes(axis("share of the damage, or of the steering"), tickformat=".0%", zeroline=False)
    chart.update_yaxes(
        axis(),
        tickvals=list(range(len(names))),
        ticktext=names,
        range=[len(names) - 0.5, -0.6],
        showgrid=False,
        zeroline=False,
    )
    return chart


def _hover(row: Any) -> str:
    return "<br>".join(
        [
            f"<b>{escape(NAME.get(row.cause, str(row.cause)))}</b>",
            (
                "undone alone: "
                f"{words.percent(row.gone)}{words.between(row.gone_low, row.gone_high, words.percent)} of the "
                "damage goes"
            ),
            (
                f"{words.percent(row.effect)}{words.between(row.effect_low, row.effect_high, words.percent)} of "
                "the steering stays"
            ),
            (
                "Shapley share "
                f"{words.percent(row.shapley)}{words.between(row.shapley_low, row.shapley_high, words.percent)}"
            ),
        ]
    )
