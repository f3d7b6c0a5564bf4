"""Circuits: what is shipped, what files say, and faults named by file and line."""

import json
import re
from pathlib import Path
from typing import Any

import networkx as nx
import pandas as pd
import pytest

import steerscope as st
from steerscope.analysis.errors import BadCircuit
from steerscope.circuits.circuit_files import read_circuit
from steerscope.circuits.exchange import from_circuit_tracer, to_circuit_tracer, to_graphml
from steerscope.circuits.shipped import shipped
from steerscope.circuits.tasks import TASKS

GOOD = """name: small
title: a small one
model: gpt2
layers: 12
heads: 12
width: 768
roles:
  mover: {at: END, nodes: [L9H6, L9H9]}
  reader: {nodes: [L10M]}
edges:
  - {from: mover, to: reader}
  - {from: input, to: L9H6, into: [q, k], score: 0.5}
  - {from: reader, to: logits}
"""


def told(circuit: st.Circuit) -> object:
    """All that a circuit says, to compare."""
    nodes = {name: (set(about["roles"]), about["positions"]) for name, about in circuit.graph.nodes(data=True)}
    edges = {(a, b): dict(about) for a, b, about in circuit.graph.edges(data=True)}
    rest = {k: v for k, v in vars(circuit).items() if k != "graph"}
    return nodes, edges, {k: tuple(v) if isinstance(v, list) else v for k, v in rest.items()}


@pytest.mark.parametrize("name", shipped("circuits"))
def test_every_shipped_circuit_has_a_source_a_task_and_rivals_that_are_there(name: str) -> None:
    circuit = st.circuit(name)
    assert circuit.name == name and circuit.sources and circuit.task in TASKS
    assert all(st.circuit(rival).task in (circuit.task, "sentiment", "sentiment-simple") for rival in circuit.rivals)
    assert nx.is_directed_acyclic_graph(circuit.graph)


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
@pytest.mark.parametrize("name", shipped("circuits"))
def test_a_circuit_comes_back_from_a_file(name: str, suffix: str, tmp_path: Path) -> None:
    circuit = st.circuit(name)
    assert told(read_circuit(circuit.save(tmp_path / f"x{suffix}"))) == told(circuit)


def test_published_figures_of_the_lists() -> None:
    wang, rival = st.circuit("ioi"), st.circuit("ioi-eap-ig")
    assert len(wang.nodes) == 26 and rival.n_edges == 756
    heads = {node for node in rival.nodes if node.head is not None}
    assert len(heads) == 67 and set(map(str, set(wang.nodes) - heads)) == {"L11H9", "L9H0", "L4H11"}
    assert len(st.circuit("docstring").nodes) == 6 and len(st.circuit("acronyms").nodes) == 8


