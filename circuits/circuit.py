"""`Circuit`: nodes with roles, the edges between them, and where all of it was read.

A circuit is somebody's claim about a model: which nodes do a task. It is kept with its source, and where sources
disagree each list is a circuit of its own and names its rivals.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import networkx as nx
import pandas as pd
import yaml

from steerscope.analysis import files
from steerscope.analysis.brief import brief, counted, quoted
from steerscope.analysis.errors import BadCircuit
from steerscope.analysis.gate import Within, gated, shown
from steerscope.analysis.model.nodes import Node, parse_node

if TYPE_CHECKING:
    from steerscope.analysis.model.models import Model

    Graph = nx.DiGraph[str]
else:  # circuits are listed without torch; networkx knows of vertices' types in its stubs alone
    Model, Graph = Any, nx.DiGraph

INPUT, LOGITS = "input", "logits"  # the vertices that are no nodes: embeddings, and the unembedding
SUFFIXES = (".yaml", ".yml", ".json")
INFINITE = float("inf")
SAID: tuple[str, ...] = (  # what a file calls as a `Circuit` does
    *("name", "title", "model", "task", "metric", "confidence"),
    *("sources", "rivals", "detectors", "reported", "caveats"),
)
Confidence = Literal["primary", "secondary", "weak", "ours"]
Level = Literal["exact", "group", "none"]
Size = Annotated[int, Within(1, 100_000)]


@gated(error=BadCircuit)
@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """A circuit.

    Attributes:
        name: short, such as `ioi`.
        title: what it does, in words.
        model: the model that it was found in, by its usual name.
        n_layers, n_heads, d_model: of that model; None where it is not known, or any.
        graph: vertices are nodes (`L9H9`, `L0M`) with `roles` (a tuple of texts) and `positions` (by role, the place in
            the prompt where it acts, in words), and `input` and `logits` where edges lead there. Edges have `inputs`:
            by which of q, k, v a head reads them, none where that is not known; and `scores`, by input, if any.
        level: what the edges say: each one ("exact"), or that one role reads another ("group": all pairs of their
            nodes are drawn, and no single one is claimed), or nothing ("none").
        task: name of the task whose prompts it is measured on; None where there is none.
        metric: that the source used, in words.
        confidence: "primary" (read in the authors' paper or code), "secondary" (in somebody else's), "weak" (the source
            itself shows little), "ours" (found with steerscope).
        sources: where it was read.
        rivals: names of circuits for the same task that disagree.
        detectors: by role, the role of `detect_heads` that finds its nodes in any model. A circuit of detectors alone
            has no nodes before they are measured.
        reported: figures of the source.
        caveats: what one must know before one believes it.

    Raises:
        BadCircuit: it is empty, an edge runs backwards, or a node is none of that model.
    """

    name: str
    title: str
    model: str
    graph: Any
    n_layers: Size | None = None
    n_heads: Size | None = None
    d_model: Size | None = None
    level: Level = "none"
    task: str | None = None
    metric: str = ""
    confidence: Confidence = "ours"
    sources: Sequence[str] = ()
    rivals: Sequence[str] = ()
    detectors: Mapping[str, str] = field(default_factory=dict)
    reported: Mapping[str, float] = field(default_factory=dict)
    caveats: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.graph, nx.DiGraph):
            raise BadCircuit(
                f"circuit {shown(self.name)} got a graph of type {type(self.graph).__name__}; expected a "
                "networkx.DiGraph of nodes such as L9H9; make one"
            )
        if not self.nodes and not self.detectors:
            raise BadCircuit(
                f"circuit {shown(self.name)} is empty; expected nodes, or detectors that find them; add some"
            )
        layers, heads = self.n_layers or INFINITE, self.n_heads or INFINITE
        for node in self.nodes:
            if node.layer >= layers or (node.head or 0) >= heads:
                raise BadCircuit(
                    f"circuit {shown(self.name)} holds {node}, and its model has {_shape(*self.shape)}; expected nodes "
                    "of that model; mend it"
                )
        for sender, receiver, about in self.graph.edges(data=True):
            fault = fault_of(sender, receiver, about.get("inputs", ()))
            if fault:
                raise BadCircuit(
                    f"circuit {shown(self.name)}: the edge {sender} -> {receiver} {fault}; expected a sender below its "
                    "receiver, and q, k and v of heads alone; mend it"
                )

    def __repr__(self) -> str:
        size = f"{counted(len(self.nodes), 'node')}, {counted(self.n_edges, 'edge')}"
        return f"<Circuit {brief(self.name, 40)} of {brief(self.model, 40)}: {size}, {self.confidence}>"

    @property
    def shape(self) -> tuple[int | None, int | None, int | None]:
        """Layers, heads and width of its model."""
        return self.n_layers, self.n_heads, self.d_model

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Its nodes, layer by layer, heads before the MLP."""
        return nodes_of(self.graph)

    @property
    def n_edges(self) -> int:
        """Its edges, those into a head's query, key and value each counted."""
        return sum(max(1, len(about.get("inputs", ()))) for _, _, about in self.graph.edges(data=True))

    @property
    def roles(self) -> dict[str, tuple[Node, ...]]:
        """Its nodes by role; a node may have several."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for role in self.graph.nodes[str(node)].get("roles", ()):
                found.setdefault(role, []).append(node)
        return {role: tuple(nodes) for role, nodes in found.items()}

    @property
    def table(self) -> pd.DataFrame:
        """One row for each node and role: node, role, position."""
        rows = []
        for node in self.nodes:
            about = self.graph.nodes[str(node)]
            for role in about.get("roles", ()) or ("",):
                rows.append((str(node), role, about.get("positions", {}).get(role, "")))
        return pd.DataFrame(rows, columns=["node", "role", "position"])

    @gated(error=BadCircuit)
    def save(self, path: Path) -> Path:
        """Writes it as YAML or JSON, whole or not at all; `steerscope.circuit` gives the same back.

        Raises:
            BadCircuit: an unknown suffix.
            DiskFull, CannotWrite: see `files.storing`.
        """
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise BadCircuit(f"a circuit to {quoted(path)}; expected {', '.join(SUFFIXES)}; choose one of these")
        return files.write(
            path, json.dumps(_told(self), indent=1, ensure_ascii=False) if suffix == ".json" else self.yaml
        )

    @property
    def yaml(self) -> str:
        """The circuit as YAML."""
        return str(yaml.safe_dump(_told(self), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120))

    @gated(error=BadCircuit)
    def of(self, model: Model) -> "Circuit":
        """The circuit itself, if it is one of a model of this shape, which has all of its nodes.

        Raises:
            BadCircuit: it is one of another model, or has to be measured first.
        """
        if not self.nodes:
            raise BadCircuit(
                f"circuit {self.name} has no list of nodes, detectors find them in each model; expected one "
                "with nodes; measured_circuit(circuit, detect_heads(model)) makes it of this one"
            )
        found = tuple(getattr(model, name, None) for name in ("n_layers", "n_heads", "d_model"))
        if None in found:
            raise BadCircuit(f"of got model={shown(model)}; expected a model; make one with steerscope.load")
        if any(size not in (None, own) for size, own in zip(self.shape, found, strict=True)):
            raise BadCircuit(
                f"circuit {self.name} is one of {self.model} ({_shape(*self.shape)}), and {model.name} has "
                f"{_shape(*found)}; expected that model; load it, or find the circuit of this one"
            )
        for node in self.nodes:
            there = model.has_mlp if node.head is None else node.head < model.n_heads
            if node.layer >= model.n_layers or not there:
                raise BadCircuit(
                    f"circuit {self.name} holds {node}, which {model.name} has not ({model.n_layers} layers of "
                    f"{model.n_heads} heads, {'with' if model.has_mlp else 'without'} MLPs); expected nodes of that "
                    "model; mend it"
                )
        return self


def _shape(layers: int | None, heads: int | None, width: int | None) -> str:
    sizes = [counted(size, what) for size, what in ((layers, "layer"), (heads, "head")) if size]
    return " x ".join(sizes or ["any size"]) + (f", width {width}" if width else "")


@gated(error=BadCircuit)
def nodes_of(graph: Any) -> tuple[Node, ...]:
    """The nodes among a graph's vertices, layer by layer, heads before the MLP."""
    found = (parse_node(str(vertex)) for vertex in graph if vertex not in (INPUT, LOGITS))
    return tuple(sorted(found, key=lambda node: (node.layer, node.head is None, node.head or 0)))


