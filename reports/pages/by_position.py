"""The report of `by_position`: where in the prompt nodes do their work, and where they read the vector."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.grid import grid
from steerscope.reports.figures.strip import strip
from steerscope.reports.page import Page, Panel, Section
from steerscope.reports.pages.carried import compared, how_sure, nothing_tested
from steerscope.reports.pages.common import everything, layout, metric_unit, of
from steerscope.reports.reading import drawing
from steerscope.reports.records import largest, records, way
from steerscope.reports.theme import bold, claimed, key

MEASURES = {
    "necessity": "Necessity: lost when the node is clean there",
    "sufficiency": "Sufficiency: brought when the node is steered there alone",
}
READS = {
    "attention": "Attention that goes to the injected positions, percent",
    "value": "Share of z that comes from the injected positions, percent",
}
GROUPS = ("injected +", "between", "all")  # several positions at once
NAMED = 3  # places in a list


@drawing
def headline(result: Result) -> list[str]:
    """What is said of single places, and of heads whose reading changes most."""
    table = _single(result)
    why = nothing_tested(result, table)
    found = [_largest(result, table, why)] if why else _places(result, table)
    reads = of(result, "reads", quantity="attention")
    for r in records(largest(reads[reads["told"].astype(bool) & reads["effect"].notna()], 1)):
        found.append(
            f"Attention turns {'towards' if r.effect > 0 else 'away from'} the injected positions most in {r.node}, "
            f"read at {r.where}: {words.percent(r.clean)} of it goes there in the clean run, "
            f"{words.percent(r.steered)} in the steered one (under random vectors it changes by "
            f"{_points(r.reference)} on average)."
        )
    return found


def _places(result: Result, table: pd.DataFrame) -> list[str]:
    """Contrasts of the places that something is said of."""
    unit = metric_unit(result)
    by = {name: _named(table[table["verdict"] == name], unit) for name in table["verdict"].unique()}
    told = [
        f"{what}: {by[name]}"
        for name, what in (("specific", "beyond other concepts"), ("concept", "beyond random vectors"))
        if name in by
    ]
    if told:
        found = [f"Lost when a node is set back at one position alone, {'; '.join(told)}."]
    else:
        found = [f"At no single position is a node told to lose more of the effect than of that of {_others(result)}."]
    if "shared" in by:
        found.append(f"Shared with reference vectors: {by['shared']}.")
    return found + ([f"Working against the effect: {by['against']}."] if "against" in by else [])


def _largest(result: Result, table: pd.DataFrame, why: str) -> str:
    rows = largest(table[table["effect"] != 0], NAMED)
    shown = f" Largest effects, as they are: {_named(rows, metric_unit(result))}." if len(rows) else ""
    return f"Of no place can it be said that it carries the effect: {why}.{shown}"


def _named(rows: pd.DataFrame, unit: str) -> str:
    """`L0M at injected 1 (+3.20 logits, 40% of the effect; random vectors 5%)`, of the largest."""
    named = [
        f"{r.node} at “{r.where}” ({words.ranged(r, 'effect', words.signed, unit)}, {words.percent(r.share)} of the "
        f"effect{words.beside(r)})"
        for r in records(largest(rows, NAMED))
    ]
    return words.listing([*named, f"{len(rows) - NAMED} more"] if len(rows) > NAMED else named)


def _others(result: Result) -> str:
    return compared(result, True) or compared(result, False) or "reference vectors"


def _points(change: float) -> str:
    return f"{words.signed(100 * change)} percentage points"


@drawing
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
        [
            _maps(result),
            how_sure(result, [of(result, "positions", measure=m) for m in MEASURES]),
            _reads(result),
            _strip(result),
            _table(result),
        ],
        text=text,
    )


def _single(result: Result, measure: str = "necessity") -> pd.DataFrame:
    table = of(result, "positions", measure=measure)
    return table[~table["where"].isin(GROUPS)]


def _effect(row: Any) -> str:
    return words.short(row.effect)


def _hover(row: Any, unit: str) -> str:
    effect, reference, p = words.estimate(row, unit)
    title = f"{bold(row.node)} at {row.where}, {row.measure}"
    return "\n".join([title, words.verdict(row.verdict), effect, reference, f"{p}; {row.prompts} prompts"])


def _reading(row: Any, unit: str) -> str:
    beside = f", under random vectors {words.signed(row.reference)}" if words.finite(row.reference) else ""
    return "\n".join(
        [
            f"{bold(row.node)} at {row.where}, {row.quantity}",
            f"clean {words.percent(row.clean)}, steered {words.percent(row.steered)}",
            f"change {words.ranged(row, 'effect', words.signed)}{beside}",
            f"{'told' if row.told else 'not told'} from noise; {words.told(row)}; {row.prompts} prompts",
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
    """Nodes by places; what is not told from noise is pale."""
    rows = {node: str(node) for node in dict.fromkeys(table["node"])}
    places = sorted(dict.fromkeys(table["where"]), key=lambda name: name in GROUPS)
    return grid(
        table,
        ("node", "where"),
        rows,
        {place: str(place) for place in places},
        lambda r: describe(r, unit),
        limit=limit,
        towards=towards,
        cell=cell,
        muted=lambda r: not claimed(r.verdict if "verdict" in table else bool(r.told)),
        marked=lambda r: str(r.verdict) if "verdict" in table else "",
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
        f"In {unit}; orange works along the effect, blue against it; full colour is told from noise, or against. The "
        f"nodes {_rule(result)}. Colours have the scale of single positions, "
        "so those of the columns that stand apart are cut off."
    )
    return Section("Where nodes write", [text, key(result.frames["positions"]["verdict"])], panels)


def _rule(result: Result) -> str:
    """Which nodes they are."""
    rule = str(result.manifest.get("rule", "the largest effect"))
    return "that were given" if rule == "given" else f"with {rule}"


def _reads(result: Result) -> Section:
    title = "Where heads read the vector"
    if result.frames["reads"].empty:
        return Section(title, [], [Panel("Reads", None, "none of the nodes is a head")])

    def cell(r: Any) -> str:
        return f"{100 * r.clean:.0f}→{100 * r.steered:.0f}".replace("-", "−")

    panels = [
        Panel(heading, _map(of(result, "reads", quantity=name), "", 1.0, cell, _reading))
        for name, heading in READS.items()
    ]
    text = (
        "For every place as the reader: how much of the head's attention goes to the injected positions, clean → "
        "steered, and how much of its output is mixed from their values. Colour is the change, in full where it is "
        "told from zero over prompts and from that under random vectors, after Holm."
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
    columns += ["concepts", "p", "p_noise", "p_holm", "verdict", "wrong_way"]
    return everything(result.frames["positions"], columns, "All nodes and places", result)
