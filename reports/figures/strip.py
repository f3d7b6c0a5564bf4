"""One prompt, token by token: what nodes do at each position."""

from collections.abc import Set
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.figures.grid import grid
from steerscope.reports.records import records
from steerscope.reports.theme import visible


def strip(table: pd.DataFrame, unit: str, limit: float, injected: Set[int] = frozenset()) -> go.Figure:
    """A row a node, a column a token.

    Args:
        table: node, position, token and effect of one prompt; perhaps `where`, a name of the place.
        limit: the ends of the colour scale. injected: positions that are marked.
    """
    tokens = table.drop_duplicates("position").sort_values("position")
    at = {position: i for i, position in enumerate(tokens["position"])}
    names = [f"<b>{visible(r.token)}</b> ●" if r.position in injected else visible(r.token) for r in records(tokens)]
    nodes = list(dict.fromkeys(table["node"]))
    values = np.full((len(nodes), len(at)), np.nan)
    labels = np.full(values.shape, "", dtype=object)
    for r in records(table):
        place = nodes.index(r.node), at[r.position]
        where = f" ({escape(str(r.where))})" if "where" in table else ""
        values[place] = r.effect
        labels[place] = (
            f"<b>{escape(str(r.node))}</b> at {visible(r.token)}{where}<br>{words.signed(r.effect)} {escape(unit)}"
        )
    return grid(values, [escape(str(n)) for n in nodes], names, labels, limit=limit, tall=40)
