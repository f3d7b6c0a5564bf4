"""Headlines are rebuilt from their tables, in cases made to mislead: no page says more than the column of verdicts."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from html import unescape
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import fitting, made_numbers, made_references, made_tests
from small_runs import RUNS

from steerscope.analysis.results.result import Result
from steerscope.analysis.results.verdicts import TOLD
from steerscope.questions import page_of
from steerscope.reports import words
from steerscope.reports.page import Page, render
from steerscope.reports.theme import MARKS

WHY = "one prompt gives no interval over prompts, and nothing can be tested; give others"
SAID = {  # how a sentence begins, and what it may say it of
    "Specific to": ("specific",),
    "Beyond": ("concept",),
    "Shared with": ("shared",),
    "Less than": ("less",),
    "Working against": ("against",),
    "Largest of those that nothing can be said of": ("untested", "untested"),
    "Lost when a node is set back at one position alone, beyond": TOLD,
    "Later nodes that make up": TOLD,
    "Later nodes hardly make up": TOLD,
    "Loss that later nodes pass on": ("against",),
}
FRAMES: Mapping[str, tuple[str, Callable[[pd.DataFrame], pd.Series]]] = {  # where what is named stands, and its name
    **dict.fromkeys(("exact", "screen", "shapley", "attribute"), ("effects", lambda t: t["node"])),
    "edges": ("edges", lambda t: t["sender"] + " → " + t["receiver"]),
    "path_effect": ("paths", lambda t: t["sender"] + " → " + t["receiver"]),
    "by_position": ("positions", lambda t: t["node"] + " at “" + t["where"] + "”"),
    "self_repair": (
        "later",
        lambda t: t["node"] + np.where(t["effect"] * t["share"] >= 0, " for ", " after ") + t["carrier"],
    ),
}
Case = tuple[Callable[[int], tuple[Any, list[str]]], float, bool]


def _mixed(count: int) -> tuple[Any, list[str]]:
    values = np.random.default_rng(0).normal(size=count)
    return values, fitting(values)


def _nothing(count: int) -> tuple[Any, list[str]]:
    return np.random.default_rng(1).normal(size=count), ["untested"] * count


CASES: dict[str, Case] = {  # effects and verdicts, the whole effect, whether there are intervals
    "one dominant node": (lambda n: (np.r_[1.9, np.full(n - 1, 1e-3)], ["specific"] + ["small"] * (n - 1)), 2.0, True),
    "mixed signs": (_mixed, 2.0, True),
    "a negative total": (_mixed, -2.0, True),
    "one prompt": (_nothing, 2.0, False),
    "nothing told": (_nothing, 2.0, True),
    "everything shared": (lambda n: (np.linspace(0.1, 3, n), ["shared"] * n), 2.0, True),
    "everything against": (lambda n: (np.linspace(-3, -0.1, n), ["against"] * n), 2.0, True),
    "less than references": (lambda n: (np.linspace(0.1, 1, n), ["less"] * n), 2.0, True),
}


def cast(result: Result, case: str) -> Result:
    """The result with a case's numbers in each of its tables."""
    make, whole, intervals = CASES[case]
    frames = {}
    for name, frame in result.frames.items():
        table = frame.copy()
        if "verdict" in table and "effect" in table:
            values, said = make(len(table))
            numbers = made_numbers(np.asarray(values) * np.sign(whole), said, whole, intervals=intervals)
            table = table.assign(**{column: values for column, values in numbers.items() if column in table})
        elif "verdict" in table:
            table["verdict"] = "untested"
        for column in map(str, table):
            if column in ("told", "significant") or column.endswith("_told"):
                table[column] = False
            if column.endswith("_p_holm"):
                table[column] = 1.0
        if name == "totals":
            table.loc[table["quantity"].isin(["total", "effect"]), "value"] = whole
        frames[name] = table
    known = {"references": made_references(5), "reference_tests": made_tests(5), "total": whole}
    missing = {} if intervals else {"intervals": WHY}
    return replace(result, frames=frames, manifest={**result.manifest, **known, "missing": missing})


