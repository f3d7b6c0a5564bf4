"""What of effect and damage survives frozen attention: everywhere at once, and layer by layer."""

from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.figures.lines import EFFECT, LOSS, line
from steerscope.reports.records import records
from steerscope.reports.theme import CONTROL, GRID, axis, figure

FROZEN = {"patterns": "patterns frozen", "values": "values frozen", "both": "both frozen"}
LOOKS = {"effect": (EFFECT, "circle", -0.16), "damage": (LOSS, "diamond", 0.16)}
HALF = 0.12  # height of a band of controls


def survival(table: pd.DataFrame) -> go.Figure:
    """A row for each of patterns, values and both; effect and damage side by side, each over its controls.

    Args:
        table: rows of `attention` with scope all.
    """
    names = [name for name in FROZEN if (table["frozen"] == name).any()]
    chart = figure(height=100 + 62 * len(names), margin={"l": 112, "r": 20, "t": 30, "b": 46})
    for outcome, (colour, symbol, offset) in LOOKS.items():
        rows = table[(table["outcome"] == outcome) & table["survives"].notna()]
        at = [names.index(name) + offset for name in rows["frozen"]]
        for y, row in zip(at, records(rows), strict=True):
            chart.add_shape(
                type="rect",
                x0=row.control_survives_low,
                x1=row.control_survives_high,
                y0=y - HALF,
                y1=y + HALF,
                fillcolor=CONTROL,
                opacity=0.35,
                line_width=0,
                layer="below",
                visible=pd.notna(row.control_survives_low),
            )
        chart.add_scatter(
            x=rows["survives"],
            y=at,
            mode="markers",
            name=outcome,
            customdata=[hover(r) for r in records(rows)],
            hovertemplate="%{customdata}<extra></extra>",
            marker={"size": 10, "color": colour, "symbol": symbol},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": rows["survives_high"] - rows["survives"],
                "arrayminus": rows["survives"] - rows["survives_low"],
                "thickness": 1.5,
                "width": 3,
                "color": colour,
            },
        )
    for x in (0, 1):
        chart.add_vline(
            x=x, line_width=1, line_color=GRID if x == 0 else CONTROL, line_dash="solid" if x == 0 else "dot"
        )
    chart.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    chart.update_xaxes(axis("share that survives"), tickformat=".0%", zeroline=False)
    chart.update_yaxes(
        axis(),
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
        tickvals=list(range(len(names))),
        ticktext=[FROZEN[name] for name in names],
    )
    return chart


def by_layer(table: pd.DataFrame) -> go.Figure:
    """A column for each of patterns, values and both: what survives when one layer is frozen.

    Args:
        table: rows of `attention` with scope layer.
    """
    names = [name for name in FROZEN if (table["frozen"] == name).any()]
    chart = figure(height=320, margin={"l": 62, "r": 12, "t": 52, "b": 46})
    chart.set_subplots(
        rows=1, cols=len(names), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=[FROZEN[n] for n in names]
    )
    chart.update_annotations(font_size=13)
    for outcome, (colour, _, _) in LOOKS.items():
        for column, name in enumerate(names, 1):
            rows = table[(table["outcome"] == outcome) & (table["frozen"] == name)]
            rows = rows[rows["survives"].notna()]
            if rows.empty:
                continue
            drawn = rows.drop(columns=["low", "high"]).rename(columns={"survives_low": "low", "survives_high": "high"})
            label = [hover(r) for r in records(rows.sort_values("layer"))]
            line(
                chart,
                drawn,
                "layer",
                "survives",
                colour,
                hover=label,
                name=outcome,
                shown=column == 1,
                place={"row": 1, "col": column},
            )
    chart.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.12, "yanchor": "bottom", "x": 0})
    chart.update_xaxes(axis("layer", dtick=max(1, int(table["layer"].max()) // 8)))
    chart.update_yaxes(axis(), tickformat=".0%", nticks=9)
    chart.update_yaxes(title_text="share that survives", row=1, col=1)
    return chart


def hover(row: Any) -> str:
    """All that is known of a freezing and an outcome."""
    unit = escape(str(row.unit))
    own = words.between(row.control_survives_low, row.control_survives_high, words.percent)
    return "<br>".join(
        [
            (
                f"<b>{escape(str(row.node))}</b> {escape(FROZEN.get(row.frozen, str(row.frozen)))}: "
                f"{escape(str(row.outcome))}"
            ),
            (
                f"{words.percent(row.survives)}{words.between(row.survives_low, row.survives_high, words.percent)} "
                "survives"
            ),
            f"lost {words.signed(row.lost)} of {words.signed(row.total)} {unit}{words.between(row.low, row.high)}",
            f"random vectors of their own: {words.percent(row.control_survives)}{own} survives",
            f"{words.p_value(row.p_adjusted)} (adjusted), {words.p_value(row.p_holm)} (Holm)",
        ]
    )
