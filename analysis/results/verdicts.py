"""What a node is to a vector: a test over *vectors*, in one closed list of verdicts.

A node's share of the whole effect is compared with its share of the effects of reference vectors, each along its own
change of the output. A new vector among C others: the prediction t with C - 1 degrees of freedom, after Holm over all
items that could have been chosen. Shares over vectors have heavier tails than a normal, which counts far out, where
Holm looks. So a claim must also stand out in a way that needs no distribution: its t beyond the largest, over all
items, of every reference that plays the vector among all the others (`rank`: were the vector one more of them, that
would happen once in C + 1; max-T, Westfall and Young 1993). And its effect must differ from zero over groups of
prompts: the largest of these p counts (an intersection-union test, Berger 1982). Only one rule decides, in words and
in pictures.

How often a reference vector, playing the real one among the others, would be told from them is the test's own check
(`leave_one_out`): beyond twice the stated level nothing is said.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import stats

from .stats import benjamini_hochberg, holm, interval, nonzero_p, prediction_p, told_apart

Values = NDArray[np.float64]
Found = NDArray[np.bool_]

VERDICTS = {
    "specific": "beyond noise and beyond other concepts",
    "concept": "beyond noise; not told from other concepts",
    "shared": "reference vectors pass here as well, and it is not told from noise: a bottleneck",
    "less": "carries less of this vector than of reference vectors",
    "against": "works against the effect",
    "small": "below the smallest effect of interest",
    "untested": "nothing can be said: it cannot be reached, is not told from zero, or there are too few references",
}
TOLD = ("specific", "concept")  # from noise
NOISE = ("isotropic", "covariance", "shuffled")  # families of references that mean nothing
LEAST = 4  # reference vectors of a family that are compared with
BAND = (2.5, 97.5)  # percentiles over the references
ROUNDING = 1e-6  # of a share


@dataclass(frozen=True, eq=False)
class Basis:
    """What inference knows of a question, beside the effects of its nodes.

    Attributes:
        groups: by prompt, the number of its group.
        total: the whole effect along the metric, by prompt.
        own: the whole effects of all vectors (0 is the real one), each along its own change, by prompt.
        families: by vector; "" for the real one.
        smallest: effect of interest, as a share of the whole.
    """

    groups: Int[NDArray[np.int64], " prompt"]
    total: Float[Values, " prompt"]
    own: Float[Values, "vector prompt"]
    families: tuple[str, ...]
    smallest: float = 0.02

    def where(self, kept: Bool[Found, " prompt"]) -> "Basis":
        """On some of the prompts."""
        return replace(self, groups=self.groups[kept], total=self.total[kept], own=self.own[:, kept])

    def first(self, vectors: int) -> "Basis":
        """With the first vectors only."""
        return replace(self, own=self.own[:vectors], families=self.families[:vectors])

    @cached_property
    def clear(self) -> Bool[Found, " vector"]:
        """Vectors whose whole effect differs from zero over groups: a share of nothing is no share."""
        found = nonzero_p(self.own, self.groups) < 0.05
        found[0] &= nonzero_p(self.total, self.groups) < 0.05
        return np.asarray(found)

    def members(self, noise: bool) -> Int[NDArray[np.int64], " vector"]:
        """The references that are noise, or those that mean something, as far as their effect is clear."""
        named = [n for n, name in enumerate(self.families) if name and (name in NOISE) == noise]
        return np.array([n for n in named if self.clear[n]], dtype=np.int64)

    def shares(
        self, own: Float[Values, "vector ... prompt"], weights: Float[Values, " prompt"] | None = None
    ) -> Float[Values, "vector ..."]:
        """Effects along each vector's own change over its own whole effect; missing where that is not clear."""
        weights = np.full(len(self.groups), 1 / len(self.groups)) if weights is None else weights
        whole = self.own @ weights
        whole = np.where(self.clear & (whole != 0), whole, np.nan)
        return np.asarray((own @ weights) / whole.reshape(-1, *(1,) * (own.ndim - 2)))


