"""The one reader of other people's texts: lines, JSON lines, a JSON array, CSV, parquet, standard input.

1. A file is read as a stream, record by record; a record that is too long is refused before it is held.
2. What cannot be used is refused with the file, the place in it and the reason: nothing is dropped, nothing guessed.
"""

import csv
import io
import json
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol, TextIO

from .brief import brief
from .errors import BadPrompt, SteerscopeError
from .opening import (
    GROUP,
    LARGEST,
    LONGEST,
    MOST,
    Record,
    Source,
    cell_of,
    column,
    encodable,
    group_of,
    is_standard,
    opened,
)
from .parquet import parquet

CHAT, MESSAGE = "messages", ("role", "content")
FIELDS = ("prompt", "text")  # where to look for the text of a record
PLAIN = ("", ".txt", ".text", ".md")  # suffixes of files that are text and nothing else
LIKE_JSON = re.compile(
    r"""(\[\s*(["{\[\]]|\n|$)|\{\s*")"""
)  # how arrays and objects begin, and hardly any line of text
PIECE = 1 << 20  # characters that are read at once, and the longest line of text that is one prompt


class Format(Protocol):
    """Streams the records of an open file whose texts stand under the first of some fields."""

    def __call__(self, file: BinaryIO, source: "Source") -> Iterator[Record]: ...


def records(
    path: str | Path,
    fields: Sequence[str] = FIELDS,
    error: type[SteerscopeError] = BadPrompt,
    text: "Format | None" = None,
    whole: bool = False,
    columns: Sequence[str] = (),
) -> Iterator[Record]:
    """The records of a file (by its suffix), or of standard input (`-`: lines, or JSONL where it begins with `{`).

    Args:
        fields: the first of these that a record has holds its text.
        error: what to raise.
        text: how files without a structure are read: as `lines` (default), or as `paragraphs`.
        whole: they are prompts, all of which will be held, and have groups.
        columns: others that are read beside the text.

    Raises:
        error: the file cannot be read, or not be used; the message names the place.
    """
    source = Source(path, fields, error, whole, columns)
    plain = text or lines
    with opened(path, error) as file:
        read = _format(file, source, plain)
        try:
            yield from read(file, source)
        except UnicodeDecodeError as reason:
            byte = file.tell() - len(reason.object) + reason.start
            source.refuse(f"is not UTF-8 (byte {byte})", "UTF-8 text; convert it, for example with iconv", reason)


def _format(file: BinaryIO, source: Source, plain: Format) -> Format:
    """How a file is read: by its suffix, and standard input by how it begins.

    Raises:
        the source's error: a suffix that says nothing of how to read it, or prompts that are JSON by another name.
    """
    suffix = Path(source.path).suffix.lower()
    if suffix in FORMATS and not is_standard(source.path):
        return FORMATS[suffix]
    if not is_standard(source.path) and suffix not in PLAIN:
        source.refuse(
            f"has the suffix {brief(suffix)}", f"{', '.join((*PLAIN[1:], *FORMATS))} or none; convert it, or rename it"
        )
    begins = LIKE_JSON.match(_begin(file, source)) is not None
    if is_standard(source.path):
        return _json if begins or _begin(file, source).startswith("{") else plain
    if begins and source.whole:
        source.refuse("begins as JSON does", "a text a line; call it .json or .jsonl, or mend it")
    return plain


def held(
    path: str | Path,
    error: type[SteerscopeError] = BadPrompt,
    fields: Sequence[str] = FIELDS,
    columns: Sequence[str] = (),
) -> list[Record]:
    """All records of a file of prompts: texts, or chats.

    Raises:
        error: as `records`; or a blank one, none at all, or more than `MOST` or than `LARGEST` characters.
    """
    found: list[Record] = []
    size = 0
    source = Source(path, fields, error)
    for record in records(path, fields, error, whole=True, columns=columns):
        if not record.text.strip():
            source.refuse(f"{record.place} is empty or blank", "a text; write one, or remove it")
        found.append(record)
        size += len(record.text)
        if len(found) > MOST or size > LARGEST:
            source.refuse(f"holds more than {MOST:,} prompts or {LARGEST:,} characters", "fewer; make it smaller")
    if not found:
        source.refuse("holds no prompts", "at least one; add some")
    return found


def _begin(file: BinaryIO, source: Source) -> str:
    start = file.read(4096).decode("utf-8-sig", errors="ignore").lstrip()
    file.seek(0)
    return start


