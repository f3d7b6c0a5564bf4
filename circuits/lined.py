"""YAML and JSON files of circuits and hypotheses, held against a schema; every fault is told with file and line.

1. The text is composed with the line of every value; anchors and tags are refused, so nothing is built by a text.
2. pydantic holds the values against the schema; a fault is told with its line.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from steerscope.analysis import files
from steerscope.analysis.brief import brief, quoted
from steerscope.analysis.errors import BadCircuit
from steerscope.analysis.opening import reading

from .circuit import SUFFIXES

LARGEST = 1 << 24  # bytes of a file
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Spot = tuple[str | int, ...]  # keys and indices from the top of a document


class Part(BaseModel):
    """A part of a schema: no keys but its own, no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Told = TypeVar("Told", bound=Part)


@dataclass(frozen=True)
class Document:
    """A file that is read.

    Attributes:
        what: it should be, in words: `a circuit as docs/circuits.md shows it`.
        lines: of each value, by its spot.
    """

    path: Path
    what: str
    lines: Mapping[Spot, int]

    def line(self, *spot: str | int) -> int:
        """The line of a value, or of what it stands in."""
        while spot and spot not in self.lines:
            spot = spot[:-1]
        return self.lines.get(spot, 1)

    def wrong(self, line: int, fault: str) -> BadCircuit:
        """A fault as an error."""
        return BadCircuit(
            f"{quoted(self.path)}, line {line}: {brief(fault, 400)}; expected {self.what}; mend that line"
        )


def read_document(path: Path, what: str, schema: type[Told]) -> tuple[Told, Document]:
    """What a file says, by a schema.

    Raises:
        BadCircuit: it cannot be read, or something in it is wrong; the message names file and line.
    """
    if path.suffix.lower() not in SUFFIXES:
        kind = " ".join(what.split()[:2]).removeprefix("a ")
        raise BadCircuit(f"{quoted(path)} is no {kind}; expected {', '.join(SUFFIXES)}; convert it")
    with reading(path, BadCircuit):
        content = files.read_plain(path)
    if len(content) > LARGEST:
        raise BadCircuit(f"{quoted(path)} has {len(content):,} bytes; expected at most {LARGEST:,}; make it smaller")
    lines: dict[Spot, int] = {}
    document = Document(path, what, lines)
    value = _composed(document, content, lines)
    try:
        return schema.model_validate(value), document
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=True)[0]
        spot = tuple(part for part in first["loc"] if isinstance(part, str | int))
        named = ".".join(map(str, spot)) or "the file"
        got = "" if first["type"] in ("missing", "extra_forbidden") else f", got {brief(repr(first['input']), 60)}"
        raise document.wrong(document.line(*spot), f"{named}: {first['msg']}{got}") from None
    except RecursionError as error:
        raise document.wrong(1, "is nested too deeply") from error


def _composed(document: Document, content: bytes, lines: dict[Spot, int]) -> Any:
    """What a YAML or JSON text holds."""
    try:
        text = content.decode("utf-8-sig")
        if document.path.suffix.lower() == ".json":
            text = text.replace("\t", " ")  # JSON may be indented by tabs, YAML not; within its strings there are none
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) not in (None, "!"):
                line = (event.start_mark.line if event.start_mark else 0) + 1
                raise document.wrong(line, "holds an alias or a tag of YAML")
        root = yaml.compose(text, Loader=_Loader)
        if root is None:
            raise document.wrong(1, "is empty")
        return _value(_Loader(""), document, root, (), lines)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        why = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise document.wrong(1 if mark is None else mark.line + 1, f"is no YAML ({brief(why, 100)})") from error
    except UnicodeDecodeError as error:
        raise document.wrong(content[: error.start].count(b"\n") + 1, "is not UTF-8") from error
    except (RecursionError, ValueError) as error:  # a number of more digits than Python reads, a date that is none
        raise document.wrong(1, f"cannot be read ({brief(str(error), 100)})") from error


def _value(loader: Any, document: Document, node: Any, spot: Spot, lines: dict[Spot, int]) -> Any:
    lines[spot] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
            if not name or name in found:
                line = key.start_mark.line + 1
                raise document.wrong(line, f"has the key {brief(name, 40)!r} twice, or one that is none")
            found[name] = _value(loader, document, value, (*spot, name), lines)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, document, item, (*spot, index), lines) for index, item in enumerate(node.value)]
    return loader.construct_object(node)
