"""`Prompts`: what a run reads, as token ids; from texts, files or ids."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from steerscope.analysis.brief import brief, counted
from steerscope.analysis.errors import BadPrompt
from steerscope.analysis.gate import Refused, Whole, gated, shown, text, whole
from steerscope.analysis.model.chat import NoChat, chat, is_chat
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.positions import Layout
from steerscope.analysis.opening import MOST
from steerscope.analysis.progress import track
from steerscope.analysis.reading import PIECE

from .groups import Groups, groups_of, numbers

OF_EACH = (
    "texts",
    "continuations",
    "groups",
    "targets",
    "against",
    "scored",
    "parts",
)  # attributes, one entry a prompt
TOLD = 5  # faults that a message lists; what comes behind them is not read any more


@gated(error=BadPrompt)
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
        targets, against: by prompt, the tokens that are its answer and those of its distractor (`answers`).
        scored: by prompt, the positions that a metric reads, where they are its own.
        parts: by prompt, the named parts of a chat and their positions (`model.chat`); none of a plain text.

    Raises:
        BadPrompt: as many texts as ids, and as many of all others or none, are expected; no empty ids.
    """

    ids: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    source: str = "given"
    continuations: tuple[tuple[int, ...], ...] = field(default=())
    groups: tuple[int, ...] = ()
    targets: tuple[tuple[int, ...], ...] = ()
    against: tuple[tuple[int, ...], ...] = ()
    scored: tuple[tuple[int, ...], ...] = ()
    parts: tuple[tuple[tuple[str, tuple[int, ...]], ...], ...] = ()

    def __post_init__(self) -> None:
        for name in OF_EACH:
            own = getattr(self, name)
            if len(own) != len(self.ids) and (own or name == "texts"):
                raise BadPrompt(f"got {len(own)} {name} for {len(self.ids)} prompts; expected one each; give as many")
        for what, rows in (("prompt", self.ids), ("continuation", self.continuations)):
            wrong = next((i for i, row in enumerate(rows) if not row or min(row) < 0), None)
            if wrong is not None:
                raise BadPrompt(
                    f"{what} {wrong + 1} is {shown(rows[wrong])}; expected token ids, at least one, none below 0; "
                    "mend or remove it"
                )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        tokens = sorted({len(ids) for ids in self.full})
        size = "no tokens" if not tokens else f"{tokens[0]} to {counted(tokens[-1], 'token')}"
        texts = f": {brief(json.dumps(self.texts[0], ensure_ascii=False), 50)}" if self.texts else ""
        return f"<Prompts {brief(self.source, 40)}: {len(self)} of {size}{texts}>"

    @gated(error=BadPrompt)
    def first(self, count: Whole) -> "Prompts":
        """The first `count` of them."""
        return self.some(range(min(count, len(self))))

    @gated(error=BadPrompt)
    def some(self, chosen: Sequence[int]) -> "Prompts":
        """Those with some indices; from the end, where they are negative.

        Raises:
            BadPrompt: there is none with such an index.
        """
        beyond = [i for i in chosen if not -len(self) <= i < len(self)]
        if beyond:
            raise BadPrompt(f"got the index {beyond[0]}; expected one of {len(self)} prompts; choose others")
        parts: dict[str, Any] = {}
        for name in ("ids", *OF_EACH):
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

    @gated(error=BadPrompt)
    def layouts(self, model: Model) -> tuple[Layout, ...]:
        """By prompt, what its positions are found by, its continuation left out."""
        found = map(model.layout, self.ids)
        if not self.parts:
            return tuple(found)
        return tuple(replace(layout, parts=own) for layout, own in zip(found, self.parts, strict=True))

    @property
    def hash(self) -> str:
        """SHA-256 of all token ids, and of what is asked of each prompt by itself."""
        asked = [own for own in (self.targets, self.against, self.scored) if own]
        return hashlib.sha256(json.dumps([self.ids, self.continuations, *asked]).encode()).hexdigest()