@contextmanager
def _text(file: BinaryIO, newline: str | None = None) -> Iterator[TextIO]:
    """The file as UTF-8 text, with or without a byte order mark."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)
    try:
        yield text
    finally:
        text.detach()  # it would close the file, which is not its own


def _lines(file: TextIO, source: Source, longest: int) -> Iterator[tuple[int, str]]:
    """Numbered lines, none of them longer than `longest`."""
    for number, line in enumerate(iter(lambda: file.readline(longest + 1), ""), 1):
        if len(line) > longest:
            source.refuse(f"line {number} has more than {longest:,} characters", "shorter ones; part it")
        yield number, _printable(line, number, source)


def _printable(line: str, number: int, source: Source) -> str:
    if "\0" in line:
        source.refuse(f"line {number} holds a NUL", "text in UTF-8; convert it (is it UTF-16, or no text?)")
    return line


# Formats.


def lines(file: BinaryIO, source: Source) -> Iterator[Record]:
    """A text a line; blank lines are skipped. Lines end with a newline (of any system) and with nothing else."""
    if source.columns or tuple(source.fields) != FIELDS:
        source.refuse("has no columns", "a .jsonl, .json, .csv or .parquet file; write it so, or name no column")
    with _text(file) as text:
        for number, line in _lines(text, source, PIECE):
            if line.strip():
                yield Record(line.rstrip("\n"), None, f"line {number}")


def paragraphs(file: BinaryIO, source: Source) -> Iterator[Record]:
    """Paragraphs between blank lines; lines, where no blank line parts the first `PIECE` characters.

    No more than about `PIECE` characters are held: a longer paragraph is given in parts.
    """
    with _text(file) as text:
        by_line = re.search(r"\n\s*\n", text.read(PIECE).strip()) is None
        text.seek(0)
        kept: list[str] = []
        size = start = 0
        number = 1
        for line in iter(lambda: text.readline(PIECE), ""):
            _printable(line, number, source)
            if line.strip():
                start = start if kept else number
                kept.append(line)
                size += len(line)
            if kept and (by_line or not line.strip() or size >= PIECE):
                yield Record("".join(kept).strip(), None, f"line {start}")
                kept, size = [], 0
            number += line.endswith("\n")
        if kept:
            yield Record("".join(kept).strip(), None, f"line {start}")


def _json(file: BinaryIO, source: Source) -> Iterator[Record]:
    """A JSON value a line, or the entries of one array: texts, or objects that hold one."""
    for place, value in json_values(file, source):
        yield record(value, place, source)


def json_values(file: BinaryIO, source: Source) -> Iterator[tuple[str, Any]]:
    """A JSON value a line, or the entries of one array, each with its place."""
    values = _array if _begin(file, source).startswith("[") else _json_lines
    with _text(file) as text:
        yield from values(text, source)


def _json_lines(text: TextIO, source: Source) -> Iterator[tuple[str, Any]]:
    for number, line in _lines(text, source, LONGEST):
        if not line.strip():
            continue
        try:
            yield f"line {number}", JSON.decode(line)
        except (ValueError, RecursionError) as reason:
            _no_json(f"line {number}", reason, source)


def _array(text: TextIO, source: Source) -> Iterator[tuple[str, Any]]:
    """The entries of an array, of which one is held."""
    rest, at, entry = text.read(PIECE), 0, 0
    line, counted = 1, 0  # the line that a place in `rest` is in

    def more(size: int) -> bool:
        """Reads on, and forgets what was used."""
        nonlocal rest, at, counted
        where()
        piece = text.read(size)
        rest, at, counted = rest[at:] + piece, 0, 0
        return bool(piece)

    def sign() -> str:
        """The next character that is no space; empty at the end."""
        nonlocal at
        while True:
            at = _SPACE.match(rest, at).end()  # type: ignore[union-attr]
            if at < len(rest):
                return rest[at]
            if not more(PIECE):
                return ""

    def where() -> str:
        nonlocal line, counted
        line += rest.count("\n", counted, at)
        counted = at
        return f"entry {entry} (line {line})"

    sign()
    at += 1  # the bracket
    while (found := sign()) != "]" or entry:
        entry += 1
        while True:
            try:
                value, end = JSON.raw_decode(rest, at)
                if end < len(rest) or not more(PIECE):  # a number may go on
                    break
            except (ValueError, RecursionError) as reason:
                whole = isinstance(reason, RecursionError) or len(rest) - at > LONGEST
                if whole or not more(max(PIECE, len(rest) - at)):
                    _no_json(where(), reason, source)
        if end - at > LONGEST:
            source.refuse(f"{where()} has more than {LONGEST:,} characters", "shorter ones; part it")
        yield where(), value
        at = end
        found = sign()
        if found == "]":
            break
        if found != ",":
            source.refuse(f"is not JSON after {where()}", "a comma, or ] at the end; mend it")
        at += 1
    at += 1
    if sign():
        source.refuse(f"goes on behind its array, after {where()}", "nothing there; mend it, or write JSON lines")


def record(value: Any, place: str, source: Source) -> Record:
    """A record of a value that JSON can hold: a text, or an object with one.

    Raises:
        the source's error: it has no text, or half a character.
    """
    group = None
    text = value
    if isinstance(value, dict):
        text = next((value[field] for field in source.fields if field in value), None)
        group = group_of(value.get(GROUP), place, source) if source.whole else None
        if (
            source.whole
            and text is None
            and CHAT in value
            or isinstance(text, list)
            and text
            and isinstance(text[0], dict)
        ):
            messages = messages_of(value[CHAT] if text is None else text, place, source)
            return Record(json.dumps(messages), group, place, _cells(value, place, source), messages)
    if not isinstance(text, str):
        source.refuse(
            f"{place} has no text under {' or '.join(source.fields)} (it holds {brief(repr(value))})",
            f'for example {{"{source.fields[0]}": "Once"}}; add one',
        )
    return Record(encodable(text, place, source), group, place, _cells(value, place, source))


def messages_of(value: Any, place: str, source: Source) -> list[dict[str, str]]:
    """A chat: messages that have a role and a content.

    Raises:
        the source's error: it is none, or chats are not read here.
    """
    good = source.whole and isinstance(value, list) and value
    if not good or not all(
        isinstance(m, dict) and set(m) == set(MESSAGE) and all(isinstance(text, str) for text in m.values())
        for m in value
    ):
        source.refuse(
            f"{place} holds {brief(repr(value))}", f'{CHAT} such as [{{"role": "user", "content": "Hi"}}]; mend it'
        )
    for message in value:
        for text in message.values():
            encodable(text, place, source)
    return [{name: message[name] for name in MESSAGE} for message in value]


def _cells(value: Any, place: str, source: Source) -> tuple[Any, ...]:
    """The other columns of an object."""
    if source.columns and not isinstance(value, dict):
        source.refuse(f"{place} is no object", f"one with {' and '.join(source.columns)}; mend it")
    return tuple(cell_of(value.get(name), name, place, source) for name in source.columns)


def _no_json(place: str, reason: Exception, source: Source) -> NoReturn:
    why = "too many brackets in each other" if isinstance(reason, RecursionError) else brief(str(reason), 120)
    source.refuse(f"{place} is not JSON ({why})", f'for example {{"{source.fields[0]}": "Once"}}; mend it', reason)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, whose names are all different."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {brief(repr(twice))} stands there twice")
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


JSON = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_constant)
_SPACE = re.compile(r"[ \t\n\r]*")


def csv_rows(file: BinaryIO, source: Source) -> Generator[tuple[str, list[str]], None, None]:
    """The rows of CSV, that of the names first, each with the line that it begins in; blank lines are skipped.

    Raises:
        the source's error: rows of other lengths than the first, or longer than `LONGEST`, or what is no CSV.
    """
    with _text(file, newline="") as text:
        line, length, width = 0, 0, None

        def limited() -> Iterator[str]:
            nonlocal line, length
            for line, part in _lines(text, source, LONGEST):
                length += len(part)
                if length > LONGEST:
                    source.refuse(
                        f"line {line} ends a row of more than {LONGEST:,} characters", "shorter ones; part it"
                    )
                yield part

        try:
            begin = 1
            for row in csv.reader(limited(), strict=True):
                place, begin, length = f"line {begin}", line + 1, 0
                if not row:
                    continue
                width = len(row) if width is None else width
                if len(row) != width:
                    source.refuse(f"{place} has {len(row)} cells under {width} columns", "as many; quote commas")
                yield place, row
        except csv.Error as reason:
            source.refuse(
                f"line {line} is not CSV ({reason})",
                f"closed quotes and fields of at most {csv.field_size_limit():,} characters; mend it, or write JSONL",
                reason,
            )


def _csv(file: BinaryIO, source: Source) -> Iterator[Record]:
    """A row a record, under a line of names."""
    with closing(csv_rows(file, source)) as rows:
        for _, head in rows:
            at = head.index(column(source, head))
            group = head.index(column(source, head, GROUP)) if GROUP in head and source.whole else None
            others = [(head.index(column(source, head, name)), name) for name in source.columns]
            for place, row in rows:
                cells = tuple(cell_of(row[n], name, place, source) for n, name in others)
                yield Record(row[at], None if group is None else group_of(row[group], place, source), place, cells)


FORMATS: dict[str, Format] = {".json": _json, ".jsonl": _json, ".csv": _csv, ".parquet": parquet}