def claims(headline: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Sentences that say something of what they name, with the verdicts that allow it."""
    found = [(s, allowed) for s in headline for start, allowed in SAID.items() if s.startswith(start)]
    assert len({s for s, _ in found}) == len(found)
    return found


def named(sentence: str, labels: pd.Series) -> list[Any]:
    """Rows whose names stand in a sentence, each followed by numbers in brackets."""
    return [i for i, label in labels.items() if re.search(rf"(?<!→ )(?<![\w.]){re.escape(label)} \(", sentence)]


def numbers_of(sentence: str, label: str) -> str:
    found = re.search(rf"(?<!→ )(?<![\w.]){re.escape(label)} \(([^()]*)\)", sentence)
    assert found
    return found.group(1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", FRAMES)
def test_what_a_sentence_names_has_the_verdict_that_it_says(small: dict[str, Result], kind: str, case: str) -> None:
    result = cast(small[kind], case)
    frame, name = FRAMES[kind]
    table = result.frames[frame]
    if "measure" in table:
        table = table[table["measure"] == table["measure"].iloc[0]]
    labels = name(table)
    said = set()
    for sentence, allowed in claims(page_of(kind).headline(result)):
        rows = named(sentence, labels)
        assert rows, sentence
        for i in rows:
            assert table["verdict"][i] in allowed, sentence
            assert words.percent(table["share"][i]) in numbers_of(sentence, labels[i]), sentence
        said |= set(rows)
        more = re.search(r" and ([\d,]+) more", sentence)
        if len(allowed) == 1 and kind not in ("by_position", "self_repair"):
            every = table[table["verdict"] == allowed[0]]
            assert len(rows) + (int(more.group(1)) if more else 0) == len(every), sentence
            largest = every["effect"].abs().nlargest(len(rows))
            assert set(every["effect"].abs()[rows]) == set(largest), sentence
    spoken = ("specific", "concept", "shared", "against", *(() if kind in ("edges", "path_effect") else ("less",)))
    for verdict in spoken:
        if kind not in ("by_position", "self_repair") and (table["verdict"] == verdict).any():
            assert any(table["verdict"][i] == verdict for i in said), f"{verdict} is not spoken of"


@pytest.mark.parametrize("case", ["one prompt", "nothing told", "everything shared", "less than references"])
@pytest.mark.parametrize("kind", RUNS)
def test_where_nothing_is_told_nothing_is_claimed(small: dict[str, Result], kind: str, case: str) -> None:
    result = cast(small[kind], case)
    page = page_of(kind).page(result)
    headline = " ".join(s for s in page.headline if not s.startswith("Written"))  # who wrote it is no claim
    assert not re.search(r"Specific to|^Beyond|\. Beyond|above all|more than with|significant|\bspecific:", headline)
    assert "more than random parts" not in " ".join(page.headline)
    solid = {look.symbol for verdict, look in MARKS.items() if verdict in (*TOLD, "against")} - {"x"}
    assert not solid & set(symbols(page))
    if case == "one prompt":
        assert "p < 0.001" not in unescape(render(page))
        if kind != "freeze_attention":  # has shares with bounds, and claims nothing of a vector
            assert any(WHY in s or WHY.capitalize() in s for s in page.headline), page.headline


@pytest.mark.parametrize("kind", ["exact", "screen", "shapley"])
def test_marks_are_those_of_the_verdicts(small: dict[str, Result], kind: str) -> None:
    result = cast(small[kind], "mixed signs")
    table = result.frames["effects"]
    found = {MARKS[v].symbol for v in table["verdict"]}
    assert set(symbols(page_of(kind).page(result))) == found and "circle" in found


def symbols(page: Page) -> list[str]:
    """Of marks that are drawn row by row: those of verdicts."""
    sections = [section for section in page.sections if section.title != "Writers"]  # has marks of its own
    figures = [panel.figure for section in sections for panel in section.panels if panel.figure]
    given = [getattr(trace.marker, "symbol", None) for f in figures for trace in f.data if trace.type == "scatter"]
    return [symbol for symbols in given if isinstance(symbols, tuple | list) for symbol in symbols]


def test_the_check_of_the_test_stands_on_the_page(small: dict[str, Result]) -> None:
    for kind in ("exact", "screen", "shapley"):
        [section] = [s for s in page_of(kind).page(cast(small[kind], "mixed signs")).sections if "sure" in s.title]
        assert section.table and len(section.table.rows) == 4
        assert all(row[2:] == ["5 of 5", "5%", "yes"] for row in section.table.rows)
        assert any(text.startswith("Leave-one-out") for text in section.text)
