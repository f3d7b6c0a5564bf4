"""`Task`: prompts whose answer a circuit is claimed to compute, in pairs, for any model and tokenizer.

1. A task draws a pair: the same text clean and corrupted, its answer and its distractor.
2. A pair is kept where every slot is one token of this model, in both texts at the same place, the texts are equally
   long, and answer and distractor are single tokens. Others are drawn again.
3. What the model gets right is measured: a circuit for a task that it cannot do explains nothing.

Prompts are drawn independently and share templates: an interval over them is one for these templates.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import Generator

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadCircuit, BadPrompt
from steerscope.analysis.gate import Count, Seed, Share, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.prompts import Prompts

from .solving import Solved, solved

WORDS = Path(__file__).parent / "data" / "words.toml"
SLOT = re.compile(r"\{(\w+)\}")
TRIES, TRIES_EACH = 200, 20  # draws at most, and for each prompt that is wanted
FEWEST = 4  # words that a slot must have to choose from
Slots = Mapping[str, str]
Sides = tuple[str, ...]
Tokenized = tuple[tuple[tuple[int, ...], str], tuple[tuple[int, ...], str], dict[str, int]]


@dataclass(frozen=True)
class Pair:
    """What a task draws.

    Attributes:
        template: with `{slots}`; a slot that is a word brings its own leading space.
        clean, corrupted: the text of every slot.
        answers, against: of the clean prompt, each with its leading space.
        at: named places: slots whose last token they are; the last token of the prompt is `END`.
        one: slots that must be one token each.
    """

    template: str
    clean: Slots
    corrupted: Slots
    answers: Sides
    against: Sides
    at: Mapping[str, str] = field(default_factory=dict)
    one: Sequence[str] = ()


class Words:
    """Word lists, as far as a model has them as single tokens (behind a space)."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._known: dict[str, list[str]] = {}
        self._one: dict[str, bool] = {}

    @cached_property
    def _all(self) -> dict[str, object]:
        return tomllib.loads(WORDS.read_text(encoding="utf-8"))

    def single(self, name: str, fewest: int = FEWEST) -> list[str]:
        """The words of a list that are one token, with their space.

        Raises:
            BadCircuit: fewer than `fewest` are.
        """
        if name not in self._known:
            listed = map(str, range(1, 13)) if name == "numerals" else str(self._all[name]).split()
            self._known[name] = [f" {word}" for word in listed if self.is_one(f" {word}")]
        if len(self._known[name]) < fewest:
            raise BadCircuit(
                f"{len(self._known[name])} words of the list {name!r} are single tokens of {self.model.name}; expected "
                f"at least {fewest}; this task cannot be asked of its tokenizer, choose another"
            )
        return self._known[name]

    def pool(self, *names: str, fewest: int) -> list[str]:
        """The words of several lists that are one token.

        Raises:
            BadCircuit: fewer than `fewest` are.
        """
        found = list(dict.fromkeys(word for name in names for word in self.single(name, 0)))
        if len(found) < fewest:
            raise BadCircuit(
                f"{len(found)} words of the lists {', '.join(names)} are single tokens of {self.model.name}; expected "
                f"at least {fewest}; this task cannot be asked of its tokenizer, choose another"
            )
        return found

    def pairs(self, name: str) -> list[tuple[str, str]]:
        """Pairs of words (singular and plural) of which both are one token."""
        rows = [tuple(row.split()) for row in str(self._all[name]).replace("\n", " ").split(",")]
        return [(f" {a}", f" {b}") for a, b in rows if self.is_one(f" {a}") and self.is_one(f" {b}")]

    def sayings(self) -> list[list[str]]:
        """Sayings, their last word, and the word in them that copying would give."""
        return self._all["sayings"]  # type: ignore[return-value]

    def is_one(self, text: str) -> bool:
        """Whether a text is one token inside of a text."""
        if text not in self._one:
            self._one[text] = len(self.model.encode_inner(text)) == 1
        return self._one[text]


@dataclass(frozen=True, repr=False)
class TaskPrompts:
    """Prompts of a task for one model.

    Attributes:
        task: its name.
        clean, corrupted: pairs of equal length; `targets` and `against` of both are those of the clean prompt.
        places: by prompt, named places in it (token index, BOS counted); `END` is the last token.
        answers, distractors: by prompt, as texts.
        solved: what the model gets right of the clean ones.
        refused: why draws were not kept, and how many for each reason.
    """

    task: str
    clean: Prompts
    corrupted: Prompts
    places: tuple[Mapping[str, int], ...]
    answers: tuple[Sides, ...]
    distractors: tuple[Sides, ...]
    solved: Solved
    refused: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        return f"<{len(self)} pairs of {brief(self.task, 40)}: {self.solved}>"

    @property
    def table(self) -> pd.DataFrame:
        """prompt, corrupted, answer, distractor: what `--prompts x.jsonl --targets-column answer` reads."""
        columns = {
            "prompt": self.clean.texts,
            "corrupted": self.corrupted.texts,
            "answer": [side[0] if len(side) == 1 else list(side) for side in self.answers],
            "distractor": [side[0] if len(side) == 1 else list(side) for side in self.distractors],
        }
        return pd.DataFrame(columns)