def measured(
    basis: Basis,
    values: Float[Values, "item prompt"],
    own: Float[Values, "vector item prompt"],
    level: float,
    further: Float[Values, " item"] | float = 0.0,
) -> dict[str, Any]:
    """Means with intervals over groups, shares, where references stand, and the p-values that verdicts are made of.

    Args:
        values: effects of the real vector along the metric.
        own: effects of all vectors, each along its own change.
        further: standard error of the values' means beyond that over prompts.
    """
    total = float(basis.total.mean())
    whole = total if basis.clear[0] else np.nan
    low, high = interval(values, level, basis.groups, further)
    effect = values.mean(axis=-1)
    shares = basis.shares(own)
    found: dict[str, Any] = {
        "effect": effect,
        "low": low,
        "high": high,
        "share": effect / (total if total else np.nan),
        "own_share": shares[0],
        "p": nonzero_p(values, basis.groups, further),
        "wrong_way": wrong_way(values),
        "shares": np.moveaxis(shares, 0, -1),
        "clear": np.full(len(values), bool(basis.clear[0])),
    }
    for name, noise in (("reference", True), ("concepts", False)):
        others = shares[basis.members(noise)]
        mean, ends = _mean(others), band(others)
        found |= {name: mean * whole, f"{name}_low": ends[0] * whole, f"{name}_high": ends[1] * whole}
        enough = len(others) >= LEAST
        kind = "noise" if noise else "concepts"
        found[f"p_{kind}"] = prediction_p(shares[0], others) if enough else np.full(len(values), np.nan)
        found[f"{kind}_share"] = mean
        found[f"{kind}_spread"] = others.std(axis=0, ddof=1) if enough else np.full(len(values), np.nan)
        found[f"{kind}_passes"] = _beyond(others, basis.smallest) if enough else np.ones(len(values))
    return found


def judged(found: Mapping[str, Any], basis: Basis, alpha: float, tests: int | None = None) -> dict[str, Any]:
    """Corrected p-values and verdicts, from what `measured` gave.

    Args:
        tests: how many items there were to choose from, those that were not made counting as p = 1.
    """
    share, own, p = (np.asarray(found[name], dtype=float) for name in ("share", "own_share", "p"))
    shares = np.moveaxis(found["shares"], -1, 0)
    rates = leave_one_out(shares, basis, alpha)
    trusted = {kind: rate is not None and rate <= 2 * alpha for kind, rate in rates.items()}
    least = {kind: np.isfinite(found[f"p_{kind}"]) & trusted[kind] for kind in ("noise", "concepts")}
    none_run = not any(name in NOISE for name in basis.families)

    def beyond(kind: str, side: str) -> Values:
        """p that the share lies beyond those of a family by what is of interest, on one side."""
        off = own - found[f"{kind}_share"]
        far = off >= basis.smallest if side == "above" else off <= -basis.smallest
        # The rank's p cannot be smaller than one in C + 1: it says whether, Holm's t how surely.
        members = basis.members(kind == "noise")
        found_rank = rank(shares, members, basis.smallest, 1 if side == "above" else -1)
        first = found_rank <= max(alpha, 1 / (1 + len(members)))
        return np.where(least[kind] & far & first, found[f"p_{kind}"], 1.0)

    p_noise = np.fmax(beyond("noise", "above"), p)
    p_concepts = np.fmax(beyond("concepts", "above"), p)
    # Where no noise was run, who is beyond other concepts is beyond what means nothing, too.
    p_specific = p_concepts if none_run else np.maximum(p_concepts, p_noise)
    p_told = np.minimum(p_noise, p_specific)
    first = "concepts" if none_run else "noise"
    p_less = beyond(first, "below")
    p_passes = np.where(least[first], np.maximum(found[f"{first}_passes"], p), 1.0)
    needed = found[f"{first}_share"] + found[f"{first}_spread"] * told_apart(
        len(basis.members(not none_run)), max(tests or 0, len(p)), alpha
    )
    told, specific, less, passes, zero = (
        holm(np.nan_to_num(x, nan=1.0), tests) for x in (p_told, p_specific, p_less, p_passes, p)
    )
    verdict = np.full(len(p), "untested", dtype=object)
    clear = np.asarray(found["clear"], dtype=bool)
    large = np.abs(share) >= basis.smallest
    # The last that fits is what is said.
    for name, fits in (
        ("small", ~large),
        ("shared", large & (share > 0) & (passes < alpha)),
        ("less", (share >= 0) & (less < alpha)),
        ("against", large & (share < 0) & (zero < alpha)),
        ("concept", large & (share > 0) & (told < alpha)),
        ("specific", large & (share > 0) & (specific < alpha)),
    ):
        verdict[clear & fits] = name
    return {
        "p_adjusted": benjamini_hochberg(np.nan_to_num(p_told, nan=1.0), tests),
        "p_holm": told,
        "p_specific": specific,
        "needed": needed,
        "verdict": verdict,
    }


