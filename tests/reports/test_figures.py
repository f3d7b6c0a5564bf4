"""Figures by the numbers in their traces, not by their looks."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports.figures.heatmap import heatmap
from steerscope.reports.figures.ranking import ranking
from steerscope.reports.pages.exact import _disturbance_chart, _reach_chart, _token_bars
from steerscope.reports.records import records
from steerscope.reports.theme import visible

Maker = Callable[..., Result]


def necessity(result: Result) -> pd.DataFrame:
    table = result.frames["effects"]
    return table[table["measure"] == "necessity"]


def test_every_effect_stands_in_its_cell_and_what_is_not_significant_is_muted(maker: Maker) -> None:
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
        assert effect == row.effect and opacity == (1.0 if row.significant else 0.35)


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
    np.testing.assert_allclose(points.error_x.array, 0.1, atol=1e-9)
    assert len(chart.layout.shapes) == 20 and {(s.x0, s.x1) for s in chart.layout.shapes} == {(-0.2, 0.2)}


def test_the_steering_vector_stands_among_its_references(maker: Maker) -> None:
    references, real = _disturbance_chart(maker(references=7).frames["vectors"], "nats").data
    assert len(references.x) == 7 and list(real.x) == [0.5] and list(real.y) == [2.0]


def test_bars_show_the_change_of_probability(maker: Maker) -> None:
    frame = maker(text="<b>ring").frames["tokens"]
    gain = _token_bars(frame, "gain")
    np.testing.assert_allclose(gain.data[0].x, 0.2)
    assert gain.layout.yaxis.ticktext[0] == "␣&lt;b&gt;ring"


def test_each_reach_has_its_own_colour(maker: Maker) -> None:
    chart = _reach_chart(necessity(maker()))
    assert [t.name for t in chart.data] == ["none", "general", "specific"]
    assert len({t.marker.color for t in chart.data}) == 3


def test_spaces_and_line_ends_are_visible() -> None:
    assert visible(" a\n") == "␣a⏎" and visible("") == "∅"
