"""Base prompts for sweeps: windows of equal length, sampled from text that is streamed and never held whole."""

import hashlib
import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np

from steerscope.analysis.errors import BadCorpus, BadPrompt
from steerscope.analysis.model.models import Model
from steerscope.analysis.progress import track

from .groups import numbers
from .prompts import FIELDS, READERS, Prompts, column, paragraphs

T = TypeVar("T")
Source: TypeAlias = str | Path
SHIPPED = Path(__file__).parents[1] / "data" / "everyday.txt"  # what the name "shipped" stands for
SUFFIXES = (".txt", *READERS)
HUB_READ = 10_000  # documents of a hub data set that are read when nothing is said
ENCODED = 20_000  # characters given to a tokenizer at once
SPACE = re.compile(r"(?<=\S) (?=\S)")  # where every tokenizer parts words
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+)?")


def windows(
    model: Model,
    source: Source,
    *,
    count: int = 200,
    tokens: int = 32,
    seed: int = 0,
    read: int | None = None,
    split: str = "train",
    field: str | None = None,
    shuffle: bool = True,
) -> Prompts:
    """`count` windows of exactly `tokens` tokens of the documents of `source` (see `documents`).

    A document is cut into consecutive windows; what remains at its end is dropped, and so is a BOS inside of
    it, where it is cut too. Windows of one document are one group. Each window begins with BOS, which counts as one
    token, where the model has one.
    All windows are kept with equal chance, in random order; where there are fewer than `count`, all are.

    Args:
        read: stop after so many documents; default: all of a file, 10,000 of a hub data set.
        shuffle: False for the first `count` windows in their order, reading no further.

    Raises:
        BadPrompt: no tokenizer, no full window, a number out of its range, or a malformed file.
        BadCorpus: no such source.
    """
    model.encode(" ")  # says so where there is no tokenizer
    if not 4 <= tokens <= model.n_ctx:
        raise BadPrompt(f"got windows of {tokens} tokens; expected 4 to {model.n_ctx}; choose again")
    for name, number, least in (("count", count, 1), ("read", read, 1), ("seed", seed, 0)):
        if number is not None and number < least:
            raise BadPrompt(f"got {name} {number}; expected {least} or more; choose again")
    bos = () if model.bos is None else (model.bos,)
    limit = HUB_READ if read is None and _place(source) is None else read
    texts = islice(documents(source, split=split, field=field), limit)
    longest = 0

    def full() -> Iterator[tuple[int, tuple[int, ...]]]:
        nonlocal longest
        for document, row in _rows(model, track(texts, f"reading {source}", limit), tokens - len(bos)):
            longest = max(longest, len(bos) + len(row))
            if len(bos) + len(row) == tokens:
                yield document, row

    dice = np.random.default_rng(seed)
    kept = reservoir(full(), count, dice) if shuffle else list(islice(full(), count))
    if not kept:
        raise BadPrompt(
            f"no window of {tokens} tokens in {str(source)!r}, the longest has {longest}; expected more; lower tokens"
        )
    ids = tuple((*bos, *row) for _, row in kept)
    groups = tuple(numbers([document for document, _ in kept]).tolist())
    return Prompts(ids, tuple(model.text(row) for _, row in kept), str(source), groups=groups)


def reservoir(items: Iterable[T], count: int, dice: np.random.Generator) -> list[T]:
    """A uniform random sample of `count` items in random order, of which no others are held."""
    kept: list[T] = []
    for index, item in enumerate(items):
        if index < count:
            kept.append(item)
        elif (place := int(dice.integers(index + 1))) < count:
            kept[place] = item
    return [kept[i] for i in dice.permutation(len(kept))]


