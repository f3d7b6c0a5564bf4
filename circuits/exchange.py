"""Circuits to and from other programs' files: graphml, and the graph JSON of circuit-tracer (Neuronpedia).

circuit-tracer's graphs are of features of transcoders at positions of one prompt. Read here, a feature is its layer's
MLP, and edges between the same two vertices are one, with the sum of their weights: what is left is a circuit of nodes,
which can be tested by exact patching. Written, a node stands at the last position, and its name in `clerp`.
Format: github.com/safety-research/circuit-tracer, circuit_tracer/utils (2025); keys that are not known are left alone.
"""

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import networkx as nx

from steerscope.analysis import files
from steerscope.analysis.brief import brief, quoted
from steerscope.analysis.errors import BadCircuit
from steerscope.analysis.gate import gated
from steerscope.analysis.model.nodes import parse_node
from steerscope.analysis.opening import reading
from steerscope.analysis.reading import JSON

from .circuit import INPUT, LOGITS, Circuit, Graph, forward

EMBEDDING, LOGIT = "embedding", "logit"  # kinds of circuit-tracer's vertices that are no features
FEATURES = ("cross layer transcoder", "transcoder", "mlp reconstruction error", "attention head", "mlp")
MOST = 2_000_000  # vertices and edges of a file


@gated(error=BadCircuit)
def to_graphml(circuit: Circuit, path: Path) -> Path:
    """Writes a circuit as graphml, for Gephi, yEd or networkx: roles joined by `; `, inputs as text.

    Raises:
        DiskFull, CannotWrite: see `files.storing`.
    """
    plain: Graph = Graph(name=circuit.name, model=circuit.model, confidence=circuit.confidence)
    for vertex, about in circuit.graph.nodes(data=True):
        plain.add_node(_printable(vertex), roles=_printable("; ".join(about.get("roles", ()))))
    for sender, receiver, about in circuit.graph.edges(data=True):
        weight = sum(about.get("scores", {}).values())
        plain.add_edge(sender, receiver, inputs="".join(about.get("inputs", ())), weight=float(weight))
    into = BytesIO()
    nx.write_graphml(plain, into)
    return files.write(path, into.getvalue())


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


@gated(error=BadCircuit)
def to_circuit_tracer(circuit: Circuit, path: Path) -> Path:
    """Writes a circuit as a graph JSON of circuit-tracer.

    Raises:
        DiskFull, CannotWrite: see `files.storing`.
    """
    ids = {vertex: _id(vertex, circuit) for vertex in circuit.graph}
    nodes = []
    for vertex, about in circuit.graph.nodes(data=True):
        kind, layer = _kind(vertex, circuit)
        roles = ", ".join(about.get("roles", ()))
        nodes.append(
            {
                "node_id": ids[vertex],
                "jsNodeId": ids[vertex],
                "layer": layer,
                "feature": ids[vertex],
                "ctx_idx": 0,
                "feature_type": kind,
                "clerp": vertex + (f" ({roles})" if roles else ""),
                "is_target_logit": vertex == LOGITS,
                "token_prob": 0.0,
                "influence": None,
                "activation": None,
            }
        )
    links = [
        {"source": ids[sender], "target": ids[receiver], "weight": float(sum(about.get("scores", {}).values()) or 1.0)}
        for sender, receiver, about in circuit.graph.edges(data=True)
    ]
    metadata = {"slug": circuit.name, "scan": circuit.model, "prompt": "", "prompt_tokens": [""], "info": circuit.title}
    told = {"metadata": metadata, "qParams": {}, "nodes": nodes, "links": links}
    return files.write(path, json.dumps(told, ensure_ascii=False, indent=1))


def _kind(vertex: str, circuit: Circuit) -> tuple[str, str]:
    if vertex in (INPUT, LOGITS):
        return (EMBEDDING, "E") if vertex == INPUT else (LOGIT, str(circuit.n_layers or 0))
    node = parse_node(vertex)
    return ("mlp" if node.head is None else "attention head"), str(node.layer)


