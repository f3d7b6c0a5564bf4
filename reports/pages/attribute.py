"""The report of `attribute`: gradient estimates, with how far they are from exact patching."""

from html import escape
from typing import Any

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.agreement import agreement
from steerscope.reports.figures.heatmap import heatmap
from steerscope.reports.figures.ranking import ranking
from steerscope.reports.figures.strip import strip
from steerscope.reports.page import Page, Panel, Section
from steerscope.reports.pages.common import everything, layout, metric_unit, of, opponents, shares
from steerscope.reports.records import records, sides, way

MEASURES = {"necessity": "Necessity, estimated", "sufficiency": "Sufficiency, estimated"}
METHODS = {
    "gradient": "attribution patching",
    "relp": "relevance patching",
    "atp*": "AtP* with GradDrop",
    "ig": "integrated gradients along the coefficient",
}


def headline(result: Result) -> list[str]:
    """The strongest estimates, and how good they are."""
    unit, table = metric_unit(result), of(result, "effects", measure="necessity")
    along, against = sides(table[table["significant"]], way(result))
    first = f"Estimated to carry most: {words.listing(shares(along, 4))}"
    first = first if len(along) else "No node is estimated to carry a significant part"
    rows = list(records(result.frames["calibration"]))
    said = [
        f"{r.measure}: {words.agreement(r)}, worst error {words.number(r.worst_error)} "
        f"{unit} ({words.percent(r.worst_share)} of the effect)"
        for r in rows
    ]
    found = [
        f"{first}{opponents(shares(against, len(against)))}.",
        f"Against exact patching of {int(rows[0].nodes)} random nodes: {'; '.join(said)}.",
    ]
    values = {r.quantity: r.value for r in records(result.frames["path"])}
    if values:
        found.append(
            "Along the coefficient gradients at the injection add up to "
            f"{words.signed(values['integrated gradients'])} {unit} of {words.signed(values['effect'])} (gap "
            f"{words.signed(values['gap'])})."
        )
    return found


def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    text = [
        "An estimate is the gradient of the metric times how much the node's output changes. It costs a few passes for "
        "all nodes, and is wrong where the model bends between the two runs: so a random sample of nodes was patched "
        "exactly.",
        "Pearson tells whether the large effects are right, Kendall whether the order is, small ones included.",
    ]
    parts = (_maps, _ranking, _calibration, _inputs, _positions, _table)
    return layout(
        result,
        "Who carries {vector} in {model}? Estimates from gradients",
        METHODS.get(str(result.manifest.get("method")), "gradients"),
        headline(result),
        [part(result) for part in parts],
        text=text,
    )


def _hover(row: Any, unit: str) -> str:
    return "<br>".join([f"<b>{escape(str(row.node))}</b> {row.measure}", *words.estimate(row, unit)])


def _maps(result: Result) -> Section:
    unit, towards = metric_unit(result), way(result)
    limit = float(result.frames["effects"]["effect"].abs().max()) or 1.0
    panels = [
        Panel(title, heatmap(of(result, "effects", measure=name), unit, limit, describe=_hover, towards=towards))
        for name, title in MEASURES.items()
    ]
    return Section("Heads by layers", [f"Estimates in {unit}; bold or dotted where significant."], panels)


def _ranking(result: Result) -> Section:
    unit = metric_unit(result)
    look: dict[str, Any] = {"describe": _hover, "title": "estimate", "towards": way(result)}
    panels = [Panel(m.capitalize(), ranking(of(result, "effects", measure=m), unit, **look)) for m in MEASURES]
    return Section("Ranked estimates", ["Grey bands: random vectors of equal norm."], panels)


def _calibration(result: Result) -> Section:
    panels = []
    for name in MEASURES:
        own = of(result, "sample", measure=name)
        chart = agreement(own["node"], own["estimate"], own["effect"], ["sample"] * len(own), metric_unit(result))
        panels.append(Panel(name.capitalize(), chart))
    text = "A random sample of the nodes, patched exactly. On the dotted line both are the same."
    return Section("How good the estimates are", [text], panels)


def _inputs(result: Result) -> Section:
    own = of(result, "inputs", measure="necessity")
    none, clear = float("nan"), (own["low"] > 0) | (own["high"] < 0)
    own = own.assign(node=own["node"] + "." + own["input"], reference_low=none, reference_high=none, significant=clear)
    text = (
        "What reaches the output through each head's queries, keys and values, with the attention pattern computed "
        "anew; filled where the interval leaves out zero."
    )

    def describe(row: Any, unit: str) -> str:
        return f"<b>{escape(str(row.node))}</b><br>{words.ranged(row, 'effect', words.signed, escape(unit))}"

    chart = ranking(own, metric_unit(result), describe=describe, title="estimate", towards=way(result))
    return Section("Queries, keys and values", [text], [Panel("Necessity", chart)])


def _positions(result: Result) -> Section:
    table, unit, title = result.frames["positions"], metric_unit(result), "One prompt, token by token"
    towards = way(result)
    if table.empty:
        return Section(title, [], [Panel("Tokens", None, "no position is reached")])
    own = of(result, "positions", measure="necessity").groupby("prompt")["effect"].sum().mul(towards or 1).sort_values()
    rows = table[table["prompt"] == own.index[len(own) // 2]]
    limit = float(rows["effect"].abs().max()) or 1.0
    panels = [Panel(n.capitalize(), strip(rows[rows["measure"] == n], unit, limit, towards=towards)) for n in MEASURES]
    text = (
        "The same estimates by position, of the prompt with the median sum: a node's positions add up to its estimate "
        "there."
    )
    return Section(title, [text], panels)


def _table(result: Result) -> Section:
    columns = ["node", "measure", "effect", "low", "high", "share", "reference", "p_adjusted", "p_holm", "wrong_way"]
    return everything(result.frames["effects"], columns, "All nodes", result)
