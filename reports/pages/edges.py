"""The report of `edges`: the way of an effect through the model."""

import networkx as nx

from steerscope.analysis.results.result import Result
from steerscope.circuits.edge_graph import INJECTION, LOGITS, edge_graph
from steerscope.reports import words
from steerscope.reports.figures.agreement import agreement
from steerscope.reports.figures.wiring import wiring
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.attribute import steps_taken
from steerscope.reports.pages.common import everything, layout, metric_unit, of, opponents
from steerscope.reports.pages.path_effect import told
from steerscope.reports.reading import drawing
from steerscope.reports.records import records, sides, total, way

MEASURES = ("necessity", "sufficiency")
SHOWN = 40  # edges that the graph begins with


@drawing
def headline(result: Result) -> list[str]:
    """What is told from reference vectors, the widest way, the strongest edges, how good the estimates are."""
    exact, towards, whole = result.frames["verified"], way(result), total(result) or float("nan")
    large = exact["necessity"].abs() >= result.manifest.get("smallest", 0.02) * abs(whole)
    along, against = (
        [
            f"{r.sender} → {r.receiver} ({words.signed(r.estimate)}, exactly {words.signed(r.necessity)}, "
            f"{words.percent(r.necessity / whole)})"
            for r in records(rows.sort_values("necessity", key=abs, ascending=False).head(4))
        ]
        for rows in sides(exact[large], towards, "necessity")
    )
    path = _widest(edge_graph(result, SHOWN), towards)
    said = "; ".join(f"{r.measure}: {words.agreement(r)}" for r in records(of(result, "calibration", verified="both")))
    count, table = result.manifest.get("count", "?"), result.frames["edges"]
    named = table.assign(node=table["sender"] + " → " + table["receiver"])
    return [
        *told(result, named, f"edge of {count}"),
        *([f"The widest way, whether told from noise or not, is {' → '.join(path)}."] if path else []),
        f"The strongest of {count} edges as they are, in {metric_unit(result)} and of the effect: "
        f"{words.listing(along)}{opponents(against)}.",
        f"Estimates against exact path patching of {len(exact)} edges: {said}.",
        *steps_taken(result),
    ]


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    text = [
        "An edge is what one node writes into the stream and one input of another node reads there, with everything "
        "else as it is. Scores are integrated gradients along the coefficient; those that leave the injection add up "
        "to the effect. An edge's exact necessity is the effect lost when this path alone is set back to clean, its "
        "sufficiency what it brings alone.",
        "Verdicts come from a test over vectors, each read along its own change, corrected by Holm over all edges, "
        "listed or not.",
    ]
    return layout(
        result,
        "Which way does {vector} take through {model}?",
        "integrated gradients on all edges, the strongest patched exactly",
        headline(result),
        [_way(result), _verified(result), _agreement(result), _edges(result)],
        text=text,
    )


def _widest(given: "nx.DiGraph[str]", towards: int) -> list[str]:
    """The way from the injection to the logits, along edges that carry the effect, whose narrowest edge is widest; of
    those, whose next narrowest is, and so on.
    """
    ways: dict[str, tuple[list[float], list[str]]] = {INJECTION: ([], [INJECTION])}
    for vertex in nx.topological_sort(given):
        for before, _, data in given.in_edges(vertex, data=True):
            size = data["weight"] * towards if data["inputs"] else float("inf")
            if before in ways and size > 0:
                narrow, way = ways[before]
                found = sorted([*narrow, size]), [*way, vertex]
                if vertex not in ways or [*found[0], float("inf")] > [*ways[vertex][0], float("inf")]:
                    ways[vertex] = found
    return ways.get(LOGITS, ([], []))[1]


def _way(result: Result) -> Section:
    given = edge_graph(result, SHOWN)
    text = (
        f"The strongest {SHOWN} edges, as far as they lie on a way from the injection to the logits. Width is the "
        "score; orange carries the effect, blue works against it; dotted edges act through queries or keys (where a "
        "head looks), full ones through values, MLPs or the logits (what is moved). Point at an edge for its numbers."
    )
    panel = Panel("Graph", None, "no way from the injection to the logits among the strongest edges")
    if given:
        panel = Panel("From the injection to the logits", wiring(given, metric_unit(result), way(result)))
    return Section("The way", [text], [panel])


def _verified(result: Result) -> Section:
    rows = [
        [r.sender, r.receiver, r.verified, *map(words.signed, (r.estimate, r.necessity, r.sufficiency))]
        for r in records(result.frames["verified"].head(20))
    ]
    titles = ["from", "to", "why", f"estimate ({metric_unit(result)})", "exact necessity", "exact sufficiency"]
    return Section("The strongest edges, patched exactly", [], table=Table(titles, rows, frozenset(titles[3:])))


def _agreement(result: Result) -> Section:
    table, unit = result.frames["verified"], metric_unit(result)
    names = table["sender"] + " → " + table["receiver"]
    panels = [
        Panel(m.capitalize(), agreement(names, table["estimate"], table[m], table["verified"], unit)) for m in MEASURES
    ]
    return Section("How good the estimates are", [], panels)


def _edges(result: Result) -> Section:
    columns = ["sender", "receiver", "effect", "low", "high", "share", "verdict", "noise_share", "concepts_share"]
    columns += ["p", "p_noise", "p_concepts", "p_holm", "p_specific"]
    return everything(result.frames["edges"].head(300), columns, "All edges (the strongest 300)", result)
