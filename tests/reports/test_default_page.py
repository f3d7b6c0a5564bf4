"""The page of any result: it draws what roles of columns allow, says no more than frames hold, and escapes all text."""

import json
import re
from html import unescape
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import ATTACK, CURVE, EFFECTS, effects, made, result
from plotly.utils import PlotlyJSONEncoder

from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column
from steerscope.analysis.results.verdicts import VERDICTS
from steerscope.questions import QUESTIONS
from steerscope.reports import words
from steerscope.reports.page import Panel, render
from steerscope.reports.pages import default
from steerscope.reports.roles import drawn
from steerscope.reports.theme import MARKS

KINDS = [name for name, question in QUESTIONS.items() if question.columns is not None]


def panels(shown: Result) -> list[Panel]:
    return [panel for section in default.page(shown).sections for panel in section.panels]


def curve(rows: list[tuple[str, float, float]], **more: Any) -> Result:
    frame = pd.DataFrame(rows, columns=["order", "fraction", "kept"])
    frame = frame.assign(low=frame["kept"] - 0.1, high=frame["kept"] + 0.1, reference=0.5)
    shown: Result = result(frame.assign(**more), CURVE)
    return shown


@pytest.mark.parametrize("kind", KINDS)
def test_every_question_could_be_drawn_by_its_columns(kind: str) -> None:
    columns = QUESTIONS[kind].columns
    shown = made(kind, columns)
    page = default.page(shown)
    html = render(page)
    assert page.title == QUESTIONS[kind].asks and html.count("All tables") == 1
    titles = [section.title for section in page.sections]
    for name, frame in columns.items():
        assert name.replace("_", " ").capitalize() in titles
        assert f"{name}.csv" in html
        assert all(f"<td>{column}</td>" in html for column in frame)
        estimates = [c for c, about in frame.items() if about.role == "estimate"]
        named = [c for c, about in frame.items() if about.role in ("node", "label", "axis")]
        assert (drawn(shown, name) is not None) == bool(estimates and named)
    for sentence in page.headline:
        assert len(sentence) > 20 and not re.search(r"\bnan\b|\bNone\b|–", sentence)


@pytest.mark.parametrize("kind", KINDS)
def test_text_in_any_column_of_any_question_stays_text(kind: str) -> None:
    page = default.page(made(kind, QUESTIONS[kind].columns, rows=5, text=ATTACK))
    html = render(page)
    assert "<img" not in html and "&lt;img src=x" in html
    assert_escaped(html)


def test_text_in_names_of_columns_units_and_kinds_stays_text() -> None:
    columns = {
        "table": {
            f"who {ATTACK}": Column(ATTACK, ATTACK, "label"),
            f"x {ATTACK}": Column(ATTACK, ATTACK, "axis"),
            f"how {ATTACK}": Column(ATTACK, ATTACK, "estimate"),
            f"well {ATTACK}": Column(ATTACK, ATTACK, "verdict"),
        },
        "other": {f"who {ATTACK}": Column(ATTACK, role="node"), f"how {ATTACK}": Column(ATTACK, ATTACK, "estimate")},
    }
    shown = made(ATTACK, columns, rows=4, text=ATTACK)
    manifest = {**shown.manifest, "model": {"name": ATTACK}, "missing": {"other": ATTACK}, "command": ATTACK}
    html = render(default.page(Result(ATTACK, shown.frames, columns, manifest)))
    assert "<img" not in html and "<script>document" not in html
    assert_escaped(html)


def assert_escaped(html: str) -> None:
    """Nothing in a figure is read as markup."""
    found = re.findall(r'class="data">(.*?)</script>', html, re.S)
    charts = [{**json.loads(text), "name": ""} for text in found]  # a name is text, not drawn
    assert charts and not any("<img" in str(chart) or "</script" in str(chart) for chart in charts)


def test_the_headline_names_the_largest_with_interval_and_reference() -> None:
    frame = pd.concat([effects([5.0, 98.0, -3.0]), effects([-7.0, 2.0], measure="sufficiency", verdict="shared")])
    assert default.headline(result(frame)) == [
        "Largest effect by size in effects (necessity): L0M, +98.0 nats [97.0, 99.0] (reference vectors +14.0 [13.0, "
        "15.0]), verdict specific; 3 rows.",
        "Largest effect by size in effects (sufficiency): L0H0, −7.00 nats [−8.00, −6.00] (reference vectors +14.0 "
        "[13.0, 15.0]), verdict shared; 2 rows.",
    ]
    assert default.headline(result(effects([1.5], low=np.nan, reference=np.nan))) == [
        "Largest effect in effects (necessity): L0H0, +1.50 nats, verdict specific; 1 row."
    ]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(-1e6, 1e6) | st.just(np.nan) | st.just(np.inf), min_size=1, max_size=9))
