"""The report of `attribute`: gradient estimates, with how far they are from exact patching."""

from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.agreement import agreement
from steerscope.reports.figures.heatmap import heatmap
from steerscope.reports.figures.ranking import ranking
from steerscope.reports.figures.strip import strip
from steerscope.reports.page import Page, Panel, Section
from steerscope.reports.pages.common import everything, metric_unit, page
from steerscope.reports.records import largest, records

MEASURES = {"necessity": "Necessity, estimated", "sufficiency": "Sufficiency, estimated"}
METHODS = {
    "gradient": "attribution patching",
    "relp": "relevance patching",
    "atp*": "AtP* with GradDrop",
    "ig": "integrated gradients along the coefficient",
}


def attribute_page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    method = METHODS.get(str(result.manifest.get("method")), "gradients")
    sections = [
        _maps(result),
        _ranking(result),
        _calibration(result),
        _inputs(result),
        _positions(result),
        _table(result),
    ]
    text = [
        "An estimate is the gradient of the metric times how much the node's output changes. It costs a few "
        "passes for all nodes, "
        "and is wrong where the model bends between the two runs: so a random sample of nodes was patched exactly.",
        "Pearson tells whether the large effects are right, Kendall whether the order is, small ones included.",
    ]
    return page(
        result,
        "Who carries {vector} in {model}? Estimates from gradients",
        method,
        attribute_sentences(result),
        sections,
        text=text,
    )


def attribute_sentences(result: Result) -> list[str]:
    """The strongest estimates, and how good they are."""
    unit, table = metric_unit(result), result.frames["nodes"]
    own = table[(table["measure"] == "necessity") & table["significant"]]
    best = largest(own, 4)
    named = words.listing([f"{r.node} ({words.percent(r.share)})" for r in records(best)])
    first = f"Estimated to carry most: {named}." if len(best) else "No node is estimated to carry a significant part."
    rows = {r.measure: r for r in records(result.frames["calibration"])}
    said = [
        f"{name}: Pearson {r.pearson:.3f}, Kendall {r.kendall:.2f}, worst error {words.number(r.worst_error)} {unit} "
        f"({words.percent(r.worst_share)} of the effect)"
        for name, r in rows.items()
    ]
    count = int(next(iter(rows.values())).nodes)
    found = [first, f"Against exact patching of {count} random nodes: {'; '.join(said)}."]
    path = result.frames["path"]
    if len(path):
        values = path.set_index("quantity")["value"]
        found.append(
            "Along the coefficient gradients at the injection add up to "
            f"{words.signed(values['integrated gradients'])} {unit} of "
            f"{words.signed(values['effect'])} (gap {words.signed(values['gap'])})."
        )
    return found


def hover(row: Any, unit: str) -> str:
    """All that is known of an estimate."""
    return "<br>".join(
        [
            f"<b>{row.node}</b> {row.measure}",
            (
                f"{words.signed(row.effect)} {unit}{words.between(row.low, row.high)}, {words.percent(row.share)} "
                "of the effect"
            ),
            f"control {words.signed(row.control)}{words.between(row.control_low, row.control_high)}",
            f"{words.p_value(row.p_adjusted)} (adjusted)",
        ]
    )


def _measure(result: Result, name: str) -> pd.DataFrame:
    table = result.frames["nodes"]
    return table[table["measure"] == name]


def _maps(result: Result) -> Section:
    unit = metric_unit(result)
    limit = float(result.frames["nodes"]["effect"].abs().max()) or 1.0
    panels = [Panel(t, heatmap(_measure(result, n), unit, limit, describe=hover)) for n, t in MEASURES.items()]
    return Section("Heads by layers", [f"Estimates in {unit}; bold or dotted where significant."], panels)


def _ranking(result: Result) -> Section:
    unit = metric_unit(result)
    panels = [
        Panel(n.capitalize(), ranking(_measure(result, n), unit, describe=hover, title="estimate")) for n in MEASURES
    ]
    return Section("Ranked estimates", ["Grey bands: random vectors of equal norm."], panels)


def _calibration(result: Result) -> Section:
    table, unit = result.frames["sample"], metric_unit(result)
    panels = []
    for name in MEASURES:
        own = table[table["measure"] == name]
        names = [str(n) for n in own["node"]]
        chart = agreement(names, own["estimate"].tolist(), own["effect"].tolist(), ["sample"] * len(own), unit)
        panels.append(Panel(name.capitalize(), chart))
    text = "A random sample of the nodes, patched exactly. On the dotted line both are the same."
    return Section("How good the estimates are", [text], panels)


def _inputs(result: Result) -> Section:
    table, unit = result.frames["inputs"], metric_unit(result)
    own = table[table["measure"] == "necessity"].copy()
    own["node"] = own["node"] + "." + own["input"]
    own = own.assign(
        control_low=float("nan"), control_high=float("nan"), significant=(own["low"] > 0) | (own["high"] < 0)
    )
    text = (
        "What reaches the output through each head's queries, keys and values, with the attention pattern "
        "computed anew; filled "
        "where the interval leaves out zero."
    )

    def describe(row: Any, unit: str) -> str:
        return f"<b>{row.node}</b><br>{words.signed(row.effect)} {unit}{words.between(row.low, row.high)}"

    chart = ranking(own, unit, describe=describe, title="estimate")
    return Section("Queries, keys and values", [text], [Panel("Necessity", chart)])


def _positions(result: Result) -> Section:
    table, unit, title = (result.frames["positions"], metric_unit(result), "One prompt, token by token")
    if table.empty:
        return Section(title, [], [Panel("Tokens", None, "no position is reached")])
    own = table[table["measure"] == "necessity"].groupby("prompt")["effect"].sum().sort_values()
    rows = table[table["prompt"] == own.index[len(own) // 2]]
    limit = float(rows["effect"].abs().max()) or 1.0
    panels = [Panel(n.capitalize(), strip(rows[rows["measure"] == n], unit, limit)) for n in MEASURES]
    text = (
        "The same estimates by position, of the prompt with the median sum: a node's positions add up to its "
        "estimate there."
    )
    return Section(title, [text], panels)


def _table(result: Result) -> Section:
    columns = ["node", "measure", "effect", "low", "high", "share", "control", "p_adjusted", "p_holm", "wrong_way"]
    return everything(result.frames["nodes"], columns, "All nodes", result)
