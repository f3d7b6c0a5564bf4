"""`Prompts`: what a run reads, as token ids; from texts, files or ids."""

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd

from steerscope.analysis.brief import brief, counted
from steerscope.analysis.errors import BadPrompt
from steerscope.analysis.model.models import Model

from .groups import Groups, groups_of, numbers

GROUP = "group"  # the column of a file that says which prompts belong together
FIELDS = ("prompt", "text")  # where to look in JSONL, CSV and parquet
PIECE = 1 << 20  # characters of a text file that are held at once


@dataclass(frozen=True, repr=False)
class Prompts:
    """Token ids, BOS included, and the texts they came from.

    Attributes:
        ids: one tuple of token ids a prompt.
        texts: as given; the ids as text where there is no tokenizer.
        source: a file name, or `given`.
        continuations: token ids that follow each prompt and are scored, but never injected into.
        groups: by prompt, the number of its group: prompts of a group are not independent. Every prompt by itself
            where there are none.
    """

    ids: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    source: str = "given"
    continuations: tuple[tuple[int, ...], ...] = field(default=())
    groups: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        tokens = sorted({len(ids) for ids in self.full})
        size = "no tokens" if not tokens else f"{tokens[0]} to {counted(tokens[-1], 'token')}"
        texts = f": {brief(json.dumps(self.texts[0], ensure_ascii=False), 50)}" if self.texts else ""
        return f"<Prompts {brief(self.source, 40)}: {len(self)} of {size}{texts}>"

    def first(self, count: int) -> "Prompts":
        """The first `count` of them."""
        return self.some(range(min(count, len(self))))

    def some(self, chosen: Sequence[int]) -> "Prompts":
        """Those with some indices."""
        parts: dict[str, Any] = {}
        for name in ("ids", "texts", "continuations", "groups"):
            own = getattr(self, name)
            parts[name] = tuple(own[i] for i in chosen) if own else ()
        return replace(self, **parts)

    @property
    def by_group(self) -> Groups:
        """By prompt, the number of its group."""
        return np.array(self.groups if self.groups else range(len(self)), dtype=np.int64)

    @property
    def full(self) -> tuple[tuple[int, ...], ...]:
        """Prompts with their continuations: what the model is run on."""
        if not self.continuations:
            return self.ids
        return tuple(a + b for a, b in zip(self.ids, self.continuations, strict=True))

    @property
    def hash(self) -> str:
        """SHA-256 of all token ids."""
        return hashlib.sha256(json.dumps([self.ids, self.continuations]).encode()).hexdigest()


def make_prompts(
    model: Model,
    prompts: "Prompts | Sequence[str] | Sequence[Sequence[int]]",
    source: str = "given",
    groups: Sequence[object] | str = "auto",
) -> Prompts:
    """Texts or lists of token ids as `Prompts` for `model`; all faults are reported together.

    Args:
        groups: by prompt, a name of its group (template, document, family); "auto" finds copies and shared templates;
            "each" takes every prompt as independent.

    Raises:
        BadPrompt: none given, empty or blank ones, ids outside of the vocabulary, or longer than the context.
    """
    if isinstance(prompts, Prompts):
        return prompts
    if isinstance(prompts, str):
        raise BadPrompt(f"got one text {prompts!r} for prompts; expected a list of texts; put it in brackets")
    if len(prompts) == 0:
        raise BadPrompt(f"no prompts in {source}; expected at least one; add some")
    ids, texts, faults = [], [], []
    given: Sequence[Any] = prompts
    for index, prompt in enumerate(given):
        fault = _fault(model, prompt)
        if fault:
            faults.append(f"prompt {index + 1} {fault}")
            continue
        row = tuple(model.tokens(prompt)) if isinstance(prompt, str) else tuple(int(i) for i in prompt)
        if len(row) > model.n_ctx:
            faults.append(f"prompt {index + 1} has {len(row)} tokens, {model.name} reads at most {model.n_ctx}")
        ids.append(row)
        texts.append(prompt if isinstance(prompt, str) else " ".join(map(str, row)))
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise BadPrompt(f"{shown} (in {source}); expected texts of 1 to {model.n_ctx} tokens; mend or remove them")
    return Prompts(tuple(ids), tuple(texts), source, groups=_groups(model, ids, groups))


