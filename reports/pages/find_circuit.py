"""The report of `find_circuit`: the circuit that was found, how faithful it is, what comes back on other prompts."""

import math
import re
from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.circuits.edge_graph import LOGITS, wired
from steerscope.reports import words
from steerscope.reports.figures.lines import lines
from steerscope.reports.figures.wiring import wiring
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.common import everything, framed, legend, metric_unit, model_name, of
from steerscope.reports.reading import drawing
from steerscope.reports.records import records
from steerscope.reports.theme import bold

DRAWN = 60  # edges in the picture
ENOUGH = 20  # circuits of a profile, to tell one of them from chance
ALL = 0.9  # of the difference
ABLATIONS = {
    "resample": "the other run of the same prompt in place of what is left out",
    "mean": "the mean over prompts in place of what is left out",
    "zero": "nothing in place of what is left out",
}
READING = (
    "A circuit is a set of edges: in a run of it every input reads the other run of the prompt (or what the ablation "
    "says) plus what the nodes of its own edges write differently. Faithfulness is the share of the score's difference "
    "that this run has, completeness the share that is lost where all other edges are run without the circuit. Both "
    "depend on the ablation, so it stands beside every number; both are measured on prompts that were not searched "
    "with. A share has no number where the whole difference is not clear of zero.",
    "Random circuits have as many edges between any two layers and kinds of nodes: where they are as faithful, the "
    "layers and not the edges make the circuit. Edges are core where 9 in 10 circuits of resampled prompts hold them, "
    "noise where fewer than 1 in 10 do.",
    "Any injection goes some way through the model, a random one too: a circuit of it says which way, and not that the "
    "vector is special.",
    "Conductance is what flows along an edge while the input goes straight from the one run to the other: edges across "
    "any cut of the model add up to the effect.",
    "KV names keys and values that several query heads share: L23KV1.v is read by heads 3, 4 and 5, where three share.",
)


@drawing
def headline(result: Result) -> list[str]:
    """What was found, how faithful it is beside chance, what comes back."""
    manifest = result.manifest
    size, whole, effect = manifest.get("size", 0), manifest.get("all_edges", 0), manifest.get("effect", math.nan)
    nodes = result.frames["nodes"]
    mlps = int(nodes["head"].isna().sum())
    said = [
        f"{manifest.get('what', '').capitalize()}, the score differs by {words.number(effect)} {metric_unit(result)}. "
        f"A circuit of {size:,} of {whole:,} edges was found, between {len(nodes) - mlps} heads and {mlps} MLPs."
    ]
    rows = {(r.measure, r.ablation): r for r in records(result.frames["circuit"])}
    own = rows.get(("faithfulness", "resample"))
    if own is not None and words.finite(own.value):
        said.append(_faithful(own, manifest.get("random_circuits", math.inf), _where(result)))
    others = [
        f"{words.percent(r.value)} under {ablation}"
        for (measure, ablation), r in rows.items()
        if measure == "faithfulness" and ablation != "resample" and words.finite(r.value)
    ]
    if others:
        said.append(f"The same circuit has {words.listing(others)} ablation.")
    rest = rows.get(("completeness", "resample"))
    if rest is not None and words.finite(rest.value):
        means = (
            ": nothing is left to do it" if rest.low >= ALL else ": other edges do the rest" if rest.high < ALL else ""
        )
        lost = words.ranged(rest, show=words.percent)
        said.append(f"Without it, the rest of the model loses {lost} of the difference{means}.")
    return [*said, *_back(result)]


def _where(result: Result) -> str:
    """What the circuit was judged on."""
    missing = result.manifest.get("missing", {})
    if "other prompts" in missing:
        return "On the prompt that it was searched with"
    return "On prompts of the same group, or copies," if "intervals" in missing else "On other prompts"


def _faithful(row: Any, others: float, where: str) -> str:
    """Faithfulness beside random circuits."""
    text = f"{where} it has {words.ranged(row, show=words.percent)} of the difference (resample ablation)"
    if others <= ENOUGH or not words.finite(row.random_high):
        few = "no other circuit has" if others <= 1 else f"only {others:.0f} circuits have"
        return f"{text}; {few} its profile, so chance cannot be told."
    random = f"{words.percent(row.random)}{words.between(row.random_low, row.random_high, words.percent)}"
    said = f"random circuits of the same profile have {random}"
    if not words.finite(row.low):
        return f"{text}; {said}. From one group of prompts nothing can be told apart."
    return f"{text}; {said}." if row.low > row.random_high else f"{text}, and {said}: it is not told from these."


def _shared(result: Result) -> int:
    """How many query heads share a key-value head."""
    model = result.manifest.get("model", {})
    return int(model.get("n_heads", 1)) // int(model.get("n_kv_heads", 1) or 1)


def _input(result: Result, receiver: object) -> str:
    """An input by name; keys and values that heads share are none of one head."""
    text = str(receiver)
    return re.sub(r"H(\d+)(\.[kv])$", r"KV\1\2", text) if _shared(result) > 1 else text


