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

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steerscope.analysis.brief import brief
from steerscope.analysis.engine.activations import record
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.gate import Whole, gated, shown
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import parse_site
from steerscope.analysis.vectors.random import random_like
from steerscope.analysis.vectors.recipes import recipe_of
from steerscope.analysis.vectors.vector import SteeringVector

from .corpora import windows

WORDS = Path(__file__).with_name("data") / "words.txt"
MIXED = "concepts:12,isotropic:16"  # where the recipe allows concepts
EXCHANGED = "shuffled:16,isotropic:12"  # where it has labels to exchange
NOISE_ONLY = "isotropic:20"
MOST = 1000  # reference vectors: each is as many runs as the real one
TEXTS, TOKENS = 64, 32  # windows of text that a covariance is taken of

Own = tuple[SteeringVector, ...]
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
    "shuffled": Family(
        _shuffled, True, "the same texts, labels exchanged", "labelled texts (mean_difference, pairs, caa, pca, probe)"
    ),
    "concepts": Family(
        _concepts, False, "other words, recorded the same way", "words (prompt_pair, single_prompt, minus_mean)"
    ),
    "given": Family(None, False, "vectors of yours"),
}
OF_LABELS = ("concepts", "shuffled")  # of what a vector's label says, at whatever layer
OFFERED = tuple(name for name, family in FAMILIES.items() if family.draw)


@gated
@dataclass(frozen=True)
class References:
    """How many reference vectors of which families, noise first; and a user's own.

    Attributes:
        counts: (family, how many).
        own: vectors of a user, one for each of a question's injections.
    """

    counts: tuple[tuple[str, Whole], ...] = ()
    own: tuple[tuple[SteeringVector, ...], ...] = ()

    def __post_init__(self) -> None:
        names = [name for name, _ in self.counts]
        total = sum(count for _, count in self.counts) + len(self.own)
        if not set(names) <= set(OFFERED) or len(set(names)) < len(names) or total > MOST:
            raise BadArgument(
                f"references of {brief(', '.join(names))}, {total:,} together; expected at most {MOST:,} of "
                f"{', '.join(OFFERED)}, each named once; ask for others, or for fewer"
            )

    @property
    def families(self) -> tuple[str, ...]:
        """By reference vector."""
        return tuple(name for name, count in self.counts for _ in range(count)) + ("given",) * len(self.own)

    def __len__(self) -> int:
        return len(self.families)

    def __str__(self) -> str:
        parts = [f"{name}:{count}" for name, count in self.counts]
        return ",".join(parts + [f"given:{len(self.own)}"] * bool(self.own)) or "none"

    @gated
    def first(self, most: Whole) -> "References":
        """At most so many."""
        counts, left = [], most
        for name, count in self.counts:
            counts.append((name, min(count, left)))
            left -= min(count, left)
        return References(tuple((n, c) for n, c in counts if c), self.own[:left])

    def draw(self, model: Model, vectors: Sequence[SteeringVector], seed: int) -> list[tuple[SteeringVector, ...]]:
        """By reference vector, one in place of each of the real ones; equal norms row by row.

        What is one vector at several sites has one reference at all of them; vectors of one label at several layers
        have the same words, or the same labels exchanged.
        """
        found: list[tuple[SteeringVector, ...]] = []
        first = [next(m for m, other in enumerate(vectors) if _same(other, vector)) for vector in vectors]
        labels = [vector.label for vector in vectors]
        for name, count in self.counts:
            draw = FAMILIES[name].draw
            assert draw is not None
            columns: list[list[SteeringVector]] = []
            for n, vector in enumerate(vectors):
                turn = labels.index(labels[n]) if name in OF_LABELS else n
                own = (seed, turn) if turn else (seed,)
                columns.append(columns[first[n]] if first[n] < n else draw(model, _recorded(vector), count, own))
            found += zip(*columns, strict=True)
        return [tuple(map(_like, own, vectors)) for own in (*found, *self.own)]


