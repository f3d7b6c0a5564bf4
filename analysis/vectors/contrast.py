"""Pairs of texts that differ in one thing: their mean difference at the last token, and the same with labels exchanged.

1. Pairs stand in groups (of CAA: by the letter that is the answer), each of which has its share of the mean, whatever
   its size; so what differs between groups alone cancels where they balance each other.
2. `W` is a group's share over its size for the first text of each of its pairs, and minus that for the second.
3. Labels are exchanged within pairs: in every group half of the pairs are turned round, and both halves count alike.
   What the pairs have in common whichever way round they are written cancels, group by group, exactly.
"""

from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.errors import BadVector
from steerscope.analysis.model.models import Model

from .plans import Plan, recorded
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


def ways(groups: Groups) -> int:
    """How many different vectors exchanged labels make, up to their sign, as far as they are counted (`MANY`)."""
    found = 1
    for size in np.bincount(groups).tolist():
        found = min(found * comb(size, size // 2), MANY) if size > 1 else found
    even = bool((np.bincount(groups) % 2 == 0).all())
    return 0 if len(groups) < 2 else found // (1 + even)


def exchanged(
    model: Model,
    vector: SteeringVector,
    plan: Plan,
    groups: Groups,
    of_group: Mapping[int, float],
    count: int,
    generator: Generator,
) -> list[SteeringVector]:
    """Vectors of the same pairs, half of each group turned round at random: none twice.

    Args:
        plan: the vector's, made again.
        groups: by pair.
        of_group: the share of each group.
        count: how many.

    Raises:
        BadVector: there are not so many, or the vector is of another model.
    """
    if (made_on := vector.source.get("model")) != model.name:
        raise BadVector(
            f"the labels of ({vector.label}) cannot be exchanged on {model.name}: it was made on {made_on}; expected "
            "the same model; make it again on this one"
        )
    drawn = _turns(groups, count, generator, vector)
    [kept] = recorded(model, [(plan, vector.site)])
    made = []
    for n, turned in enumerate(drawn):
        about: dict[str, Any] = {"recipe": "shuffled", "number": n, "label": f"exchanged labels {n + 1}"}
        weights = difference(_halves(groups, turned, of_group))
        made.append(SteeringVector(weights @ kept, vector.site, about))
    return made


def _turns(groups: Groups, count: int, generator: Generator, vector: SteeringVector) -> Sequence[NDArray[np.bool_]]:
    """Which pairs are turned round, `count` different times."""
    found: dict[bytes, NDArray[np.bool_]] = {}
    for _ in range(TRIES * count if count <= ways(groups) else 0):
        turned = np.zeros(len(groups), dtype=bool)
        for group in np.unique(groups):
            own = generator.permutation(np.flatnonzero(groups == group))
            turned[own[: len(own) // 2]] = True
        alone = np.bincount(groups)[groups] == 1  # has no half
        key = min(np.where(alone, False, t).tobytes() for t in (turned, ~turned))
        found.setdefault(key, turned)
        if len(found) == count:
            return list(found.values())
    raise BadVector(
        f"the labels of ({vector.label}) can be exchanged in only {min(ways(groups), count)} different ways; expected "
        f"{count}; give more pairs, or ask for fewer shuffled references"
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
