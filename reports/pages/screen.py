"""The report of `localize(method="screen")`: exact effects of the nodes that gradients rank highest, and what may be
missed.
"""

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.agreement import agreement
from steerscope.reports.figures.ranking import ranking
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.common import everything, metric_unit, page
from steerscope.reports.records import largest, records

MEASURES = ("necessity", "sufficiency")


def screen_page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    sections = [_ranking(result), _missed(result), _agreement(result), _cost(result), _table(result)]
    text = [
        "Gradients rank all nodes; those with the largest estimates, and a random sample of the others, are "
        "patched exactly. "
        "p-values are corrected as if every node had been tested."
    ]
    estimator = result.manifest.get("estimator", "gradient")
    return page(
        result,
        "Who carries {vector} in {model}? Screened and verified",
        f"ranked by {estimator}, verified by exact patching",
        screen_sentences(result),
        sections,
        text=text,
    )


def screen_sentences(result: Result) -> list[str]:
    """The strongest verified carriers, what was left out, what it cost."""
    unit, table = metric_unit(result), result.frames["effects"]
    own = table[(table["measure"] == "necessity") & table["significant"]]
    best = largest(own, 4)
    named = words.listing([f"{r.node} ({words.percent(r.share)})" for r in records(best)])
    first = (
        f"{len(own)} verified nodes carry the effect, above all {named}."
        if len(best)
        else "No verified node carries a significant part."
    )
    totals = result.frames["totals"].set_index("quantity")
    rest = next(records(result.frames["missed"]))
    left = totals.loc["unverified_necessity"]
    second = (
        f"The {rest.unverified} nodes that were not verified one by one carry together {words.percent(left['share'])}"
        f"{words.between(left['share_low'], left['share_high'], words.percent)} of the effect (exactly); at "
        f"least {words.percent(rest.covers)} of them "
        f"carry less than {words.number(rest.bound)} {unit} each."
    )
    cost = result.frames["cost"].set_index("what")
    third = (
        f"It cost {words.number(cost.loc['screen', 'passes'])} forward passes; patching every node costs "
        f"{words.number(cost.loc['exact', 'passes'])}."
    )
    return [first, second if rest.unverified else "Every node was verified.", third]


def _ranking(result: Result) -> Section:
    table, unit = result.frames["effects"], metric_unit(result)
    panels = [Panel(m.capitalize(), ranking(table[table["measure"] == m], unit)) for m in MEASURES]
    return Section("Verified carriers", ["Exact effects; grey bands are random vectors of equal norm."], panels)


def _missed(result: Result) -> Section:
    names = [
        "measure",
        "unverified",
        "sampled",
        "together",
        "together_share",
        "largest_estimate",
        "worst_error",
        "bound",
        "covers",
    ]
    rows = [
        [
            r.measure,
            str(r.unverified),
            str(r.sampled),
            words.signed(r.together),
            words.percent(r.together_share),
            words.number(r.largest_estimate),
            words.number(r.worst_error),
            words.number(r.bound),
            words.percent(r.covers),
        ]
        for r in records(result.frames["missed"])
    ]
    text = (
        "Together: all nodes that were not verified, patched at once; exact. Bound: the largest estimate among "
        "them plus the worst error "
        "on the random sample; it holds for at least the share of them in the last column, at the level of the "
        "intervals."
    )
    titles = [name.replace("_", " ") for name in names]
    return Section("What may be missed", [text], table=Table(titles, rows, frozenset(titles[1:])))


def _agreement(result: Result) -> Section:
    table, unit = result.frames["estimates"], metric_unit(result)
    panels = []
    for measure in MEASURES:
        own = table[(table["measure"] == measure) & (table["verified"] != "unverified")]
        names = [str(n) for n in own["node"]]
        chart = agreement(names, own["estimate"].tolist(), own["effect"].tolist(), own["verified"].tolist(), unit)
        panels.append(Panel(measure.capitalize(), chart))
    return Section("Estimates and exact effects", [], panels)


def _cost(result: Result) -> Section:
    rows = [
        [r.what, words.number(r.passes), "–" if r.ratio != r.ratio else f"{r.ratio:.1f}x"]
        for r in records(result.frames["cost"])
    ]
    text = (
        "A patched row costs the layers from its node on, since what comes before is shared; a gradient counts "
        "four passes a row."
    )
    titles = ["part", "forward passes", "exact costs so many times as much"]
    return Section("Cost", [text], table=Table(titles, rows, frozenset(titles[1:])), folded=True)


def _table(result: Result) -> Section:
    columns = ["node", "kind", "measure", "estimate", "verified", "effect"]
    return everything(result.frames["estimates"], columns, "All nodes", result)
