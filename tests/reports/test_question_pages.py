"""Pages of every question that an experiment can be asked, from results of a small model."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import networkx as nx
import pandas as pd
import pytest
from checkpoints import save_gpt2
from small_circuits import FILE

from steerscope.analysis.breakdown.breakdown import breakdown
from steerscope.analysis.carriers.attribute import attribute
from steerscope.analysis.carriers.screen import screen
from steerscope.analysis.carriers.shapley import shapley
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.origin.sparsify import sparsify
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column
from steerscope.analysis.routes.by_position import by_position
from steerscope.analysis.routes.edges import edges
from steerscope.analysis.routes.path_effect import path_effect
from steerscope.analysis.routes.self_repair import self_repair
from steerscope.analysis.trace import trace
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.circuits.edge_graph import INJECTION, LOGITS, edge_graph
from steerscope.circuits.map_effect import map_effect
from steerscope.questions import QUESTIONS, page_of
from steerscope.reports.figures.coefficient import curves
from steerscope.reports.figures.wiring import wiring
from steerscope.reports.page import render
from steerscope.reports.pages.breakdown import LINES, _by
from steerscope.reports.report import report

METHODS: dict[str, Callable[[Experiment], Result]] = {
    "attribute": lambda asked: attribute(asked, sample=5),
    "screen": lambda asked: screen(asked, top=3, sample=2),
    "shapley": lambda asked: shapley(asked),
    "edges": lambda asked: edges(asked, verify=5, sample=3),
    "by_position": lambda asked: by_position(asked, nodes=["L0M", "L1H1"]),
    "sparsify": lambda asked: sparsify(asked, fractions=[0.1, 0.5], steps=2),
    "self_repair": lambda asked: self_repair(asked, ["L0M", "L0H1"]),
    "map_effect": lambda asked: map_effect(asked, str(FILE), sets=5, permutations=20, controls=2),
    "trace": lambda asked: trace(asked),
    "breakdown": lambda asked: breakdown(asked, coefficients=[-10, 0, 1, 3, 10, 100, 1e4]),
    "path_effect": lambda asked: path_effect(asked, ["injection", "L0H1"], ["L1H2.q", "L1M", "logits"]),
}
TEXTS = ["One day Lily saw a dragon", "Tom had a red ball", "The dog ran to the park"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("pages")
    save_gpt2(folder)
    return load(folder, name="tiny")


@pytest.fixture(scope="module")
def results(model: Model) -> dict[str, Result]:
    injection = Injection(prompt_pair(model, " wedding", " ship", 0), 3.0)
    asked = Experiment(model, (injection,), make_prompts(model, TEXTS), references=2)
    return {kind: method(asked) for kind, method in METHODS.items()}


@pytest.mark.parametrize("kind", METHODS)
def test_a_page_says_what_was_found(results: dict[str, Result], kind: str, tmp_path: Path) -> None:
    result = results[kind]
    assert result.kind == kind
    result.save(tmp_path)
    page = report(tmp_path).read_text(encoding="utf-8")
    body = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "&#34; wedding&#34; - &#34; ship&#34;" in body
    assert not re.search(r"\bnan\b", body.replace("NaN", ""))
    for sentence in page_of(kind).page(result).headline:
        assert len(sentence) > 20 and not re.search(r"\bnan\b|\bNone\b", sentence)
    assert result.columns == QUESTIONS[kind].columns
    for frame, columns in result.columns.items():
        assert list(result.frames[frame].columns) == list(columns)
        assert f">{next(iter(columns))}<" in page  # the legend


@pytest.mark.parametrize("kind", METHODS)
def test_a_single_prompt_without_references_has_a_page(model: Model, kind: str) -> None:
    injection = Injection(prompt_pair(model, " wedding", " ship", 0), 3.0)
    asked = Experiment(model, (injection,), make_prompts(model, TEXTS[:1]), references=0)
    result = METHODS[kind](asked)
    assert "one prompt gives no interval" in result.manifest["missing"]["intervals"]
    assert render(page_of(kind).page(result))


@pytest.mark.parametrize("kind", METHODS)
def test_what_comes_from_a_model_is_escaped(results: dict[str, Result], kind: str) -> None:
    bad = '<img src=x onerror="alert(1)">'
    manifest = dict(results[kind].manifest)
    manifest["model"] = {**manifest["model"], "name": bad}
    [injection] = manifest["injections"]
    manifest["injections"] = [{**injection, "vector": {**injection["vector"], "label": bad}}]
    page = render(page_of(kind).page(replace(results[kind], manifest=manifest)))
    assert bad not in page and "&lt;img src=x" in page


def test_the_graph_leads_from_the_injection_to_the_logits(results: dict[str, Result]) -> None:
    given = edge_graph(results["edges"], 60)
    assert given.nodes[INJECTION]["kind"] == "injection" and given.nodes[LOGITS]["layer"] == 2
    for vertex in given:
        assert nx.has_path(given, INJECTION, vertex) and nx.has_path(given, vertex, LOGITS)
    table = results["edges"].frames["edges"]
    for sender, receiver, data in given.edges(data=True):
        parts = table[(table["sender"] == sender) & table["receiver"].str.match(rf"{receiver}(\.[qkv])?$")]
        chosen = parts[parts["effect"].abs() >= table["effect"].abs().nlargest(60).min()]
        assert data["weight"] == pytest.approx(chosen["effect"].sum())
        assert data["weight"] == pytest.approx(sum(data["inputs"].values()))
    drawn = wiring(given, "logits")
    lines = [trace for trace in drawn.data if trace.mode == "lines"]
    assert len(lines) == given.number_of_edges()
    widest = max(lines, key=lambda trace: trace.line.width)
    heaviest = max(given.edges(data=True), key=lambda edge: abs(edge[2]["weight"]))
    assert f"{heaviest[0]} → {heaviest[1]}" in widest.text[0]


def test_a_graph_of_something_else_is_refused(results: dict[str, Result]) -> None:
    with pytest.raises(BadArgument, match="of a result of kind 'shapley'"):
        edge_graph(results["shapley"])


def test_shared_keys_and_values_are_a_vertex_that_leads_to_their_heads() -> None:
    rows = [("injection", "L0H1.k", 3.0), ("injection", "L0H3.q", 1.0), ("L0H3", "logits", 2.0), ("L0H2", "L1M", 9.0)]
    table = pd.DataFrame(rows, columns=["sender", "receiver", "effect"]).assign(
        sender_layer=0, receiver_layer=[0, 0, 2, 1]
    )
    given = edge_graph(
        Result("edges", {"edges": table}, {"edges": {c: Column("of it") for c in map(str, table)}}, {"shared": 2})
    )
    assert set(given.nodes) == {"injection", "L0KV1", "L0H3", "logits"}  # heads 2 and 3 share; 2 leads nowhere
    assert given.edges["L0KV1", "L0H3"]["weight"] == 0
    assert given.edges["injection", "L0KV1"]["inputs"] == {"k": 3.0}


def test_of_many_layers_some_are_drawn_and_none_is_lost_silently() -> None:
    rows = [
        {"coefficient": c, "layer": layer, "value": 0.1, "low": 0.0, "high": 0.2}
        for layer in range(30)
        for c in (0.0, 1.0, float("inf"))
    ]
    chart = _by(pd.DataFrame(rows), lambda r: f"L{r.layer}", "share", True)
    assert chart is not None
    named = [trace.name for trace in chart.data if trace.showlegend]
    assert len(named) == LINES and named[0] == "L0" and named[-1] == "L29"
    many = {f"s{i}": pd.DataFrame(rows[:3]) for i in range(11)}
    assert len({t.name for t in curves(many, "", title="x").data if t.showlegend}) == 11
