"""Figures by the numbers in their traces, not by their looks."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from steerscope.analysis.results.result import Result
from steerscope.reports.figures.heatmap import heatmap
from steerscope.reports.figures.ranking import ranking
from steerscope.reports.pages.exact import _contrast_chart, _token_bars, _vectors_chart
from steerscope.reports.records import records
from steerscope.reports.theme import (
    BOLD,
    CLAIMS,
    CONCEPTS,
    MARKS,
    NEGATIVE,
    NEUTRAL,
    POSITIVE,
    REFERENCE,
    claimed,
    mark,
    visible,
)

Maker = Callable[..., Result]


def necessity(result: Result) -> pd.DataFrame:
    table = result.frames["effects"]
    return table[table["measure"] == "necessity"]


def test_every_effect_stands_in_its_cell_and_what_is_not_claimed_is_muted(maker: Maker) -> None:
    table = necessity(maker(layers=3, heads=5))
    chart = heatmap(table, "nats")
    shown = {}
    for trace in chart.data:
        if trace.type == "heatmap":
            for y, x in zip(*np.nonzero(~np.isnan(np.array(trace.z, dtype=float))), strict=True):
                place = (trace.y0 + int(y), round(trace.x0 + float(x), 1))
                assert place not in shown
                shown[place] = (trace.z[y][x], trace.opacity)
    assert len(shown) == len(table) == 18
    for row in records(table):
        place = (row.layer, 5.6 if row.kind == "mlp" else float(row.head))
        effect, opacity = shown[place]
        assert effect == row.effect and opacity == (1.0 if row.verdict in CLAIMS else 0.35)


@pytest.mark.parametrize("heads", [4, 60], ids=["numbers", "crowded"])
def test_the_map_marks_what_something_is_said_of(maker: Maker, heads: int) -> None:
    table = necessity(maker(layers=3, heads=heads))
    marked = table[[bool(MARKS[v].sign) for v in table["verdict"]]]
    chart = heatmap(table, "nats")
    drawn = [t for t in chart.data if t.type == "scatter"]
    [marks] = [t for t in drawn if t.mode == "markers"]
    assert list(marks.marker.symbol) == [MARKS[v].symbol for v in marked["verdict"]]
    np.testing.assert_array_equal(np.round(marks.y), marked["layer"])
    bold = [t for text in drawn if text.mode == "text" for t in text.text if BOLD in t]
    assert len(bold) == (0 if heads == 60 else table["verdict"].isin(CLAIMS).sum())


def test_truth_values_are_drawn_by_side_and_other_words_too() -> None:
    assert (mark(True, 2.0).colour, mark(True, -2.0).colour, mark(False, 2.0).colour) == (POSITIVE, NEGATIVE, NEUTRAL)
    assert mark("useful", -2.0, -1).colour == POSITIVE and claimed("useful")
    assert mark("small", 2.0).symbol == "circle-open" and not claimed("shared") and not claimed(np.bool_(False))


def test_marks_differ_in_symbol_and_stand_out_from_both_papers() -> None:
    looks = [look for look in MARKS.values() if look.sign]
    assert len({look.symbol for look in looks}) == len({look.colour for look in looks}) == len(looks)
    for look in looks:
        assert contrast(look.colour, "#ffffff") >= 3 and contrast(look.colour, "#16181c") >= 3


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, bright = sorted((light(one), light(other)))
    return (bright + 0.05) / (dark + 0.05)


def test_both_maps_can_share_a_scale_around_zero(maker: Maker) -> None:
    traces = [t for t in heatmap(necessity(maker()), "nats", limit=3.0).data if t.type == "heatmap"]
    assert {(t.zmin, t.zmax) for t in traces} == {(-3.0, 3.0)}


def test_a_model_of_attention_only_has_no_mlp_column(maker: Maker) -> None:
    assert "MLP" not in (heatmap(necessity(maker(mlp=False)), "nats").layout.xaxis.ticktext or ())
    assert "MLP" in heatmap(necessity(maker()), "nats").layout.xaxis.ticktext


def test_the_ranking_is_by_size_with_intervals_over_the_references_band(maker: Maker) -> None:
    table = necessity(maker(layers=8, heads=6))
    chart = ranking(table, "nats")
    points = chart.data[0]
    sizes = [abs(x) for x in points.x]
    assert len(sizes) == 20 and sizes == sorted(sizes, reverse=True)
    shown = table.set_index("effect").loc[list(points.x)]
    np.testing.assert_allclose(points.error_x.array, shown["high"] - np.array(points.x))
    assert list(points.marker.symbol) == [MARKS[v].symbol for v in shown["verdict"]]
    for low, high, colour in (
        ("reference_low", "reference_high", REFERENCE),
        ("concepts_low", "concepts_high", CONCEPTS),
    ):
        boxes = [(s.x0, s.x1) for s in chart.layout.shapes if s.fillcolor == colour]
        np.testing.assert_allclose(boxes, shown[[low, high]])


def test_the_legend_of_the_ranking_names_only_what_is_there(maker: Maker) -> None:
    table = necessity(maker()).assign(verdict="shared")
    names = [t.name for t in ranking(table, "nats").data[1:]]
    assert names == ["shared", "random vectors", "other concepts"]
    nothing = table.assign(concepts_low=np.nan, concepts_high=np.nan)
    assert [t.name for t in ranking(nothing, "nats").data[1:]] == ["shared", "random vectors"]
    chart = ranking(nothing.assign(reference_low=np.nan).drop(columns=["concepts_low", "concepts_high"]), "nats")
    assert [t.name for t in chart.data[1:]] == ["shared"] and not chart.layout.shapes


def test_the_steering_vector_stands_among_its_references(maker: Maker) -> None:
    references, real = _vectors_chart(maker(references=7).frames["vectors"]).data
    assert len(references.x) == 7 and list(real.x) == [0.5] and list(real.y) == [2.0]


def test_bars_show_the_change_of_probability(maker: Maker) -> None:
    frame = maker(text="<b>ring").frames["tokens"]
    gain = _token_bars(frame, "gain")
    np.testing.assert_allclose(gain.data[0].x, 0.2)
    assert gain.layout.yaxis.ticktext[0] == "␣<b>ring"


def test_each_verdict_has_its_own_colour_among_the_references(maker: Maker) -> None:
    table = necessity(maker(layers=4))
    chart = _contrast_chart(table, "reference", "random vectors")
    there = [name for name in MARKS if name in set(table["verdict"])]
    assert [t.name for t in chart.data] == there and len(there) > 3
    for trace in chart.data:
        rows = table[table["verdict"] == trace.name]
        assert trace.marker.color == MARKS[str(trace.name)].colour
        np.testing.assert_allclose(trace.y, rows["own_share"])
        np.testing.assert_allclose(trace.x, rows["noise_share"])


def test_spaces_and_line_ends_are_visible() -> None:
    assert visible(" a\n") == "␣a⏎" and visible("") == "∅"