@gated(error=BadPrompt)
def make_prompts(
    model: Model, prompts: object, source: str | Path = "given", groups: str | Sequence[object] = "auto"
) -> Prompts:
    """Texts, chats or lists of token ids as `Prompts` for `model`; the first faults are reported together.

    Args:
        prompts: any iterable of texts, chats (lists of messages, `{"role": "user", "content": "Hi"}`) and lists,
            arrays or tensors of token ids; or `Prompts`.
        groups: by prompt, a name of its group (template, document, family); "auto" finds copies and shared templates;
            "each" takes every prompt as independent.

    Raises:
        BadPrompt: none given, empty or blank ones, ids outside of the vocabulary, or longer than the context.
    """
    if isinstance(prompts, Prompts):
        return _fitting(model, prompts)
    named_so = str(source).encode(errors="backslashreplace").decode()  # a file's name may be no text
    given = _listed(prompts)
    if not given:
        raise BadPrompt(f"no prompts in {named_so}; expected at least one; add some")
    ids, texts, parts, faults = [], [], [], []
    for index, prompt in enumerate(track(given, "reading prompts")):
        try:
            said = chat(model.tokenizer, prompt) if is_chat(prompt) else None
            row = _ids(model, prompt if said is None else said.ids)
        except NoChat as fault:
            faults.append(f"prompt {index + 1} {fault}")
            if len(faults) > TOLD:
                break
            continue
        except Refused as fault:
            faults.append(f"prompt {index + 1} {fault}")
            if len(faults) > TOLD:
                break
            continue
        ids.append(row)
        parts.append(said.parts if said else ())
        texts.append(said.text if said else str(prompt) if isinstance(prompt, str) else " ".join(map(str, row)))
    if faults:
        told = "; ".join(faults[:TOLD]) + ("; and more" if len(faults) > TOLD else "")
        raise BadPrompt(f"{told} (in {named_so}); expected texts of 1 to {model.n_ctx} tokens; mend or remove them")
    return Prompts(
        tuple(ids), tuple(texts), named_so, groups=_groups(model, ids, groups), parts=tuple(parts) if any(parts) else ()
    )


def _listed(prompts: Any) -> list[Any]:
    """What was given, one by one.

    Raises:
        BadPrompt: it is one thing, or its order or its end is unknown.
    """
    if isinstance(prompts, str):
        raise BadPrompt(f"got one text {shown(prompts)} for prompts; expected a list of texts; put it in brackets")
    no_list = isinstance(prompts, bytes | bytearray | Mapping | Set) or hasattr(prompts, "columns")  # a table
    try:
        if no_list or not isinstance(prompts, Iterable):
            raise TypeError(f"it is a {type(prompts).__name__}")
        found = list(islice(prompts, MOST + 1))
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError) as reason:  # of the user's own iterator
        raise BadPrompt(
            f"got {shown(prompts)} for prompts ({reason}); expected a list of texts or of lists of token ids; make one"
        ) from reason
    if len(found) > MOST:
        raise BadPrompt(f"got more than {MOST:,} prompts; expected fewer; take a part of them")
    return found


def _ids(model: Model, prompt: Any) -> tuple[int, ...]:
    """The token ids of one prompt.

    Raises:
        Refused: what is wrong with it.
    """
    if isinstance(prompt, str):
        row = _tokens(model, prompt)
    else:
        row = _numbers(model, prompt)
    if len(row) > model.n_ctx:
        raise Refused(f"has {len(row)} tokens, {model.name} reads at most {model.n_ctx}")
    return row


def _tokens(model: Model, prompt: str) -> tuple[int, ...]:
    if not prompt.strip():
        raise Refused("is empty or blank")
    if model.tokenizer is None:
        raise Refused(f"is a text, and {model.name} has no tokenizer: give token ids")
    if len(prompt) > PIECE:
        raise Refused(f"has {len(prompt):,} characters")
    try:
        row = tuple(model.tokens(text(prompt)))
    except Refused:
        raise Refused("holds a lone surrogate (half a character)") from None
    if not row:
        raise Refused("has no tokens")
    return row


