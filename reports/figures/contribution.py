"""A node's marginal contribution in words, for hover labels."""

from html import escape
from typing import Any

import pandas as pd

from steerscope.reports import words


def contribution(row: Any, unit: str) -> str:
    """All that is known of a node and an outcome: a row of `nodes`, its contribution named `effect`."""
    lines = [
        f"<b>{escape(str(row.node))}</b> {escape(str(row.outcome))}",
        f"contribution {words.signed(row.effect)} {escape(unit)}{words.between(row.low, row.high)}",
        f"random vectors {words.signed(row.control)}{words.between(row.control_low, row.control_high)}",
        f"with the node {words.number(row.mean_in)}, without {words.number(row.mean_out)}, in {row.sampled:,} trials",
        f"{words.p_value(row.p_adjusted)} (adjusted), {words.p_value(row.p_holm)} (Holm)",
        "significant" if row.significant else "not significant",
    ]
    if pd.notna(row.p_specific):
        lines[-1] += f"; unlike random vectors: {words.p_value(row.p_specific)} (adjusted)"
    return "<br>".join(lines)


def efficiency(row: Any, unit: str) -> str:
    """A node's effect for each nat of disturbance: a row of `frontier`, its efficiency named `effect`."""
    found = [name for name in ("responsive", "useful", "frontier") if getattr(row, name)]
    return "<br>".join(
        [
            f"<b>{escape(str(row.node))}</b> {words.listing(found) if found else 'not responsive'}",
            f"{words.signed(row.effect)} {escape(unit)}{words.between(row.efficiency_low, row.efficiency_high)}",
        ]
    )
