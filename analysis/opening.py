"""Opening other people's files: how they are opened, what is read of them, and how their faults are told.

1. A plain file alone is opened: a folder, a pipe or a device is refused, and nothing waits for one.
2. Standard input (`-`) is a file that can be read again.
3. Whatever the system refuses becomes one sentence (`reading`).
"""

import io
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TextIO

from .brief import brief
from .errors import BadPrompt, SteerscopeError

STANDARD = "-"  # the name of standard input
GROUP = "group"  # the field that says which records belong together
LONGEST = 1 << 23  # characters of the longest record
MOST = 1_000_000  # texts that are held at once
LARGEST = 1 << 28  # characters that are held at once, and bytes of standard input


@contextmanager
def reading(path: str | Path, error: type[SteerscopeError]) -> Iterator[None]:
    """What the system refuses while something is read from `path`, in one sentence.

    Raises:
        error: it cannot be read.
    """
    try:
        yield
    except OSError as reason:
        why = reason.strerror or str(reason)
        raise error(
            f"{named(path)} cannot be read ({why}); expected a readable file; check its name and its rights"
        ) from reason
    except ValueError as reason:
        if "embedded null" not in str(reason) and not isinstance(reason, UnicodeEncodeError):  # a name no file can have
            raise
        raise error(f"{named(path)} is no name of a file ({reason}); expected a plain one; check it") from reason


@contextmanager
def opened(path: str | Path, error: type[SteerscopeError] = BadPrompt) -> Iterator[BinaryIO]:
    """A plain file, or what came on standard input, as bytes.

    Raises:
        error: there is no such file, it is a folder, a pipe or a device, or cannot be read.
    """
    with reading(path, error):
        if is_standard(path):
            yield io.BytesIO(_standard(error))
            return
        # Without waiting: a pipe that nobody writes to would never open.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                what = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device"
                raise error(
                    f"{named(path)} is {what}; expected a plain file; give one, or - and the text on standard input"
                )
            yield file


def is_standard(path: str | Path) -> bool:
    """Whether a name stands for standard input; a file of that name is `./-`."""
    return str(path) == STANDARD


def named(path: str | Path) -> str:
    """A file in a message."""
    return "standard input" if is_standard(path) else brief(repr(str(path)), 200)


def _standard(error: type[SteerscopeError]) -> bytes:
    if sys.stdin is None or sys.stdin.closed:
        raise error("there is no standard input; expected texts on it, one a line, or JSONL; give a file")
    if sys.stdin.isatty():
        raise error(
            "standard input is a terminal; expected texts, one a line, or JSONL, from a pipe; for example: "
            "steerscope ... --prompts - < prompts.txt"
        )
    found = _piped(sys.stdin)
    if len(found) > LARGEST:
        raise error(f"standard input has more than {LARGEST:,} bytes; expected fewer; write it to files")
    return found


@lru_cache(maxsize=1)
def _piped(stream: TextIO) -> bytes:
    """What came, kept: it can be read once only, and is asked for as often as a file is."""
    whole: bytes | str = getattr(stream, "buffer", stream).read(LARGEST + 1)
    return whole.encode() if isinstance(whole, str) else whole


@dataclass(frozen=True, slots=True)
class Record:
    """One text of a file.

    Attributes:
        text: may be blank.
        group: what the file says of its group, if anything.
        place: in the file, in words.
        cells: of other columns that were asked for, in their order.
        messages: a chat instead of a text.
    """

    text: str
    group: str | None
    place: str
    cells: tuple[Any, ...] = ()
    messages: list[dict[str, str]] | None = None


@dataclass(frozen=True)
class Source:
    """What is read, and how its faults are told.

    Attributes:
        path: as given.
        fields: names of the field with the text.
        error: what to raise.
        whole: it holds prompts, all of which will be held, their groups, and chats.
        columns: others that are read beside the text.
    """

    path: str | Path
    fields: Sequence[str]
    error: type[SteerscopeError]
    whole: bool = False
    columns: Sequence[str] = ()

    def refuse(self, what: str, expected: str, cause: BaseException | None = None) -> NoReturn:
        raise self.error(f"{named(self.path)} {what}; expected {expected}") from cause


def encodable(text: str, place: str, source: Source) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as reason:
        source.refuse(f"{place} holds a lone surrogate (half a character)", "whole characters; mend it", reason)
    return text


def group_of(value: Any, place: str, source: Source) -> str | None:
    """The name of a group as text; None where there is none."""
    if value is None or value == "" or value != value:
        return None
    if not isinstance(value, str | int | float) or value in (float("inf"), -float("inf")):
        source.refuse(f"{place} has the group {brief(repr(value))}", "a text or a number; mend it")
    return encodable(str(value), place, source)


def cell_of(value: Any, name: str, place: str, source: Source) -> Any:
    """What a cell of another column holds: a text or an integer, or a list of them.

    A column of token ids (its name ends in `_idx` or `_id`) has integers, also where a format knows texts alone.

    Raises:
        the source's error: it holds anything else, or nothing.
    """
    if isinstance(value, str) and name.endswith(("_idx", "_id")):
        if not re.fullmatch(r"\[?\s*[0-9]{1,9}(\s*,\s*[0-9]{1,9})*\s*\]?", value):
            source.refuse(f"{place} has {brief(repr(value))} under {name}", "token ids, such as 12 or [12, 7]; mend it")
        value = [int(part) for part in re.findall("[0-9]+", value)]
    several = value if isinstance(value, list) else [value]
    if not several or any(isinstance(v, bool) or not isinstance(v, str | int) or v == "" for v in several):
        source.refuse(
            f"{place} has {brief(repr(value))} under {name}", "a text or an integer, or a list of them; mend it"
        )
    for part in several:
        if isinstance(part, str):
            encodable(part, place, source)
    return value


def column(source: Source, names: Sequence[str], wanted: str = "") -> str:
    """The first of the fields (or the one that is wanted) among the columns of a table.

    Raises:
        the source's error: none of them is there, or one of that name is there twice.
    """
    name = next((f for f in ((wanted,) if wanted else source.fields) if f in names), None)
    if name is None:
        there = brief(", ".join(names[:50]), 200) or "no columns"
        source.refuse(f"has the columns {there}", f"one named {wanted or ' or '.join(source.fields)}; rename one")
    if list(names).count(name) > 1:
        source.refuse(f"has several columns named {name}", "one; rename the others")
    return name
