"""The report of `path_effect`: what flows straight from one node to another."""

from html import escape
from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.ranking import ranking
from steerscope.reports.page import Page, Panel, Section
from steerscope.reports.pages.common import everything, layout, metric_unit, opponents
from steerscope.reports.records import largest, records, sides, way


def headline(result: Result) -> list[str]:
    """The strongest paths along the effect, and against it."""
    unit = metric_unit(result)
    along, against = (
        [
            f"{r.node} ({words.ranged(r, 'effect', words.signed, unit)}, {words.percent(r.share)})"
            for r in records(largest(rows, 3))
        ]
        for rows in sides(_named(result, "necessity"), way(result))
    )
    return [f"Lost when the path alone is set back: {words.listing(along)}{opponents(against)}."]


def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    unit, towards = metric_unit(result), way(result)
    panels = [
        Panel(m.capitalize(), ranking(_named(result, m), unit, describe=_hover, towards=towards))
        for m in ("necessity", "sufficiency")
    ]
    columns = ["sender", "receiver", "measure", "effect", "low", "high", "share", "reference", "p_adjusted"]
    sections = [
        Section("Direct paths", ["Exact; grey bands are random vectors of equal norm."], panels),
        everything(result.frames["paths"], columns, "All paths", result),
    ]
    text = [
        "A direct path: the sender's other output reaches this input alone, everything between is held; what comes "
        "after the receiver reacts."
    ]
    question, method = "What flows where, of {vector} in {model}?", "exact path patching"
    return layout(result, question, method, headline(result), sections, text=text)


def _named(result: Result, measure: str) -> pd.DataFrame:
    table = result.frames["paths"]
    return table.assign(node=table["sender"] + " → " + table["receiver"])[table["measure"] == measure]


def _hover(row: Any, unit: str) -> str:
    effect = words.ranged(row, "effect", words.signed, escape(unit))
    return f"<b>{escape(str(row.node))}</b><br>{effect}<br>{words.p_value(row.p_adjusted)} (adjusted)"
