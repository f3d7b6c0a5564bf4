"""The section of the growing set: how concentrated is this vector?"""

from typing import Any

import pandas as pd

from steerscope.analysis.brief import counted
from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.growing import NODES, VECTORS, growing
from steerscope.reports.page import Panel, Section
from steerscope.reports.pages.common import missing, of

TITLE = "How concentrated is it?"
ENOUGH = 0.8  # of the effect: the size that is spoken of
ALSO = 0.5  # what the others carry jointly from which on they are ways of their own
MEASURES = {
    "necessity": ("set back", ("take away", "takes away")),
    "sufficiency": ("set to steered", ("bring", "brings")),
}
CLOUDS = {"noise": "random vectors", "meaning": "other concepts"}


def headline(result: Result) -> list[str]:
    """How many nodes it takes, what others do instead of them, and whether that is more concentrated than elsewhere."""
    if "minimal" not in result.frames:
        return []
    if result.frames["minimal"].empty:
        why = result.manifest.get("missing", {}).get("minimal")
        return [f"How concentrated it is cannot be said: {str(why).rstrip('.')}."] if why else []
    verdicts = {measure: _verdict(result, measure) for measure in MEASURES}
    same = len(set(verdicts.values())) == 1
    said = [f"This vector is {next(iter(verdicts.values()))}"] if same else []
    said = said or [f"By {measure} this vector is {verdict}" for measure, verdict in verdicts.items() if verdict]
    return [*(_needed(result, measure) for measure in MEASURES), *(f"{s}." for s in said if not s.endswith(" is "))]


def section(result: Result) -> Section:
    """The curves of both directions, and every vector with nodes of its own."""
    if "minimal" not in result.frames or result.frames["minimal"].empty:
        return Section(TITLE, [], [Panel("Growing set", None, missing(result, "minimal"))])
    about = result.manifest.get("minimal", {})
    text = [
        "Nodes are patched jointly, one more at a time, in an order that does much early: single effects to begin "
        "with, improved by exact joint patching. Shares can pass 100% where nodes that work against the effect come "
        "late.",
        _chosen(about),
        "Dashed: all other nodes jointly. Where that stays high, the effect does not hang on these nodes alone: it "
        "also goes through nodes before, after or beside them. Random sets have as many heads and MLPs of each "
        "layer; a layer has one MLP, so they have the same ones.",
    ]
    panels = []
    for measure in MEASURES:
        table = of(result, "minimal", measure=measure)
        chosen = table[table["set"] == "chosen"]
        names = dict(zip(chosen["size"].tolist(), chosen["node"].tolist(), strict=True))
        panels.append(Panel(f"{measure.capitalize()}: sets of nodes", growing(table, NODES, names)))
    if (result.frames["minimal"]["set"] == "own").any():
        text.append(
            "Every vector with its own nodes: along its own change of logits, in the order of single effects, without "
            "any search, which is the same rule for all. Bands of reference vectors go from the smallest to the "
            "largest; the test is of the mean share over all sizes drawn."
        )
        text += [said for said in (_beside(result, measure) for measure in MEASURES) if said]
        for measure in MEASURES:
            table = of(result, "minimal", measure=measure)
            panels.append(Panel(f"{measure.capitalize()}: every vector with its own nodes", growing(table, VECTORS)))
    return Section(TITLE, text, panels)


def _chosen(about: Any) -> str:
    if not about.get("halved", True):
        return "There are too few groups of prompts to choose on one half and measure on the other: the curve flatters."
    return "One half of the prompts chooses the nodes, the other half measures them, both ways."