def test_roles_in_edges_are_all_pairs_that_run_forward(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(GOOD)
    circuit = st.circuit(tmp_path / "x.yaml")
    assert set(circuit.graph.edges) == {("L9H6", "L10M"), ("L9H9", "L10M"), ("input", "L9H6"), ("L10M", "logits")}
    assert circuit.graph.edges["input", "L9H6"] == {"inputs": ("q", "k"), "scores": {"q": 0.5, "k": 0.5}}
    assert circuit.roles == {"mover": (st.Node(9, 6), st.Node(9, 9)), "reader": (st.Node(10),)}
    assert list(circuit.table.columns) == ["node", "role", "position"]


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("layers: 12", "layers: twelve", 4, "layers: Input should be a valid integer, got 'twelve'"),
        ("layers: 12", "layers: 0", 4, "greater than or equal to 1"),
        ("title: a small one\n", "", 1, "title: Field required"),
        ("width: 768", "widht: 768", 6, "widht: Extra inputs"),
        ("L9H9", "h9.9", 8, "'h9.9' is no node"),
        ("L9H9", "L9H6", 8, "L9H6 stands twice"),
        ("to: logits", "to: logit", 13, "'logit' is no node or role of this circuit, which has mover, reader"),
        ("from: mover, to: reader", "from: reader, to: mover", 11, "runs backwards"),
        ("from: mover, to: reader", "from: reader, to: reader", 11, "runs backwards"),
        ("into: [q, k]", "into: [x]", 12, "edges.1.into.0"),
        ("to: L9H6, into", "to: reader, into", 12, "has `into`, which only heads have"),
        ("score: 0.5", "score: .nan", 12, "finite"),
        ("model: gpt2", "model: &a gpt2\ntask: *a", 4, "an alias or a tag"),
        ("model: gpt2", "model: !!python/object:os.system x", 3, "an alias or a tag"),
        ("heads: 12", "heads: 12\nheads: 13", 6, "has the key 'heads' twice"),
        ("edges:", "edges: [", 10, "is no YAML"),
    ],
)
def test_a_fault_is_named_by_file_and_line(old: str, new: str, line: int, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(BadCircuit) as found:
        st.circuit(path)
    told = str(found.value)
    assert "x.yaml" in told and re.search(says, told) and told.count("; ") >= 2
    assert abs(int(re.findall(r"line (\d+):", told)[0]) - line) <= (1 if "no YAML" in told or "alias" in told else 0)


@pytest.mark.parametrize(
    "text", ["", "[" * 5000, "\0", "- a", "name: 1e999", "{" * 300, "a: " + "9" * 5000, "? [a]\n: b"]
)
def test_what_is_no_circuit_is_refused_in_a_sentence(text: str, tmp_path: Path) -> None:
    for suffix in (".yaml", ".json"):
        (tmp_path / f"x{suffix}").write_text(text)
        with pytest.raises(BadCircuit, match="expected"):
            st.circuit(tmp_path / f"x{suffix}")


def test_an_unknown_name_a_missing_file_and_another_model(tmp_path: Path) -> None:
    with pytest.raises(BadCircuit, match="no circuit 'oi'; expected one of acronyms"):
        st.circuit("oi")
    with pytest.raises(BadCircuit, match="cannot be read"):
        st.circuit(tmp_path / "none.yaml")
    model = st.load("tinystories-1l")
    with pytest.raises(
        BadCircuit, match=r"ioi is one of gpt2 \(12 layers x 12 heads, width 768\), and tinystories-1l has"
    ):
        st.circuit("ioi").of(model)
    with pytest.raises(BadCircuit, match="no list of nodes"):
        st.circuit("induction").of(model)


def test_a_circuit_of_ones_own_graph_is_held_against_its_model() -> None:
    graph: Any = nx.DiGraph()
    options: dict[str, Any] = {"name": "own", "title": "t", "model": "m", "n_layers": 2, "n_heads": 2}
    with pytest.raises(BadCircuit, match="is empty"):
        st.Circuit(graph=graph, **options)
    graph.add_edge("L0H1", "L1M")
    assert [str(node) for node in st.Circuit(graph=graph, **options).nodes] == ["L0H1", "L1M"]
    with pytest.raises(BadCircuit, match="holds L2H0, and its model has 2 layers x 2 heads"):
        st.Circuit(graph=nx.DiGraph([("L0H1", "L2H0")]), **options)
    with pytest.raises(BadCircuit, match="runs backwards"):
        st.Circuit(graph=nx.DiGraph([("L1M", "L1H0")]), **options)


def test_graphml_and_circuit_tracer_files_hold_the_same_graph(tmp_path: Path) -> None:
    circuit = st.circuit("ioi-eap-ig")
    graph = nx.read_graphml(to_graphml(circuit, tmp_path / "x.graphml"))
    assert set(graph.edges) == set(circuit.graph.edges) and set(graph) == set(circuit.graph)
    again = from_circuit_tracer(to_circuit_tracer(circuit, tmp_path / "x.json"))
    assert set(again.graph.edges) == set(circuit.graph.edges) and set(again.nodes) == set(circuit.nodes)


def test_features_of_circuit_tracer_become_the_mlps_of_their_layers(tmp_path: Path) -> None:
    feature = "cross layer transcoder"
    nodes = [
        {"node_id": "E_5_0", "feature_type": "embedding", "layer": "E"},
        {"node_id": "3_17_1", "feature_type": feature, "layer": "3"},
        {"node_id": "3_18_1", "feature_type": feature, "layer": "3"},
        {"node_id": "4_1_1", "feature_type": "mlp reconstruction error", "layer": "4"},
        {"node_id": "9_2_1", "feature_type": "logit", "layer": "9"},
    ]
    pairs = [("E_5_0", "3_17_1", 1.0), ("3_17_1", "4_1_1", 2.0), ("3_18_1", "4_1_1", -0.5), ("4_1_1", "9_2_1", 3.0)]
    links = [{"source": a, "target": b, "weight": w} for a, b, w in (*pairs, ("3_17_1", "3_18_1", 1.0))]
    path = tmp_path / "graph.json"
    path.write_text(json.dumps({"metadata": {"slug": "dallas", "scan": "gemma"}, "nodes": nodes, "links": links}))
    circuit = from_circuit_tracer(path)
    assert set(circuit.graph.edges) == {("input", "L3M"), ("L3M", "L4M"), ("L4M", "logits")}
    assert circuit.graph.edges["L3M", "L4M"]["scores"] == {"": 1.5} and circuit.model == "gemma"
    odd: list[Any] = [
        {"nodes": [{"node_id": 1}], "links": []},
        {"nodes": nodes, "links": [{"source": "x"}]},
        {"nodes": {}},
    ]
    for wrong in odd:
        path.write_text(json.dumps(wrong))
        with pytest.raises(BadCircuit, match="expected"):
            from_circuit_tracer(path)


def test_the_package_is_the_list_of_its_circuits() -> None:
    assert isinstance(st.circuits(), pd.DataFrame) and set(st.circuits()["name"]) == set(shipped("circuits"))
