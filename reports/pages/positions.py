"""The report of `by_position`: where in the prompt carriers do their work, and where they read the vector."""

from collections.abc import Callable
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.grid import grid
from steerscope.reports.figures.strip import strip
from steerscope.reports.page import Page, Panel, Section
from steerscope.reports.pages.common import everything, metric_unit, page
from steerscope.reports.records import largest, records

MEASURES = {
    "necessity": "Necessity: lost when the node is clean there",
    "sufficiency": "Sufficiency: brought when the node is steered there alone",
}
READS = {
    "attention": "Attention that goes to the injected positions, percent",
    "value": "Share of z that comes from the injected positions, percent",
}
GROUPS = ("injected +", "between", "all")  # several positions at once


def positions_page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    text = [
        "A place is a position that means the same in prompts of different lengths: the injected ones in "
        "order, those just after them, "
        "the last ones. The columns that stand apart are several positions patched at once: between is "
        "everything else, all the whole "
        "node. Places need not add up to all: what a "
        "node writes at one position can change what is read at another.",
        "The metric is a mean over the scored positions, and a node that writes at a position acts on the "
        "prediction there and, through later "
        "attention, after it. To ask who brings the vector to one prediction, score that position alone "
        "(scored='last').",
    ]
    sections = [_maps(result), _reads(result), _strip(result), _table(result)]
    return page(
        result,
        "Where in the prompt is {vector} carried in {model}?",
        "exact patching of single positions",
        positions_sentences(result),
        sections,
        text=text,
    )


def _single(result: Result, measure: str = "necessity") -> pd.DataFrame:
    table = result.frames["positions"]
    return table[(table["measure"] == measure) & ~table["where"].isin(GROUPS)]


def positions_sentences(result: Result) -> list[str]:
    """The strongest places, carriers whose places do not add up, and heads whose reading changes most."""
    unit, table = metric_unit(result), _single(result)
    best = largest(table[table["significant"]], 3)
    named = [
        (
            f"{r.node} at {r.where} ({words.signed(r.effect)} {unit}{words.between(r.low, r.high)}, "
            f"{words.percent(r.share)})"
        )
        for r in records(best)
    ]
    found = [
        f"Lost when a carrier is set back at one position alone, most of all: {words.listing(named)}."
        if named
        else "No carrier loses a significant part of the effect at any one position."
    ]
    found += [line for line in (_against(table, unit), _changed(result)) if line]
    return found


def _against(table: pd.DataFrame, unit: str) -> str:
    """Places that work against the effect."""
    total = np.sign(float(table["effect"].sum())) or 1.0
    rows = largest(table[table["significant"] & (table["effect"] * total < 0)], 3)
    named = [f"{r.node} at {r.where} ({words.signed(r.effect)} {unit})" for r in records(rows)]
    return f"Working against the rest: {words.listing(named)}." if named else ""


def _changed(result: Result) -> str:
    """The head whose attention to the injected positions changes most."""
    table = result.frames["reads"]
    rows = table[(table["quantity"] == "attention") & table["significant"]]
    rows = largest(rows, 1)
    for r in records(rows):
        way = "towards" if r.effect > 0 else "away from"
        return (
            f"Attention turns {way} the injected positions most in {r.node}, read at {r.where}: "
            f"{words.percent(r.clean)} of it goes there in "
            f"the clean run, {words.percent(r.steered)} in the steered one."
        )
    return ""


def hover(row: Any, unit: str) -> str:
    """All that is known of a node at a place, for its hover label."""
    return "<br>".join(
        [
            f"<b>{escape(str(row.node))}</b> at {escape(str(row.where))}, {row.measure}",
            (
                f"{words.signed(row.effect)} {escape(unit)}{words.between(row.low, row.high)}, "
                f"{words.percent(row.share)} of the effect"
            ),
            f"control {words.signed(row.control)}{words.between(row.control_low, row.control_high)}",
            f"{words.p_value(row.p_adjusted)} (adjusted); {row.prompts} prompts",
        ]
    )


