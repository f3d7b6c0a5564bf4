"""Difference in means: the mean activation over texts of one kind minus that over texts of another, at the last token.

1. Record every text at the site; keep the last token's activation.
2. Average each side, weighted if one likes; subtract. The vector has one row, for positions `last`, `all` or indices.
3. To know what such a vector is without its labels, exchange them: all texts in one pool, split anew at random into
   sides of the same sizes (`shuffled`). What any difference of two means of these texts does, these do as well.

Sources: Rimsky et al., "Steering Llama 2 via Contrastive Activation Addition", arXiv 2312.06681; Marks and Tegmark,
"The Geometry of Truth", arXiv 2310.06824.

What it cannot see: which texts are a pair, or share a template. Labels are exchanged as if the texts were independent;
where both sides were written as pairs, the exchanged ones differ by their subjects, too.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import gated
from steerscope.analysis.model.models import Model

from .contrast import choices
from .plans import HERE, ROUNDING, Kept, Plan, Weighed, last, make_one, place, relabelled
from .texts import TWO_KINDS, listed, tokens_of, words
from .vector import SteeringVector

EXAMPLE = {**TWO_KINDS, "layer": 1}
TRIES = 50  # random splits for each one that is wanted: none is used twice
SIDES = ("positive", "negative")
OPTIONS = (*SIDES, "positive_weights", "negative_weights")

Texts = Sequence[str] | Sequence[Sequence[int]]
Indices = NDArray[np.int64]


@gated(error=BadVector)
def mean_difference(
    model: Model,
    positive: Sequence[str] | Sequence[Sequence[int]],
    negative: Sequence[str] | Sequence[Sequence[int]],
    layer: int = 0,
    *,
    site: str = "resid_pre",
    head: int | None = None,
    positive_weights: Sequence[float] | None = None,
    negative_weights: Sequence[float] | None = None,
) -> SteeringVector:
    """The mean activation at the last token of `positive` minus that of `negative`, `[1, width]`.

    Args:
        positive: texts of the positive side, or lists of token ids; at the command line a file, one text a line.
        negative: texts of the negative side, in the same way.
        layer: where it is recorded, and injected unless the injection says otherwise.
        site: resid_pre, attn_out, mlp_out, or z with a head.
        head: head, for the site z.
        positive_weights: of each positive text, above 0; alike by default.
        negative_weights: of each negative text.

    Raises:
        BadVector: a side that is empty or no list, a text that is blank or too long, or two equal means.
        BadNode: the model has no such layer, site or head.
    """
    at = place(model, layer, site, head)
    return make_one(model, plan(model, positive, negative, positive_weights, negative_weights), at)


def plan(
    model: Model,
    positive: Texts,
    negative: Texts,
    positive_weights: Sequence[float] | None = None,
    negative_weights: Sequence[float] | None = None,
) -> Plan:
    """What it asks of the model (see `plans`).

    Raises:
        BadVector: as `mean_difference`.
    """
    sides = {"positive": listed(positive, "positive"), "negative": listed(negative, "negative")}
    given = {"positive": positive_weights, "negative": negative_weights}
    weights = {f"{side}_weights": _weights(own, sides[side], side) for side, own in given.items() if own is not None}
    label = " - ".join(f"{'weighted ' * (f'{side}_weights' in weights)}mean of {words(sides[side])}" for side in SIDES)
    source = {"recipe": "mean_difference", **sides, **weights, "model": model.name, "label": label}
    runs = tuple(last(ids) for ids in _tokens(model, source))
    nothing = (
        f"the positive and the negative texts have the same mean activation at {HERE}; expected different texts; "
        "at layer 0 only their last tokens count: choose a later one, or other texts"
    )
    chosen = np.arange(len(sides["positive"]))
    return Plan(source, runs, lambda kept: Weighed(_signed(source, chosen)), nothing, ROUNDING)


def shuffled(model: Model, vector: SteeringVector, count: int, generator: Generator) -> list[SteeringVector]:
    """Vectors of the same texts, recorded as `vector` was, their labels exchanged at random: no split twice.

    Args:
        count: how many vectors.
        generator: draws the splits.

    Raises:
        BadVector: the vector is of another model, or its texts cannot be split in so many ways.
    """
    source = vector.source
    drawn = _splits(source, count, generator)
    given: list[Any] = [source.get(key) for key in OPTIONS]
    made = plan(model, *given)
    return relabelled(model, vector, made, [partial(_as_drawn, source, positive) for positive in drawn])


def _as_drawn(source: Mapping[str, Any], positive: Indices, kept: Kept) -> Float[Tensor, "1 text"]:
    return _signed(source, positive)


def splits(source: Mapping[str, Any]) -> int:
    """In how many ways the labels of a vector's texts can be exchanged, as far as they are counted (`MANY`).

    Copies of a text are one. Without the real split, without one whose sides are alike, and, where the sides are of
    equal size, a split and the same one turned round count once: they give one direction with two signs.
    """
    size, copies = len(source["positive"]), np.bincount(_kinds(source))
    ways = choices(copies, size)
    alike = int((size * copies % copies.sum() == 0).all())
    return (ways - alike) // (2 if 2 * size == copies.sum() else 1) - 1


def _splits(source: Mapping[str, Any], count: int, generator: Generator) -> list[Indices]:
    """By split, the texts of the pool that are called positive."""
    kinds, size = _kinds(source), len(source["positive"])
    copies = np.bincount(kinds)

    def key(positive: Indices) -> tuple[int, ...] | None:
        """Equal for splits that give one direction; None where the sides are alike."""
        own = np.bincount(kinds[positive], minlength=len(copies))
        if (own * len(kinds) == copies * size).all():
            return None
        turned = [own, copies - own] if 2 * size == len(kinds) else [own]
        return min(tuple(side.tolist()) for side in turned)

    found = {None: np.arange(0), key(np.arange(size)): np.arange(size)}
    possible = splits(source)
    for _ in range(TRIES * count if count <= possible else 0):
        positive = generator.permutation(len(kinds))[:size]
        found.setdefault(key(positive), positive)
        if len(found) == 2 + count:
            return list(found.values())[2:]
    most = possible if possible < count else len(found) - 2
    raise BadVector(
        f"the labels of ({source['label']}) can be exchanged in only {most} different ways; expected {count}; give "
        "more texts, or ask for fewer shuffled references"
    )


def _kinds(source: Mapping[str, Any]) -> Indices:
    """By text of both sides, which one it is: copies of one weight have one number."""
    weights = _all_weights(source)
    texts = [text if isinstance(text, str) else tuple(text) for side in SIDES for text in source[side]]
    pairs = list(zip(texts, weights, strict=True))
    numbers = {pair: n for n, pair in enumerate(dict.fromkeys(pairs))}
    return np.array([numbers[pair] for pair in pairs])


def _all_weights(source: Mapping[str, Any]) -> list[float]:
    """Of both sides."""
    return [w for side in SIDES for w in source.get(f"{side}_weights") or [1.0] * len(source[side])]


def _signed(source: Mapping[str, Any], positive: Indices) -> Float[Tensor, "1 text"]:
    """By text, its share of the mean of the side that it is called: positive, or (below zero) negative."""
    weights = torch.tensor(_all_weights(source), dtype=torch.float64)
    chosen = torch.zeros(len(weights), dtype=torch.bool)
    chosen[torch.from_numpy(positive)] = True
    shares = torch.where(chosen, weights / weights[chosen].sum(), -weights / weights[~chosen].sum())
    return shares[None]


def _weights(given: Sequence[float], texts: Sequence[Any], side: str) -> list[float]:
    if len(given) != len(texts) or min(given, default=0) <= 0:
        raise BadVector(
            f"got {len(given)} weights for {len(texts)} {side} texts, the least {min(given, default=0):g}; expected "
            "one above 0 for each; leave a text out instead of giving it 0"
        )
    return [float(weight) for weight in given]


def _tokens(model: Model, source: Mapping[str, Any]) -> list[list[int]]:
    """Token ids of all texts, positive ones first."""
    return tokens_of(
        model, ((f"{side} text {number}", text) for side in SIDES for number, text in enumerate(source[side], 1))
    )
