"""The pages of writers and of frozen attention, and their sections in the report of `localize`."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import made_attention, made_writers

from steerscope.analysis.results.result import Result
from steerscope.questions import QUESTIONS
from steerscope.reports.page import render
from steerscope.reports.pages import exact, freeze_attention, writers
from steerscope.reports.report import report

ATTACK = "</script><img src=x onerror=\"document.title='pwned'\">"
ALL = ("all", "layer", "head")


def manifest(text: str, references: int = 5, **more: Any) -> dict[str, Any]:
    vector = {"vector": {"label": f'"{text}" - " "'}, "coefficient": 3.0, "site": "L2.resid_pre", "positions": "front"}
    return {
        "model": {"name": f"model {text}", "device": "cpu"},
        "injections": [vector],
        "prompts": {"count": 3},
        "metric": {"name": "log_prob", "unit": "nats", "targets": [f" {text}"]},
        "references": {"count": references},
        "alpha": 0.05,
        "checks": [
            {"name": "the writers' parts add up to the vector (relative)", "value": 3e-8, "limit": 1e-4, "passed": True}
        ],
        "missing": {},
        "by": list(ALL),
        "seconds": 3.0,
    } | more


def made_writers_result(text: str = "One", scale: float = 1.0, references: int = 5, **more: Any) -> Result:
    table = made_writers(2, 4, True, scale, references)
    rows = pd.DataFrame(
        [
            {
                "injection": 0,
                "writer": w,
                "row": i,
                "plus": f" {text}",
                "minus": " ",
                "norm": 1.0,
                "share": np.nan if i == 0 else s,
                "cosine": 0.1,
            }
            for w, s in zip(table["writer"], table["share"], strict=True)
            for i in range(3)
        ]
    )
    totals = pd.DataFrame(
        [
            {
                "quantity": q,
                "value": 2 * scale,
                "low": 1.5 * scale,
                "high": 2.5 * scale,
                "unit": "nats",
                "share": s,
                "share_low": s,
                "share_high": s,
            }
            for q, s in (("total", np.nan), ("kl", np.nan), ("sum_alone", 1.4), ("sum_without", 0.7))
        ]
    )
    per_prompt = pd.DataFrame(columns=list(QUESTIONS["writers"].columns["per_prompt"]))
    frames = {"writers": table, "rows": rows, "totals": totals, "per_prompt": per_prompt}
    return Result("writers", frames, QUESTIONS["writers"].columns, manifest(text, references, **more))


def made_attention_result(
    text: str = "One", scale: float = 1.0, references: int = 5, by: tuple[str, ...] = ALL, layers: int = 3, **more: Any
) -> Result:
    texts = pd.DataFrame(
        [
            {
                "outcome": o,
                "prompt": 0,
                "text": text,
                "tokens": 9,
                "injected": "1",
                "scored": "2",
                "clean": 1.0,
                "steered": 2.0,
            }
            for o in ("effect", "damage")
        ]
    )
    frames = {
        "attention": made_attention(layers, 4, scale, references, by),
        "texts": texts,
        "per_prompt": pd.DataFrame(columns=list(QUESTIONS["freeze_attention"].columns["per_prompt"])),
    }
    return Result("freeze_attention", frames, QUESTIONS["freeze_attention"].columns, manifest(text, references, **more))


@pytest.mark.parametrize("make", [made_writers_result, made_attention_result])
def test_made_up_results_have_the_real_columns(make: Any) -> None:
    result = make()
    assert {n: list(f.columns) for n, f in result.frames.items()} == {
        n: list(c) for n, c in QUESTIONS[result.kind].columns.items()
    }


@pytest.mark.parametrize("options", [{}, {"scale": 0.0}, {"references": 0}])
def test_both_pages_are_made_from_a_folder(options: dict[str, Any], tmp_path: Path) -> None:
    for make, charts in ((made_writers_result, 2), (made_attention_result, 6)):
        result = make(**options)
        result.save(tmp_path / result.kind)
        page = report(tmp_path / result.kind).read_text(encoding="utf-8")
        least = charts if options.get("scale", 1.0) or result.kind == "writers" else 4
        assert page.count('class="chart"') >= least
        assert (
            "steerscope" in page and "nan" not in re.sub(r"<script.*?</script>", "", page, flags=re.S).lower().split()
        )


def test_no_text_becomes_markup() -> None:
    for page in (writers.page(made_writers_result(ATTACK)), freeze_attention.page(made_attention_result(ATTACK))):
        html = render(page)
        assert ATTACK not in html and html.count("&lt;/script&gt;") > 2
        found = re.findall(r'class="data">(.*?)</script>', html, re.S)
        charts = [{**json.loads(text), "name": ""} for text in found]  # a name is text, not drawn
        assert charts and not any("<img" in str(chart) or "</script" in str(chart) for chart in charts)


def test_the_sentence_names_those_who_wrote_nine_tenths() -> None:
    result = made_writers_result()
    table = result.frames["writers"].sort_values("share", ascending=False)
    sentence = writers.headline(result)[0]
    first = table.iloc[0]
    assert sentence.startswith(f"Written above all by {first['writer']} ({100 * first['share']:.0f}% of it)")
    assert "injected alone" in sentence


def test_a_single_writer_is_named_alone() -> None:
    result = made_writers_result()
    one = result.frames["writers"].head(1).assign(share=1.0)
    assert writers.headline(replace(result, frames={**result.frames, "writers": one})) == [
        "Written by the embedding alone."
    ]


def test_each_injection_has_its_sentence_and_panel() -> None:
    result = made_writers_result()
    two = pd.concat([result.frames["writers"], result.frames["writers"].assign(injection=1)])
    twice = [*result.manifest["injections"], {**result.manifest["injections"][0], "vector": {"label": '"B" - " "'}}]
    manifest = {**result.manifest, "injections": twice}
    result = replace(result, frames={**result.frames, "writers": two}, manifest=manifest)
    assert [s.split(" was ")[0] for s in writers.headline(result)] == ['("One" - " ")', '("B" - " ")']
    assert len(writers.page(result).sections[0].panels) == 2


def test_the_sentence_says_what_frozen_patterns_and_values_cost() -> None:
    assert freeze_attention.headline(made_attention_result()) == [
        "Frozen attention patterns cost 75% [65%, 85%] of the effect and 75% [65%, 85%] of the damage; frozen values "
        "cost 60% [50%, 70%] of the effect and 60% [50%, 70%] of the damage. The damage is +0.300 nats per token "
        "[0.270, 0.330] on ordinary text."
    ]


def test_a_missing_share_is_left_out_and_its_reason_shown() -> None:
    why = (
        "the damage is 0.01 [-0.1, 0.1] nats per token, not 3 standard errors above zero: shares of it would mean "
        "nothing"
    )
    result = made_attention_result(missing={"shares of the damage": why})
    table = result.frames["attention"].copy()
    table.loc[table["outcome"] == "damage", ["survives", "survives_low", "survives_high"]] = np.nan
    result = replace(result, frames={**result.frames, "attention": table})
    sentence = freeze_attention.headline(result)[0]
    assert "of the effect; frozen values cost" in sentence and "% of the damage" not in sentence
    assert f"Missing: shares of the damage: {why}." in render(freeze_attention.page(result))


def test_what_was_not_frozen_is_named() -> None:
    page = render(freeze_attention.page(made_attention_result(by=("all",), layers=2)))
    assert "no layer was frozen" in page
    assert "no head was frozen" in page


def test_exact_shows_both_ends_of_the_vector(maker: Any) -> None:
    page = exact.page(maker())
    titles = [section.title for section in page.sections]
    assert titles.index("Writers") < titles.index("Attention: what heads move, or where they look")
    assert any(s.startswith("Written above all by") for s in page.headline)
    assert any(s.startswith("Frozen attention patterns cost") for s in page.headline)


def test_exact_says_why_an_end_is_missing(maker: Any) -> None:
    result = maker(missing={"writers": "the recipe is 'random'", "attention": "attention=False"})
    empty = {name: result.frames[name].iloc[:0] for name in ("writers", "attention")}
    page = exact.page(replace(result, frames={**result.frames, **empty}))
    text = render(page)
    assert "Missing: the recipe is &#39;random&#39;." in text and "Missing: attention=False." in text
    assert not any(s.startswith(("Written", "Frozen")) for s in page.headline)


def test_an_older_result_without_the_two_ends_is_still_drawn(maker: Any) -> None:
    result = maker()
    frames = {n: f for n, f in result.frames.items() if n not in ("writers", "attention")}
    assert "Missing: not in this result." in render(
        exact.page(replace(result, frames=frames, columns={n: result.columns[n] for n in frames}))
    )
