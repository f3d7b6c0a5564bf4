"""What the injection does to the next token: the largest gains and losses of probability."""

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.records import records
from steerscope.reports.theme import NEGATIVE, POSITIVE, axis, figure, visible


def tokens(table: pd.DataFrame, side: str) -> go.Figure:
    """Bars of the change of probability of one side, `gain` or `loss`; the KL contribution on hover."""
    rows = table[table["side"] == side]
    change = rows["steered"] - rows["clean"]
    labels = [visible(t) for t in rows["token"]]
    chart = figure(height=80 + 23 * max(3, len(rows)), margin={"l": 90, "r": 14, "t": 8, "b": 46})
    hover = [
        f"<b>{label}</b><br>{words.number(r.clean)} → {words.number(r.steered)}<br>"
        f"mean log ratio {words.signed(r.change)} nats<br>contribution to KL {words.signed(r.kl)} nats"
        for label, r in zip(labels, records(rows), strict=True)
    ]
    chart.add_bar(
        x=change,
        y=list(range(len(rows))),
        orientation="h",
        marker_color=POSITIVE if side == "gain" else NEGATIVE,
        text=[f"{words.percent(r.clean)} → {words.percent(r.steered)}" for r in records(rows)],
        textposition="auto",
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
    )
    chart.update_xaxes(axis("change of probability, mean over prompts"))
    chart.update_yaxes(axis(), autorange="reversed", tickvals=list(range(len(rows))), ticktext=labels, showgrid=False)
    return chart
