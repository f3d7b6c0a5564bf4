"""Twelve steering vectors that the story models are studied with, read from `data/twelve.toml`.

Topics, sentiment, names, gender and tense; some from a pair of prompts, some as differences of means over stories of
the grammar. The texts of a mean are stories cut after a word of its own, so that what is recorded at their last token
is that word in its story. Stories of both sides are cut at the same range of lengths; a story gives one text.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from steerscope.analysis.errors import BadCorpus
from steerscope.analysis.gate import Count, Seed, Whole, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.vectors.recipes import make
from steerscope.analysis.vectors.vector import SteeringVector

from .corpus import topic_stories
from .zoo import DATA

TEXTS = 100  # of each side of a mean
CUT = (6, 40)  # words that a text may have
PATIENCE = 200  # stories that are read for each text that is wanted


@gated(error=BadCorpus)
@dataclass(frozen=True)
class Concept:
    """One of the twelve vectors: how it is made, and what it should do.

    Attributes:
        plus, minus: the two prompts of a pair (one text each), or the words after which stories are cut.
        raises: single tokens that it should make more likely. lowers: single tokens to compare them with.
    """

    name: str
    kind: Literal["topic", "sentiment", "name", "gender", "tense"]
    recipe: Literal["prompt_pair", "mean_difference"]
    plus: tuple[str, ...]
    minus: tuple[str, ...]
    raises: tuple[str, ...]
    lowers: tuple[str, ...]

    @property
    def positions(self) -> str:
        """Where it is injected: a pair token by token from the front, a mean everywhere."""
        return "front" if self.recipe == "prompt_pair" else "all"

    @gated
    def vector(self, model: Model, layer: Whole = 0, site: str = "resid_pre", seed: Seed = 0) -> SteeringVector:
        """The vector, recorded in a model that reads English.

        Args:
            seed: of the stories of a mean.
        """
        if self.recipe == "prompt_pair":
            return make(model, "prompt_pair", plus=self.plus[0], minus=self.minus[0], layer=layer, site=site)
        plus, minus = self.texts(seed=seed)
        return make(model, "mean_difference", positive=plus, negative=minus, layer=layer, site=site)

    @gated
    def texts(self, count: Count = TEXTS, seed: Seed = 0) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The stories of the two sides of a mean, each cut after one of its words."""
        return _cut(self.plus, count, seed), _cut(self.minus, count, seed)


@cache
def _cut(words: tuple[str, ...], count: int, seed: int) -> tuple[str, ...]:
    """The beginnings of stories up to one of the words, no two alike.

    Raises:
        BadCorpus: the grammar's stories have too few.
    """
    ends = re.compile(rf"(?:{'|'.join(map(re.escape, words))})(?![\w'])")
    found: dict[str, None] = {}
    for _, story in zip(range(PATIENCE * count), topic_stories(seed), strict=False):
        if text := next(_long_enough(story, ends), None):
            found[text] = None
        if len(found) == count:
            return tuple(found)
    raise BadCorpus(
        f"{len(found)} texts end in one of {', '.join(map(repr, words))}; expected {count} from the grammar's stories; "
        "ask for fewer, or for other words"
    )


def _long_enough(story: str, ends: re.Pattern[str]) -> Iterator[str]:
    for match in ends.finditer(story):
        text = story[: match.end()]
        if CUT[0] <= len(text.split()) <= CUT[1]:
            yield text


@cache
def twelve() -> tuple[Concept, ...]:
    """The twelve vectors, in the order of the file."""
    tables = tomllib.loads((DATA / "twelve.toml").read_text(encoding="utf-8"))
    return tuple(Concept(name, **table) for name, table in tables.items())
