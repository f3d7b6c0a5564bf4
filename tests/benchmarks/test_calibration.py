"""The calibration table: a small slice of it holds, and a broken bound makes the program exit with 1."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from benchmarks import calibration, calibration_questions
from benchmarks.calibration_intervals import kinds
from benchmarks.calibration_pool import Pool, pool
from benchmarks.calibration_questions import claimed, played, recorded
from benchmarks.calibration_rows import Cell, Row, Size, rates
from benchmarks.calibration_vectors import _raw, among, made, said
from steerscope.analysis.results import effects
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.stats import prediction_p
from steerscope.analysis.results.verdicts import TOLD, VERDICTS
from steerscope.reports.pages.carried import carried

SLICE = Size(
    tries=200,
    vectors=9,
    prompts=5,
    draws=20,
    runs=1,
    planted=1,
    of=6,
    model="tinystories-1l",
    groups=(8,),
    references=(8,),
)


@pytest.fixture(scope="module")
def slice_() -> Iterator[Pool]:
    yield pool(SLICE)
    pool.cache_clear()


@pytest.mark.parametrize("section", ["intervals", pytest.param("vectors", marks=pytest.mark.slow)])
def test_no_bound_of_a_slice_of_the_table_is_broken(section: str, slice_: Pool) -> None:
    rows = calibration.table(SLICE, [section])
    assert len(rows) > 10 and all(cell.tries for row in rows for cell in row.cells)
    assert [row for row in rows if not row.ok] == []


@pytest.mark.slow
def test_no_bound_of_a_question_or_a_sweep_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    some = {name: calibration_questions.QUESTIONS[name] for name in ("edges", "path_effect")}
    monkeypatch.setattr(calibration_questions, "QUESTIONS", some)
    rows = [*calibration_questions._questions(SLICE), *calibration_questions._sweeps(SLICE)]
    assert [cell.tries for row in rows[:2] for cell in row.cells] == [SLICE.of] * 2
    assert [row for row in rows if not row.ok] == []


def test_a_broken_bound_exits_with_1_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = rates("a claim", "noise", [("", 0.05, 1000)]), rates("a worse one", "noise", [("", 0.2, 1000)])
    monkeypatch.setattr(calibration, "SECTIONS", {"one": lambda size: [good]})
    assert calibration.main(["--quick", "--markdown", "--only", "one"]) == 0
    monkeypatch.setattr(calibration, "SECTIONS", {"one": lambda size: [good, bad]})
    assert calibration.main(["--quick", "--only", "one"]) == 1
    assert "Broken: a worse one (noise): 20%" in capsys.readouterr().err


def test_a_test_that_is_too_eager_breaks_its_bound(monkeypatch: pytest.MonkeyPatch, slice_: Pool) -> None:
    """One that takes the distance from the mean of the others to be four times as large."""

    def eager(value: np.ndarray, others: np.ndarray) -> np.ndarray:
        mean = others.mean(axis=0)
        return prediction_p(mean + 4 * (value - mean), others)

    monkeypatch.setattr("benchmarks.calibration_vectors.prediction_p", eager)
    lines = _raw(slice_, SLICE)
    assert {row.what for row in lines if not row.ok} == {"p over vectors, no correction"}


@pytest.mark.parametrize(
    ("row", "ok"),
    [
        (rates("p", "", [("", 0.09, 100)]), True),  # its interval begins at 4%
        (rates("p", "", [("", 0.09, 10_000)]), False),
        (rates("p", "", [("", float("nan"), 100)]), False),
        (Row("interval", "", "coverage", (Cell("8", 0.90, 100),), stated=0.95), True),
        (Row("interval", "", "coverage", (Cell("8", 0.90, 10_000),), stated=0.95), False),
        (Row("interval", "", "coverage", (Cell("4", 0.80, 10_000, bounded=False),), stated=0.95), True),
        (Row("claim", "", "never", (Cell("", 0.0, 5),)), True),
        (Row("claim", "", "never", (Cell("", 0.2, 5),)), False),
        (Row("stress", "", "shown", (Cell("", 0.9, 10_000),)), True),
    ],
)
def test_a_bound_is_broken_where_the_tries_say_so(row: Row, ok: bool) -> None:
    assert row.ok is ok


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (rates("p", "", [("", 0.05, 10_000)]), "yes"),
        (rates("p", "", [("", 0.05, 10_000), ("", 0.0, 10)]), "not broken"),  # ten tries may hide a rate of 31%
        (rates("p", "", [("", 0.09, 10_000)]), "NO"),
        (Row("interval", "", "coverage", (Cell("8", 0.95, 10_000),), stated=0.95), "yes"),
        (Row("interval", "", "coverage", (Cell("8", 0.92, 10_000),), stated=0.95), "not broken"),
        (Row("claim", "", "never", (Cell("", 0.0, 5),)), "yes"),
    ],
)
def test_a_line_says_yes_only_where_its_tries_are_enough(row: Row, word: str) -> None:
    assert calibration.written(row)[-1] == word


def test_the_interval_of_a_rate_is_that_of_clopper_and_pearson() -> None:
    assert Cell("", 0.5, 10).low == pytest.approx(0.1871, abs=1e-4)
    assert Cell("", 0.5, 10).high == pytest.approx(0.8129, abs=1e-4)
    assert (Cell("", 0.0, 10).low, Cell("", 1.0, 10).high) == (0.0, 1.0)


def test_data_have_the_mean_and_the_groups_that_they_are_said_to_have(slice_: Pool) -> None:
    for data in kinds(slice_):
        values, groups = data.draw(np.random.default_rng(0), 4000, 8)
        assert values.shape == (4000, len(groups)) and len(np.unique(groups)) == 8
        assert abs(values.mean()) < 0.05 * values.std()


def test_a_table_of_the_pool_is_that_of_a_run(slice_: Pool) -> None:
    table = slice_.page(range(9))
    assert list(table.columns[:2]) == ["node", "layer"]
    shares = table["own_share"].to_numpy().reshape(2, -1)
    assert shares == pytest.approx(slice_.shares[0])


def test_each_vector_plays_in_turn_and_is_no_reference_of_its_own() -> None:
    family, generator = np.array([4, 5, 6]), np.random.default_rng(0)
    draws = [among(family, draw, 2, generator) for draw in range(6)]
    assert [draw[0] for draw in draws] == [4, 5, 6, 4, 5, 6] and all(sorted(draw) == [4, 5, 6] for draw in draws)


def test_said_is_the_share_of_measures_with_such_a_node() -> None:
    table = pd.DataFrame({"measure": ["n", "n", "s"], "verdict": ["concept", "small", "shared"]})
    assert (said(table, TOLD), said(table, ("shared", "concept")), said(table, ("less",))) == (0.5, 1.0, 0.0)


def test_a_vector_that_stands_out_is_told_when_it_plays_and_the_others_are_not() -> None:
    generator = np.random.default_rng(0)
    shares = 0.1 + 0.01 * generator.normal(size=(10, 5))
    shares[3, 2] = 0.9
    basis, own = made(shares, 8, generator)
    assert played(effects.estimates, basis, own, (Statistics(),), {}, seed=0) == [v == 3 for v in range(10)]


def test_calls_are_kept_and_answered() -> None:
    basis, own = made(np.full((6, 2), 0.1), 8, np.random.default_rng(0))
    answers = []
    found = recorded(effects, "estimates", lambda: answers.append(effects.estimates(basis, own[0], own, Statistics())))
    assert [call[1] for call in found] == [basis] and found[0][3] == (Statistics(),)
    assert set(answers[0]["verdict"]) <= {"shared", "untested"}


@pytest.mark.parametrize("verdict", list(VERDICTS))
def test_a_claim_in_words_is_seen_as_the_page_words_it(verdict: str, slice_: Pool) -> None:
    """The sentences of a page for a table of which one node has some verdict."""
    table = slice_.page(range(9)).iloc[:3].assign(verdict=["small", verdict, "untested"])
    manifest = {"references": {"families": {"isotropic": 8}}, "model": {"name": "m"}}
    result = Result("exact", {"effects": table}, {"effects": effects.EFFECTS}, manifest)
    sentences = carried(result, table, "is lost")
    assert claimed(sentences, set(table["node"])) is (verdict in (*TOLD, "less"))
