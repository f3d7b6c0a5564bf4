"""Who wrote a vector: each writer's share along it, and what its part does alone and when it is left out."""

from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.records import records
from steerscope.reports.theme import CONTROL, DIVERGING, NEUTRAL, axis, figure, visible

SHOWN = 14
LOOKS = {
    "alone": ("#c4501b", "circle", -0.2, "its part alone"),
    "without": ("#2f7bbf", "square", 0.2, "lost without it"),
}
HALF = 0.14  # height of a band of controls


def written(table: pd.DataFrame, total: float, unit: str) -> go.Figure:
    """The strongest writers, in shares of the vector and of the total effect.

    Args:
        table: rows of `writers` of one injection. total: the effect that causal shares are of.
    """
    shares = table[["share", "alone_share", "without_share"]].abs().max(axis=1)
    rows = table.loc[shares.sort_values(ascending=False, kind="stable").index[:SHOWN]]
    rows = rows.sort_values("share", ascending=False, kind="stable")
    chart = figure(height=96 + 34 * max(2, len(rows)), margin={"l": 92, "r": 14, "t": 30, "b": 46})
    total = total or float("nan")
    places = list(range(len(rows)))
    for measure, (colour, symbol, offset, name) in LOOKS.items():
        low, high = rows[f"{measure}_control_low"] / total, rows[f"{measure}_control_high"] / total
        for y, x0, x1 in zip(places, low, high, strict=True):
            chart.add_shape(
                type="rect",
                x0=x0,
                x1=x1,
                y0=y + offset - HALF,
                y1=y + offset + HALF,
                fillcolor=CONTROL,
                opacity=0.35,
                line_width=0,
                layer="below",
                visible=pd.notna(x0),
            )
        middle = rows[f"{measure}_share"]
        ends = sorted_ends(rows[f"{measure}_low"] / total, rows[f"{measure}_high"] / total)
        chart.add_scatter(
            x=middle,
            y=[y + offset for y in places],
            mode="markers",
            name=name,
            showlegend=False,
            customdata=[hover(r, measure, unit) for r in records(rows)],
            hovertemplate="%{customdata}<extra></extra>",
            marker={
                "size": 9,
                "color": colour,
                "line": {"color": colour, "width": 1.5},
                "symbol": [symbol if s else f"{symbol}-open" for s in rows[f"{measure}_significant"]],
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": ends["high"] - middle,
                "arrayminus": middle - ends["low"],
                "thickness": 1.5,
                "width": 3,
                "color": colour,
            },
        )
        legend = {"size": 9, "color": colour, "symbol": symbol}  # filled, whatever the first writer is
        chart.add_scatter(x=[None], y=[None], mode="markers", name=name, marker=legend)
    chart.add_scatter(
        x=rows["share"],
        y=places,
        mode="markers",
        name="share along the vector",
        hovertemplate="%{customdata}<extra></extra>",
        customdata=[
            (
                f"<b>{escape(str(r.writer))}</b><br>{words.percent(r.share)} along the vector<br>norm "
                f"{words.number(r.norm)}, cosine {words.number(r.cosine)}"
            )
            for r in records(rows)
        ],
        marker={"size": 12, "color": NEUTRAL, "symbol": "line-ns-open", "line": {"width": 2.5}},
    )
    chart.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    chart.update_xaxes(axis("share of the vector, of the effect"), tickformat=".0%", rangemode="tozero")
    chart.update_yaxes(
        axis(),
        range=[len(rows) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
        tickvals=places,
        ticktext=[escape(str(writer)) for writer in rows["writer"]],
    )
    return chart


def sorted_ends(low: pd.Series, high: pd.Series) -> pd.DataFrame:
    """Ends of intervals in order: a negative total turns them round."""
    both = pd.concat([low, high], axis=1)
    return pd.DataFrame({"low": both.min(axis=1), "high": both.max(axis=1)})


def hover(row: Any, measure: str, unit: str) -> str:
    """What is known of a writer's part in one measure."""
    get = row.__getattribute__
    low, high = get(f"{measure}_control_low"), get(f"{measure}_control_high")
    share = f"{words.percent(get(f'{measure}_share'))} of the effect"
    return "<br>".join(
        [
            f"<b>{escape(str(row.writer))}</b> {LOOKS[measure][3]}",
            (
                f"{words.signed(get(measure))} "
                f"{escape(unit)}{words.between(get(f'{measure}_low'), get(f'{measure}_high'))}, {share}"
            ),
            f"random parts of equal norm {words.signed(get(f'{measure}_control'))}{words.between(low, high)}",
            (
                f"{words.p_value(get(f'{measure}_p_adjusted'))} (adjusted), "
                f"{words.p_value(get(f'{measure}_p_holm'))} (Holm)"
            ),
        ]
    )


def rows(table: pd.DataFrame) -> go.Figure:
    """Writers by rows of the vector: the share of each row that each wrote.

    Args:
        table: of `rows`, one injection.
    """
    size = table.groupby("writer", sort=False)["share"].apply(lambda s: s.abs().max())
    kept = [str(w) for w in size.sort_values(ascending=False, kind="stable").index[:SHOWN]]
    names = [str(w) for w in table["writer"].unique() if str(w) in kept]
    grid = table.pivot(index="writer", columns="row", values="share").loc[names]
    tokens = table.drop_duplicates("row").sort_values("row")
    limit = float(grid.abs().max().max()) or 1.0
    labels = [[_cell(v) for v in line] for line in grid.to_numpy()]
    chart = figure(height=100 + 26 * max(3, len(names)), margin={"l": 92, "r": 14, "t": 10, "b": 64})
    chart.add_trace(
        go.Heatmap(
            z=grid.to_numpy(),
            x=list(range(len(tokens))),
            y=list(range(len(names))),
            colorscale=DIVERGING,
            zmin=-limit,
            zmax=limit,
            showscale=False,
            xgap=2,
            ygap=2,
            text=labels,
            texttemplate="%{text}" if len(tokens) <= 12 else None,
            hoverongaps=False,
            customdata=[[escape(name)] * len(tokens) for name in names],
            hovertemplate="<b>%{customdata}</b><br>%{z:.1%} of this row<extra></extra>",
        )
    )
    chart.update_xaxes(
        axis("row of the vector: plus over minus"),
        showgrid=False,
        zeroline=False,
        tickvals=list(range(len(tokens))),
        ticktext=[f"{visible(r.plus)}<br>{visible(r.minus)}" for r in records(tokens)],
    )
    chart.update_yaxes(
        axis(),
        showgrid=False,
        zeroline=False,
        autorange="reversed",
        tickvals=list(range(len(names))),
        ticktext=[escape(name) for name in names],
    )
    return chart


def _cell(share: float) -> str:
    return "" if pd.isna(share) else words.percent(share + 0.0 if abs(share) >= 0.005 else 0.0)
