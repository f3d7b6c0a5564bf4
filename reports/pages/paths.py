"""The reports of `edges` and `path_effect`: the way of an effect through the model."""

from typing import Any

import networkx as nx

from steerscope.analysis.results.result import Result
from steerscope.circuits.edge_graph import INJECTION, LOGITS, edge_graph
from steerscope.reports import words
from steerscope.reports.figures.agreement import agreement
from steerscope.reports.figures.graph import graph
from steerscope.reports.figures.ranking import ranking
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.common import everything, metric_unit, page
from steerscope.reports.records import largest, records

SHOWN = 40  # edges that the graph begins with


def edges_page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    sections = [_graph(result), _verified(result), _agreement(result), _edges(result)]
    text = [
        "An edge is what one node writes into the stream and one input of another node reads there, with "
        "everything else as it is. "
        "Scores are integrated gradients along the coefficient; those that leave the injection add up to the "
        "effect. An edge's exact "
        "necessity is the effect lost when this path alone is set back to clean, its sufficiency what it brings alone."
    ]
    return page(
        result,
        "Which way does {vector} take through {model}?",
        "integrated gradients on all edges, the strongest patched exactly",
        edges_sentences(result),
        sections,
        text=text,
    )


def edges_sentences(result: Result) -> list[str]:
    """The widest path, the strongest edges, how good the estimates are."""
    unit = metric_unit(result)
    best = result.frames["verified"].head(4)
    named = words.listing(
        [
            f"{r.sender} → {r.receiver} ({words.signed(r.estimate)}, exactly {words.signed(r.necessity)})"
            for r in records(best)
        ]
    )
    found = []
    way = _widest(edge_graph(result, SHOWN))
    if way:
        found.append(f"The widest way is {' → '.join(way)}.")
    found.append(f"The strongest of {result.manifest.get('count', '?')} edges, in {unit}: {named}.")
    rows = result.frames["calibration"]
    both = {r.measure: r for r in records(rows[rows["verified"] == "both"])}
    said = "; ".join(f"{m}: Pearson {r.pearson:.3f}, Kendall {r.kendall:.2f}" for m, r in both.items())
    found.append(f"Estimates against exact path patching of {len(result.frames['verified'])} edges: {said}.")
    return found


def _widest(given: "nx.DiGraph[str]") -> list[str]:
    """The way from the injection to the logits whose narrowest edge is widest; of those, whose next narrowest is, and
    so on.
    """
    ways: dict[str, tuple[list[float], list[str]]] = {INJECTION: ([], [INJECTION])}
    for vertex in nx.topological_sort(given):
        for before, _, data in given.in_edges(vertex, data=True):
            if before in ways:
                narrow, way = ways[before]
                size = abs(data["weight"]) if data["inputs"] else float("inf")
                found = sorted([*narrow, size]), [*way, vertex]
                if vertex not in ways or [*found[0], float("inf")] > [*ways[vertex][0], float("inf")]:
                    ways[vertex] = found
    return ways.get(LOGITS, ([], []))[1]


def _graph(result: Result) -> Section:
    given = edge_graph(result, SHOWN)
    text = (
        f"The strongest {SHOWN} edges, as far as they lie on a way from the injection to the logits. Width is "
        "the score; orange carries the "
        "effect, blue works against it; dotted edges act through queries or keys (where a head looks), full "
        "ones through values, MLPs or "
        "the logits (what is moved). Point at an edge for its numbers."
    )
    if not given:
        return Section(
            "The way",
            [text],
            [Panel("Graph", None, "no way from the injection to the logits among the strongest edges")],
        )
    return Section("The way", [text], [Panel("From the injection to the logits", graph(given, metric_unit(result)))])


def _verified(result: Result) -> Section:
    unit = metric_unit(result)
    rows = [
        [
            r.sender,
            r.receiver,
            r.verified,
            words.signed(r.estimate),
            words.signed(r.necessity),
            words.signed(r.sufficiency),
        ]
        for r in records(result.frames["verified"].head(20))
    ]
    titles = ["from", "to", "why", f"estimate ({unit})", "exact necessity", "exact sufficiency"]
    return Section("The strongest edges, patched exactly", [], table=Table(titles, rows, frozenset(titles[3:])))


def _agreement(result: Result) -> Section:
    table, unit = result.frames["verified"], metric_unit(result)
    names = [f"{r.sender} → {r.receiver}" for r in records(table)]
    panels = [
        Panel(
            m.capitalize(),
            agreement(names, table["estimate"].tolist(), table[m].tolist(), table["verified"].tolist(), unit),
        )
        for m in ("necessity", "sufficiency")
    ]
    return Section("How good the estimates are", [], panels)


def _edges(result: Result) -> Section:
    columns = ["sender", "receiver", "effect", "low", "high", "share", "control", "p_adjusted", "significant"]
    return everything(result.frames["edges"].head(300), columns, "All edges (the strongest 300)", result)


def paths_page(result: Result) -> Page:
    """Exact direct paths."""
    table, unit = result.frames["paths"].copy(), metric_unit(result)
    table["node"] = table["sender"] + " → " + table["receiver"]
    panels = [
        Panel(m.capitalize(), ranking(table[table["measure"] == m], unit, describe=_hover))
        for m in ("necessity", "sufficiency")
    ]
    best = largest(table[table["measure"] == "necessity"], 3)
    named = words.listing(
        [f"{r.node} ({words.signed(r.effect)} {unit}{words.between(r.low, r.high)})" for r in records(best)]
    )
    columns = ["sender", "receiver", "measure", "effect", "low", "high", "share", "control", "p_adjusted"]
    sections = [
        Section("Direct paths", ["Exact; grey bands are random vectors of equal norm."], panels),
        everything(table, columns, "All paths", result),
    ]
    text = [
        (
            "A direct path: the sender's other output reaches this input alone, everything between is held; what "
            "comes after the receiver reacts."
        )
    ]
    return page(
        result,
        "What flows where, of {vector} in {model}?",
        "exact path patching",
        [f"Lost when the path alone is set back: {named}."],
        sections,
        text=text,
    )


def _hover(row: Any, unit: str) -> str:
    return (
        f"<b>{row.node}</b><br>{words.signed(row.effect)} "
        f"{unit}{words.between(row.low, row.high)}<br>{words.p_value(row.p_adjusted)} (adjusted)"
    )