@gated
def references(
    given: References | str | int | Sequence[Any] | None, model: Model, vectors: Sequence[SteeringVector]
) -> References:
    """What a user gave as `References`.

    Args:
        given: None for concepts, or exchanged labels, with isotropic ones beside where the vectors' recipe allows it,
            isotropic ones otherwise; a text such as `concepts:16,isotropic:4`; how many isotropic ones; or vectors (of
            several injections a tuple of one for each, or a bundle by layer).

    Raises:
        BadArgument: anything else, an unknown family, one that cannot be drawn for a vector of this origin, or more
            exchanged labels than there are.
    """
    if isinstance(given, References):
        _check_own(given.own, vectors)
        return given
    if given is None:
        mixes = (mix for mix in (MIXED, EXCHANGED) if not _lacking(_parsed(mix), model, vectors))
        given = next(mixes, NOISE_ONLY)
    if isinstance(given, int):
        given = f"isotropic:{given}"
    if isinstance(given, str):
        made = _parsed(given)
        if lacking := _lacking(made, model, vectors):
            raise BadArgument(
                f"references={brief(given)!r}: {lacking}; use isotropic or covariance ones, or give vectors of your own"
            )
        return made
    if not given:
        raise BadArgument(
            "references=[]; expected for example 'concepts:16,isotropic:4', a number of isotropic ones, or vectors; "
            "give 0 for none"
        )
    own = tuple(
        tuple(one) if isinstance(one, tuple | list) else in_place(one, vectors) if isinstance(one, Mapping) else (one,)
        for one in given
    )
    _check_own(own, vectors)
    return References((), own)


def in_place(one: SteeringVector | Mapping[int, SteeringVector], vectors: Sequence[SteeringVector]) -> Own:
    """A vector, or one a layer, in the place of each of a question's: at its site, its last row where one is needed.

    Raises:
        BadArgument: a layer of the question has none.
    """
    absent = [v.site.layer for v in vectors if isinstance(one, Mapping) and v.site.layer not in one]
    if absent:
        raise BadArgument(
            f"references got {one!r}, which has no vector for layer {absent[0]}; expected one for every layer that is "
            "injected at; give a file of those"
        )
    chosen = [one[v.site.layer] if isinstance(one, Mapping) else one for v in vectors]
    chosen = [v.row(-1) if real.rows == 1 else v for v, real in zip(chosen, vectors, strict=True)]
    return tuple(replace(v, site=real.site) for v, real in zip(chosen, vectors, strict=True))


def _check_own(own: Sequence[Sequence[Any]], vectors: Sequence[SteeringVector]) -> None:
    """Refuses a user's vectors that cannot stand in the place of the real ones."""
    for one in own:
        shapes = [(v.values.shape, v.site) if isinstance(v, SteeringVector) else None for v in one]
        if shapes != [(v.values.shape, v.site) for v in vectors]:
            raise BadArgument(
                f"references got a vector {_shapes(one)}; expected SteeringVectors at the site and of the shape "
                "of the real one (for several injections, a tuple of one for each); record them as that was"
            )
        for made, real in zip(one, vectors, strict=True):
            if ((made.norms == 0) & (real.norms > 0)).any():
                raise BadArgument(
                    f"references got ({brief(made.label)}), which has a row of zeros where ({brief(real.label)}) has "
                    "none; expected a direction in every row, to scale to its norm; leave it out"
                )


def _shapes(vectors: Sequence[Any]) -> str:
    return brief(
        ", ".join(
            f"{list(v.values.shape)} at {v.site}" if isinstance(v, SteeringVector) else shown(v) for v in vectors
        ),
        200,
    )


def _parsed(text: str) -> References:
    counts: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = part.partition(":")
        if number == "" and re.fullmatch("-?[0-9]+", name):
            name, number = "isotropic", name
        if name not in OFFERED or not re.fullmatch("[0-9]{1,9}", number) or name in counts:
            raise BadArgument(
                f"references={brief(text)!r}; expected families and how many, such as concepts:16,isotropic:4; there "
                f"are {', '.join(OFFERED)}, each at most once; mend it"
            )
        counts[name] = int(number)
    if sum(counts.values()) > MOST:
        raise BadArgument(
            f"references={brief(text)!r}; expected at most {MOST:,} together: each is as many runs as the real vector; "
            "ask for fewer"
        )
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


def _same(one: SteeringVector, other: SteeringVector) -> bool:
    return one.source == other.source and torch.equal(one.values, other.values)


def _recorded(vector: SteeringVector) -> SteeringVector:
    """At the site that it was recorded at, where it has been put at another (see `bundles.everywhere`)."""
    place = vector.source.get("recorded")
    return vector if place is None else replace(vector, site=parse_site(str(place)))


def _like(vector: SteeringVector, real: SteeringVector) -> SteeringVector:
    """With the norms of the real one, row by row."""
    norms, wanted = vector.values.double().norm(dim=-1), real.values.double().norm(dim=-1)
    scale = torch.where(norms > 0, wanted / norms.clamp_min(1e-300), 0.0)
    return SteeringVector((vector.values.double() * scale[:, None]).float(), real.site, vector.source)
