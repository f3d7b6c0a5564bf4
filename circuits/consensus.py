"""Which edges are found again on other prompts: core, contingent, or noise; beside random circuits.

1. Prompts are drawn again, whole groups at a time; each time the strongest edges by the mean score are a circuit, of
   0.8, 1 and 1.25 times its size.
2. An edge's frequency is the share of these circuits that hold it: core from 0.9 on, noise below 0.1, contingent
   between.
3. How alike circuits of two draws are (Jaccard) stands beside how alike two random ones of the same profile are.

What it cannot see: prompts of other templates than those at hand.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.special import comb

from steerscope.analysis.results.stats import draws, numbered

from .contrast import Contrast
from .masks import Mask

Values = NDArray[np.float64]
SIZES = (0.8, 1.0, 1.25)  # times the circuit's own
CORE, NOISE = 0.9, 0.1
PAIRS, MANY = 100, 1e9


@dataclass(frozen=True, eq=False)
class Consensus:
    """What comes back.

    Attributes:
        frequency: of every edge.
        alike: mean Jaccard of the strongest edges, over pairs of draws.
        random: of two random circuits of the same size and profile.
    """

    frequency: Float[Values, "sender receiver"]
    alike: float
    random: float


def label(frequency: float) -> str:
    """Core, contingent or noise."""
    return "core" if frequency >= CORE else "contingent" if frequency >= NOISE else "noise"


def consensus(
    contrast: Contrast,
    scores: Float[Values, "sender receiver prompt"],
    mask: Mask,
    groups: Int[NDArray[np.int64], " prompt"],
    resamples: int,
    seed: int,
) -> Consensus:
    """Steps 1 to 3.

    Args:
        groups: of the prompts; from one group nothing is drawn.
    """
    edges, size = np.flatnonzero(contrast.connected), int(mask.sum())
    groups = numbered(groups, len(groups))
    frequency, circuits = np.zeros(contrast.connected.size), []
    if groups.max() < 1:
        return Consensus(np.full(contrast.connected.shape, np.nan), float("nan"), float("nan"))
    flat = scores.reshape(-1, scores.shape[-1])[edges]
    for weights in draws(groups, seed, resamples):
        order = edges[np.argsort(-np.abs(flat @ weights), kind="stable")]
        for factor in SIZES:
            frequency[order[: max(1, round(factor * size))]] += 1
        circuits.append(frozenset(order[:size].tolist()))
    dice = np.random.default_rng(seed)
    pairs = [dice.choice(len(circuits), 2, replace=False) for _ in range(PAIRS)] if len(circuits) > 1 else []
    alike = [_jaccard(circuits[a], circuits[b]) for a, b in pairs]
    drawn = [frozenset(np.flatnonzero(one).tolist()) for one in random_like(contrast, mask, 20, dice)]
    random = [_jaccard(a, b) for a, b in zip(drawn[::2], drawn[1::2], strict=True)]
    frequency /= resamples * len(SIZES)
    return Consensus(
        frequency.reshape(contrast.connected.shape), float(np.mean(alike or [np.nan])), float(np.mean(random))
    )


def _jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    return len(one & other) / len(one | other) if one | other else float("nan")


def profile(contrast: Contrast) -> NDArray[np.int64]:
    """A number for each edge: the same for edges between the same layers and kinds; -1 where none can be."""
    senders = [(-1, "") if node is None else (node.layer, node.kind) for node in contrast.senders]
    receivers = [(receiver.layer, receiver.name) for receiver in contrast.receivers]
    numbers: dict[object, int] = {}
    found = np.array([[numbers.setdefault((s, r), len(numbers)) for r in receivers] for s in senders])
    return np.where(contrast.connected, found, -1)


def random_like(contrast: Contrast, mask: Mask, count: int, dice: np.random.Generator) -> Iterator[Mask]:
    """Random circuits with as many edges as this one between any two layers and kinds."""
    strata = profile(contrast).ravel()
    chosen = mask.ravel()
    members = {s: np.flatnonzero(strata == s) for s in np.unique(strata[chosen])}
    for _ in range(count):
        made = np.zeros(mask.size, dtype=bool)
        for own in members.values():
            made[dice.choice(own, int(chosen[own].sum()), replace=False)] = True
        yield made.reshape(mask.shape)


def how_many_random(contrast: Contrast, mask: Mask) -> float:
    """How many circuits of the same profile there are, at most `MANY`: with few of them none can stand out."""
    strata = profile(contrast).ravel()
    chosen, found = mask.ravel(), 1.0
    for one in np.unique(strata[chosen]):
        found = min(MANY, found * float(comb((strata == one).sum(), chosen[strata == one].sum())))
    return found
