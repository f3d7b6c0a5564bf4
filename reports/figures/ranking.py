"""The strongest nodes with error bars, each over the bands of its references, coloured by its verdict."""

import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports.figures.dots import bands, dots, named, names
from steerscope.reports.figures.heatmap import Hover, hover
from steerscope.reports.records import largest, records, verdicts
from steerscope.reports.theme import CONCEPTS, LEGEND, MARKS, NEUTRAL, REFERENCE, axis, figure, mark

SHOWN = 20
LETTERS, LINE = 58, 20  # of a line of the legend, and its height
NOISE, MEANING = "random vectors", "other concepts"


def ranking(
    table: pd.DataFrame,
    unit: str,
    limits: tuple[float, float] | None = None,
    *,
    describe: Hover = hover,
    title: str = "effect",
    towards: int = 1,
    references: str = NOISE,
) -> go.Figure:
    """One measure's nodes, by the size of their effect: at most 20, those without any effect left out.

    Args:
        table: as for `heatmap`, with low, high, reference_low and reference_high, perhaps concepts_low and
            concepts_high; without references there is no band.
        title: of the axis.
        towards: the sign of the whole effect.
        references: what the grey band is of.
    """
    rows = largest(table[table["effect"] != 0], SHOWN)
    at, said = range(len(rows)), verdicts(rows)
    found = [name for name in MARKS if name in set(map(str, said))]
    noise = (references, rows["reference_low"], rows["reference_high"])
    nothing = pd.Series(math.nan, index=rows.index)
    meaning = (MEANING, rows.get("concepts_low", nothing), rows.get("concepts_high", nothing))
    shown = [name for name, low, high in (noise, meaning) if (low.notna() & high.notna()).any()]
    lines = math.ceil(sum(len(name) + 6 for name in [*found, *shown]) / LETTERS)
    margin = {"l": 70, "r": 14, "t": 8 + LINE * lines, "b": 46}
    height = 90 + LINE * lines + 24 * max(4, len(rows))
    chart = figure(height=height, margin=margin, **(LEGEND if lines else {}))
    bands(chart, at, *noise[1:], 0.32, 0.4)
    bands(chart, at, *meaning[1:], 0.2, 0.28, CONCEPTS, 1)
    looks = [mark(v, e, towards) for v, e in zip(said, rows["effect"], strict=True)]
    colour, symbol = [look.colour for look in looks], [look.symbol for look in looks]
    hovers = [describe(r, unit) for r in records(rows)]
    more: dict[str, Any] = {"ends": ("low", "high"), "whisker": NEUTRAL, "showlegend": False}
    dots(chart, rows, at, "effect", hovers, colour=colour, symbol=symbol, **more)
    for name in found:
        named(chart, name, MARKS[name].colour, MARKS[name].symbol)
    for name, tint, opacity in ((references, REFERENCE, 0.6), (MEANING, CONCEPTS, 0.5)):
        if name in shown:
            named(chart, name, tint, opacity=opacity)
    chart.update_xaxes(axis(f"{title} ({unit})" if unit else title), zeroline=True, range=limits)
    names(chart, [str(node) for node in rows["node"]], showgrid=True)
    return chart
