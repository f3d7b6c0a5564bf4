"""`Task`: prompts whose answer a circuit is claimed to compute, in pairs, for any model and tokenizer.

1. A task draws a pair: the same text clean and corrupted, its answer and its distractor.
2. A pair is kept where every slot is one token of this model, in both texts at the same place, the texts are equally
   long, and answer and distractor are single tokens. Others are drawn again.
3. What the model gets right is measured: a circuit for a task that it cannot do explains nothing.

Prompts are drawn independently and share templates: an interval over them is one for these templates.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.random import Generator

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadCircuit, BadPrompt
from steerscope.analysis.gate import Count, Seed, Share, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.prompts import Prompts

from .solving import Solved, solved
from .words import Words

SLOT = re.compile(r"\{(\w+)\}")
TRIES, TRIES_EACH = 200, 20  # draws at most, and for each prompt that is wanted
Slots = Mapping[str, str]
Sides = tuple[str, ...]
Ids = tuple[int, ...]


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


@dataclass(frozen=True)
class Tokenized:
    """A pair as a model reads it: the clean text, then the corrupted one.

    Attributes:
        targets, against: tokens of its answers and distractors.
    """

    pair: Pair
    ids: tuple[Ids, Ids]
    texts: tuple[str, str]
    places: Mapping[str, int]
    targets: Ids
    against: Ids


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
        templates: by prompt, the template that it was made of; nothing where that is not known.
    """

    task: str
    clean: Prompts
    corrupted: Prompts
    places: tuple[Mapping[str, int], ...]
    answers: tuple[Sides, ...]
    distractors: tuple[Sides, ...]
    solved: Solved
    refused: Mapping[str, int]
    templates: tuple[str, ...] = ()

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
        clean, corrupted = (
            Prompts(
                ids=tuple(row.ids[side] for row in kept),
                texts=tuple(row.texts[side] for row in kept),
                source=f"task {self.name}",
                targets=tuple(row.targets for row in kept),
                against=tuple(row.against for row in kept),
            )
            for side in (0, 1)
        )
        found = solved(model, clean, corrupted)
        if found.share < least and not ask:
            raise BadCircuit(
                f"{model.name} does not solve the task {self.name}: {found} of {n} prompts; expected {least:.0%} or "
                "more, since a circuit for a task that a model cannot do explains nothing; choose another task, or "
                "pass ask=True"
            )
        return TaskPrompts(
            self.name,
            clean,
            corrupted,
            tuple(row.places for row in kept),
            tuple(row.pair.answers for row in kept),
            tuple(row.pair.against for row in kept),
            found,
            refused,
            tuple(row.pair.template for row in kept),
        )

    def _drawn(self, model: Model, n: int, seed: int) -> tuple[list[Tokenized], dict[str, int]]:
        rng, words = np.random.default_rng(seed), Words(model)
        kept: list[Tokenized] = []
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
                kept.append(tokenized(words, pair))
            except BadPrompt as reason:
                refused[str(reason)] += 1
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
    targets, against = (
        tuple(_one_behind(words.model, found, text) for text in side) for side in (pair.answers, pair.against)
    )
    if set(pair.answers) & set(pair.against):
        raise BadPrompt("answer and distractor are the same")
    return Tokenized(pair, (tuple(found), tuple(others)), (clean[0], corrupted[0]), places, targets, against)


def _one_behind(model: Model, ids: Sequence[int], text: str) -> int:
    """The token that a text is, behind a prompt and by itself.

    Raises:
        BadPrompt: it is several, or another one there.
    """
    behind = model.following(ids, text).ids
    if len(behind) != 1 or behind[0] != model.encode_inner(text)[0]:
        raise BadPrompt("an answer is not one token behind the prompt")
    return behind[0]


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
