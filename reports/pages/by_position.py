"""The report of `by_position`: where in the prompt carriers do their work, and where they read the vector."""

from collections.abc import Callable
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.grid import grid
from steerscope.reports.figures.strip import strip
from steerscope.reports.page import Page, Panel, Section
from steerscope.reports.pages.common import everything, layout, metric_unit, of, opponents
from steerscope.reports.records import largest, records, sides, way

MEASURES = {
    "necessity": "Necessity: lost when the node is clean there",
    "sufficiency": "Sufficiency: brought when the node is steered there alone",
}
READS = {
    "attention": "Attention that goes to the injected positions, percent",
    "value": "Share of z that comes from the injected positions, percent",
}
GROUPS = ("injected +", "between", "all")  # several positions at once


def headline(result: Result) -> list[str]:
    """The strongest places along the effect, those against it, and heads whose reading changes most."""
    unit, table = metric_unit(result), _single(result)
    along, against = (
        [
            f"{r.node} at {r.where} ({words.ranged(r, 'effect', words.signed, unit)}, {words.percent(r.share)})"
            for r in records(largest(rows, 3))
        ]
        for rows in sides(table[table["significant"]], way(result))
    )
    first = "No carrier loses a significant part of the effect at any one position"
    if along:
        first = f"Lost when a carrier is set back at one position alone, most of all: {words.listing(along)}"
    found = [f"{first}{opponents(against)}."]
    reads = of(result, "reads", quantity="attention")
    for r in records(largest(reads[reads["significant"].astype(bool)], 1)):
        found.append(
            f"Attention turns {'towards' if r.effect > 0 else 'away from'} the injected positions most in {r.node}, "
            f"read at {r.where}: {words.percent(r.clean)} of it goes there in the clean run, "
            f"{words.percent(r.steered)} in the steered one."
        )
    return found


def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    text = [
        "A place is a position that means the same in prompts of different lengths: the injected ones in order, those "
        "just after them, the last ones. The columns that stand apart are several positions patched at once: between "
        "is everything else, all the whole node. Places need not add up to all: what a node writes at one position can "
        "change what is read at another.",
        "The metric is a mean over the scored positions, and a node that writes at a position acts on the prediction "
        "there and, through later attention, after it. To ask who brings the vector to one prediction, score that "
        "position alone (scored='last').",
    ]
    return layout(
        result,
        "Where in the prompt is {vector} carried in {model}?",
        "exact patching of single positions",
        headline(result),
        [_maps(result), _reads(result), _strip(result), _table(result)],
        text=text,
    )


def _single(result: Result, measure: str = "necessity") -> pd.DataFrame:
    table = of(result, "positions", measure=measure)
    return table[~table["where"].isin(GROUPS)]


def _effect(row: Any) -> str:
    return words.short(row.effect)


def _hover(row: Any, unit: str) -> str:
    effect, reference, p = words.estimate(row, unit)
    title = f"<b>{escape(str(row.node))}</b> at {escape(str(row.where))}, {row.measure}"
    return "<br>".join([title, effect, reference, f"{p}; {row.prompts} prompts"])


def _reading(row: Any, unit: str) -> str:
    change = f"change {words.ranged(row, 'effect', words.signed)}, random vectors {words.signed(row.reference)}"
    return "<br>".join(
        [
            f"<b>{escape(str(row.node))}</b> at {escape(str(row.where))}, {row.quantity}",
            f"clean {words.percent(row.clean)}, steered {words.percent(row.steered)}",
            change,
            f"{words.p_value(row.p_adjusted)} (adjusted); {row.prompts} prompts",
        ]
    )


def _map(
    table: pd.DataFrame,
    unit: str,
    limit: float,
    cell: Callable[[Any], str],
    describe: Callable[[Any, str], str],
    towards: int = 1,
) -> go.Figure:
    """Nodes by places; what is not significant is pale."""
    rows = {node: escape(str(node)) for node in dict.fromkeys(table["node"])}
    places = sorted(dict.fromkeys(table["where"]), key=lambda name: name in GROUPS)
    return grid(
        table,
        ("node", "where"),
        rows,
        {place: escape(str(place)) for place in places},
        lambda r: describe(r, unit),
        limit=limit,
        towards=towards,
        cell=cell,
        muted=lambda r: not r.significant,
        apart=sum(place in GROUPS for place in places),
        tall=24,
    )


def _maps(result: Result) -> Section:
    unit, towards = metric_unit(result), way(result)
    limit = float(pd.concat([_single(result, m)["effect"] for m in MEASURES]).abs().max()) or 1.0
    panels = [
        Panel(title, _map(of(result, "positions", measure=m), unit, limit, _effect, _hover, towards))
        for m, title in MEASURES.items()
    ]
    text = (
        f"In {unit}; orange carries the effect, blue works against it, pale is not significant. The carriers with "
        f"{result.manifest.get('rule', 'the largest effect')}. Colours have the scale of single positions, so those of "
        "the columns that stand apart are cut off."
    )
    return Section("Where carriers write", [text], panels)


def _reads(result: Result) -> Section:
    title = "Where heads read the vector"
    if result.frames["reads"].empty:
        return Section(title, [], [Panel("Reads", None, "none of the carriers is a head")])

    def cell(r: Any) -> str:
        return f"{100 * r.clean:.0f}→{100 * r.steered:.0f}".replace("-", "−")

    panels = [
        Panel(heading, _map(of(result, "reads", quantity=name), "", 1.0, cell, _reading))
        for name, heading in READS.items()
    ]
    text = (
        "For every place as the reader: how much of the head's attention goes to the injected positions, clean → "
        "steered, and how much of its output is mixed from their values. Colour is the change; pale where it is not "
        "significant, or not beyond random vectors."
    )
    return Section(title, [text], panels)


def _strip(result: Result) -> Section:
    title, prompts = "One prompt, token by token", result.frames["prompts"]
    if result.frames["per_prompt"].empty:
        return Section(title, [], [Panel("Tokens", None, "no position is reached")])
    towards = way(result)
    middle = prompts.iloc[(prompts["effect"] * (towards or 1)).argsort().iloc[len(prompts) // 2]]
    rows = of(result, "per_prompt", prompt=middle["prompt"])
    injected = {int(i) for i in str(middle["injected"]).split(",") if i}
    limit, unit = float(rows["effect"].abs().max()) or 1.0, metric_unit(result)
    panels = [
        Panel(heading.split(":")[0], strip(rows[rows["measure"] == measure], unit, limit, injected, towards=towards))
        for measure, heading in MEASURES.items()
    ]
    text = (
        f"“{middle['text']}”, the prompt with the median effect ({words.signed(middle['effect'])} {unit}), each "
        "position patched by itself. ● marks what the vector is added to."
    )
    return Section(title, [text], panels)


def _table(result: Result) -> Section:
    columns = ["node", "where", "measure", "prompts", "effect", "low", "high", "share", "reference"]
    columns += ["p_adjusted", "p_holm", "wrong_way"]
    return everything(result.frames["positions"], columns, "All nodes and places", result)
