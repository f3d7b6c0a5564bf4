"""Is there more in a set of nodes than in others of its make? The statistics of `map_effect`; nothing is run here.

1. Nodes are put into strata: layer and kind, and, for a second comparison, the size of what they write (thirds of each
   such stratum).
2. The set is compared with all that have as many nodes in every stratum. A stratum from which only one choice can be
   made (a layer's MLP; a layer of which all heads are in the set) tells nothing and is left out: `varied`.
3. Counts: a hypergeometric distribution for each stratum, convolved. Sums and whatever else is measured of a set: all
   such sets where they are few, else draws of them, with p = (1 + as large) / (1 + drawn) (Phipson and Smyth 2010).
4. Beside each p stands the smallest that could have come out: where that is above alpha, nothing can be told.

A pooled comparison that ignores layers is wrong: effects depend on depth, and so do circuits.
Sets are exchanged for p; prompts, which are another sample, are resampled for intervals elsewhere.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product
from math import comb, factorial, prod

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]
Flags = NDArray[np.bool_]
THIRDS = 3
MANY = 10**15  # sets, beyond which nobody counts, and no table could
ROUNDING = 1e-6  # of the largest value: what differs by less is equal; one set in two batches does


@dataclass(frozen=True)
class Test:
    """What came out for a set among others of its make.

    Attributes:
        value: of the set. expected: mean over the others.
        low, high: 2.5th and 97.5th percentile over the others; missing for counts.
        above, below: p that others have as much or more; as much or less.
        least: the smallest p that could have come out.
        sets: how many others stand behind it.
    """

    __test__ = False  # pytest
    value: float
    expected: float
    low: float
    high: float
    above: float
    below: float
    least: float
    sets: int


NAN = float("nan")
UNTESTED = Test(NAN, NAN, NAN, NAN, 1.0, 1.0, 1.0, 0)


@dataclass(frozen=True, eq=False)
class Matched:
    """A set of nodes among all that have as many in every stratum.

    Attributes:
        strata: of every node.
        members: which nodes are in the set.
    """

    strata: Sequence[Hashable]
    members: Bool[Flags, " node"]

    @cached_property
    def places(self) -> list[NDArray[np.int64]]:
        """The nodes of every stratum."""
        found: dict[Hashable, list[int]] = {}
        for place, stratum in enumerate(self.strata):
            found.setdefault(stratum, []).append(place)
        return [np.array(own) for own in found.values()]

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Of every stratum, how many nodes it has, and how many of them are in the set."""
        return [(len(own), int(self.members[own].sum())) for own in self.places]

    @cached_property
    def varied(self) -> Bool[Flags, " node"]:
        """The nodes of strata from which the same number can be chosen in another way."""
        found = np.zeros(len(self.members), dtype=bool)
        for own, (size, chosen) in zip(self.places, self.sizes, strict=True):
            found[own] = 0 < chosen < size
        return found

    @property
    def tested(self) -> Bool[Flags, " node"]:
        """The nodes of the set that something can be said of."""
        return self.members & self.varied

    @cached_property
    def count(self) -> int:
        """How many sets there are, itself among them."""
        return prod(comb(size, chosen) for size, chosen in self.sizes)

    def others(self, most: int, seed: int) -> tuple[Bool[Flags, "set node"], bool]:
        """Sets of its make, of varied strata alone: all of them, itself among them, where they are at most `most`;
        else so many draws.

        Returns:
            the sets, and whether these are all.
        """
        whole = self.count <= most
        parts = [
            (own, chosen) for own, (size, chosen) in zip(self.places, self.sizes, strict=True) if 0 < chosen < size
        ]
        found = np.zeros((self.count if whole else most, len(self.members)), dtype=bool)
        if whole:
            for row, choice in zip(found, product(*(combinations(own.tolist(), n) for own, n in parts)), strict=True):
                row[[place for part in choice for place in part]] = True
            return found, True
        dice = np.random.default_rng(seed)
        for own, chosen in parts:
            order = dice.random((most, len(own))).argsort(axis=1)[:, :chosen]
            found[np.arange(most)[:, None], own[order]] = True
        return found, False


def thirds(strata: Sequence[Hashable], sizes: Float[Values, " node"]) -> list[tuple[Hashable, int]]:
    """Strata split by a size: the smallest third of each, the middle one, the largest."""
    found = np.zeros(len(sizes), dtype=int)
    for stratum in dict.fromkeys(strata):
        own = np.array([place for place, s in enumerate(strata) if s == stratum])
        rank = stats.rankdata(sizes[own], method="ordinal") - 1
        found[own] = rank * THIRDS // len(own)
    return [(stratum, int(third)) for stratum, third in zip(strata, found, strict=True)]


def compared(value: float, others: Float[Values, " set"], whole: bool) -> Test:
    """A number of a set beside that of the others.

    Args:
        whole: whether the others are all there are, the set itself among them.
    """
    near = ROUNDING * max(abs(value), float(np.abs(others).max(initial=0.0)))
    above, below = int((others >= value - near).sum()), int((others <= value + near).sum())
    count = len(others)
    more = 0 if whole else 1
    above, below = max(above, 1 - more), max(below, 1 - more)  # itself is among all
    low, high = np.percentile(others, [2.5, 97.5]) if count else (np.nan, np.nan)
    return Test(
        float(value),
        float(others.mean()) if count else np.nan,
        float(low),
        float(high),
        min(1.0, (more + above) / (more + count)),
        min(1.0, (more + below) / (more + count)),
        1 / (more + count),
        count,
    )


def counted_in(matched: Matched, carriers: Bool[Flags, " node"]) -> Test:
    """How many carriers are in the set: exact, a hypergeometric distribution for each stratum, convolved."""
    chance = np.ones(1)
    for own, (size, chosen) in zip(matched.places, matched.sizes, strict=True):
        if 0 < chosen < size:
            there = int(carriers[own].sum())
            chance = np.convolve(chance, stats.hypergeom(size, there, chosen).pmf(np.arange(chosen + 1)))
    value = int((matched.tested & carriers).sum())
    possible = np.flatnonzero(chance)
    return Test(
        float(value),
        float(np.arange(len(chance)) @ chance),
        np.nan,
        np.nan,
        float(min(1.0, chance[value:].sum())),
        float(min(1.0, chance[: value + 1].sum())),
        float(chance[possible[-1]]),
        min(matched.count, MANY),
    )


def summed(matched: Matched, scores: Float[Values, " node"], most: int, seed: int) -> Test:
    """The sum of scores over the tested nodes of the set, beside that over other sets."""
    sets, whole = matched.others(most, seed)
    return compared(float(scores[matched.tested].sum()), sets @ scores, whole)


def ranked(
    first: Float[Values, " node"], second: Float[Values, " node"], layers: Sequence[int], draws: int, seed: int
) -> Test:
    """Kendall's tau of two scores of the same nodes, beside that with one of them permuted within layers.

    A layer that ranks higher in both makes no agreement: permuted within layers, it stays higher.
    """

    def tau(values: Values) -> float:
        return float(stats.kendalltau(first, values).statistic)

    places = [np.flatnonzero(np.array(layers) == layer) for layer in dict.fromkeys(layers)]
    ways = prod(factorial(len(own)) for own in places)
    if ways < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return replace(UNTESTED, value=tau(second) if len(first) > 1 else np.nan)
    dice = np.random.default_rng(seed)
    others = []
    for _ in range(draws):
        moved = second.copy()
        for own in places:
            moved[own] = second[dice.permutation(own)]
        others.append(tau(moved))
    found = compared(tau(second), np.array(others), False)
    return replace(found, least=max(found.least, 1 / ways))
