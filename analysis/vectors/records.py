"""Files whose rows have several texts: pairs, questions with answers, lists of vectors (`.csv`, `.jsonl`, `.json`)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadVector
from steerscope.analysis.opening import LARGEST, MOST, Source, encodable, named, opened
from steerscope.analysis.reading import csv_rows, json_values


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: where it stands, and its fields, as text where they are text."""

    place: str
    fields: Mapping[str, Any]


def rows(path: str | Path, needed: Sequence[str]) -> list[Row]:
    """The rows of a file, each with the needed fields, all of them text.

    Raises:
        BadVector: it cannot be read, has no rows, or a row lacks a field; the message names the place.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise BadVector(f"{named(path)} has the suffix {brief(suffix)!r}; expected {', '.join(FORMATS)}; convert it")
    source = Source(path, needed, BadVector)
    found: list[Row] = []
    size = 0
    with opened(path, BadVector) as file:
        try:
            for row in FORMATS[suffix](file, source):
                for name in needed:
                    if not isinstance(row.fields.get(name), str):
                        there = brief(", ".join(map(str, row.fields)), 200) or "nothing"
                        source.refuse(f"{row.place} has no text under {name} (it has {there})", "one; add it")
                    encodable(row.fields[name], row.place, source)
                    size += len(row.fields[name])
                found.append(row)
                if len(found) > MOST or size > LARGEST:
                    source.refuse(f"holds more than {MOST:,} rows or {LARGEST:,} characters", "fewer; make it smaller")
        except UnicodeDecodeError as reason:
            source.refuse("is not UTF-8", "UTF-8 text; convert it, for example with iconv", reason)
    if not found:
        source.refuse("holds no rows", f"at least one, with {', '.join(needed)}; add some")
    return found


def _json(file: BinaryIO, source: Source) -> Iterator[Row]:
    for place, value in json_values(file, source):
        if not isinstance(value, dict):
            wanted = f"one with {', '.join(source.fields)}"
            source.refuse(f"{place} is no object (it holds {brief(repr(value))})", wanted)
        yield Row(place, value)


def _csv(file: BinaryIO, source: Source) -> Iterator[Row]:
    with closing(csv_rows(file, source)) as found:
        for _, head in found:
            twice = [name for name in head if head.count(name) > 1]
            if twice:
                source.refuse(f"has several columns named {brief(twice[0])}", "one; rename the others")
            for place, cells in found:
                yield Row(place, dict(zip(head, cells, strict=True)))


FORMATS = {".csv": _csv, ".jsonl": _json, ".json": _json}
