"""`Prompts`: what a run reads, as token ids; from texts, files or ids."""

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import BadPrompt
from .models import Model

FIELDS = ("prompt", "text")  # where to look in JSONL, CSV and parquet


@dataclass(frozen=True)
class Prompts:
    """Token ids, BOS included, and the texts they came from.

    Attributes:
        ids: one tuple of token ids a prompt.
        texts: as given; the ids as text where there is no tokenizer.
        source: a file name, or `given`.
        continuations: token ids that follow each prompt and are scored, but never injected into.
    """

    ids: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    source: str = "given"
    continuations: tuple[tuple[int, ...], ...] = field(default=())

    def __len__(self) -> int:
        return len(self.ids)

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
) -> Prompts:
    """Texts or lists of token ids as `Prompts` for `model`; all faults are reported together.

    Raises:
        BadPrompt: none given, empty or blank ones, ids outside of the vocabulary, or longer than the context.
    """
    if isinstance(prompts, Prompts):
        return prompts
    if isinstance(prompts, str):
        raise BadPrompt(
            f"got one text {prompts!r} for prompts; expected a list of texts; put it in brackets"
        )
    if len(prompts) == 0:
        raise BadPrompt(f"no prompts in {source}; expected at least one; add some")
    ids, texts, faults = [], [], []
    given: Sequence[Any] = prompts
    for index, prompt in enumerate(given):
        fault = _fault(model, prompt)
        if fault:
            faults.append(f"prompt {index + 1} {fault}")
            continue
        row = (
            tuple(model.tokens(prompt))
            if isinstance(prompt, str)
            else tuple(int(i) for i in prompt)
        )
        if len(row) > model.n_ctx:
            faults.append(
                f"prompt {index + 1} has {len(row)} tokens, {model.name} reads at most {model.n_ctx}"
            )
        ids.append(row)
        texts.append(prompt if isinstance(prompt, str) else " ".join(map(str, row)))
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise BadPrompt(
            f"{shown} (in {source}); expected texts of 1 to {model.n_ctx} tokens; mend or remove them"
        )
    return Prompts(tuple(ids), tuple(texts), source)


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
    if path.suffix == ".parquet":
        texts = _parquet(path)
    else:
        try:
            content = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadPrompt(
                f"{str(path)!r} is not UTF-8 (byte {error.start}); expected UTF-8 text; convert it, for example with iconv"
            ) from error
        texts = {".jsonl": _jsonl, ".csv": _csv}.get(path.suffix, _lines)(content, path)
    if not texts:
        raise BadPrompt(f"{str(path)!r} holds no prompts; expected at least one; add some")
    return texts


def _lines(content: str, path: Path) -> list[str]:
    return [line for line in content.splitlines() if line.strip()]


def _jsonl(content: str, path: Path) -> list[str]:
    texts = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise BadPrompt(
                f'{str(path)!r} line {number} is not JSON ({error}); expected for example {{"prompt": "Once"}}; mend the line'
            ) from error
        text = (
            record
            if isinstance(record, str)
            else next((record[f] for f in FIELDS if f in record), None)
            if isinstance(record, dict)
            else None
        )
        if not isinstance(text, str):
            raise BadPrompt(
                f"{str(path)!r} line {number} has no text under {' or '.join(FIELDS)}; add one"
            )
        texts.append(text)
    return texts


def _csv(content: str, path: Path) -> list[str]:
    rows = list(csv.DictReader(content.splitlines(keepends=True)))
    return _column(
        path, list(rows[0]) if rows else [], lambda name: [row[name] or "" for row in rows]
    )


def _parquet(path: Path) -> list[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadPrompt(
            f"{str(path)!r} is not a parquet file ({error}); expected parquet; write it again"
        ) from error
    return _column(
        path, table.column_names, lambda name: [str(v) for v in table.column(name).to_pylist()]
    )


def _column(path: Path, names: list[str], read: Callable[[str], list[str]]) -> list[str]:
    if not names:
        return []
    name = next((f for f in FIELDS if f in names), None)
    if name is None:
        raise BadPrompt(
            f"{str(path)!r} has the columns {', '.join(names)}; expected one named {' or '.join(FIELDS)}; rename one"
        )
    return read(name)
