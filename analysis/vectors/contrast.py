"""Pairs of texts that differ in one thing: their mean difference at the last token, and the same with labels exchanged.

1. Pairs stand in groups (of CAA: by the letter that is the answer), each of which has its share of the mean, whatever
   its size; so what differs between groups alone cancels where they balance each other.
2. `W` is a group's share over its size for the first text of each of its pairs, and minus that for the second.
3. Labels are exchanged within pairs: in every group half of the pairs are turned round, and both halves count alike.
   What the pairs have in common whichever way round they are written cancels, group by group, exactly.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.errors import BadVector
from steerscope.analysis.model.models import Model

from .plans import Kept, Plan, relabelled
from .vector import SteeringVector

TRIES = 50  # draws for each vector that is wanted: none is used twice
MANY = 10**6  # ways that are counted
Groups = NDArray[np.int64]


def difference(shares: Float[Tensor, " pair"]) -> Float[Tensor, "1 kept"]:
    """The weights of activations that stand first, second, first, second... from those of their pairs."""
    return torch.stack([shares, -shares], dim=1).reshape(1, -1)


def shares(groups: Groups, of_group: Mapping[int, float]) -> Float[Tensor, " pair"]:
    """What each pair counts: alike within its group."""
    sizes = np.bincount(groups)
    return torch.tensor([of_group[group] / sizes[group] for group in groups.tolist()], dtype=torch.float64)


def choices(copies: NDArray[np.int64], size: int) -> int:
    """In how many ways `size` things of which there are copies can be chosen, as far as they are counted (`MANY`)."""
    ways = np.eye(1, size + 1)[0]  # by n, the different choices of n things among the kinds of things so far
    for most in copies:  # none to all of them: sums over a window
        total = np.concatenate([np.zeros(most + 1), ways.cumsum()])
        ways = np.minimum(total[most + 1 :] - total[: size + 1], MANY)
        if ways[size] == MANY:
            break
    return int(ways[size])


def ways(groups: Groups, kinds: Groups) -> int:
    """How many different vectors exchanged labels make, up to their sign, as far as they are counted (`MANY`).

    Args:
        kinds: by pair, which one it is: copies have one number.
    """
    found = 1
    for group in np.unique(groups):
        own = np.bincount(kinds[groups == group])
        found = min(found * choices(own[own > 0], int(own.sum()) // 2), MANY)
    every, even = _halved(groups, kinds), bool((np.bincount(groups) % 2 == 0).all())
    alike = int((every % 2 == 0).all())  # one choice has the same pairs on both sides, which is nothing
    return (found - alike) // (1 + even)


def _halved(groups: Groups, kinds: Groups) -> Groups:
    """By kind of pair, how many copies there are in groups that have halves."""
    return np.bincount(kinds, weights=np.bincount(groups)[groups] > 1).astype(np.int64)


def kinds_of(pairs: Sequence[Sequence[str]]) -> Groups:
    """By pair, which one it is: copies have one number."""
    numbers = {pair: n for n, pair in enumerate(dict.fromkeys(map(tuple, pairs)))}
    return np.array([numbers[tuple(pair)] for pair in pairs])


def exchanged(
    model: Model,
    vector: SteeringVector,
    plan: Plan,
    groups: Groups,
    kinds: Groups,
    of_group: Mapping[int, float],
    count: int,
    generator: Generator,
) -> list[SteeringVector]:
    """Vectors of the same pairs, half of each group turned round at random: none twice.

    Args:
        plan: the vector's, made again.
        groups: by pair.
        kinds: by pair, which one it is: copies have one number.
        of_group: the share of each group.
        count: how many.

    Raises:
        BadVector: there are not so many, or the vector is of another model.
    """
    drawn = _turns(groups, kinds, count, generator, vector)
    return relabelled(model, vector, plan, [partial(_as_drawn, groups, turned, of_group) for turned in drawn])


def _as_drawn(
    groups: Groups, turned: NDArray[np.bool_], of_group: Mapping[int, float], kept: Kept
) -> Float[Tensor, "1 kept"]:
    return difference(_halves(groups, turned, of_group))


def _turns(
    groups: Groups, kinds: Groups, count: int, generator: Generator, vector: SteeringVector
) -> Sequence[NDArray[np.bool_]]:
    """Which pairs are turned round, `count` different times."""
    found: dict[bytes, NDArray[np.bool_]] = {}
    every = _halved(groups, kinds)
    for _ in range(TRIES * count if count <= ways(groups, kinds) else 0):
        turned = np.zeros(len(groups), dtype=bool)
        for group in np.unique(groups):
            own = generator.permutation(np.flatnonzero(groups == group))
            turned[own[: len(own) // 2]] = True
        own = np.bincount(kinds, weights=turned, minlength=len(every)).astype(np.int64)
        if (2 * own != every).any():  # not alike on both sides
            found.setdefault(min(own.tobytes(), (every - own).tobytes()), turned)
        if len(found) == count:
            return list(found.values())
    raise BadVector(
        f"the labels of ({vector.label}) can be exchanged in only {min(ways(groups, kinds), count)} different ways; "
        f"expected {count}; give more pairs, or ask for fewer shuffled references"
    )


def _halves(groups: Groups, turned: NDArray[np.bool_], of_group: Mapping[int, float]) -> Float[Tensor, " pair"]:
    """The shares of pairs of which some are turned round: both halves of a group count alike, a pair alone nothing."""
    sizes = np.bincount(groups)
    flipped = np.bincount(groups, weights=turned).astype(int)
    found = []
    for group, turn in zip(groups.tolist(), turned.tolist(), strict=True):
        half = flipped[group] if turn else sizes[group] - flipped[group]
        found.append(0.0 if sizes[group] == 1 else (-1.0 if turn else 1.0) * of_group[group] / (2 * half))
    return torch.tensor(found, dtype=torch.float64)