def _back(result: Result) -> list[str]:
    manifest, table = result.manifest, result.frames["edges"]
    kept = table[table["kept"].astype(bool)]
    said = []
    if words.finite(manifest.get("alike")):
        counts = kept["label"].value_counts()
        parts = [f"{counts[name]} {name}" for name in ("core", "contingent", "noise") if counts.get(name, 0)]
        said.append(
            f"Over resampled prompts, {words.listing(parts)} of its edges; the strongest edges of two draws overlap by "
            f"{words.percent(manifest['alike'])} (Jaccard; random circuits of the same profile by "
            f"{words.percent(manifest.get('alike_random'))})."
        )
    strongest = [f"{r.sender} → {_input(result, r.receiver)} ({words.percent(r.share)})" for r in records(kept.head(5))]
    if strongest:
        said.append(f"The strongest edges: {words.listing(strongest)}.")
    if not manifest.get("complete", True):
        missed = words.percent(manifest.get("gap"))
        said.append(
            f"Scores are estimates, and all points were spent: edges across a cut miss {missed} of the effect. What is "
            "said of the circuit is exact; with more points its edges may be others."
        )
    if not manifest.get("each_edge_tried", True):
        said.append("Not every edge was tried by itself: with more trials the circuit would be smaller.")
    return said


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    manifest = result.manifest
    task = f"do {manifest.get('task') or 'it'}"
    what = f"carry {words.injection(manifest)}" if manifest.get("injections") else task
    return framed(
        result,
        f"Which edges of {model_name(result)} {what}?",
        f"{manifest.get('what', '')} · {manifest.get('searched', '?')} prompts to search, "
        f"{manifest.get('judged', '?')} to judge · {manifest.get('ablation', '')} ablation, "
        f"{words.percent(manifest.get('lost'))} may be lost",
        headline(result),
        [_drawn(result), _judged(result), _curve(result), _nodes(result), _edges(result), legend(result, READING)],
    )


def _drawn(result: Result) -> Section:
    table, last = result.frames["edges"], int(result.manifest.get("model", {}).get("n_layers", 1))
    kept = table[table["kept"].astype(bool)].head(DRAWN)
    edges = zip(kept["sender"], kept["receiver"], kept["conductance"], strict=True)
    graph = wired(edges, _shared(result), {"input": 0, LOGITS: last})
    text = (
        f"Its strongest edges, at most {DRAWN}. Width is the conductance; orange goes with the difference, blue works "
        "against it; dotted edges act through queries or keys (where a head looks), full ones through values, MLPs or "
        "the logits (what is moved). Point at an edge for its numbers."
    )
    panel = Panel("Circuit", None, "no edge was kept")
    if len(graph):
        effect = result.manifest.get("effect", 1.0)
        panel = Panel("From the input to the logits", wiring(graph, metric_unit(result), 1 if effect >= 0 else -1))
    return Section("The circuit", [text], [panel])


def _judged(result: Result) -> Section:
    titles = ["measure", "ablation", "share", "interval", "random circuits"]
    rows = []
    for r in records(result.frames["circuit"]):
        beside = words.between(r.random_low, r.random_high, words.percent) if words.finite(r.random) else ""
        beside = f"{words.percent(r.random)}{beside}" if beside else ""
        rows.append([r.measure, ABLATIONS.get(r.ablation, r.ablation), words.percent(r.value)])
        rows[-1] += [words.between(r.low, r.high, words.percent).strip() if words.finite(r.low) else "", beside]
    unclear = [r.ablation for r in records(of(result, "circuit", measure="faithfulness")) if not words.finite(r.value)]
    text = [f"Under {name} ablation the difference is not clear of zero: no share of it is given." for name in unclear]
    return Section("How faithful it is", text, table=Table(titles, rows, frozenset(titles[2:])))


def _curve(result: Result) -> Section:
    table = result.frames["curve"]
    table = table[table["faithfulness"].notna()]
    if table.empty:
        return Section("Growing circuits", ["Not measured, or not clear of zero."])

    def describe(name: str, row: Any) -> str:
        return f"{bold(name)} ablation\n{row.edges:,} edges\nF {words.ranged(row, 'faithfulness', words.percent)}"

    series = {str(name): rows for name, rows in table.groupby("ablation", sort=False)}
    chart = lines(series, "edges", "faithfulness", describe, dotted="random", reference="random, {}")
    chart.update_xaxes(type="log", dtick=1, title="strongest edges")
    chart.update_yaxes(title="faithfulness", tickformat=".0%")
    chart.add_hline(y=1, line={"width": 1, "dash": "dot"})
    text = "F of the strongest edges, not pruned, on the prompts that were not searched with."
    return Section("Growing circuits", [text], [Panel("Faithfulness", chart)])


def _nodes(result: Result) -> Section:
    titles = ["node", f"through it ({metric_unit(result)})", "share", "edges in", "edges out", "looks at"]
    rows = [
        [r.node, words.signed(r.through), words.percent(r.share), str(r.edges_in), str(r.edges_out), r.looks]
        for r in records(result.frames["nodes"].head(40))
    ]
    text = "Shares of nodes in one line count the same flow twice: they do not add up to 1."
    return Section("Its nodes", [text], table=Table(titles, rows, frozenset(titles[1:5])))


def _edges(result: Result) -> Section:
    table = result.frames["edges"]
    shown: pd.DataFrame = table[table["kept"].astype(bool)].head(300)
    shown = shown.assign(receiver=[_input(result, name) for name in shown["receiver"]])
    return everything(shown, list(table.columns), "All its edges (the strongest 300)", result)
