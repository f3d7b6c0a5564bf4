"""Circuits as YAML or JSON: the schema, read with file and line of every fault.

    name: minimal
    title: what it does
    model: gpt2
    layers: 12
    heads: 12
    width: 768
    roles:
      mover: {at: END, nodes: [L9H6, L9H9]}
    edges:
      - {from: mover, to: logits}          # a role: all of its nodes
      - {from: input, to: L9H6, into: [q]} # or a node

1. The text is read with the line of every value, and held against the schema (`lined`).
2. Roles in edges become all pairs of their nodes that run forward.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from steerscope.analysis.brief import quoted
from steerscope.analysis.errors import BadCircuit, BadNode
from steerscope.analysis.gate import gated
from steerscope.analysis.model.nodes import parse_node

from .circuit import INPUT, LOGITS, SAID, Circuit, Confidence, Graph, Level, fault_of, forward
from .lined import Document, Part, read_document

WHAT = "a circuit as docs/circuits.md shows it"
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000, strip_whitespace=True)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Many = Annotated[int, Field(ge=1, le=100_000)]


class _Role(Part):
    at: Text = ""
    nodes: Annotated[list[Text], Field(min_length=1)]


class _Edge(Part):
    sender: Text = Field(alias="from")
    receiver: Text = Field(alias="to")
    into: list[Literal["q", "k", "v"]] = []
    score: Number | None = None


class _File(Part):
    name: Text
    title: Text
    model: Text
    layers: Many | None = None
    heads: Many | None = None
    width: Many | None = None
    task: Text | None = None
    metric: str = ""
    confidence: Confidence = "ours"
    sources: list[Text] = []
    rivals: list[Text] = []
    detectors: dict[Text, Text] = {}
    reported: dict[Text, Number] = {}
    caveats: list[Text] = []
    roles: dict[Text, _Role] = {}
    level: Level | None = None
    edges: list[_Edge] = []


@gated(error=BadCircuit)
def read_circuit(path: Path) -> Circuit:
    """A circuit from a YAML or JSON file.

    Raises:
        BadCircuit: it cannot be read, or something in it is wrong; the message names file and line.
    """
    told, document = read_document(path, WHAT, _File)
    return _made(told, document)


def _made(told: _File, document: Document) -> Circuit:
    graph: Graph = Graph()
    for role, part in told.roles.items():
        for index, text in enumerate(part.nodes):
            name = _node(document, text, document.line("roles", role, "nodes", index))
            about = graph.nodes[name] if name in graph else {"roles": (), "positions": {}}
            if role in about["roles"]:
                raise document.wrong(document.line("roles", role, "nodes", index), f"{name} stands twice in {role!r}")
            positions = {**about["positions"], **({role: part.at} if part.at else {})}
            graph.add_node(name, roles=(*about["roles"], role), positions=positions)
    for index, edge in enumerate(told.edges):
        line = document.line("edges", index)
        pairs = [
            (sender, receiver)
            for sender in _ends(document, edge.sender, told.roles, graph, line)
            for receiver in _ends(document, edge.receiver, told.roles, graph, line)
        ]
        good = [pair for pair in pairs if forward(*pair)] or pairs  # of roles; what is left of none is told below
        for sender, receiver in good:
            fault = fault_of(sender, receiver, edge.into)
            if fault:
                raise document.wrong(line, f"the edge {sender} -> {receiver} {fault}")
            _add(graph, sender, receiver, edge)
    level: Level = told.level or ("exact" if told.edges else "none")
    try:
        return Circuit(
            graph=graph,
            level=level,
            n_layers=told.layers,
            n_heads=told.heads,
            d_model=told.width,
            **told.model_dump(include=set(SAID)),
        )
    except BadCircuit as error:
        raise BadCircuit(f"{quoted(document.path)}: {error}") from error


def _add(graph: Graph, sender: str, receiver: str, edge: _Edge) -> None:
    for vertex in (sender, receiver):
        if vertex not in graph:  # `input` or `logits`
            graph.add_node(vertex, roles=(), positions={})
    if not graph.has_edge(sender, receiver):
        graph.add_edge(sender, receiver, inputs=(), scores={})
    about = graph.edges[sender, receiver]
    about["inputs"] = tuple(name for name in "qkv" if name in about["inputs"] or name in edge.into)
    if edge.score is not None:
        about["scores"] = {**about["scores"], **dict.fromkeys((*edge.into,) or ("",), edge.score)}


def _node(document: Document, text: str, line: int) -> str:
    try:
        return str(parse_node(text))
    except BadNode as error:
        raise document.wrong(line, str(error).split(";")[0]) from error


def _ends(document: Document, text: str, roles: Mapping[str, _Role], graph: Graph, line: int) -> Sequence[str]:
    if text in (INPUT, LOGITS):
        return [text]
    if text in roles:
        return [_node(document, node, line) for node in roles[text].nodes]
    name = _node(document, text, line) if text[:1] == "L" and text[1:2].isdigit() else ""
    if name not in graph:
        raise document.wrong(
            line, f"{text!r} is no node or role of this circuit, which has {', '.join(roles) or 'no roles'}"
        )
    return [name]
