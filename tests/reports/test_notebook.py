"""A result in a notebook: sentences, tiles and one still figure, small, escaped, without a script or a network."""

import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from made_up import ATTACK, CURVE, effects, made, result

from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column
from steerscope.questions import QUESTIONS
from steerscope.reports.notebook import SHOWN, html
from steerscope.reports.pages import default

KINDS = [name for name, question in QUESTIONS.items() if question.columns is not None]


def figure(shown: str) -> ElementTree.Element:
    return ElementTree.fromstring(shown[shown.index("<svg") : shown.index("</svg>") + 6])


def texts(shown: str) -> list[str]:
    return ["".join(text.itertext()) for text in figure(shown).iter("{http://www.w3.org/2000/svg}text")]


def assert_still(shown: str) -> None:
    """No script, nothing that is loaded, small, and well formed."""
    assert len(shown) < 100_000 and "<script" not in shown and "<img" not in shown and "javascript:" not in shown
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#)", shown) and not re.search(r"url\((?!#)", shown)
    assert not re.search(r"\son\w+\s*=", re.sub(r">[^<]*<", "><", shown))
    ElementTree.fromstring(re.sub(r"&(?!lt;|gt;|amp;|quot;|#)", "&amp;", shown))


@pytest.mark.parametrize("kind", [*KINDS, "unknown"])
def test_results_of_every_kind_are_shown(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerscope.reports.notebook.page_of", lambda kind: default)  # numbers are made up
    columns = QUESTIONS[kind].columns if kind in QUESTIONS else {"curves": CURVE}
    shown = html(made(kind, columns))
    assert_still(shown)
    assert "<svg" in shown and "Largest" in shown


@pytest.mark.parametrize("kind", [*KINDS, ATTACK])
def test_no_text_becomes_markup_or_mathematics(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerscope.reports.notebook.page_of", lambda kind: default)
    columns = QUESTIONS[kind].columns if kind in QUESTIONS else {"table": {ATTACK: Column(ATTACK, ATTACK, "estimate")}}
    if kind not in QUESTIONS:
        columns["table"][f"who {ATTACK}"] = Column(ATTACK, role="label")
    shown = html(made(kind, columns, rows=6, text=ATTACK))
    assert_still(shown)


def test_the_page_of_a_question_gives_its_own_words(maker: object) -> None:
    shown = html(maker())  # type: ignore[operator]
    assert_still(shown)
    assert "Specific to 3 ×" in shown and "total effect" in shown and "effects, necessity" in shown


def test_the_largest_effects_are_ranked_with_their_intervals() -> None:
    values = np.arange(20.0) - 12
    shown = html(result(effects(values)))
    names = [text for text in texts(shown) if re.fullmatch(r"L\d+(H0|M)", text)]
    largest = sorted(range(20), key=lambda i: -abs(values[i]))[:SHOWN]
    assert len(names) == SHOWN and set(names[:10]) <= {f"L{i // 2}{'M' if i % 2 else 'H0'}" for i in largest}
    assert "the 12 largest of 20; grey: reference vectors; ● specific; open: small or untested" in shown


def test_where_nothing_can_be_drawn_there_are_words_alone() -> None:
    shown = html(Result("unknown", {}, {}))
    assert_still(shown)
    assert "<svg" not in shown and "No table of this result has an estimate" in shown
    assert_still(html(result(effects([np.nan]))))
    assert_still(html(result(effects([-1.0]))))
    assert_still(html(result(effects([0.0, 0.0]))))


def test_a_failed_check_is_shown() -> None:
    failed = [{"name": "all is well", "value": 0.5, "limit": 1e-4, "passed": False}]
    assert "A check failed: all is well" in html(result(effects([1.0]), checks=failed))


def test_text_has_the_colour_of_the_notebook() -> None:
    shown = html(result(effects([2.0, 1.0])))
    assert "currentColor" in shown and "#010203" not in shown
    assert "background" not in shown and "fill: #ffffff" not in shown and "fill: #000000" not in shown


def test_a_result_shows_itself_without_a_window_or_a_model_library() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); from made_up import effects, result; assert '<svg' in "
        "result(effects([1.0, 2.0]))._repr_html_(); print([m for m in ('torch', 'transformers', 'matplotlib.pyplot', "
        "'tkinter') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