def _numbers(model: Model, prompt: Any) -> tuple[int, ...]:
    if isinstance(prompt, Mapping):
        raise Refused("is a dictionary: a chat is a list of messages, put it in brackets")
    if isinstance(prompt, int):
        raise Refused("is one token id: put the list of them in brackets")
    array = hasattr(prompt, "tolist") and getattr(prompt, "ndim", 0) == 1
    if isinstance(prompt, bytes) or not (array or isinstance(prompt, Sequence)):
        raise Refused(f"is {type(prompt).__name__}, expected a text or a list of token ids")
    if not len(prompt):
        raise Refused("is empty")
    if len(prompt) > model.n_ctx:
        raise Refused(f"has {len(prompt)} tokens, {model.name} reads at most {model.n_ctx}")
    try:
        row = [whole(i) for i in (prompt.tolist() if array else prompt)]
    except (Refused, RuntimeError) as reason:  # a tensor that holds nothing
        raise Refused(f"is {shown(prompt)}, expected a text or a list of token ids (integers)") from reason
    bad = [i for i in row if not 0 <= i < model.d_vocab]
    if bad:
        raise Refused(f"has token ids outside of 0..{model.d_vocab - 1}: {bad[:TOLD]}")
    return tuple(row)


def _fitting(model: Model, prompts: Prompts) -> Prompts:
    """`Prompts` that were made before, perhaps for another model."""
    if not len(prompts):
        raise BadPrompt(f"no prompts in {prompts.source}; expected at least one; add some")
    longest, largest = max(map(len, prompts.full)), max(map(max, prompts.full))
    if longest > model.n_ctx or largest >= model.d_vocab:
        raise BadPrompt(
            f"the prompts of {prompts.source} have up to {longest} tokens and ids up to {largest}; expected at most "
            f"{model.n_ctx} tokens and ids below {model.d_vocab} for {model.name}; make them with its tokenizer"
        )
    return prompts


def _groups(model: Model, ids: Sequence[tuple[int, ...]], given: Sequence[object] | str) -> tuple[int, ...]:
    if isinstance(given, str) and given not in ("auto", "each"):
        raise BadPrompt(f"groups={given!r}; expected auto, each, or a name for every prompt")
    if not isinstance(given, str) and len(given) != len(ids):
        raise BadPrompt(f"got {len(given)} groups for {len(ids)} prompts; expected one for each; give as many")
    if given == "each":
        return tuple(range(len(ids)))
    if given == "auto":
        return tuple(groups_of(ids, model.bos_token).tolist())
    try:  # numbers of arrays and tensors are not equal to their equals
        names = [name.item() if isinstance(name, np.generic | Tensor) and name.ndim == 0 else name for name in given]
        return tuple(numbers(names).tolist())
    except TypeError as reason:  # a list or a dictionary for a name
        raise BadPrompt(f"got groups with a name that is none ({reason}); expected texts or numbers; name them") from (
            reason
        )


@gated(error=BadPrompt)
def continued(model: Model, prompts: Prompts, continuation: str | Sequence[int]) -> Prompts:
    """Prompts with the same continuation after each, a text parted as the tokenizer parts it there (`model.context`).

    Raises:
        BadPrompt: an empty one, one of other ids than the model's, or one that the context has no room for.
    """
    if isinstance(continuation, str) and len(continuation) > PIECE:
        raise BadPrompt(
            f"the continuation has {len(continuation):,} characters; expected at most {PIECE:,}; shorten it"
        )
    if isinstance(continuation, str):
        found = tuple(model.following(ids, continuation).ids for ids in prompts.ids)
    else:
        found = (tuple(continuation),) * len(prompts)
    if not all(found):
        raise BadPrompt(f"the continuation {continuation!r} is empty; expected at least one token; give some text")
    if found and not all(0 <= i < model.d_vocab for i in found[0]):
        raise BadPrompt(
            f"the continuation {shown(continuation)} has token ids outside of 0..{model.d_vocab - 1}; expected those "
            f"of {model.name}; give its text"
        )
    longest = max((len(ids) + len(more) for ids, more in zip(prompts.ids, found, strict=True)), default=0)
    if longest > model.n_ctx:
        raise BadPrompt(
            f"a prompt and its continuation have {longest} tokens, {model.name} reads at most {model.n_ctx}; "
            "shorten one"
        )
    return replace(prompts, continuations=found)
