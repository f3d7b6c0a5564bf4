"""Reference vectors: what a steering vector is compared with.

A family draws vectors in place of the real one; each has, row by row, the real one's norm. To add a family, write its
function and one line in `FAMILIES`.

    isotropic   random directions
    covariance  random directions with the covariance of the stream at that site, over the shipped text
    shuffled    the same texts with their labels exchanged (where the vector is a difference of means)
    concepts    other words in place of the real one, recorded the same way (where the recipe allows it)
    given       a user's own vectors

The first three are noise: what stands out from them carries meaning. The others mean something: what stands out from
them is specific to this vector.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steerscope.analysis.engine.activations import record
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.model.models import Model
from steerscope.analysis.vectors.random import random_like
from steerscope.analysis.vectors.recipes import recipe_of
from steerscope.analysis.vectors.vector import SteeringVector

from .corpora import windows

WORDS = Path(__file__).with_name("data") / "words.txt"
MIXED = "concepts:12,isotropic:16"  # where the recipe allows concepts
EXCHANGED = "shuffled:16,isotropic:12"  # where it has labels to exchange
NOISE_ONLY = "isotropic:20"
TEXTS, TOKENS = 64, 32  # windows of text that a covariance is taken of

Draw = Callable[[Model, SteeringVector, int, Sequence[int]], list[SteeringVector]]


@dataclass(frozen=True)
class Family:
    """A way of making reference vectors.

    Attributes:
        draw: from the model, the real vector, how many, and the seed and the injection's number.
        noise: whether its vectors mean nothing.
        is_: what its vectors are, in words.
        of: the vectors that it can be drawn for, in words; any where it is empty.
    """

    draw: Draw | None
    noise: bool
    is_: str
    of: str = ""


def _isotropic(model: Model, vector: SteeringVector, count: int, seed: Sequence[int]) -> list[SteeringVector]:
    return [random_like(vector, drawn(seed[0], n, *seed[1:])) for n in range(count)]


def _covariance(model: Model, vector: SteeringVector, count: int, seed: Sequence[int]) -> list[SteeringVector]:
    """Gaussian sums of centred activations have their covariance."""
    text = windows(model, "shipped", count=TEXTS, tokens=min(TOKENS, model.n_ctx))
    seen = torch.cat([x[1:] for x in record(model, text.ids, vector.site)]).double().cpu()
    seen -= seen.mean(dim=0)
    made = []
    for n in range(count):
        generator = torch.Generator().manual_seed(drawn(seed[0], n, 1, *seed[1:]))
        weights = torch.randn(vector.rows, len(seen), generator=generator, dtype=torch.float64)
        made.append(SteeringVector((weights @ seen).float(), vector.site, {"recipe": "covariance", "number": n}))
    return made


def _shuffled(model: Model, vector: SteeringVector, count: int, seed: Sequence[int]) -> list[SteeringVector]:
    recipe = recipe_of(vector)
    assert recipe is not None and recipe.shuffled is not None
    return recipe.shuffled(model, vector, count, np.random.default_rng([seed[0], 3, *seed[1:]]))


def _concepts(model: Model, vector: SteeringVector, count: int, seed: Sequence[int]) -> list[SteeringVector]:
    recipe = recipe_of(vector)
    assert recipe is not None and recipe.concepts is not None
    words = WORDS.read_text(encoding="utf-8").split()
    return recipe.concepts(model, vector, words, count, np.random.default_rng([seed[0], 2, *seed[1:]]))


FAMILIES: dict[str, Family] = {
    "isotropic": Family(_isotropic, True, "random directions"),
    "covariance": Family(_covariance, True, "random directions with the stream's covariance"),
    "shuffled": Family(_shuffled, True, "the same texts, labels exchanged", "two sets of texts (mean_difference)"),
    "concepts": Family(_concepts, False, "other words, recorded the same way", "words (prompt_pair)"),
    "given": Family(None, False, "vectors of yours"),
}
OFFERED = tuple(name for name, family in FAMILIES.items() if family.draw)


@dataclass(frozen=True)
class References:
    """How many reference vectors of which families, noise first; and a user's own.

    Attributes:
        counts: (family, how many).
        own: vectors of a user, one for each of a question's injections.
    """

    counts: tuple[tuple[str, int], ...] = ()
    own: tuple[tuple[SteeringVector, ...], ...] = ()

    @property
    def families(self) -> tuple[str, ...]:
        """By reference vector."""
        return tuple(name for name, count in self.counts for _ in range(count)) + ("given",) * len(self.own)

    def __len__(self) -> int:
        return len(self.families)

    def __str__(self) -> str:
        parts = [f"{name}:{count}" for name, count in self.counts]
        return ",".join(parts + [f"given:{len(self.own)}"] * bool(self.own)) or "none"

    def first(self, most: int) -> "References":
        """At most so many."""
        counts, left = [], most
        for name, count in self.counts:
            counts.append((name, min(count, left)))
            left -= min(count, left)
        return References(tuple((n, c) for n, c in counts if c), self.own[:left])

    def draw(self, model: Model, vectors: Sequence[SteeringVector], seed: int) -> list[tuple[SteeringVector, ...]]:
        """By reference vector, one in place of each of the real ones; equal norms row by row."""
        found: list[tuple[SteeringVector, ...]] = []
        for name, count in self.counts:
            draw = FAMILIES[name].draw
            assert draw is not None
            columns = [draw(model, vector, count, (seed, n) if n else (seed,)) for n, vector in enumerate(vectors)]
            found += zip(*columns, strict=True)
        return [tuple(map(_like, own, vectors)) for own in (*found, *self.own)]


def references(given: Any, model: Model, vectors: Sequence[SteeringVector]) -> References:
    """What a user gave as `References`.

    Args:
        given: None for concepts, or exchanged labels, with isotropic ones beside where the vectors' recipe allows it,
            isotropic ones otherwise; a text such as `concepts:16,isotropic:4`; how many isotropic ones; or vectors.

    Raises:
        BadArgument: anything else, an unknown family, one that cannot be drawn for a vector of this origin, or more
            exchanged labels than there are.
    """
    if isinstance(given, References):
        return given
    if given is None:
        mixes = (mix for mix in (MIXED, EXCHANGED) if not _lacking(_parsed(mix), model, vectors))
        given = next(mixes, NOISE_ONLY)
    if isinstance(given, int | np.integer) and not isinstance(given, bool):
        given = f"isotropic:{given}"
    if isinstance(given, str):
        made = _parsed(given)
        if lacking := _lacking(made, model, vectors):
            raise BadArgument(
                f"references={given!r}: {lacking}; use isotropic or covariance ones, or give vectors of your own"
            )
        return made
    if isinstance(given, Sequence) and given:
        own = tuple((one,) if isinstance(one, SteeringVector) else tuple(one) for one in given)
        for one in own:
            shapes = [(v.values.shape, v.site) for v in one if isinstance(v, SteeringVector)]
            if shapes != [(v.values.shape, v.site) for v in vectors]:
                raise BadArgument(
                    f"references got a vector {_shapes(one)}; expected SteeringVectors at the site and of the shape "
                    "of the real one (for several injections, a tuple of one for each)"
                )
        return References((), own)
    raise BadArgument(
        f"references={given!r}; expected for example 'concepts:16,isotropic:4', a number of isotropic ones, or vectors"
    )


def _shapes(vectors: Sequence[Any]) -> str:
    return ", ".join(f"{list(v.values.shape)} at {v.site}" if hasattr(v, "site") else repr(v) for v in vectors)


def _parsed(text: str) -> References:
    counts: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = part.partition(":")
        if number == "" and name.lstrip("-").isdigit():
            name, number = "isotropic", name
        if name not in OFFERED or not number.isdigit() or name in counts:
            raise BadArgument(
                f"references={text!r}; expected families and how many, such as concepts:16,isotropic:4; there are "
                f"{', '.join(OFFERED)}, each at most once"
            )
        counts[name] = int(number)
    order = sorted(counts, key=lambda name: not FAMILIES[name].noise)  # noise first: it is asked of most
    return References(tuple((name, counts[name]) for name in order if counts[name]))


def drawn(*seed: int) -> int:
    """The seed of one draw."""
    return int(np.random.SeedSequence(list(seed)).generate_state(1)[0])


def _lacking(made: References, model: Model, vectors: Sequence[SteeringVector]) -> str:
    """Why references cannot be drawn for these vectors; empty where they can."""
    for name, count in made.counts:
        for vector in vectors if FAMILIES[name].of else ():
            recipe = recipe_of(vector)
            if recipe is None or getattr(recipe, name) is None or vector.source.get("model") != model.name:
                expected = f"expected a vector made from {FAMILIES[name].of} on {model.name}"
                return f"there are no {name} references for ({vector.label}); {expected}"
            if name == "shuffled" and recipe.splits(vector) < count:
                ways = f"can be exchanged in only {recipe.splits(vector)} different ways"
                return f"the labels of ({vector.label}) {ways}; expected {count}; give more texts, ask for fewer"
    return ""


def _like(vector: SteeringVector, real: SteeringVector) -> SteeringVector:
    """With the norms of the real one, row by row."""
    norms, wanted = vector.values.double().norm(dim=-1), real.values.double().norm(dim=-1)
    scale = torch.where(norms > 0, wanted / norms.clamp_min(1e-30), 0.0)
    return SteeringVector((vector.values.double() * scale[:, None]).float(), real.site, vector.source)
