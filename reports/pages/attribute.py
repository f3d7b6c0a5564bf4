"""The report of `attribute`: gradient estimates, with how far they are from exact patching."""

from typing import Any

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.agreement import agreement
from steerscope.reports.figures.heatmap import heatmap
from steerscope.reports.figures.ranking import ranking
from steerscope.reports.figures.strip import strip
from steerscope.reports.page import Page, Panel, Section
from steerscope.reports.pages.carried import carried, how_sure
from steerscope.reports.pages.common import everything, layout, metric_unit, of
from steerscope.reports.reading import drawing
from steerscope.reports.records import records, way
from steerscope.reports.theme import bold

EXACT = ("necessity", "sufficiency")
DONE = {
    "necessity": "would be lost with the node, as gradients estimate it",
    "sufficiency": "the node would bring alone, as gradients estimate it",
    "conductance": "flows through the node as the coefficient grows",
}
METHODS = {
    "gradient": "attribution patching",
    "relp": "relevance patching",
    "atp*": "AtP*: secants through every softmax, and GradDrop",
    "ig": "integrated gradients along the coefficient",
}


@drawing
def headline(result: Result) -> list[str]:
    """What is told from reference vectors by the estimates, and how good these are."""
    unit, first = metric_unit(result), measures(result)[0]
    said = [
        f"{r.measure}: {words.agreement(r)}, worst error {words.number(r.worst_error)} "
        f"{unit} ({words.percent(r.worst_share)} of the effect)"
        for r in records(result.frames["calibration"])
    ]
    nodes = int(result.frames["calibration"]["nodes"].iloc[0])
    found = carried(result, of(result, "effects", measure=first), DONE[first])
    return [*found, f"Against exact patching of {nodes} random nodes: {'; '.join(said)}.", *steps_taken(result)]


def measures(result: Result) -> list[str]:
    """Those of the table: necessity and sufficiency, or conductance alone."""
    return list(result.frames["effects"]["measure"].unique())


def steps_taken(result: Result) -> list[str]:
    """How many steps along the coefficient were needed, or how far the last ones were from enough."""
    steps, gap = result.manifest.get("steps"), result.manifest.get("gap")
    if steps is None or gap is None:
        return []
    if result.manifest.get("complete"):
        return [f"{steps} steps along the coefficient were enough: the parts add up to the effect within 1%."]
    off = f"{words.percent(gap)} of the effect" if words.finite(gap) else "an effect of zero"
    return [
        f"Even {steps} steps along the coefficient were not enough: the parts miss {off}, so each score may be off by "
        "about as much of itself."
    ]


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    text = [
        "An estimate is the gradient of the metric times how much the node's output changes. It costs a few passes for "
        "all nodes, and is wrong where the model bends between the two runs: so a random sample of nodes was patched "
        f"exactly. This method does not see {result.manifest.get('blind', 'what a straight line does not')}.",
        "Verdicts compare estimates with estimates: of this vector, and of each reference vector along its own change.",
        "Pearson tells whether the large effects are right, Kendall whether the order is, small ones included.",
    ]
    parts = (_maps, _ranking, _calibration, _inputs, _positions, _sure, _table)
    return layout(
        result,
        "Who carries {vector} in {model}? Estimates from gradients",
        METHODS.get(str(result.manifest.get("method")), "gradients"),
        headline(result),
        [part(result) for part in parts],
        text=text,
    )


def _hover(row: Any, unit: str) -> str:
    return "\n".join([f"{bold(row.node)} {row.measure}", words.verdict(row.verdict), *words.estimate(row, unit)])


def _maps(result: Result) -> Section:
    unit, towards = metric_unit(result), way(result)
    limit = float(result.frames["effects"]["effect"].abs().max()) or 1.0
    panels = [
        Panel(
            f"{name.capitalize()}, estimated",
            heatmap(of(result, "effects", measure=name), unit, limit, describe=_hover, towards=towards),
        )
        for name in measures(result)
    ]
    text = f"Estimates in {unit}; orange carries the effect, blue works against it. In full colour: told from noise."
    return Section("Heads by layers", [text], panels)


def _ranking(result: Result) -> Section:
    unit = metric_unit(result)
    look: dict[str, Any] = {"describe": _hover, "title": "estimate", "towards": way(result)}
    panels = [Panel(m.capitalize(), ranking(of(result, "effects", measure=m), unit, **look)) for m in measures(result)]
    text = "Bands: where a node would stand if it had as large a share of this vector as of its references."
    return Section("Ranked estimates", [text], panels)


def _calibration(result: Result) -> Section:
    panels = []
    for name in EXACT:
        own = of(result, "sample", measure=name)
        chart = agreement(own["node"], own["estimate"], own["effect"], ["sample"] * len(own), metric_unit(result))
        panels.append(Panel(name.capitalize(), chart))
    text = "A random sample of the nodes, patched exactly. On the dotted line both are the same."
    return Section("How good the estimates are", [text], panels)


def _inputs(result: Result) -> Section:
    own = of(result, "inputs", measure="necessity")
    none = float("nan")
    own = own.assign(node=own["node"] + "." + own["input"], reference_low=none, reference_high=none, verdict="untested")
    text = (
        "What reaches the output through each head's queries, keys and values, with the attention pattern computed "
        "anew. A description, with intervals over groups of prompts: no reference vectors stand beside it."
    )

    def describe(row: Any, unit: str) -> str:
        return f"{bold(row.node)}\n{words.ranged(row, 'effect', words.signed, unit)}"

    chart = ranking(own, metric_unit(result), describe=describe, title="estimate", towards=way(result))
    return Section("Queries, keys and values", [text], [Panel("Necessity", chart)])


def _positions(result: Result) -> Section:
    table, unit, title = result.frames["positions"], metric_unit(result), "One prompt, token by token"
    towards = way(result)
    if table.empty:
        return Section(title, [], [Panel("Tokens", None, "no position is reached")])
    first = measures(result)[0]
    own = of(result, "positions", measure=first).groupby("prompt")["effect"].sum().mul(towards or 1).sort_values()
    rows = table[table["prompt"] == own.index[len(own) // 2]]
    limit = float(rows["effect"].abs().max()) or 1.0
    panels = [
        Panel(n.capitalize(), strip(rows[rows["measure"] == n], unit, limit, towards=towards)) for n in measures(result)
    ]
    text = (
        "The same estimates by position, of the prompt with the median sum: a node's positions add up to its estimate "
        "there."
    )
    return Section(title, [text], panels)


def _sure(result: Result) -> Section:
    return how_sure(result, [of(result, "effects", measure=measure) for measure in measures(result)])


def _table(result: Result) -> Section:
    columns = ["node", "measure", "effect", "low", "high", "share", "verdict", "noise_share", "concepts_share"]
    columns += ["p", "p_noise", "p_concepts", "p_holm", "p_specific", "wrong_way"]
    return everything(result.frames["effects"], columns, "All nodes", result)
