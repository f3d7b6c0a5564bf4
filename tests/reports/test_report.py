"""The page: whole, offline, escaped, honest about what is missing; and read in a real browser."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column
from steerscope.questions import QUESTIONS
from steerscope.reports.page import render
from steerscope.reports.pages import exact
from steerscope.reports.report import report

Maker = Callable[..., Result]
Browser = Callable[[Path], str]
ATTACKS = [
    "<script>document.title='pwned'</script>",
    "<img src=x onerror=\"document.title='pwned'\">",
    "</script><b>bold</b>",
]


def html(result: Result) -> str:
    return render(exact.page(result))


def test_the_made_up_result_has_the_real_columns(maker: Maker) -> None:
    assert {n: list(f.columns) for n, f in maker().frames.items()} == {
        n: list(c) for n, c in QUESTIONS["exact"].columns.items()
    }


def test_the_ranking_explains_only_the_bands_that_are_drawn(maker: Maker) -> None:
    def text(result: Result) -> str:
        [found] = [section for section in exact.page(result).sections if section.title == "Ranked carriers"]
        return str(found.text[0])

    result = maker()
    ends = ["reference_low", "reference_high", "concepts_low", "concepts_high"]
    effects = result.frames["effects"]
    assert effects[ends].notna().any().all() and "random vectors, and other concepts. Effects" in text(result)
    for gone, left in ((ends[2:], "its references: random vectors. Effects"), (ends, "of prompts. Effects")):
        frames = {**result.frames, "effects": effects.assign(**dict.fromkeys(gone, np.nan))}
        assert left in text(replace(result, frames=frames))


@pytest.mark.parametrize(
    "shape",
    [{}, {"layers": 24, "heads": 16}, {"layers": 1, "heads": 12}, {"mlp": False}, {"scale": 0.0}, {"references": 0}],
)
def test_models_of_every_shape_get_a_page(shape: dict[str, int], maker: Maker) -> None:
    page = html(maker(**shape))
    assert page.count('class="chart"') >= 7 and "Who carries" in page


def test_an_injection_beyond_the_fluent_regime_is_named(maker: Maker) -> None:
    result = maker()
    assert "beyond the fluent regime" not in html(result)
    texts = result.frames["completions"].assign(steered_surprise=2.5)
    page = html(replace(result, frames={**result.frames, "completions": texts}))
    assert "beyond the fluent regime" in page and "2.50 nats a token" in page


def test_the_page_is_one_file_with_plotly_inside_once_and_loads_nothing(maker: Maker) -> None:
    page = html(maker())
    assert page.count("plotly.js v") == 1
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert not re.search(r'(src|href)\s*=\s*"(?!data:)', outside)
    assert "@import" not in page and 'url("http' not in outside


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_becomes_markup(attack: str, maker: Maker) -> None:
    page = html(maker(text=attack))
    assert attack not in page
    assert page.count("&lt;") > 10


@pytest.mark.parametrize("attack", [ATTACKS[0], *(pytest.param(one, marks=pytest.mark.slow) for one in ATTACKS[1:])])
def test_in_a_browser_text_stays_text(attack: str, maker: Maker, browse: Browser, tmp_path: Path) -> None:
    maker(text=attack).save(tmp_path / "run")
    dom = browse(report(tmp_path / "run"))
    title = re.search(r"<title>(.*?)</title>", dom, re.S)
    assert title and title.group(1).startswith("Who carries")
    assert "<b>bold</b>" not in dom and "<img" not in dom
    shown = re.sub(r"<script.*?</script>", "", dom, flags=re.S)
    assert attack.replace("<", "&lt;").replace(">", "&gt;") in shown  # in tables
    assert dom.count("main-svg") >= 14  # and the figures were drawn
    if "img" not in attack:
        assert "pwned" not in title.group(1).replace(attack.replace("<", "&lt;").replace(">", "&gt;"), "")


def test_what_is_missing_is_named_with_its_reason(maker: Maker) -> None:
    result = maker(missing={"completions": "toy has no tokenizer", "references": "run with references=0"}, references=0)
    frames = dict(result.frames) | {
        "completions": result.frames["completions"].iloc[:0],
        "tokens": result.frames["tokens"].iloc[:0],
    }
    page = html(replace(result, frames=frames))
    assert "Missing: toy has no tokenizer." in page
    assert "Missing: no reference vectors were run" in page
    assert "does not change the next token" in page


def test_a_failed_check_stands_at_the_top(maker: Maker) -> None:
    failed = [{"name": "all nodes give the other run", "value": 0.5, "limit": 1e-4, "passed": False}]
    page = html(maker(checks=failed))
    assert page.index("A check failed: all nodes give the other run is off by 0.5") < page.index("Heads by layers")
    assert "A check failed" not in html(maker())


def test_prompts_that_move_the_wrong_way_are_marked(maker: Maker) -> None:
    page = html(maker(text="Once"))
    assert re.search(r'<tr class="marked"><td>Once 2</td>', page)


def test_the_command_that_made_it_can_be_copied(maker: Maker) -> None:
    assert "steerscope localize --plus &#39;Once&#39;" in html(maker(text="Once"))


def test_a_report_is_made_from_the_folder_alone_without_a_model_library(maker: Maker, tmp_path: Path) -> None:
    maker().save(tmp_path)
    code = (
        "import sys; from steerscope.reports.report import report; report(sys.argv[1]); print([m for m in ('torch', "
        "'transformers', 'transformer_lens') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and (tmp_path / "report.html").stat().st_size > 1_000_000


def test_a_kind_that_nobody_knows_is_drawn_by_its_columns(tmp_path: Path) -> None:
    frame = pd.DataFrame({"who": ["Lily", "<b>Tom"], "how": [1.5, -2.5]})
    columns = {"dreams": {"who": Column("the dreamer", role="label"), "how": Column("how much", "dreams", "estimate")}}
    Result("dream", {"dreams": frame}, columns).save(tmp_path)
    page = report(tmp_path).read_text(encoding="utf-8")
    assert "Largest how by size in dreams: &lt;b&gt;Tom, −2.50 dreams; 2 rows." in page and "<b>Tom" not in page
