"""The page of a sweep: whole for every shape, honest about what is missing, its sentences true to the frames."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from steerscope.analysis.results.result import Result
from steerscope.questions import QUESTIONS
from steerscope.reports import words
from steerscope.reports.figures.frontier import frontier
from steerscope.reports.figures.heatmap import heatmap
from steerscope.reports.figures.labels import HIGH, WIDE, offsets
from steerscope.reports.figures.matrix import matrix, strongest
from steerscope.reports.page import Page, render
from steerscope.reports.pages import sweep
from steerscope.reports.pages.common import ROWS
from steerscope.reports.pages.sweep import _design, _widths
from steerscope.reports.pages.sweep_sections import _contribution, _means, _responses, of_outcome
from steerscope.reports.pages.sweep_words import told
from steerscope.reports.records import records
from steerscope.reports.theme import bold

Maker = Callable[..., Result]
ATTACK = "<script>document.title='pwned'</script>"


@pytest.fixture(scope="module")
def plain(sweep_maker: Maker) -> Page:
    """The page of the usual sweep."""
    return sweep.page(sweep_maker())


def html(result: Result) -> str:
    return render(sweep.page(result))


def without(result: Result, *names: str) -> Result:
    """The same result, some of its frames without rows."""
    empty = {n: pd.DataFrame(columns=list(result.columns[n])) for n in names}
    return replace(result, frames=dict(result.frames) | empty)


def changed(result: Result, name: str, **columns: Any) -> Result:
    """The same result, some columns of a frame replaced."""
    return replace(result, frames=dict(result.frames) | {name: result.frames[name].assign(**columns)})


def row(result: Result, name: str, **wanted: Any) -> Any:
    table = result.frames[name]
    for column, value in wanted.items():
        table = table[table[column] == value]
    (found,) = records(table)
    return found


def test_the_made_up_sweep_has_the_real_columns(sweep_maker: Maker) -> None:
    real = {n: list(c) for n, c in QUESTIONS["sweep"].columns.items()}
    assert {n: list(f.columns) for n, f in sweep_maker().frames.items()} == real


@pytest.mark.parametrize(
    "shape",
    [
        {"layers": 12, "heads": 12},
        pytest.param({"layers": 12, "heads": 12, "mode": "shared"}, marks=pytest.mark.slow),
        {"layers": 1, "heads": 2},
        {"scale": 0.0},
        {"references": 0},
    ],
    ids=str,
)
def test_sweeps_of_every_shape_get_every_section(shape: dict[str, Any], sweep_maker: Maker) -> None:
    result = sweep_maker(**shape)
    titles = [section.title for section in sweep.page(result).sections]
    assert titles == [
        "What a trial injects",
        "Which nodes respond",
        "Ranked contributions",
        "Effect without disruption",
        "Response of single nodes",
        "Dose",
        "Interactions",
        "Over layers",
        "Horizontal against vertical",
        "Are there enough trials?",
        "Prompts (30)",
        "How to read this",
        "All nodes",
        "Checks",
        "Manifest",
        "How to reproduce it",
    ]
    assert html(result).count('class="chart"') >= 13


@pytest.mark.parametrize("name", list(QUESTIONS["sweep"].columns))
def test_a_frame_without_rows_leaves_the_rest_of_the_page(name: str, sweep_maker: Maker) -> None:
    result = without(sweep_maker(missing={name: f"no {name} because of the moon"}), name)
    page = html(result)
    assert page.count("<h2>") == 16
    assert f"no {name} because of the moon." in page.split("How to read this")[0]


def test_a_sweep_without_any_rows_still_has_a_page(sweep_maker: Maker) -> None:
    page = html(without(sweep_maker(), *QUESTIONS["sweep"].columns))
    assert "There is no estimate of any node yet." in page
    assert html(Result("sweep", {}, {}, {})).count("<h2>") == 16


def test_without_intervals_nothing_is_claimed(sweep_maker: Maker) -> None:
    full = sweep_maker(missing={"intervals": "fewer than 4 groups of prompts were visited (3)"})
    result = changed(full, "nodes", low=np.nan, high=np.nan, p=1.0, p_adjusted=1.0, p_holm=1.0, verdict="untested")
    ends = dict.fromkeys(("effect_low", "effect_high", "kl_low", "kl_high", "efficiency"), np.nan)
    result = changed(result, "frontier", **ends, verdict="untested", useful=False)
    result = changed(result, "pairs", low=np.nan, high=np.nan, p_adjusted=1.0, p_holm=1.0, significant=False)
    result = changed(result, "convergence", width=np.nan)
    result = changed(changed(result, "designs", p=np.nan), "trends", p=np.nan, low=np.nan)
    first, second = sweep.headline(result)
    assert first.startswith("None of 22 nodes of model One day is told from random vectors")
    assert "There are no intervals: fewer than 4 groups of prompts were visited (3)." in first
    assert "No interaction of two nodes" in second
    assert {n: v for n, v, _ in sweep.page(result).glance}["interval width"] == "–"
    assert "Missing: fewer than 4 groups of prompts were visited (3)." in html(result)


def test_an_unfinished_run_says_so_first(sweep_maker: Maker) -> None:
    trials = {"planned": 12000, "done": 500, "real": 400, "random": 100, "damaged": ["00007.parquet"]}
    page = html(sweep_maker(trials=trials))
    warning = "500 of 12,000 trials are there: the run is not finished."
    assert warning in page and page.index(warning) < page.index('class="headline"')
    assert "00007.parquet" in page.split("What a trial injects")[0]
    assert "not finished" not in html(sweep_maker())


def test_a_failed_check_stands_at_the_top(sweep_maker: Maker) -> None:
    failed = [{"name": "trials equal plain passes", "value": 0.5, "limit": 1e-4, "passed": False}]
    assert "A check failed: trials equal plain passes is off by 0.5" in html(sweep_maker(checks=failed))


def test_no_text_becomes_markup(sweep_maker: Maker) -> None:
    page = html(sweep_maker(text=ATTACK, missing={"pairs": ATTACK}, notes=[ATTACK]))
    assert ATTACK not in page and "pwned" in page
    assert "&lt;script&gt;" in page
    units = {"name": ATTACK, "unit": ATTACK, "scored": ATTACK}
    assert ATTACK not in html(without(sweep_maker(metric=units, missing={"pairs": ATTACK}), "pairs"))


def test_a_node_with_a_hostile_name_stays_text_in_every_figure(sweep_maker: Maker) -> None:
    result = sweep_maker()
    columns = {"nodes": ["node"], "frontier": ["node"], "response": ["node"], "pairs": ["first", "second"]}
    for name, of in columns.items():
        frame = result.frames[name]
        result = changed(result, name, **{c: frame[c].replace("L1H9", "<i>L1H9") for c in of})
    page = render(sweep.page(result))
    drawn = [json.dumps(json.loads(found)) for found in re.findall(r'class="data">(.*?)</script>', page, re.S)]
    assert not any("<i>" in text for text in drawn)
    assert sum("&lt;i&gt;L1H9" in text for text in drawn) == 10
    assert "<i>L1H9" not in page


def sentence(result: Result, start: str) -> str:
    (found,) = [text for text in sweep.headline(result) if text.startswith(start)]
    return found


def test_the_headline_tells_the_numbers_of_the_frames(sweep_maker: Maker) -> None:
    result = sweep_maker()
    first = sweep.headline(result)[0]
    claimed = told(result)
    top = row(result, "nodes", outcome="effect", node=claimed["node"].iloc[0])
    assert first.startswith(f"{len(claimed)} of 22 nodes of model One day respond to")
    assert f"{top.node} ({words.signed(top.contribution)} nats{words.between(top.low, top.high)}, " in first
    shares = f"{words.percent(top.share)} of the effect, {words.percent(top.own_share)} of its own change"
    ends = f"[{words.percent(top.reference_low / 2.5)}, {words.percent(top.reference_high / 2.5)}]"
    assert f"{shares}; of random vectors {words.percent(top.reference / 2.5)} {ends})" in first
    best = row(result, "frontier", node=top.node)
    ratio = f"{words.number(best.efficiency)}{words.between(best.efficiency_low, best.efficiency_high)}"
    assert f"{top.node} ({ratio})" in sentence(result, "Useful, with more effect")
    pair = result.frames["pairs"].query("outcome == 'effect' and significant").iloc[0]
    third = sentence(result, "The largest significant interaction")
    assert f"between {pair['first']} and {pair['second']}" in third
    assert f"{words.signed(pair['interaction'])} nats{words.between(pair['low'], pair['high'])}" in third
    assert "0.0750 nats less effect [0.0450, 0.105] than vertically" in sentence(result, "Horizontally")


def test_each_verdict_is_said_in_its_own_sentence(sweep_maker: Maker) -> None:
    result = sweep_maker()
    table, strongest_node = result.frames["nodes"], told(result)["node"].iloc[0]
    at = (table["node"] == strongest_node) & (table["outcome"] == "effect")
    for verdict, start in (
        ("shared", "Random vectors pass there as well, and no difference is told"),
        ("less", "Less than of random vectors"),
        ("against", "Working against the whole effect, over prompts"),
    ):
        other = changed(result, "nodes", verdict=table["verdict"].where(~at, verdict))
        assert f"{strongest_node} (" not in sweep.headline(other)[0]
        assert f"{strongest_node} (" in sentence(other, start)
    for verdict in ("small", "untested"):
        silent = sweep.headline(changed(result, "nodes", verdict=table["verdict"].where(~at, verdict)))
        assert f"{strongest_node} (" not in " ".join(silent)


def test_nothing_found_is_said_plainly(sweep_maker: Maker) -> None:
    result = changed(sweep_maker(), "nodes", verdict="untested")
    result = changed(result, "pairs", significant=False)
    designs_p = result.frames["designs"]["p"] * 0 + 0.5
    first, second, third = sweep.headline(changed(result, "designs", p=designs_p))
    assert first.startswith("None of 22 nodes of model One day is told from random vectors for")
    assert second.startswith("No interaction of two nodes is significant")
    assert "do the same, as far as can be told (effect −0.0750 nats [−0.105, −0.0450])" in third


def test_where_random_vectors_are_told_apart_too_often_no_verdict_is_given(sweep_maker: Maker) -> None:
    result = changed(sweep_maker(leave_one_out={"effect": 0.3}), "nodes", verdict="untested")
    said = sweep.headline(result)[0]
    assert "No verdict is given" in said and "in 30% of the cases, and 5% is the rate stated" in said
    glance = {name: note for name, _, note in sweep.page(result).glance}
    assert "a random vector is told from the others in 30% of the cases" in glance["beyond random vectors"]


def test_a_responsive_node_that_disturbs_as_much_is_not_called_useful(sweep_maker: Maker) -> None:
    result = changed(sweep_maker(), "frontier", useful=False)
    assert sentence(result, "None of them is useful")


def test_nodes_stand_in_for_each_other_only_where_both_do_something(sweep_maker: Maker) -> None:
    result = sweep_maker()
    names = list(told(result)["node"].head(2))
    pairs = result.frames["pairs"].copy()
    pairs.loc[0, ["first", "second", "interaction", "p_holm", "significant"]] = [*names, -9.0, 1e-5, True]
    result = replace(result, frames=dict(result.frames) | {"pairs": pairs})
    assert "so they stand in for each other" in sentence(result, "The largest significant interaction")
    silent = changed(result, "nodes", verdict="untested")
    assert "each other" not in sentence(silent, "The largest significant interaction")
    pairs.loc[0, "interaction"] = 9.0
    assert "so they strengthen each other" in sentence(result, "The largest significant interaction")


def test_without_controls_the_page_says_so(sweep_maker: Maker) -> None:
    result = sweep_maker(references=0, missing={"controls": "no trial with random vectors"})
    page = html(result)
    assert not len(told(result)) and "no random vectors to compare with" in page
    assert "Nothing to compare with: no trial with random vectors." in page
    assert "No bands: no trial with random vectors." in page


def test_a_metric_that_is_positive_by_construction_is_said_to_be(sweep_maker: Maker) -> None:
    about = "each prompt's own direction: the whole effect is positive by construction"
    own = {"name": "own_direction", "unit": "logits", "about": about}
    text = " ".join(_design(sweep_maker(metric=own).manifest))
    assert f"The metric takes {about}." in text
    dose = next(s for s in sweep.page(sweep_maker(metric=own)).sections if s.title == "Dose")
    assert "each along its own change of the logits" in dose.text[0]
    assert "of its own change" not in sweep.headline(sweep_maker(metric=own))[0]


def test_with_one_number_of_nodes_contributions_are_said_to_be_beyond_the_others(sweep_maker: Maker) -> None:
    result = sweep_maker(adds=False, missing={"frontier": "one number of nodes"})
    result = without(result, "frontier", "trends", "pairs")
    assert "beyond the mean of the nodes that it is exchanged for" in sweep.headline(result)[0]
    sections = {section.title: section for section in sweep.page(result).sections}
    assert "beyond the mean" in sections["Which nodes respond"].text[0]
    assert sections["Effect without disruption"].panels[0].missing == "one number of nodes"


def test_numbers_at_a_glance(sweep_maker: Maker) -> None:
    result = sweep_maker()
    glance = {name: (value, note) for name, value, note in sweep.page(result).glance}
    assert glance["beyond random vectors"][0] == f"{len(told(result))} of 22 nodes"
    assert glance["whole injection"][0] == "+2.50 nats" and "[2.20, 2.80]" in glance["whole injection"][1]
    effect = result.frames["nodes"].query("outcome == 'effect'")
    assert glance["interval width"][0] == f"{words.number((effect['high'] - effect['low']).median())} nats"
    old = {name: value for name, value, _ in sweep.page(sweep_maker(whole={})).glance}
    assert old["whole injection"] == f"+{result.frames['prompts']['steered_effect'].mean():.1f} nats"


@pytest.mark.parametrize("mode", ["own", "through", "shared", "given"])
def test_every_mode_is_explained(mode: str, sweep_maker: Maker) -> None:
    text = _design(sweep_maker(mode=mode).manifest)
    assert text[0].startswith(f"Mode {mode}:") and "is the same edit" in text[0]
    assert "1 to 6 nodes" in text[1] and "coefficients 0.5, 1 and 2" in text[1]


def test_whole_layers_stand_in_one_column_beside_the_mlps(sweep_maker: Maker) -> None:
    table = of_outcome(sweep_maker(12, 12, "shared"), "nodes", "effect")
    chart = heatmap(table.rename(columns={"contribution": "effect"}), "nats", describe=_contribution)
    assert chart.layout.xaxis.ticktext == ("attention, all heads", "MLP")
    shown = sum(np.isfinite(np.array(t.z, dtype=float)).sum() for t in chart.data if t.type == "heatmap")
    assert shown == 24


def test_small_numbers_are_multiplied_and_the_title_says_so(plain: Page, sweep_maker: Maker) -> None:
    result = sweep_maker(scale=0.01)
    maps = sweep.page(result).sections[1]
    top = told(result).iloc[0]["contribution"]
    assert maps.panels[0].figure
    written = [t for t in maps.panels[0].figure.data if t.type == "scatter" and t.mode == "text"]
    texts = [text for trace in written for text in trace.text]
    assert bold(f"{1000 * top:.2f}") in texts
    assert maps.panels[0].title == "Contribution to the effect (10⁻³ nats)"
    assert maps.panels[1].title == "Contribution to the disturbance (10⁻³ nats)"
    assert plain.sections[1].panels[0].title == "Contribution to the effect (nats)"


def test_the_frontier_is_a_rising_stair_through_its_nodes(sweep_maker: Maker) -> None:
    table = sweep_maker(12, 12).frames["frontier"]
    chart = frontier(table.assign(responsive=table["verdict"] == "concept"), "nats")
    (stairs,) = [t for t in chart.data if t.name == "frontier"]
    assert set(stairs.y) == set(table[table["frontier"]]["effect"])
    assert list(stairs.y) == sorted(stairs.y) and list(stairs.x) == sorted(stairs.x)
    named = [a.text for a in chart.layout.annotations]
    assert set(named) <= set(table[table["verdict"] == "concept"]["node"]) and 0 < len(named) <= 14


def test_names_do_not_cover_each_other() -> None:
    points = [(300.0 + 9 * i, 200.0 + 5 * (i % 3)) for i in range(12)]
    names = [f"L{i}H{i}" for i in range(12)]
    moves = offsets(names, points, points, [], (900.0, 420.0))
    middles = np.array(points) + np.array(moves)
    for i in range(12):
        for j in range(i):
            wide = WIDE * (len(names[i]) + len(names[j])) / 2
            gap = np.abs(middles[i] - middles[j])
            assert gap[0] >= wide or gap[1] >= HIGH


def test_the_matrix_is_symmetric_and_mutes_what_is_not_significant(sweep_maker: Maker) -> None:
    table = of_outcome(sweep_maker(), "pairs", "effect")
    nodes = strongest(table)
    muted, clear, unseen = (np.array(t.z, dtype=float) for t in matrix(table, nodes, "nats").data[:3])
    for z in (muted, clear, unseen):
        np.testing.assert_array_equal(z, z.T)
    assert np.isfinite(clear).sum() == 2 * table["significant"].sum()
    assert (np.isfinite(muted) ^ np.isfinite(clear) ^ np.isfinite(unseen) ^ np.eye(len(nodes), dtype=bool)).all()


def test_of_many_nodes_the_matrix_shows_forty_in_the_models_order(sweep_maker: Maker) -> None:
    table = sweep_maker(12, 12).frames["pairs"]
    nodes = strongest(table)
    top = table[table["outcome"] == "effect"].iloc[0]
    assert 38 <= len(nodes) <= 40 and {top["first"], top["second"]} <= set(nodes)
    layers = [int(n) for n in re.findall(r"L(\d+)", " ".join(nodes))]
    assert layers == sorted(layers)
    few = pd.DataFrame(
        {
            "first": ["L2M", "L10H0", "L2H11"],
            "second": ["L10A", "L2H3", "L2M"],
            "outcome": "effect",
            "interaction": 1.0,
            "significant": False,
        }
    )
    assert strongest(few) == ["L2H3", "L2H11", "L2M", "L10H0", "L10A"]


def test_each_node_has_a_column_of_responses(sweep_maker: Maker) -> None:
    table = sweep_maker().frames["response"]
    chart = _responses(table, ["L0H0", "L1M"], "nats")
    lines = [t for t in chart.data if t.mode == "lines+markers"]
    assert len(lines) == 2 * 4
    wanted = table[(table["node"] == "L1M") & (table["by"] == "k") & (table["outcome"] == "effect")]
    np.testing.assert_allclose(lines[1].y, wanted["contribution"])


def test_the_reference_falls_as_one_over_the_root_and_ends_at_the_last_width(sweep_maker: Maker) -> None:
    chart = _widths(sweep_maker().frames["convergence"], "nats")
    reference, line = chart.data[:2]
    assert chart.layout.xaxis.type == chart.layout.yaxis.type == "log"
    assert reference.y[-1] == line.y[-1]
    np.testing.assert_allclose(np.diff(np.log(reference.y)), -0.5 * np.diff(np.log(reference.x)))


def test_a_difference_that_may_be_zero_is_an_open_circle(sweep_maker: Maker) -> None:
    effect, kl, _ = _means(sweep_maker().frames["designs"], "nats").data
    assert list(effect.marker.symbol) == ["circle"] * 4
    assert list(kl.marker.symbol) == ["circle"] * 3 + ["circle-open"]


def test_every_frame_can_be_saved_and_long_ones_are_cut_with_a_word(plain: Page, sweep_maker: Maker) -> None:
    result = sweep_maker()
    section = next(s for s in plain.sections if s.title == "All nodes")
    assert set(section.download) == {f"{n}.csv" for n in result.frames}
    assert section.table and len(section.table.rows) == 3 * 22
    pairs = result.frames["pairs"]
    many = pd.concat([pairs] * (ROWS // len(pairs) + 1), ignore_index=True)
    long = replace(result, frames=dict(result.frames) | {"pairs": many})
    section = next(s for s in sweep.page(long).sections if s.title == "All nodes")
    assert len(section.download["pairs.csv"]) == ROWS
    assert f"pairs.csv holds the first 20,000 of {len(many):,} rows" in section.text[-1]


def test_the_legend_explains_every_frame(plain: Page) -> None:
    section = next(s for s in plain.sections if s.title == "How to read this")
    assert section.table and {r[0] for r in section.table.rows} == set(QUESTIONS["sweep"].columns)
