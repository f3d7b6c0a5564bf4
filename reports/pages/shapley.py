"""The report of `shapley`: the effect shared out among nodes, and which of them stand in for or need each other."""

from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.heatmap import heatmap
from steerscope.reports.figures.matrix import matrix, strongest
from steerscope.reports.figures.ranking import ranking
from steerscope.reports.page import Page, Panel, Section
from steerscope.reports.pages.carried import carried, how_sure
from steerscope.reports.pages.common import everything, layout, metric_unit, shares
from steerscope.reports.reading import drawing
from steerscope.reports.records import largest, records, sides, way
from steerscope.reports.theme import bold, key


@drawing
def headline(result: Result) -> list[str]:
    """What is said of the values, the largest ones, the direct way, the strongest interactions."""
    unit, table, towards = metric_unit(result), result.frames["effects"], way(result)
    largest_ones = shares(sides(table, towards)[0], 4)
    named = f"the largest values have {words.listing(largest_ones)}" if largest_ones else "no node has a share"
    totals = {r.quantity: float(r.value) for r in records(result.frames["totals"])}
    direct, whole = totals["direct"], totals["effect"]
    past = f"{words.signed(direct)} goes past all nodes"
    if abs(direct) <= 1e-3 * abs(whole):
        past = "nothing goes past the nodes"
    error = words.number(table["sampling_error"].mean())
    return [
        *carried(result, table, "falls to the node, as its Shapley value"),
        f"Of {words.signed(whole)} {unit}, {named}; {past}. Running some coalitions only leaves an error of about "
        f"{error} {unit} a value.",
        *_pairs(result.frames["interactions"], towards),
    ]


def _pairs(table: pd.DataFrame, towards: int) -> list[str]:
    """The strongest interactions that differ from zero; other vectors may have them, too."""
    clear, found = table[table["significant"].astype(bool)], []
    for rows, verb in zip(sides(clear, towards), ("need each other", "stand in for each other"), strict=True):
        if len(rows):
            own = records(largest(rows, 3))
            named = words.listing([f"{r.node_a} and {r.node_b} ({words.signed(r.effect)})" for r in own])
            found.append(f"pairs that {verb}: {named}")
    if not found:
        return []
    text = "; ".join(found)
    return [f"{text[0].upper()}{text[1:]} (different from zero over prompts; not compared with reference vectors)."]


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    text = [
        "The game: nodes of a coalition run live in the steered run, all others are held at their clean outputs. A "
        "Shapley value is a node's mean contribution over all orders in which nodes could be let go; with the "
        "injection's direct way they add up to the effect.",
        "Two nodes that do the same share what either could do alone, and their interaction has the sign opposite to "
        "the effect's; two that need each other share what they do together, and it has the effect's sign.",
    ]
    return layout(
        result,
        "How is the effect of {vector} in {model} shared out?",
        f"{result.manifest.get('estimator', '')} over {result.manifest.get('passes', '?')} coalitions a prompt",
        headline(result),
        [_maps(result), how_sure(result, [result.frames["effects"]]), _interactions(result), _table(result)],
        text=text,
    )


def _hover(row: Any, unit: str) -> str:
    effect, reference, p = words.estimate(row, unit)
    error = f"error from sampling coalitions {words.number(row.sampling_error)}"
    return "\n".join([bold(row.node), words.verdict(row.verdict), effect, error, reference, p])


def _pair(row: Any, unit: str) -> str:
    return "\n".join(
        [
            bold(f"{row.first} and {row.second}"),
            f"{words.signed(row.interaction)} {unit} beyond the sum{words.between(row.low, row.high)}",
            f"{words.p_value(row.p_holm)} (Holm); sampling error {words.number(row.sampling_error)}",
        ]
    )


def _maps(result: Result) -> Section:
    table, unit, towards = result.frames["effects"], metric_unit(result), way(result)
    panels = [
        Panel("Heads by layers", heatmap(table, unit, describe=_hover, towards=towards)),
        Panel("Ranked", ranking(table, unit, describe=_hover, title="Shapley value", towards=towards)),
    ]
    text = f"In {unit}; orange works along the effect, blue against it; full colour is told from noise, or against."
    return Section("Shapley values", [text, key(table["verdict"])], panels)


def _interactions(result: Result) -> Section:
    pairs, title = result.frames["interactions"], "Pairs"
    if pairs.empty:
        why = "the permutation estimator gives none, or they were not asked for"
        return Section(title, [], [Panel("Interactions", None, why)])
    named = pairs.rename(columns={"node_a": "first", "node_b": "second", "effect": "interaction"})
    named = named.assign(outcome="effect")
    chart = matrix(named, strongest(named, 24), metric_unit(result), _pair, towards=way(result))
    text = (
        "Orange: the two need each other (one feeds the other); blue: they stand in for each other. In full colour is "
        "what differs from zero over groups of prompts, its sampling error counted, after Holm over all pairs; no "
        "reference vectors are compared with."
    )
    return Section(title, [text], [Panel("Interactions of the strongest pairs", chart)])


def _table(result: Result) -> Section:
    columns = ["node", "effect", "low", "high", "share", "sampling_error", "reference", "p_adjusted", "p_holm"]
    return everything(result.frames["effects"], columns, "All nodes", result)
