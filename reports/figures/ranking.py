"""The strongest nodes with error bars, each over the band of its references."""

from html import escape

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports.figures.dots import bands, dots, names
from steerscope.reports.figures.heatmap import Hover, hover
from steerscope.reports.records import largest, records
from steerscope.reports.theme import NEUTRAL, axis, figure, side

SHOWN = 20


def ranking(
    table: pd.DataFrame,
    unit: str,
    limits: tuple[float, float] | None = None,
    *,
    describe: Hover = hover,
    title: str = "effect",
    towards: int = 1,
) -> go.Figure:
    """One measure's nodes, by the size of their effect: at most 20, those without any effect left out.

    Args:
        table: as for `heatmap`, with low, high, reference_low and reference_high; without a reference there is no band.
        title: of the axis.
        towards: the sign of the whole effect.
    """
    rows = largest(table[table["effect"] != 0], SHOWN)
    chart = figure(height=90 + 24 * max(4, len(rows)), margin={"l": 70, "r": 14, "t": 8, "b": 46})
    at, clear = range(len(rows)), rows["significant"].tolist()
    bands(chart, at, rows["reference_low"], rows["reference_high"], 0.32, 0.4)
    colour = [side(e, towards) if s else NEUTRAL for e, s in zip(rows["effect"], clear, strict=True)]
    symbol = ["circle" if s else "circle-open" for s in clear]
    hovers = [describe(r, unit) for r in records(rows)]
    dots(chart, rows, at, "effect", hovers, colour=colour, ends=("low", "high"), whisker=NEUTRAL, symbol=symbol)
    chart.update_xaxes(axis(f"{title} ({unit})" if unit else title), zeroline=True, range=limits)
    names(chart, [escape(str(node)) for node in rows["node"]], showgrid=True)
    return chart