def _groups(model: Model, ids: Sequence[tuple[int, ...]], given: Sequence[object] | str) -> tuple[int, ...]:
    if isinstance(given, str) and given not in ("auto", "each"):
        raise BadPrompt(f"groups={given!r}; expected auto, each, or a name for every prompt")
    if not isinstance(given, str) and len(given) != len(ids):
        raise BadPrompt(f"got {len(given)} groups for {len(ids)} prompts; expected one for each; give as many")
    if given == "each":
        return tuple(range(len(ids)))
    return tuple((groups_of(ids, model.bos) if given == "auto" else numbers(given)).tolist())


def continued(model: Model, prompts: Prompts, continuation: str | Sequence[int]) -> Prompts:
    """Prompts with the same continuation after each.

    Raises:
        BadPrompt: an empty one, or one that the context has no room for.
    """
    ids = tuple(model.encode(continuation) if isinstance(continuation, str) else continuation)
    if not ids:
        raise BadPrompt(f"the continuation {continuation!r} is empty; expected at least one token; give some text")
    longest = max(map(len, prompts.ids)) + len(ids)
    if longest > model.n_ctx:
        raise BadPrompt(
            f"a prompt and its continuation have {longest} tokens, {model.name} reads at most {model.n_ctx}; "
            "shorten one"
        )
    return replace(prompts, continuations=(ids,) * len(prompts))


def _fault(model: Model, prompt: Any) -> str | None:
    if isinstance(prompt, str):
        if not prompt.strip():
            return "is empty or blank"
        if model.tokenizer is None:
            return f"is a text, and {model.name} has no tokenizer: give token ids"
        return None
    if not isinstance(prompt, Sequence) or not all(isinstance(i, int) for i in prompt):
        return f"is {type(prompt).__name__}, expected a text or a list of token ids"
    if not prompt:
        return "is empty"
    bad = [i for i in prompt if not 0 <= i < model.d_vocab]
    return f"has token ids outside of 0..{model.d_vocab - 1}: {bad[:5]}" if bad else None


def read_prompts(path: str | Path) -> list[str]:
    """Texts of a prompts file: `.txt` (one a line, blank lines skipped), `.jsonl`, `.csv` or `.parquet`.

    JSONL, CSV and parquet hold the text under `prompt` or `text`.

    Raises:
        BadPrompt: missing, not UTF-8, malformed, or without prompts.
    """
    path = Path(path)
    if not path.is_file():
        raise BadPrompt(
            f"no prompts file {str(path)!r}; expected a .txt, .jsonl, .csv or .parquet file; check the path"
        )
    if path.suffix in READERS:
        texts = list(READERS[path.suffix](path, FIELDS))
    else:
        with open_text(path) as file:
            texts = [text for line in file for text in line.splitlines() if text.strip()]
    if not texts:
        raise BadPrompt(f"{str(path)!r} holds no prompts; expected at least one; add some")
    return texts


