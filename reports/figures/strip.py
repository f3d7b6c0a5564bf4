"""One prompt, token by token: what nodes do at each position."""

from collections.abc import Set
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.reports import words
from steerscope.reports.figures.grid import grid
from steerscope.reports.records import records
from steerscope.reports.theme import bold, visible


def strip(
    table: pd.DataFrame, unit: str, limit: float, injected: Set[int] = frozenset(), *, towards: int = 1
) -> go.Figure:
    """A row a node, a column a token.

    Args:
        table: node, position, token and effect of one prompt; perhaps `where`, a name of the place.
        limit: the ends of the colour scale. injected: positions that are marked.
        towards: the sign of the whole effect.
    """

    def hover(r: Any) -> str:
        where = f" ({r.where})" if "where" in table else ""
        title = f"{bold(r.node)} at {visible(r.token)}{where}"
        return f"{title}\n{words.signed(r.effect)} {unit}"

    nodes = {node: str(node) for node in dict.fromkeys(table["node"])}
    tokens = {
        r.position: f"{bold(visible(r.token))} ●" if r.position in injected else visible(r.token)
        for r in records(table.drop_duplicates("position").sort_values("position"))
    }
    return grid(table, ("node", "position"), nodes, tokens, hover, limit=limit, towards=towards, tall=40)