def test_for_any_numbers_the_page_is_whole_and_the_headline_true(values: list[float]) -> None:
    shown = result(effects(values))
    html = render(default.page(shown))
    assert html.count("<h2>") >= 5 and not re.search(r"\bnan\b", re.sub(r"<script.*?</script>", "", html, flags=re.S))
    known = [v for v in values if np.isfinite(v)]
    [sentence] = default.headline(shown)
    if not known:
        assert sentence == (
            f"No table of this result has an estimate that can be ranked; it holds effects ({len(values)} "
            f"row{'s' if len(values) > 1 else ''})."
        )
    elif not any(known):
        count = f"{len(known)} row{'s' if len(known) > 1 else ''}"
        assert sentence == f"Every effect in effects (necessity) is zero ({count})."
    else:
        assert f", {words.signed(max(known, key=abs))} nats [" in sentence


def test_a_frame_without_rows_says_why() -> None:
    html = render(default.page(result(effects([]), missing={"effects": "the moon is full."})))
    assert "Missing: the moon is full." in html and "effects (0 rows)" in html
    assert "this table has no rows" in render(default.page(result(effects([]))))
    assert default.headline(Result("nothing", {}, {})) == [
        "No table of this result has an estimate that can be ranked; it holds none."
    ]
    assert render(default.page(Result("nothing", {}, {})))


def test_effects_of_nodes_get_a_map_and_a_ranking_for_each_measure() -> None:
    frame = pd.concat([effects([5.0, 98.0, -3.0, 0.0]), effects([7.0, 2.0, 1.0, 0.5], measure="sufficiency")])
    necessity, ranked, sufficiency, _ = panels(result(frame))
    assert [p.title for p in (necessity, ranked, sufficiency)] == [
        "necessity (nats)",
        "necessity",
        "sufficiency (nats)",
    ]
    assert necessity.figure and ranked.figure
    cells = [np.array(t.z, dtype=float) for t in necessity.figure.data if t.type == "heatmap"]
    assert sorted(v for z in cells for v in z[np.isfinite(z)]) == [-3.0, 0.0, 5.0, 98.0]
    points = ranked.figure.data[0]
    assert list(points.x) == [98.0, 5.0, -3.0]
    np.testing.assert_allclose(points.error_x.array, 1)
    assert {(s.x0, s.x1) for s in ranked.figure.layout.shapes} == {(13.0, 15.0)}


def test_what_is_not_said_is_open_and_named() -> None:
    columns = {name: about for name, about in EFFECTS.items() if name != "verdict"}
    plain = effects([3.0, 2.0]).drop(columns="verdict")
    said = columns | {"told": Column("whether it is", role="verdict")}
    shown = result(plain.assign(told=[True, False]), said)
    ranked = panels(shown)[1].figure
    assert ranked and list(ranked.data[0].marker.symbol) == ["circle", "circle-open"]
    assert "Open circles and pale cells are not told from noise." in render(default.page(shown))
    assert "not told from noise; 2 rows" in default.headline(result(plain.assign(told=False), said))[0]
    assert "Open circles" not in render(default.page(result(plain, columns)))


def test_verdicts_have_their_marks_and_their_meaning() -> None:
    names = list(VERDICTS)
    shown = result(effects(np.arange(len(names)) + 1.0, verdict=names))
    figure = panels(shown)[1].figure
    assert figure is not None
    assert list(figure.data[0].marker.symbol) == [MARKS[name].symbol for name in reversed(names)]
    assert {t.name for t in figure.data[1:]} == {*names, "reference vectors"}
    page = render(default.page(shown))
    for name in names[:5]:
        assert f"{MARKS[name].sign} {name}: {VERDICTS[name]}" in unescape(page)


def test_two_rows_of_one_cell_have_no_map_and_two_of_one_name_no_figure() -> None:
    assert [p.title for p in panels(result(effects([3.0, 2.0], head=pd.array([0, 0], dtype="Int64"))))] == ["necessity"]
    twice = result(effects([3.0, 2.0], nodes=["L0M", "L0M"]))
    assert not panels(twice)
    [section] = [s for s in default.page(twice).sections if s.title == "Effects"]
    assert section.table and len(section.table.rows) == 2


def test_all_zero_is_said_and_not_drawn() -> None:
    [panel] = panels(result(effects([0.0, 0.0])))
    assert panel.figure is None and panel.missing == "every effect is zero"