def leave_one_out(shares: Float[Values, "vector item"], basis: Basis, alpha: float) -> dict[str, float | None]:
    """How often a reference vector, playing the real one among the others of its kind, is told from them at `alpha`.

    By kind, noise and concepts: the share of all pairs of a reference and an item; None where there are too few.
    """
    found: dict[str, float | None] = {}
    for kind, noise in (("noise", True), ("concepts", False)):
        others = shares[basis.members(noise)]
        if len(others) < LEAST:
            found[kind] = None
            continue
        # Where nothing varies but by rounding, nobody stands out.
        varies = others[:, np.isfinite(others).all(axis=0) & (np.ptp(others, axis=0) > ROUNDING)]
        p = [prediction_p(varies[n], np.delete(varies, n, axis=0)) for n in range(len(varies))]
        found[kind] = float((np.array(p) < alpha).mean()) if varies.shape[1] else 0.0
    return found


def rank(
    shares: Float[Values, "vector item"], members: Int[NDArray[np.int64], " reference"], smallest: float, way: int
) -> Float[Values, " item"]:
    """p that needs no distribution, over all items at once: how many references have a t as large somewhere.

    Every vector in turn is held against all the others, the real one among them. Only t of differences of interest
    count, for references as for the real one.

    Args:
        way: 1 for shares above those of the others, -1 for shares below.
    """
    if len(members) < LEAST:
        return np.ones(shares.shape[1])
    every = way * np.concatenate([shares[:1], shares[members]])
    known = np.isfinite(every)
    count = np.maximum(known.sum(axis=0) - 1, 0)  # of the others
    with np.errstate(all="ignore"):
        middle = np.where(known, every, 0.0).sum(axis=0) / (count + 1)
        centred = np.where(known, every - middle, 0.0)
        mean = -centred / count  # of the others, about the middle
        off = centred - mean
        squares = np.square(centred).sum(axis=0) - np.square(centred) - count * np.square(mean)
        t = off / np.sqrt(np.maximum(squares, ROUNDING**2) / (count - 1) * (1 + 1 / count))
    far = off >= smallest
    if way > 0:
        far &= every >= smallest
    t = np.where(known & far & np.isfinite(t), t, -np.inf)
    largest = t[1:].max(axis=1, initial=-np.inf)
    return np.where(np.isfinite(t[0]), (1 + (largest[:, None] >= t[0]).sum(axis=0)) / (1 + len(members)), 1.0)


def wrong_way(values: Float[Values, "... prompt"]) -> Float[Values, "..."]:
    """Share of the prompts that move against the mean."""
    mean = values.mean(axis=-1, keepdims=True)
    return np.asarray((np.sign(values) * np.sign(mean) < 0).mean(axis=-1))


def band(others: Float[Values, "vector ..."]) -> tuple[Float[Values, "..."], Float[Values, "..."]]:
    """Percentiles over vectors; missing where there are none."""
    if len(others) == 0:
        nothing = np.full(others.shape[1:], np.nan)
        return nothing, nothing
    low, high = np.percentile(others, BAND, axis=0)
    return low, high


def _mean(others: Float[Values, "vector item"]) -> Float[Values, " item"]:
    return others.mean(axis=0) if len(others) else np.full(others.shape[1:], np.nan)


def _beyond(others: Float[Values, "vector item"], smallest: float) -> Float[Values, " item"]:
    """One-sided p of the hypothesis that references carry less than the smallest effect of interest on average."""
    off, error = others.mean(axis=0) - smallest, others.std(axis=0, ddof=1) / np.sqrt(len(others))
    with np.errstate(all="ignore"):
        p = stats.t.sf(off / error, len(others) - 1)
    return np.asarray(np.where(error > 0, p, np.where(off > 0, 0.0, 1.0)))