def _reading(row: Any, unit: str) -> str:
    return "<br>".join(
        [
            f"<b>{escape(str(row.node))}</b> at {escape(str(row.where))}, {row.quantity}",
            f"clean {words.percent(row.clean)}, steered {words.percent(row.steered)}",
            (
                f"change {words.signed(row.effect)}{words.between(row.low, row.high)}, random vectors "
                f"{words.signed(row.control)}"
            ),
            f"{words.p_value(row.p_adjusted)} (adjusted); {row.prompts} prompts",
        ]
    )


def _map(
    table: pd.DataFrame, unit: str, limit: float, cell: Callable[[Any], str], describe: Callable[[Any, str], str]
) -> go.Figure:
    """Nodes by places; what is not significant is pale."""
    rows = list(dict.fromkeys(table["node"]))
    columns = sorted(dict.fromkeys(table["where"]), key=lambda name: name in GROUPS)
    shape = (len(rows), len(columns))
    values, muted = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    text, labels = np.full(shape, "", dtype=object), np.full(shape, "", dtype=object)
    for r in records(table):
        at = rows.index(r.node), columns.index(r.where)
        values[at], muted[at], text[at], labels[at] = r.effect, not r.significant, cell(r), describe(r, unit)
    return grid(
        values,
        [escape(n) for n in rows],
        [escape(c) for c in columns],
        labels,
        limit=limit,
        text=text,
        muted=muted,
        apart=sum(name in GROUPS for name in columns),
        tall=24,
    )


def _maps(result: Result) -> Section:
    unit = metric_unit(result)
    singles = pd.concat([_single(result, m) for m in MEASURES])
    limit = float(singles["effect"].abs().max()) or 1.0
    frame = result.frames["positions"]
    panels = [
        Panel(title, _map(frame[frame["measure"] == name], unit, limit, lambda r: words.short(r.effect), hover))
        for name, title in MEASURES.items()
    ]
    text = (
        f"In {unit}; orange carries the effect, blue works against it, pale is not significant. The carriers with "
        f"{result.manifest.get('rule', 'the largest effect')}. Colours have the scale of single positions, so "
        "those of the columns that stand apart are cut off."
    )
    return Section("Where carriers write", [text], panels)


def _reads(result: Result) -> Section:
    table, title = result.frames["reads"], "Where heads read the vector"
    if table.empty:
        return Section(title, [], [Panel("Reads", None, "none of the carriers is a head")])
    panels = []
    for name, heading in READS.items():
        own = table[table["quantity"] == name]

        def cell(r: Any) -> str:
            return f"{100 * r.clean:.0f}→{100 * r.steered:.0f}".replace("-", "−")

        panels.append(Panel(heading, _map(own, "", 1.0, cell, _reading)))
    text = (
        "For every place as the reader: how much of the head's attention goes to the injected positions, clean "
        "→ steered, and how much of its "
        "output is mixed from their values. Colour is the change; pale where it is not significant, or not "
        "beyond random vectors."
    )
    return Section(title, [text], panels)


def _strip(result: Result) -> Section:
    title, table = "One prompt, token by token", result.frames["per_prompt"]
    prompts = result.frames["prompts"]
    if table.empty:
        return Section(title, [], [Panel("Tokens", None, "no position is reached")])
    middle = prompts.sort_values("effect").iloc[len(prompts) // 2]
    rows = table[table["prompt"] == middle["prompt"]]
    injected = {int(i) for i in str(middle["injected"]).split(",") if i}
    limit, unit = float(rows["effect"].abs().max()) or 1.0, metric_unit(result)
    panels = [
        Panel(heading.split(":")[0], strip(rows[rows["measure"] == measure], unit, limit, injected))
        for measure, heading in MEASURES.items()
    ]
    text = (
        f"“{middle['text']}”, the prompt with the median effect ({words.signed(middle['effect'])} "
        f"{metric_unit(result)}), each position patched by "
        "itself. ● marks what the vector is added to."
    )
    return Section(title, [text], panels)


def _table(result: Result) -> Section:
    columns = [
        "node",
        "where",
        "measure",
        "prompts",
        "effect",
        "low",
        "high",
        "share",
        "control",
        "p_adjusted",
        "p_holm",
        "wrong_way",
    ]
    return everything(result.frames["positions"], columns, "All nodes and places", result)
