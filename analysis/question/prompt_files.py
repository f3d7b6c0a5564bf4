"""Prompts from files: texts or chats, the names of their groups, and other columns (answers, scored positions)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerscope.analysis.errors import BadPrompt
from steerscope.analysis.gate import gated
from steerscope.analysis.opening import named
from steerscope.analysis.reading import FIELDS, held


@dataclass(frozen=True)
class Table:
    """What a file of prompts says, row by row.

    Attributes:
        prompts: texts, or chats (lists of messages).
        groups: names of groups; None where the file has none.
        columns: of the other columns that were asked for, their cells.
    """

    prompts: list[Any]
    groups: list[str] | None
    columns: Mapping[str, list[Any]]


@gated(error=BadPrompt)
def read_table(path: str | Path, column: str | None = None, columns: Sequence[str] = ()) -> Table:
    """A prompts file, read once.

    Args:
        column: holds the prompts; `prompt` or `text`, or a chat's `messages`, by default.
        columns: others to read. A name that ends in `_idx` or `_id` holds token ids.

    Raises:
        BadPrompt: as `read_prompts` and `read_groups`; or there is no such column.
    """
    found = held(path, fields=FIELDS if column is None else (column,), columns=columns)
    without = next((record for record in found if record.group is None), None)
    groups = None
    if any(record.group is not None for record in found):
        if without is not None:
            number = 1 + found.index(without)
            raise BadPrompt(
                f"{named(path)}: prompt {number} has no group and others have; expected all or none; add it "
                f"({without.place})"
            )
        groups = [str(record.group) for record in found]
    cells = {name: [record.cells[n] for record in found] for n, name in enumerate(columns)}
    return Table([record.messages or record.text for record in found], groups, cells)


@gated(error=BadPrompt)
def read_prompts(path: str | Path, column: str | None = None) -> list[Any]:
    """Texts of a prompts file: `.txt` (one a line, blank lines skipped), `.jsonl`, `.json`, `.csv` or `.parquet`.

    JSON, CSV and parquet hold the text under `prompt` or `text`, JSON a chat under `messages`. `-` is standard input: a
    text a line, or JSON lines where it begins with `{`.

    Args:
        column: another name of the column with the texts.

    Raises:
        BadPrompt: missing, not UTF-8, malformed, too large, or without prompts; the message names the place.
    """
    return read_table(path, column).prompts


@gated(error=BadPrompt)
def read_groups(path: str | Path) -> list[str] | None:
    """What a prompts file says of its prompts' groups, in a column `group`; None where it has none.

    Raises:
        BadPrompt: as `read_prompts`; or some prompts have a group and others have none.
    """
    return read_table(path).groups
