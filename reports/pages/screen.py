"""The report of `screen`: exact effects of the nodes that gradients rank highest, and what may be missed."""

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.agreement import agreement
from steerscope.reports.figures.ranking import ranking
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.carried import carried, how_sure
from steerscope.reports.pages.common import everything, layout, metric_unit, of
from steerscope.reports.reading import drawing
from steerscope.reports.records import records, way
from steerscope.reports.theme import key

MEASURES = ("necessity", "sufficiency")


@drawing
def headline(result: Result) -> list[str]:
    """What is said of the verified nodes, what was left out, what it cost."""
    table = of(result, "effects", measure="necessity")
    [left] = records(of(result, "totals", quantity="unverified_necessity"))
    rest = next(records(result.frames["missed"]))
    verified = f"{len(_verified(result)):,} of {len(result.frames['estimates']) // 2:,} nodes that can be reached"
    found = carried(result, table, "is lost when the node is set back to its clean value")
    if rest.unverified:
        found.append(
            f"That is of the {verified}, which were patched one by one; the {rest.unverified} others carry together "
            f"{words.ranged(left, 'share', words.percent)} of the effect (exactly); at least "
            f"{words.percent(rest.covers)} of them carry less than {words.number(rest.bound)} {metric_unit(result)} "
            "each."
        )
    else:
        found.append("Every node was verified.")
    cost = {r.what: words.number(r.passes) for r in records(result.frames["cost"])}
    return [*found, f"It cost {cost['screen']} forward passes; patching every node costs {cost['exact']}."]


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    text = [
        "Gradients rank all nodes; those with the largest estimates of either measure, and a random sample of the "
        "others, are patched exactly. p-values are corrected as if every node had been patched: which ones were was "
        "seen from the same prompts."
    ]
    return layout(
        result,
        "Who carries {vector} in {model}? Screened and verified",
        f"ranked by {result.manifest.get('ranked_by', 'gradient')}, verified by exact patching",
        headline(result),
        [
            _ranking(result),
            how_sure(result, [of(result, "effects", measure=m) for m in MEASURES]),
            *(part(result) for part in (_missed, _agreement, _cost, _table)),
        ],
        text=text,
    )


def _verified(result: Result) -> set[str]:
    table = result.frames["estimates"]
    return set(table["node"][table["verified"] != "unverified"])


def _ranking(result: Result) -> Section:
    unit, towards = metric_unit(result), way(result)
    panels = [Panel(m.capitalize(), ranking(of(result, "effects", measure=m), unit, towards=towards)) for m in MEASURES]
    text = "Exact effects with their intervals over groups of prompts, over the bands of reference vectors."
    return Section("Verified nodes", [text, key(result.frames["effects"]["verdict"])], panels)


def _missed(result: Result) -> Section:
    names = ["measure", "unverified", "sampled", "together", "together_share", "largest_estimate", "worst_error"]
    names += ["bound", "covers"]
    show = {"together": words.signed, "together_share": words.percent, "covers": words.percent}
    rows = [
        [str(getattr(r, n)) if n in names[:3] else show.get(n, words.number)(getattr(r, n)) for n in names]
        for r in records(result.frames["missed"])
    ]
    text = (
        "Together: all nodes that were not verified, patched at once; exact. Bound: the largest estimate among them "
        "plus the worst error on the random sample; it holds for at least the share of them in the last column, at the "
        "level of the intervals."
    )
    titles = [name.replace("_", " ") for name in names]
    return Section("What may be missed", [text], table=Table(titles, rows, frozenset(titles[1:])))


def _agreement(result: Result) -> Section:
    table, unit = result.frames["estimates"], metric_unit(result)
    panels = []
    for measure in MEASURES:
        own = table[(table["measure"] == measure) & (table["verified"] != "unverified")]
        chart = agreement(own["node"], own["estimate"], own["effect"], own["verified"], unit)
        panels.append(Panel(measure.capitalize(), chart))
    return Section("Estimates and exact effects", [], panels)


def _cost(result: Result) -> Section:
    rows = [
        [r.what, words.number(r.passes), "–" if r.ratio != r.ratio else f"{r.ratio:.1f}x"]
        for r in records(result.frames["cost"])
    ]
    text = (
        "A patched row costs the layers from its node on, since what comes before is shared; a gradient counts four "
        "passes a row."
    )
    titles = ["part", "forward passes", "exact costs so many times as much"]
    return Section("Cost", [text], table=Table(titles, rows, frozenset(titles[1:])), folded=True)


def _table(result: Result) -> Section:
    columns = ["node", "kind", "measure", "estimate", "verified", "effect"]
    return everything(result.frames["estimates"], columns, "All nodes", result)
