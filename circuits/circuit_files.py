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

1. The text is composed with the line of every value; anchors and tags are refused, so nothing is built by a text.
2. pydantic holds the values against the schema; a fault is told with its line.
3. Roles in edges become all pairs of their nodes that run forward.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from steerscope.analysis import files
from steerscope.analysis.brief import brief, quoted
from steerscope.analysis.errors import BadCircuit, BadNode
from steerscope.analysis.gate import gated
from steerscope.analysis.model.nodes import parse_node
from steerscope.analysis.opening import reading

from .circuit import INPUT, LOGITS, SAID, SUFFIXES, Circuit, Confidence, Graph, Level, fault_of, forward

LARGEST = 1 << 24  # bytes of a file
Lines = dict[tuple[str | int, ...], int]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000, strip_whitespace=True)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Many = Annotated[int, Field(ge=1, le=100_000)]
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Role(_Part):
    at: Text = ""
    nodes: Annotated[list[Text], Field(min_length=1)]


class _Edge(_Part):
    sender: Text = Field(alias="from")
    receiver: Text = Field(alias="to")
    into: list[Literal["q", "k", "v"]] = []
    score: Number | None = None


class _File(_Part):
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
    if path.suffix.lower() not in SUFFIXES:
        raise BadCircuit(f"{quoted(path)} is no circuit; expected {', '.join(SUFFIXES)}; convert it")
    with reading(path, BadCircuit):
        content = files.read_plain(path)
    if len(content) > LARGEST:
        raise BadCircuit(f"{quoted(path)} has {len(content):,} bytes; expected at most {LARGEST:,}; make it smaller")
    document, lines = _composed(path, content)
    try:
        told = _File.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=True)[0]
        place = tuple(part for part in first["loc"] if isinstance(part, str | int))
        what = ".".join(map(str, place)) or "the file"
        got = "" if first["type"] in ("missing", "extra_forbidden") else f", got {brief(repr(first['input']), 60)}"
        raise _wrong(path, _line(lines, place), f"{what}: {first['msg']}{got}") from None
    except RecursionError as error:
        raise _wrong(path, 1, "is nested too deeply") from error
    return _made(path, told, lines)


def _composed(path: Path, content: bytes) -> tuple[Any, Lines]:
    """What a YAML or JSON text holds, and the line of each value by its path."""
    lines: Lines = {}
    try:
        text = content.decode("utf-8-sig")
        if path.suffix.lower() == ".json":
            text = text.replace("\t", " ")  # JSON may be indented by tabs, YAML not; within its strings there are none
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) not in (None, "!"):
                raise _wrong(
                    path, (event.start_mark.line if event.start_mark else 0) + 1, "holds an alias or a tag of YAML"
                )
        root = yaml.compose(text, Loader=_Loader)
        if root is None:
            raise _wrong(path, 1, "is empty")
        loader = _Loader("")
        return _value(loader, path, root, (), lines), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        why = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise _wrong(path, 1 if mark is None else mark.line + 1, f"is no YAML ({brief(why, 100)})") from error
    except UnicodeDecodeError as error:
        raise _wrong(path, content[: error.start].count(b"\n") + 1, "is not UTF-8") from error
    except (RecursionError, ValueError) as error:  # a number of more digits than Python reads, a date that is none
        raise _wrong(path, 1, f"cannot be read ({brief(str(error), 100)})") from error


def _value(loader: Any, path: Path, node: Any, place: tuple[str | int, ...], lines: Lines) -> Any:
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
            if not name or name in found:
                raise _wrong(
                    path, key.start_mark.line + 1, f"has the key {brief(name, 40)!r} twice, or one that is none"
                )
            found[name] = _value(loader, path, value, (*place, name), lines)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, path, item, (*place, index), lines) for index, item in enumerate(node.value)]
    return loader.construct_object(node)


def _line(lines: Lines, place: tuple[str | int, ...]) -> int:
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


def _wrong(path: Path, line: int, what: str) -> BadCircuit:
    return BadCircuit(
        f"{quoted(path)}, line {line}: {brief(what, 400)}; expected a circuit as docs/circuits.md shows "
        "it; mend that line"
    )


def _made(path: Path, told: _File, lines: Lines) -> Circuit:
    graph: Graph = Graph()
    for role, part in told.roles.items():
        for index, text in enumerate(part.nodes):
            name = _node(path, text, _line(lines, ("roles", role, "nodes", index)))
            about = graph.nodes[name] if name in graph else {"roles": (), "positions": {}}
            if role in about["roles"]:
                raise _wrong(path, _line(lines, ("roles", role, "nodes", index)), f"{name} stands twice in {role!r}")
            positions = {**about["positions"], **({role: part.at} if part.at else {})}
            graph.add_node(name, roles=(*about["roles"], role), positions=positions)
    for index, edge in enumerate(told.edges):
        line = _line(lines, ("edges", index))
        pairs = [
            (sender, receiver)
            for sender in _ends(path, edge.sender, told.roles, graph, line)
            for receiver in _ends(path, edge.receiver, told.roles, graph, line)
        ]
        good = [pair for pair in pairs if forward(*pair)] or pairs  # of roles; what is left of none is told below
        for sender, receiver in good:
            fault = fault_of(sender, receiver, edge.into)
            if fault:
                raise _wrong(path, line, f"the edge {sender} -> {receiver} {fault}")
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
        raise BadCircuit(f"{quoted(path)}: {error}") from error


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


def _node(path: Path, text: str, line: int) -> str:
    try:
        return str(parse_node(text))
    except BadNode as error:
        raise _wrong(path, line, str(error).split(";")[0]) from error


def _ends(path: Path, text: str, roles: Mapping[str, _Role], graph: Graph, line: int) -> Sequence[str]:
    if text in (INPUT, LOGITS):
        return [text]
    if text in roles:
        return [_node(path, node, line) for node in roles[text].nodes]
    name = _node(path, text, line) if text[:1] == "L" and text[1:2].isdigit() else ""
    if name not in graph:
        raise _wrong(
            path, line, f"{text!r} is no node or role of this circuit, which has {', '.join(roles) or 'no roles'}"
        )
    return [name]