def test_a_curve_has_a_line_a_band_and_dotted_reference_vectors_for_each_label() -> None:
    rows = [(order, x, x / 2) for order in ("first", "last") for x in (3.0, 1.0, 2.0)]
    [panel] = panels(curve(rows))
    assert panel.figure
    lines = [t for t in panel.figure.data if t.mode == "lines+markers"]
    assert [t.name for t in lines] == ["first", "last"] and list(lines[0].x) == [1.0, 2.0, 3.0]
    assert [t.line.dash for t in panel.figure.data if t.mode == "lines" and t.line.dash] == ["dot", "dot"]
    assert sum(t.fill == "toself" for t in panel.figure.data) == 2
    assert default.headline(curve(rows)) == [
        "Largest kept in effects: first at fraction 3, +1.50 [1.40, 1.60] (reference vectors +0.500); 6 rows."
    ]


def test_of_many_lines_the_largest_are_drawn_and_the_page_says_so() -> None:
    shown = curve([(f"line {i}", x, float(i)) for i in range(20) for x in (1.0, 2.0)])
    [panel] = panels(shown)
    assert panel.figure
    drawn_lines = [t.name for t in panel.figure.data if t.mode == "lines+markers"]
    assert drawn_lines == [f"line {i}" for i in range(12, 20)]
    assert "Of up to 20 lines, those with the largest values are drawn." in render(default.page(shown))


def test_exact_limits_stand_at_the_ends_of_the_axis() -> None:
    shown = curve([("first", x, 0.5) for x in (-np.inf, -1.0, 0.0, 1.0, np.inf)])
    [panel] = panels(shown)
    assert panel.figure and {"∞", "−∞"} <= set(panel.figure.layout.xaxis.ticktext)
    assert sum(t.marker.symbol == "diamond" for t in panel.figure.data) == 2
    assert "at fraction" in default.headline(shown)[0]


def test_an_axis_that_is_no_number_is_a_label() -> None:
    shown = curve([("first", 1.0, 0.5), ("first", 2.0, 0.7)], fraction=["many", "few"])
    [panel] = panels(shown)
    assert panel.figure and list(panel.figure.layout.yaxis.ticktext) == ["first, few", "first, many"]


def test_rows_of_different_units_are_not_ranked_together() -> None:
    columns = {
        "quantity": Column("which", role="label"),
        "value": Column("how much", "{unit}", "estimate"),
        "unit": Column("unit of value"),
    }
    frame = pd.DataFrame({"quantity": ["total", "kl"], "value": [98.0, 2.0], "unit": ["logits", "nats"]})
    assert default.headline(result(frame, columns)) == [
        "Largest value in effects: total, +98.0 logits; 1 row.",
        "Largest value in effects: kl, +2.00 nats; 1 row.",
    ]


def test_the_interval_of_a_second_estimate_is_not_that_of_the_first() -> None:
    columns = {
        "who": Column("which", role="label"),
        "guess": Column("estimated", role="estimate"),
        "exact": Column("patched", role="estimate"),
        "low": Column("of exact", role="low"),
        "high": Column("of exact", role="high"),
    }
    frame = pd.DataFrame({"who": ["a"], "guess": [1.0], "exact": [5.0], "low": [4.0], "high": [6.0]})
    assert default.headline(result(frame, columns)) == ["Largest guess in effects: a, +1.00; 1 row."]


def test_long_tables_are_cut_with_a_word_and_can_be_saved() -> None:
    columns = {"text": Column("a text"), "list": Column("of anything"), "yes": Column("or no")}
    frame = pd.DataFrame({"text": ["<b>"] * 600, "list": [[1, 2]] * 600, "yes": [True] * 600})
    html = render(default.page(result(frame, columns)))
    assert "The first 500 of 600 rows." in html and "<td>&lt;b&gt;</td><td>[1, 2]</td><td>yes</td>" in html
    [saved] = re.findall(r'data-name="effects.csv".*?class="csv">(.*?)</script>', html, re.S)
    assert json.loads(saved).count("\n") == 601


def test_a_failed_check_stands_at_the_top() -> None:
    failed = [{"name": "all is well", "value": 0.5, "limit": 1e-4, "passed": False}]
    page = default.page(result(effects([1.0]), checks=failed))
    assert page.warnings[0].startswith("A check failed: all is well is off by 0.5")
    assert ("checks", "0 of 1") == page.glance[-1][:2]


def test_long_names_are_cut_in_figures_only() -> None:
    long = [f"{'a' * 80} {i}" for i in range(2)]
    shown = result(effects([2.0, 1.0], nodes=long))
    [panel] = panels(shown)
    assert panel.figure
    text = json.dumps(panel.figure.to_plotly_json(), cls=PlotlyJSONEncoder, ensure_ascii=False)
    assert "…" in text and long[0] in default.headline(shown)[0]
