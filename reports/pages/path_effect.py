"""The report of `path_effect`: what flows straight from one node to another."""

from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.ranking import ranking
from steerscope.reports.page import Page, Panel, Section
from steerscope.reports.pages.carried import compared, contrast, nothing_tested
from steerscope.reports.pages.common import everything, layout, metric_unit
from steerscope.reports.reading import drawing
from steerscope.reports.records import largest, records, way
from steerscope.reports.theme import bold

MOST = 5  # named in a list


@drawing
def headline(result: Result) -> list[str]:
    """Which paths are told from reference vectors, and the largest as they are."""
    unit, table = metric_unit(result), _named(result, "necessity")
    shown = [
        f"{r.node} ({words.ranged(r, 'effect', words.signed, unit)}, {words.percent(r.share)} of the effect)"
        for r in records(largest(table[table["effect"] != 0], 3))
    ]
    return [
        *told(result, table, "path"),
        f"Lost when the path alone is set back, the largest as they are: {words.listing(shown)}.",
    ]


def told(result: Result, table: pd.DataFrame, what: str) -> list[str]:
    """What the verdicts say of paths or edges, whose names stand in the column `node`."""
    why = nothing_tested(result, table)
    if why:
        return [f"Of no {what} can it be said that it is this vector's own: {why}."]
    noise, meant = compared(result, noise=True), compared(result, noise=False)
    beside = words.listing([name for name in (noise, meant) if name])
    by = {name: table[table["verdict"] == name] for name in table["verdict"].unique()}
    found = []
    if "specific" in by:
        found.append(f"Specific to this vector, beyond {beside}: {_listed(by['specific'])}.")
    if "concept" in by:
        tail = f", but not told from {meant}" if meant else "; no other concepts were run beside it"
        found.append(f"Beyond {noise}{tail}: {_listed(by['concept'])}.")
    if not found:
        found.append(
            f"Nothing is specific to this vector: of no {what} can it be said that it carries more of it than of "
            f"{beside}."
        )
    if "shared" in by:
        found.append(f"Shared with reference vectors: {_listed(by['shared'])}.")
    if "against" in by:
        found.append(f"Working against the effect: {_listed(by['against'])}.")
    return found


def _listed(rows: pd.DataFrame) -> str:
    named = [contrast(r) for r in records(largest(rows, MOST))]
    return words.listing([*named, f"{len(rows) - len(named)} more"] if len(rows) > len(named) else named)


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    unit, towards = metric_unit(result), way(result)
    panels = [
        Panel(m.capitalize(), ranking(_named(result, m), unit, describe=hover, towards=towards))
        for m in ("necessity", "sufficiency")
    ]
    columns = ["sender", "receiver", "measure", "effect", "low", "high", "share", "verdict", "noise_share"]
    columns += ["concepts_share", "p", "p_noise", "p_concepts", "p_holm", "p_specific"]
    bands = "Exact. Bands: where a path would stand if it had as large a share of this vector as of its references."
    sections = [
        Section("Direct paths", [bands], panels),
        everything(result.frames["paths"], columns, "All paths", result),
    ]
    text = [
        "A direct path: the sender's other output reaches this input alone, everything between is held; what comes "
        "after the receiver reacts.",
        "Verdicts come from a test over vectors, corrected by Holm over all paths that were asked for.",
    ]
    question, method = "What flows where, of {vector} in {model}?", "exact path patching"
    return layout(result, question, method, headline(result), sections, text=text)


def _named(result: Result, measure: str) -> pd.DataFrame:
    table = result.frames["paths"]
    return table.assign(node=table["sender"] + " → " + table["receiver"])[table["measure"] == measure]


def hover(row: Any, unit: str) -> str:
    """All that is known of a path, for its hover label."""
    return "\n".join([bold(row.node), words.verdict(row.verdict), *words.estimate(row, unit)])
