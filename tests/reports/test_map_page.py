"""The page of a map: its picture, and sentences that say no more than the tables hold."""

import re
from dataclasses import replace
from typing import Any

import networkx as nx
import pandas as pd
import pytest
from questions import experiment

from steerscope.analysis.model.models import Model
from steerscope.analysis.results.result import Result
from steerscope.circuits.circuit import Circuit
from steerscope.circuits.map_effect import map_effect
from steerscope.reports.figures.circuit_map import circuit_map
from steerscope.reports.page import render
from steerscope.reports.pages.map_effect import headline, page

BAD = "<img src=x onerror=alert(1)>"


def drawn(name: str, edges: list[tuple[str, str, dict[str, Any]]], **roles: str) -> Circuit:
    graph: Any = nx.DiGraph()
    for node, role in roles.items():
        graph.add_node(node, roles=(role,))
    graph.add_edges_from(edges)
    return Circuit(name, name, "small", graph)


@pytest.fixture(scope="module")
def result(small_model: Model) -> Result:
    """Two circuits of which one has a node before the injection, and bad names."""
    first = drawn(
        "first",
        [("L0H1", "L1H2", {"inputs": ("q",), "scores": {"q": 0.5}}), ("L1H2", "logits", {}), ("input", "L0H1", {})],
        L0H1="early",
        L1H2="late",
    )
    second = drawn(BAD, [("L1H1", "L2M", {})], L1H1=BAD, L2M="reader")
    asked = experiment(small_model, layer=1)
    return map_effect(asked, [first, second], sets=3, permutations=10, controls=1, tasks=0)


def test_the_menu_shows_one_circuit_by_one_measure_at_a_time(result: Result) -> None:
    chart = circuit_map(result.frames["nodes"], result.frames["edges"], "nats")
    buttons = chart.layout.updatemenus[0].buttons
    assert [b.label for b in buttons] == [f"{c}: {m}" for c in ("first", BAD) for m in ("necessity", "sufficiency")]
    shown = [b.args[0]["visible"] for b in buttons]
    assert all(len(flags) == len(chart.data) for flags in shown)
    assert [sum(flags[n] for flags in shown) for n in range(len(chart.data))] == [1] * len(chart.data)
    assert [bool(trace.visible) for trace in chart.data] == list(shown[0])
    by_name = [
        {str(t) for n in range(len(chart.data)) if flags[n] for t in chart.data[n].text or ()} for flags in shown
    ]
    assert by_name[0] == by_name[1] == {"L0H1", "L1H2", "input", "logits"}
    assert by_name[2] == {"L1H1", "L2M"}


def test_a_node_before_the_injection_is_a_cross_without_numbers(result: Result) -> None:
    chart = circuit_map(result.frames["nodes"], result.frames["edges"], "nats")
    [cross] = [t for t in chart.data if t.visible and t.marker.symbol == "x-thin-open"]
    assert list(cross.text) == ["L0H1"] and "before the injection: undefined" in cross.customdata[0]
    assert not re.search(r"\d%", cross.customdata[0])


def test_sizes_are_areas_by_share_over_all_circuits(result: Result) -> None:
    nodes = result.frames["nodes"]
    nodes = nodes.assign(share=[0.4 if node == "L1H2" else 0.1 for node in nodes["node"]])
    chart = circuit_map(nodes, result.frames["edges"], "nats")
    sizes = {t.text[0]: t.marker.size[0] for t in chart.data if t.marker.symbol == "circle" and t.name}
    assert sizes["L1H2"] == pytest.approx(2 * sizes["L2M"])


def test_what_comes_from_a_circuit_is_escaped(result: Result) -> None:
    html = render(page(result))
    assert BAD not in html and "&lt;img src=x" in html


def test_a_sentence_follows_the_table(result: Result) -> None:
    table = result.frames["circuits"].assign(share=0.5, share_low=0.4, share_high=0.6)
    clear = {k: v for k, v in result.manifest["missing"].items() if k != "shares"}
    for among, said in (("more", "carries more than other"), ("less", "carries less"), ("alike", "is not told from")):
        frames = {**result.frames, "circuits": table.assign(among=among)}
        told = " ".join(headline(replace(result, frames=frames, manifest={**result.manifest, "missing": clear})))
        assert f"By necessity “first” {said}" in told.replace(" (1 of its 2 nodes are reached)", "")
        others = {"more": "less than", "less": "more than other", "alike": "carries more"}[among]
        assert others not in told
    assert "50% [40%, 60%] of the effect is lost when its nodes are set back to clean together" in told


def test_without_nodes_behind_the_injection_no_share_is_told(small_model: Model) -> None:
    early = drawn("early", [], L0H1="a", L0H2="a")
    result = map_effect(experiment(small_model, layer=2), early, sets=3, permutations=10, controls=1, tasks=0)
    assert isinstance(result.frames["targeted"], pd.DataFrame)
    told = " ".join(page(result).headline)
    assert "early" in told and not re.search(r"\d%", told)