def _id(vertex: str, circuit: Circuit) -> str:
    kind, layer = _kind(vertex, circuit)
    head = "" if kind in (EMBEDDING, LOGIT) else parse_node(vertex).head
    return f"{layer}_{'M' if head is None else head}_0"


@gated(error=BadCircuit)
def from_circuit_tracer(path: Path) -> Circuit:
    """A circuit from a graph JSON of circuit-tracer: a feature is its layer's MLP, edges are summed.

    Raises:
        BadCircuit: it is none, or holds no feature; the message names the entry.
    """
    with reading(path, BadCircuit):
        content = files.read_plain(path)
    try:
        told = JSON.decode(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadCircuit(
            f"{quoted(path)} is no JSON ({brief(str(error), 100)}); expected a graph of circuit-tracer; check it"
        ) from error
    told = told if isinstance(told, dict) else {}
    nodes, links = told.get("nodes"), told.get("links")
    if not isinstance(nodes, list) or not isinstance(links, list) or len(nodes) + len(links) > MOST:
        raise BadCircuit(
            f"{quoted(path)} has no lists of nodes and links, or more than {MOST:,}; expected a graph JSON of "
            "circuit-tracer; check it"
        )
    names: dict[str, str] = {}
    graph: Graph = Graph()
    for number, entry in enumerate(nodes, 1):
        key, vertex = _vertex(path, number, entry)
        names[key] = vertex
        roles = () if vertex in (INPUT, LOGITS) else (str(entry.get("feature_type")),)
        if vertex not in graph:
            graph.add_node(vertex, roles=roles, positions={})
    for number, entry in enumerate(links, 1):
        sender, receiver, weight = _link(path, number, entry, names)
        if sender == receiver or not forward(sender, receiver):  # features of one layer are one node
            continue
        known = graph.get_edge_data(sender, receiver, {"scores": {"": 0.0}})["scores"][""]
        graph.add_edge(sender, receiver, inputs=(), scores={"": known + weight})
    about = told.get("metadata") if isinstance(told.get("metadata"), dict) else {}
    assert isinstance(about, dict)
    return Circuit(
        name=_printable(str(about.get("slug") or path.stem))[:200],
        title="Graph of circuit-tracer: features joined to their layers' MLPs",
        model=_printable(str(about.get("scan") or "unknown"))[:200],
        graph=graph,
        level="exact",
        confidence="secondary",
        sources=[path.name],
        caveats=["Of one prompt and a replacement model; edges of attention are not in it."],
    )


def _vertex(path: Path, number: int, entry: Any) -> tuple[str, str]:
    if isinstance(entry, Mapping) and isinstance(entry.get("node_id"), str):
        kind, layer, clerp = entry.get("feature_type"), str(entry.get("layer")), str(entry.get("clerp") or "")
        if kind in (EMBEDDING, LOGIT):
            return entry["node_id"], INPUT if kind == EMBEDDING else LOGITS
        if kind == "attention head":
            with_head = clerp.split(" ")[0]
            return entry["node_id"], str(parse_node(with_head))
        if kind in FEATURES and layer.isdecimal() and len(layer) < 6:
            return entry["node_id"], f"L{int(layer)}M"
    raise BadCircuit(
        f"{quoted(path)}: node {number} is {brief(repr(entry), 100)}; expected node_id, layer and a feature_type "
        f"of {', '.join((EMBEDDING, LOGIT, *FEATURES))}; check it"
    )


def _link(path: Path, number: int, entry: Any, names: Mapping[str, str]) -> tuple[str, str, float]:
    if isinstance(entry, Mapping) and entry.get("source") in names and entry.get("target") in names:
        weight = entry.get("weight", 1.0)
        if isinstance(weight, int | float) and not isinstance(weight, bool) and abs(weight) < 1e300:
            return names[entry["source"]], names[entry["target"]], float(weight)
    raise BadCircuit(
        f"{quoted(path)}: link {number} is {brief(repr(entry), 100)}; expected source and target among the nodes, and "
        "a finite weight; check it"
    )