def documents(source: Source, *, split: str = "train", field: str | None = None) -> Iterator[str]:
    """Texts of `source` one at a time; those that are blank are skipped.

    Args:
        source: a file; a folder, for all files in it; `shipped`, for everyday English that comes with steerscope; or
            what is neither, a Hugging Face data set, `owner/name` or `owner/name:config`, over the network. `.jsonl`,
            `.csv`, `.parquet` hold a document a row; `.txt` and others a paragraph, between blank lines, or a line,
            where no blank line parts the first million characters. Longer paragraphs count as several documents.
        split: of a hub data set.
        field: the column with the text; default: `prompt` or `text`. Has no meaning for `.txt`.

    Raises:
        BadCorpus: no such file, folder or data set, or no network.
        BadPrompt: malformed, not UTF-8, no such column, or no text at all.
    """
    place = _place(source)
    fields = FIELDS if field is None else (field,)
    if place is None:
        return _some(_hub(str(source), split, fields), source)
    files = [place]
    if place.is_dir():
        files = [f for f in place.rglob("*") if f.suffix in SUFFIXES and f.is_file()]
        files.sort(key=Path.as_posix)
    return _some((t for f in files for t in READERS.get(f.suffix, paragraphs)(f, fields)), source)


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, read in pieces.

    Raises:
        BadCorpus: no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise BadCorpus(f"no file {str(path)!r}; expected one to take the hash of; check the path")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _place(source: Source) -> Path | None:
    """Where a source lies; None for the name of a hub data set."""
    if source == "shipped":
        return SHIPPED
    path = Path(source).expanduser()
    if path.is_file() or path.is_dir():
        return path
    if isinstance(source, Path) or path.suffix in SUFFIXES or not HUB_NAME.fullmatch(source):
        raise BadCorpus(f"no {str(source)!r} here; expected a file or folder; check the path")
    return None


def _some(texts: Iterator[str], source: Source) -> Iterator[str]:
    text = None
    for text in filter(str.strip, texts):
        yield text
    if text is None:
        raise BadPrompt(
            f"{str(source)!r} holds no text; expected documents, in a folder as {', '.join(SUFFIXES)}; add some"
        )


def _hub(name: str, split: str, fields: Sequence[str]) -> Iterator[str]:
    path, _, config = name.partition(":")
    try:
        load = importlib.import_module("datasets").load_dataset
        for row in load(path, config or None, split=split, streaming=True):
            yield str(row[column(name, list(row), fields)] or "")
    except BadPrompt:
        raise
    except Exception as error:  # the library, its loaders and the network raise all kinds
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise BadCorpus(
            f"{name!r} is no file or folder here, and its split {split!r} cannot be streamed from Hugging Face "
            f"({reason}); expected owner/name[:config], a network and the library datasets; check them, or give a file"
        ) from error


def _rows(model: Model, texts: Iterable[str], width: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Consecutive runs of `width` tokens of each text, and the shorter ones that remain, with the text's number."""
    # As Model.encode, without a warning that a document is longer than the model reads.
    encode = partial(model.tokenizer, add_special_tokens=False, verbose=False)
    both, one, two = (encode(text)["input_ids"] for text in ("a b", "a", " b"))
    spaced = both == one + two  # if not, the tokenizer (SentencePiece) adds the space itself
    for document, text in enumerate(texts):
        row: list[int] = []
        for piece in _pieces(text, spaced):
            for token in encode(piece)["input_ids"]:
                if token != model.bos:
                    row.append(token)
                if row and (token == model.bos or len(row) == width):
                    yield document, tuple(row)
                    row = []
        if row:
            yield document, tuple(row)


def _pieces(text: str, spaced: bool) -> Iterator[str]:
    """A text in pieces that a tokenizer reads quickly, cut at single spaces where it can be."""
    start = 0
    while len(text) - start > ENCODED:
        ends = range(start + ENCODED, start + 1, -1)
        cut = next((i for i in ends if SPACE.match(text, i)), ends[0])
        yield text[start:cut]
        start = cut if spaced or text[cut] != " " else cut + 1
    yield text[start:]
