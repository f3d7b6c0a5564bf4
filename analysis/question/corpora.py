"""Base prompts for sweeps: windows of equal length, sampled from text that is streamed and never held whole."""

import hashlib
import importlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

import numpy as np

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadCorpus, BadPrompt
from steerscope.analysis.gate import Count, Seed, Within, gated
from steerscope.analysis.loading.folders import unreachable
from steerscope.analysis.model.models import Model
from steerscope.analysis.opening import Source, column, is_standard, named, opened, reading
from steerscope.analysis.progress import track
from steerscope.analysis.reading import FIELDS, paragraphs, record, records

from .groups import numbers
from .prompts import Prompts

T = TypeVar("T")
Where: TypeAlias = str | Path
SHIPPED = Path(__file__).parents[1] / "data" / "everyday.txt"  # what the name "shipped" stands for
SUFFIXES = (".txt", ".jsonl", ".csv", ".parquet")  # of the files of a folder that are read
ENTRIES = 100_000  # of a folder, with all that is in it, that are looked at
HUB_READ = 10_000  # documents of a hub data set that are read when nothing is said
ENCODED = 20_000  # characters given to a tokenizer at once
SPACE = re.compile(r"(?<=\S) (?=\S)")  # where every tokenizer parts words
HUB_NAME = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?(:[\w.-]{1,95})?", re.ASCII)
NO_CODE = 4  # the first version of the library `datasets` that never runs code of a data set


@gated(error=BadPrompt)
def windows(
    model: Model,
    source: Where,
    *,
    count: Count = 200,
    tokens: Annotated[int, Within(4)] = 32,
    seed: Seed = 0,
    read: Count | None = None,
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
    if tokens > model.n_ctx:
        raise BadPrompt(f"got windows of {tokens} tokens; expected 4 to {model.n_ctx}; choose again")
    bos = () if model.bos is None else (model.bos,)
    limit = HUB_READ if read is None and _place(source) is None else read
    texts = islice(documents(source, split=split, field=field), limit)
    longest = 0

    def full() -> Iterator[tuple[int, tuple[int, ...]]]:
        nonlocal longest
        for document, row in _rows(model, track(texts, f"reading {named(source)}", limit), tokens - len(bos)):
            longest = max(longest, len(bos) + len(row))
            if len(bos) + len(row) == tokens:
                yield document, row

    dice = np.random.default_rng(seed)
    kept = reservoir(full(), count, dice) if shuffle else list(islice(full(), count))
    if not kept:
        raise BadPrompt(
            f"no window of {tokens} tokens in {named(source)}, the longest has {longest}; expected more; lower tokens"
        )
    ids = tuple((*bos, *row) for _, row in kept)
    groups = tuple(numbers([document for document, _ in kept]).tolist())
    source = str(source).encode(errors="backslashreplace").decode()  # a file's name may be no text
    return Prompts(ids, tuple(model.text(row) for _, row in kept), source, groups=groups)


def reservoir(items: Iterable[T], count: int, dice: np.random.Generator) -> list[T]:
    """A uniform random sample of `count` items in random order, of which no others are held."""
    kept: list[T] = []
    for index, item in enumerate(items):
        if index < count:
            kept.append(item)
        elif (place := int(dice.integers(index + 1))) < count:
            kept[place] = item
    return [kept[i] for i in dice.permutation(len(kept))]


@gated(error=BadPrompt)
def documents(source: Where, *, split: str = "train", field: str | None = None) -> Iterator[str]:
    """Texts of `source` one at a time; those that are blank are skipped.

    Args:
        source: a file; a folder, for all files in it; `-`, for standard input; `shipped`, for everyday English that
            comes with steerscope; or what is none of them, a Hugging Face data set, `owner/name` or
            `owner/name:config`, over the network. `.jsonl`, `.json`, `.csv`, `.parquet` hold a document a row; `.txt`
            and others a paragraph, between blank lines, or a line, where no blank line parts the first million
            characters. Longer paragraphs count as several documents.
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
    files = _files(place) if os.path.isdir(place) else [place]  # noqa: PTH112  (Path's own raises for long names)
    found = (record for file in files for record in records(file, fields, text=paragraphs))
    return _some((record.text for record in found), source)


def _files(folder: Path) -> list[Path]:
    """The files of a folder that hold text, in order.

    Raises:
        BadCorpus: a folder that cannot be looked into, or one of far too many files.
    """

    def refuse(reason: OSError) -> None:
        with reading(reason.filename, BadCorpus):
            raise reason

    found, seen = [], 0
    for place, folders, names in os.walk(folder, onerror=refuse):
        seen += len(folders) + len(names)
        if seen > ENTRIES:
            raise BadCorpus(
                f"{named(folder)} holds more than {ENTRIES:,} files; expected a folder of texts; name one in it"
            )
        found += [Path(place, name) for name in names if Path(name).suffix in SUFFIXES]
    return sorted(found, key=Path.as_posix)


@gated(error=BadCorpus)
def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, read in pieces.

    Raises:
        BadCorpus: no such file, or one that cannot be read.
    """
    with opened(path, BadCorpus) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _place(source: Where) -> Path | None:
    """Where a source lies; None for the name of a hub data set."""
    if source == "shipped":
        return SHIPPED
    path = Path(os.path.expanduser(source))  # noqa: PTH111  (Path's own raises for ~nobody)
    if source and (is_standard(source) or os.path.lexists(path)):
        return path
    if isinstance(source, Path) or path.suffix in SUFFIXES or not HUB_NAME.fullmatch(source):
        raise BadCorpus(f"no {named(source)} here; expected a file or folder; check the path")
    return None


def _some(texts: Iterator[str], source: Where) -> Iterator[str]:
    text = None
    for text in filter(str.strip, texts):
        yield text
    if text is None:
        raise BadPrompt(
            f"{named(source)} holds no text; expected documents, in a folder as {', '.join(SUFFIXES)}; add some"
        )


def _hub(name: str, split: str, fields: Sequence[str]) -> Iterator[str]:
    path, _, config = name.partition(":")
    source = Source(name, fields, BadPrompt)
    try:
        library = importlib.import_module("datasets")
        if int(library.__version__.split(".")[0]) < NO_CODE:
            raise ImportError(f"datasets {library.__version__} runs code of data sets; install {NO_CODE} or newer")
        why = unreachable()
        if why:
            raise ConnectionError(why)
        for number, row in enumerate(library.load_dataset(path, config or None, split=split, streaming=True), 1):
            name_of = column(source, list(row))
            # A missing text counts as a blank one: the data set is not the user's to mend.
            yield record("" if row[name_of] is None else row[name_of], f"row {number}", source).text
    except BadPrompt:
        raise
    except Exception as error:  # the library, its loaders and the network raise all kinds
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise BadCorpus(
            f"{name!r} is no file or folder here, and its split {brief(repr(split))} cannot be streamed from Hugging "
            f"Face ({brief(reason, 200)}); expected owner/name[:config], a network and the library datasets; check "
            "them, or give a file"
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
                if token != model.bos_token:
                    row.append(token)
                if row and (token == model.bos_token or len(row) == width):
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
