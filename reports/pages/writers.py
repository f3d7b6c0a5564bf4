"""The report of `writers`: who wrote the steering vector; its section stands in the report of `localize`, too."""

from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.written import rows, written
from steerscope.reports.page import Page, Panel, Section
from steerscope.reports.pages.common import everything, metric_unit, missing, page
from steerscope.reports.records import records

TITLE = "Writers"
ALONE = 0.999  # share from which on a vector has one writer
NAMED, ENOUGH = 3, 0.9  # writers in a sentence: so many, or as many as have written so much


def writers_page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    sections = [writers_section(result), _rows(result), _table(result)]
    return page(
        result, "Who wrote {vector} in {model}?", "exact parts", writers_sentences(result), sections, _glance(result)
    )


def writers_section(result: Result) -> Section:
    """Ranked writers, a panel for each vector; or the reason why there are none."""
    table = result.frames.get("writers")
    if table is None or table.empty:
        return Section(TITLE, [f"Missing: {missing(result, 'writers')}."])
    total = float(result.frames["totals"].set_index("quantity")["value"]["total"])
    text = (
        "Who wrote the vector, in the runs that it was recorded from. The upright stroke is a writer's share "
        "along the vector; these add up to 1. "
        "The circle is the effect of injecting its part alone, the square what is lost when its part is left "
        "out, both over the total "
        "effect, with intervals over prompts; grey bands are random parts of equal norm, open marks are not "
        "significant. In a linear "
        "model all three would be the same."
    )
    panels = [
        Panel(_label(result, number), written(table[table["injection"] == number], total, metric_unit(result)))
        for number in sorted(table["injection"].unique())
    ]
    return Section(TITLE, [text], panels)


def writers_sentences(result: Result) -> list[str]:
    """Who wrote each vector, in a sentence; nothing where no writers are known."""
    table = result.frames.get("writers")
    if table is None or table.empty:
        return []
    numbers = sorted(table["injection"].unique())
    alpha = float(result.manifest.get("alpha", 0.05))
    sentences = []
    for number in numbers:
        name = f"({_label(result, number)}) was written" if len(numbers) > 1 else "Written"
        own = table[table["injection"] == number].sort_values("share", ascending=False)
        sentences.append(f"{name} {_by(own, alpha)}.")
    return sentences


def _by(table: pd.DataFrame, alpha: float) -> str:
    first = next(records(table))
    if first.share > ALONE and table["norm"].iloc[1:].max() < (1 - ALONE) * first.norm or len(table) == 1:
        return f"by {_name(first.writer)} alone"
    counts = 1 + int((table["share"].cumsum() < ENOUGH).sum())
    shown = list(records(table.head(min(NAMED, counts))))
    text = f"above all by {words.listing([f'{_name(r.writer)} ({words.percent(r.share)} of it)' for r in shown])}"
    claimed = [r for r in shown if r.alone_p_holm < alpha]
    if not claimed:
        return text
    names, shares = (
        words.listing(list(items))
        for items in zip(*((_name(r.writer), words.percent(r.alone_share)) for r in claimed), strict=True)
    )
    part = "the parts of {} have" if len(claimed) > 1 else "the part of {} has"
    return f"{text}; injected alone, {part.format(names)} {shares} of the effect"


def _name(writer: str) -> str:
    return "the embedding" if writer == "embedding" else writer


def _label(result: Result, number: int) -> str:
    injections = result.manifest.get("injections", [])
    return str(injections[number]["vector"]["label"]) if number < len(injections) else "the vector"


def _glance(result: Result) -> list[tuple[str, str, str]]:
    totals = result.frames["totals"].set_index("quantity")
    total, alone, without = (totals.loc[name] for name in ("total", "sum_alone", "sum_without"))
    checked = {c["name"]: c["value"] for c in result.manifest.get("checks", [])}
    error = next((v for name, v in checked.items() if "add up" in name), None)

    def ends(row: Any) -> str:
        return words.between(row["share_low"], row["share_high"], words.percent)

    return [
        (
            "total effect",
            f"{words.signed(total['value'])} {total['unit']}",
            f"interval{words.between(total['low'], total['high'])}",
        ),
        ("writers", str(len(result.frames["writers"])), "embedding, heads and MLPs below the vector's site"),
        ("conservation error", words.number(error), "norm of the parts' sum minus the vector, over the vector's norm"),
        (
            "alone, summed",
            words.percent(alone["share"]),
            f"of the effect{ends(alone)}: 100% would be parts that do not interact",
        ),
        (
            "without, summed",
            words.percent(without["share"]),
            f"of the effect{ends(without)}: less where parts stand in for each other",
        ),
    ]


def _rows(result: Result) -> Section:
    table = result.frames["rows"]
    panels = [
        Panel(_label(result, number), rows(table[table["injection"] == number]))
        for number in sorted(table["injection"].unique())
    ]
    text = "The share of each row of the vector that each writer wrote; a row of zeros (BOS) has none."
    return Section("Row by row", [text], panels)


def _table(result: Result) -> Section:
    columns = [
        "writer",
        "norm",
        "share",
        "cosine",
        "alone",
        "alone_low",
        "alone_high",
        "alone_control",
        "alone_p_holm",
        "without",
        "without_low",
        "without_high",
        "without_control",
        "without_p_holm",
    ]
    return everything(result.frames["writers"], columns, "All writers", result)