def _needed(result: Result, measure: str) -> str:
    """How many nodes do 80%, and what all others, and random ones, do."""
    table = of(result, "minimal", measure=measure)
    patched, does = MEASURES[measure]
    best = table[table["set"] == "best"].sort_values("size")
    if best["share"].isna().all():
        return f"How many nodes have {words.percent(ENOUGH)} of the effect is not known: no share of it was measured."
    every = int(best["size"].max())
    enough = best[best["share"] >= ENOUGH]
    if enough.empty:
        top = best.sort_values("share").iloc[-1]
        return (
            f"No set of nodes that was tried {does[1]} {words.percent(ENOUGH)} of the effect: {patched} jointly, the "
            f"best ({_nodes(int(top['size']), every)}) {does[1]} {_share(top)}{_where(result)}."
        )
    row = enough.iloc[0]
    size, one = int(row["size"]), int(row["size"]) == 1
    before = int(best["size"][best["size"] < size].max()) if (best["size"] < size).any() else 0
    count = _nodes(size, every) if size == before + 1 else f"At most {_nodes(size, every)} (more than {before:,})"
    names = table[(table["set"] == "chosen") & (table["size"] <= size)].sort_values("size")["node"].tolist()
    named = f" ({words.listing(words.some(names, 6))})" if len(names) == size else ""
    jointly = patched if one else f"{patched} jointly"
    parts = [f"{count}{named} {does[one]} {_share(row)} of the effect when {jointly}{_where(result, one)}"]
    rest = _at(table, "rest", size)
    if rest is not None and size < every:
        alone = f", so the effect does not hang on {'it' if one else 'these'} alone" if rest["share"] >= ALSO else ""
        parts.append(f"all others jointly {_share(rest)}{alone}")
    return "; ".join([*parts, *_random(table, best, size)]) + "."


def _nodes(size: int, every: int) -> str:
    return f"{size:,} of {counted(every, 'node')}"


def _share(row: Any) -> str:
    return str(words.percent(row["share"]) + words.between(row["low"], row["high"], words.percent))


def _where(result: Result, one: bool = False) -> str:
    halved = result.manifest.get("minimal", {}).get("halved")
    them = "it" if one else "them"
    said = {True: f", on prompts that did not choose {them}", False: f", on the prompts that chose {them}"}
    return said.get(halved, "")


def _at(table: pd.DataFrame, name: str, size: int) -> Any:
    rows = table[(table["set"] == name) & (table["size"] == size) & table["share"].notna()]
    return rows.iloc[0] if len(rows) else None


def _random(table: pd.DataFrame, best: pd.DataFrame, size: int) -> list[str]:
    """Random sets of that size, or of the next one that was drawn."""
    drawn = table[(table["set"] == "random") & (table["size"] >= size) & table["share"].notna()].sort_values("size")
    if drawn.empty:
        return []
    row = drawn.iloc[0]
    own = best[best["size"] == row["size"]]["share"]
    many = "" if row["size"] == size else f" {int(row['size']):,}"
    same = many and f" of{many} nodes"
    no_less = f", no less than the best{many}" if len(own) and row["high"] >= float(own.iloc[0]) else ""
    return [f"random sets{same} with the same MLPs and as many heads of each layer {_share(row)}{no_less}"]


def _verdict(result: Result, measure: str) -> str:
    """Whether the effect is more concentrated than that of reference vectors, each with nodes of its own; empty where
    that was not asked."""
    about = result.manifest.get("minimal", {})
    said, counts = about.get("concentration", {}).get(measure, {}), about.get("vectors", {})
    verdicts: dict[str, list[str]] = {"more": [], "less": [], "as": []}
    for name, what in CLOUDS.items():
        if f"{name}_p" in said:
            known = all(words.finite(said[key]) for key in ("own", name, f"{name}_p"))
            told = known and said[f"{name}_p"] < result.manifest.get("alpha", 0.05)
            side = "as" if not told else "more" if said["own"] > said[name] else "less"
            verdicts[side].append(f"{counts.get(name, 0)} {what}")
    parts = [f"{side} concentrated than {words.listing(verdicts[side])}" for side in ("more", "less") if verdicts[side]]
    if verdicts["as"]:
        parts.append(f"not told from {words.listing(verdicts['as'])} in how concentrated it is")
    return words.listing(parts) if parts else ""


def _beside(result: Result, measure: str) -> str:
    """What every vector's own best nodes have, where this one's have enough; empty where none is compared."""
    table = of(result, "minimal", measure=measure)
    own = table[(table["set"] == "own") & table["share"].notna()].sort_values("size")
    if own.empty:
        return ""
    enough = own[own["share"] >= ENOUGH]
    row = (enough if len(enough) else own.iloc[::-1]).iloc[0]
    found = {what: _at(table, f"own_{name}", int(row["size"])) for name, what in CLOUDS.items()}
    beside = [f"{what} {_share(r)}" for what, r in found.items() if r is not None]
    best = counted(int(row["size"]), "best node")
    verdict = _verdict(result, measure)
    return (
        f"By {measure}, each vector with the {best} of its own: this one has {_share(row)} of its change"
        + "".join(f", {text}" for text in beside)
        + (f"; it is {verdict}." if verdict else ".")
    )
