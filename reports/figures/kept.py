"""How much of a vector's effect or disturbance is kept with some of its dimensions."""

from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.figures.lines import line
from steerscope.reports.records import records
from steerscope.reports.theme import CONTROL, GRID, axis, figure

COLOUR = {"gradient": "#c4501b", "size": "#2f7bbf", "first": "#8f63ad", "random": "#5f666f"}
NAME = {"gradient": "largest by gradient", "size": "largest values", "first": "the first ones", "random": "random ones"}
TICKS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def kept(table: pd.DataFrame, keep: float) -> go.Figure:
    """Share of the effect over the share of dimensions, a line an order with its band; dotted: random vectors."""
    drawn = table.drop(columns=["low", "high"]).rename(columns={"kept_low": "low", "kept_high": "high"})
    chart = _empty(table)
    chart.add_hline(y=keep, line_width=1, line_color=CONTROL, line_dash="dash")
    for order, colour in COLOUR.items():
        rows = drawn[drawn["order"] == order].sort_values("fraction")
        if rows.empty:
            continue
        if rows["control"].notna().any():
            chart.add_scatter(
                x=rows["fraction"],
                y=rows["control"],
                mode="lines",
                line={"color": colour, "width": 1.3, "dash": "dot"},
                hoverinfo="skip",
                showlegend=False,
                legendgroup=NAME[order],
            )
        line(
            chart,
            rows,
            "fraction",
            "kept",
            colour,
            hover=[_hover(r) for r in records(rows)],
            name=NAME[order],
            shown=True,
        )
    chart.update_yaxes(axis("share of the effect kept"), tickformat=".0%", rangemode="tozero")
    return chart


def disturbed(table: pd.DataFrame) -> go.Figure:
    """Share of the disturbance over the share of dimensions."""
    chart = _empty(table)
    chart.add_hline(y=1.0, line_width=1, line_color=GRID)
    for order, colour in COLOUR.items():
        rows = table[table["order"] == order].sort_values("fraction")
        if len(rows):
            hover = [
                (
                    f"<b>{NAME[order]}</b>, {words.percent(r.fraction)}<br>KL {words.number(r.kl)} "
                    f"nats{words.between(r.kl_low, r.kl_high)}"
                )
                for r in records(rows)
            ]
            line(
                chart,
                rows.assign(low=float("nan"), high=float("nan")),
                "fraction",
                "kl_kept",
                colour,
                hover=hover,
                name=NAME[order],
                shown=True,
            )
    chart.update_yaxes(axis("disturbance over that of the whole vector"), tickformat=".0%", rangemode="tozero")
    return chart


def _empty(table: pd.DataFrame) -> go.Figure:
    chart = figure(height=390, margin={"l": 66, "r": 14, "t": 56, "b": 50})
    low = float(table["fraction"].min())
    ticks = [t for t in TICKS if t >= low * 0.9]
    chart.update_xaxes(
        axis("dimensions kept (log scale)"), type="log", tickvals=ticks, ticktext=[f"{100 * t:g}%" for t in ticks]
    )
    chart.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    return chart


def _hover(row: Any) -> str:
    return "<br>".join(
        [
            f"<b>{escape(NAME[row.order])}</b>: {row.dimensions} dimensions, {words.percent(row.norm)} of the norm",
            (
                f"{words.percent(row.kept)}{words.between(row.low, row.high, words.percent)} of the effect, "
                f"{words.percent(row.kl_kept)} of the disturbance"
            ),
            (
                "random vectors, of their own: "
                f"{words.percent(row.control)}{words.between(row.control_low, row.control_high, words.percent)}"
            ),
            (
                "unlike them: "
                f"{words.p_value(row.p_adjusted) if row.p_adjusted == row.p_adjusted else 'not tested'} (adjusted)"
            ),
        ]
    )