@dataclass(frozen=True, repr=False)
class Task:
    """A task; call it with a model.

    Attributes:
        name, title: short, and in words.
        corruption: what is different in the corrupted prompt, in words.
        draw: makes a pair from words and chance.
        source: where templates and metric come from.
    """

    name: str
    title: str
    corruption: str
    draw: Callable[[Words, Generator], Pair]
    source: str

    def __repr__(self) -> str:
        return f"<Task {self.name}: {self.title}>"

    @gated(error=BadCircuit)
    def __call__(
        self, model: Model, n: Count = 64, seed: Seed = 0, *, least: Share = 0.7, ask: bool = False
    ) -> TaskPrompts:
        """Pairs of prompts for a model.

        Args:
            n: pairs.
            seed: of what is drawn.
            least: share of them that the model must get right, or it has not solved the task.
            ask: whether an unsolved task is asked nevertheless.

        Raises:
            BadCircuit: the tokenizer has not the tokens, or the model does not solve the task.
        """
        if model.tokenizer is None:
            raise BadCircuit(
                f"{model.name} has no tokenizer; expected one for the task {self.name}, which is made of texts; load "
                "the model with its tokenizer"
            )
        kept, refused = self._drawn(model, n, seed)
        pairs = [pair for pair, _ in kept]
        clean, corrupted, places = zip(*(row for _, row in kept), strict=True)
        sides = [tuple(tuple(model.encode_inner(t)[0] for t in side) for side in (p.answers, p.against)) for p in pairs]
        first, second = (
            Prompts(
                ids=tuple(ids for ids, _ in texts),
                texts=tuple(text for _, text in texts),
                source=f"task {self.name}",
                targets=tuple(s[0] for s in sides),
                against=tuple(s[1] for s in sides),
            )
            for texts in (clean, corrupted)
        )
        found = solved(model, first, second)
        if found.share < least and not ask:
            raise BadCircuit(
                f"{model.name} does not solve the task {self.name}: {found} of {n} prompts; expected {least:.0%} or "
                "more, since a circuit for a task that a model cannot do explains nothing; choose another task, or "
                "pass ask=True"
            )
        return TaskPrompts(
            self.name,
            first,
            second,
            tuple(places),
            tuple(p.answers for p in pairs),
            tuple(p.against for p in pairs),
            found,
            refused,
        )

    def _drawn(self, model: Model, n: int, seed: int) -> tuple[list[tuple[Pair, Tokenized]], dict[str, int]]:
        rng, words = np.random.default_rng(seed), Words(model)
        kept: list[tuple[Pair, Tokenized]] = []
        seen: set[str] = set()
        refused: Counter[str] = Counter()
        for _ in range(TRIES + TRIES_EACH * n):
            pair = self.draw(words, rng)
            text, _ = _filled(pair.template, pair.clean)
            if text in seen:
                refused["drawn before"] += 1
                continue
            seen.add(text)
            try:
                row = tokenized(words, pair)
            except BadPrompt as reason:
                refused[str(reason)] += 1
                continue
            kept.append((pair, row))
            if len(kept) == n:
                return kept, dict(refused)
        why = "; ".join(f"{reason} ({count})" for reason, count in refused.most_common(3))
        raise BadCircuit(
            f"{TRIES + TRIES_EACH * n:,} draws of the task {self.name} gave {len(kept)} prompts for {model.name} "
            f"({brief(why, 300)}); expected {n}; ask for fewer"
        )


def tokenized(words: Words, pair: Pair) -> Tokenized:
    """Both prompts of a pair, with ids, texts and places.

    Raises:
        BadPrompt: with the reason why the pair cannot be used, in a few words.
    """
    clean, corrupted = (_filled(pair.template, slots) for slots in (pair.clean, pair.corrupted))
    found, others = words.model.tokens(clean[0]), words.model.tokens(corrupted[0])
    if not pair.answers or not pair.against:
        raise BadPrompt("its tokens do not tell answers from distractors")
    if len(found) != len(others):
        raise BadPrompt("clean and corrupted differ in length")
    if len(found) > words.model.n_ctx:
        raise BadPrompt("longer than the model reads")
    places = {"END": len(found) - 1}
    for slot in dict.fromkeys((*pair.at.values(), *pair.one)):
        ends = [_end(words.model, *prompt, slot, ids) for prompt, ids in ((clean, found), (corrupted, others))]
        if ends[0] != ends[1]:
            raise BadPrompt(f"{slot} stands at different places")
        if slot in pair.one and any(not words.is_one(slots[slot]) for slots in (pair.clean, pair.corrupted)):
            raise BadPrompt(f"{slot} is not one token")
        places |= {name: ends[0] for name, own in pair.at.items() if own == slot}
    for text in (*pair.answers, *pair.against):
        after = words.model.following(found[1:] if words.model.has_bos(found) else found, text)
        if len(after.ids) != 1 or after.ids[0] != words.model.encode_inner(text)[0]:
            raise BadPrompt("an answer is not one token behind the prompt")
    if set(pair.answers) & set(pair.against):
        raise BadPrompt("answer and distractor are the same")
    return (tuple(found), clean[0]), (tuple(others), corrupted[0]), places


def _filled(template: str, slots: Slots) -> tuple[str, dict[str, int]]:
    """The text, and where each slot ends in it."""
    ends: dict[str, int] = {}
    text, last = "", 0
    for match in SLOT.finditer(template):
        text += template[last : match.start()] + slots[match[1]]
        ends[match[1]], last = len(text), match.end()
    return text + template[last:], ends


def _end(model: Model, text: str, ends: Mapping[str, int], slot: str, ids: Sequence[int]) -> int:
    """The token in which a slot ends.

    Raises:
        BadPrompt: none does: the tokenizer joins it with what follows.
    """
    before = model.tokens(text[: ends[slot]])
    if list(ids[: len(before)]) != before:
        raise BadPrompt(f"{slot} is joined with what follows")
    return len(before) - 1