def forward(sender: str, receiver: str) -> bool:
    """Whether an edge can be there: its sender is computed before its receiver (heads before their layer's MLP)."""
    return receiver != INPUT and sender != LOGITS and _depth(sender) < _depth(receiver)


def fault_of(sender: str, receiver: str, inputs: Sequence[str]) -> str:
    """What is wrong with an edge, in words; empty where nothing is."""
    if not forward(sender, receiver):
        return "runs backwards (a circle)"
    headless = receiver == LOGITS or parse_node(receiver).head is None
    return "has `into`, which only heads have" if inputs and headless else ""


def _depth(vertex: str) -> float:
    if vertex in (INPUT, LOGITS):
        return -1.0 if vertex == INPUT else INFINITE
    node = parse_node(vertex)
    return node.layer + (0.5 if node.head is None else 0.0)


def _told(circuit: Circuit) -> dict[str, Any]:
    graph: Graph = circuit.graph
    roles: dict[str, dict[str, Any]] = {}
    for node in circuit.nodes:
        about = graph.nodes[str(node)]
        for role in about.get("roles", ()) or ("member",):
            place = about.get("positions", {}).get(role, "")
            part = roles.setdefault(role, {"at": place, "nodes": []} if place else {"nodes": []})
            part["nodes"].append(str(node))
    edges: list[dict[str, Any]] = []
    for sender, receiver, about in graph.edges(data=True):
        scores: Mapping[str, float] = about.get("scores", {})
        plain = [name for name in about.get("inputs", ()) if name not in scores]
        if plain or not scores:
            edges.append({"from": sender, "to": receiver, **({"into": plain} if plain else {})})
        for name, score in scores.items():
            edges.append({"from": sender, "to": receiver, **({"into": [name]} if name else {}), "score": float(score)})
    sizes = dict(zip(("layers", "heads", "width"), circuit.shape, strict=True))
    told = (
        {name: getattr(circuit, name) for name in SAID}
        | sizes
        | {"roles": roles, "level": circuit.level, "edges": edges}
    )
    told = {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}
    return {name: value for name, value in told.items() if value not in (None, "", [], {})}