def read_groups(path: str | Path) -> list[str] | None:
    """What a prompts file says of its prompts' groups, in a column `group`; None where it has none.

    Raises:
        BadPrompt: some prompts have a group and others have none.
    """
    path = Path(path)
    if path.suffix == ".jsonl":
        with open_text(path) as file:
            records = [json.loads(line) for line in file if line.strip()]
        found = [record.get(GROUP) if isinstance(record, dict) else None for record in records]
    elif path.suffix in (".csv", ".parquet"):
        table = pd.read_csv(path, dtype=str) if path.suffix == ".csv" else pd.read_parquet(path)
        found = table[GROUP].astype(object).where(table[GROUP].notna(), None).tolist() if GROUP in table else []
    else:
        return None
    if all(name is None for name in found):
        return None
    if any(name is None for name in found):
        number = 1 + found.index(None)
        raise BadPrompt(f"{str(path)!r}: prompt {number} has no group and others have; expected all or none; add it")
    return [str(name) for name in found]


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A UTF-8 file, with or without a byte order mark, to read piece by piece.

    Raises:
        BadPrompt: not UTF-8, or not readable.
    """
    try:
        with path.open("rb") as raw, TextIOWrapper(raw, encoding="utf-8-sig") as file:
            try:
                yield file
            except UnicodeDecodeError as error:
                byte = raw.tell() - len(error.object) + error.start
                raise BadPrompt(
                    f"{str(path)!r} is not UTF-8 (byte {byte}); expected UTF-8 text; convert it, for example with iconv"
                ) from error
    except OSError as error:
        raise BadPrompt(
            f"{str(path)!r} cannot be read ({error.strerror}); expected a readable file; check it"
        ) from error


def column(source: str, names: Sequence[str], fields: Sequence[str]) -> str:
    """The first of `fields` among the columns of a table.

    Raises:
        BadPrompt: none of them is there.
    """
    name = next((f for f in fields if f in names), None)
    if name is None:
        raise BadPrompt(
            f"{source!r} has the columns {', '.join(names)}; expected one named {' or '.join(fields)}; rename one"
        )
    return name


def _jsonl(path: Path, fields: Sequence[str]) -> Iterator[str]:
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise BadPrompt(
                    f'{str(path)!r} line {number} is not JSON ({error}); expected for example {{"{fields[0]}": '
                    '"Once"}; mend the line'
                ) from error
            text = (
                record
                if isinstance(record, str)
                else next((record[f] for f in fields if f in record), None)
                if isinstance(record, dict)
                else None
            )
            if not isinstance(text, str):
                raise BadPrompt(f"{str(path)!r} line {number} has no text under {' or '.join(fields)}; add one")
            yield text


def _csv(path: Path, fields: Sequence[str]) -> Iterator[str]:
    with open_text(path) as file:
        rows = csv.DictReader(file)
        try:
            for row in rows:
                yield row[column(str(path), rows.fieldnames or (), fields)] or ""
        except csv.Error as error:
            raise BadPrompt(
                f"{str(path)!r} line {rows.reader.line_num} is not CSV ({error}); expected fields of at most "
                f"{csv.field_size_limit()} characters; mend the line, or write JSONL"
            ) from error


def _parquet(path: Path, fields: Sequence[str]) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20) as table:
            name = column(str(path), table.schema_arrow.names, fields)
            for batch in table.iter_batches(batch_size=256, columns=[name]):
                yield from ("" if v is None else str(v) for v in batch.column(0).to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise BadPrompt(f"{str(path)!r} is not a parquet file ({error}); expected parquet; write it again") from error


def paragraphs(path: Path, fields: Sequence[str] = ()) -> Iterator[str]:
    """Paragraphs of a text file, between blank lines; its lines, where no blank line parts the first `PIECE`.

    No more than about `PIECE` characters are held: a longer paragraph is given in parts.

    Raises:
        BadPrompt: not UTF-8, or not readable.
    """
    with open_text(path) as file:
        by_line = re.search(r"\n\s*\n", file.read(PIECE).strip()) is None
        file.seek(0)
        lines: list[str] = []
        size = 0
        for line in iter(lambda: file.readline(PIECE), ""):
            if line.strip():
                lines.append(line)
                size += len(line)
            if lines and (by_line or not line.strip() or size >= PIECE):
                yield "".join(lines).strip()
                lines, size = [], 0
        if lines:
            yield "".join(lines).strip()


# Each streams the texts of a file that stand under the first of some fields.
READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[str]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}
