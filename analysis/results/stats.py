"""Inference over groups of prompts and over vectors, and corrections for many tests.

Two different samples stand behind every number:

- Prompts, in groups that are not independent inside (one template, one document). The interval of a mean and its test
  against zero go by group: a t with G - 1 degrees of freedom and the delete-group jackknife's error (CV3, as MacKinnon,
  Nielsen and Webb 2023 advise where groups are few or of unequal size). It is the usual t where every prompt is a
  group of its own, and knows nothing from a single group.
- Reference vectors. Whether one vector stands out from others is asked of the spread *between vectors*: a new
  observation against C others, by the prediction t with C - 1 degrees of freedom.
"""

import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Groups = NDArray[np.int64]
Found = NDArray[np.bool_]
TINY = 1e-12


def numbered(groups: Int[Groups, " prompt"] | None, prompts: int) -> Int[Groups, " prompt"]:
    """Groups as 0, 1, ...; every prompt by itself where none are given."""
    return np.arange(prompts) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)


def standard_error(
    values: Float[Array, "... prompt"], groups: Int[Groups, " prompt"] | None = None
) -> tuple[Float[Array, "..."], int]:
    """Of the mean over prompts, by group, with its degrees of freedom; NaN for a single group."""
    values = np.asarray(values, dtype=float)
    count = values.shape[-1]
    own = numbered(groups, count)
    number = int(own.max()) + 1 if count else 0
    if number < 2:
        return np.full(values.shape[:-1], np.nan), 0
    off = values - values.mean(axis=-1, keepdims=True)
    member = np.zeros((count, number))
    member[np.arange(count), own] = 1.0
    # How far the mean of the other groups is from that of all, by group left out.
    moved = (off @ member) / (count - member.sum(axis=0))
    moved -= moved.mean(axis=-1, keepdims=True)
    return np.sqrt((number - 1) / number * np.square(moved).sum(axis=-1)), number - 1


def interval(
    values: Float[Array, "... prompt"],
    level: float = 0.95,
    groups: Int[Groups, " prompt"] | None = None,
    further: Float[Array, "..."] | float = 0.0,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """t interval of the mean over prompts, by group; a single group gives none: NaN.

    Args:
        further: standard error of the mean from elsewhere, such as sampled coalitions.
    """
    error, freedom = standard_error(values, groups)
    error = np.hypot(error, further)
    half = error * (stats.t.ppf((1 + level) / 2, freedom) if freedom else np.nan)
    mean = np.asarray(values, dtype=float).mean(axis=-1)
    return mean - half, mean + half


def nonzero_p(
    values: Float[Array, "... prompt"],
    groups: Int[Groups, " prompt"] | None = None,
    further: Float[Array, "..."] | float = 0.0,
) -> Float[Array, "..."]:
    """Two-sided p of the hypothesis that the mean is zero: below alpha where `interval` leaves it out.

    1 where nothing can be said: a single group, missing values, or zero everywhere.
    """
    error, freedom = standard_error(values, groups)
    mean = np.asarray(values, dtype=float).mean(axis=-1)
    return _two_sided(mean, np.hypot(error, further), freedom)


def prediction_p(value: Float[Array, "..."], others: Float[Array, "other ..."]) -> Float[Array, "..."]:
    """Two-sided p of the hypothesis that a value is one more of the others (prediction t, C - 1 degrees of freedom).

    1 where nothing can be said: fewer than 2 others, missing values, or all equal.
    """
    known = np.isfinite(others)
    count = known.sum(axis=0)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing but NaN
        mean, spread = np.nanmean(others, axis=0), np.nanstd(others, axis=0, ddof=1)
        return _two_sided(value - mean, spread * np.sqrt(1 + 1 / np.maximum(count, 1)), np.maximum(count - 1, 0))


def told_apart(others: int, tests: int, alpha: float = 0.05) -> float:
    """How many spreads of the others a value must lie from their mean to be told from them, after Holm over `tests`."""
    if others < 2:
        return float("inf")
    return float(stats.t.ppf(1 - alpha / (2 * max(tests, 1)), others - 1) * np.sqrt(1 + 1 / others))


def _two_sided(off: Array, error: Array, freedom: int | NDArray[np.int64]) -> Array:
    error = np.asarray(error, dtype=float)
    with np.errstate(all="ignore"):
        p = 2 * stats.t.sf(np.abs(off) / error, freedom)
    # What does not vary at all is told from zero only beyond rounding, and what is missing is told from nothing.
    constant = error <= TINY * np.abs(off)
    p = np.where(constant, np.where(np.abs(off) > 0, 0.0, 1.0), p)
    return np.asarray(np.where(np.isfinite(off) & np.isfinite(error) & np.isfinite(p), p, 1.0))


def ratio_interval(
    part: Float[Array, "... prompt"],
    whole: Float[Array, " prompt"],
    level: float = 0.95,
    groups: Int[Groups, " prompt"] | None = None,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Interval of mean(part) / mean(whole), by group (delta method: t interval of the linearized ratio).

    NaN where the whole is not told from zero: a share of nothing is no share.
    """
    part = np.asarray(part, dtype=float)
    low, high = interval(whole, level, groups)
    if not low * high > 0:
        nothing = np.full(part.shape[:-1], np.nan)
        return nothing, nothing.copy()
    ratio = part.mean(axis=-1) / whole.mean()
    linear = ratio[..., None] + (part - ratio[..., None] * whole) / whole.mean()
    return interval(linear, level, groups)


def effective(values: Float[Array, " prompt"], groups: Int[Groups, " prompt"]) -> dict[str, float]:
    """How far prompts of a group say the same: the share of the variance that lies between groups, and how many
    independent prompts there are as good as (Kish 1965: n / (1 + (size - 1) x intraclass correlation)).

    Missing where every prompt is its own group, or there is but one.
    """
    count, sizes = len(values), np.bincount(numbered(groups, len(values)))
    number = len(sizes)
    if number < 2 or number == count:
        return {"between": float("nan"), "effective": float(count if number == count else 1)}
    own = numbered(groups, count)
    means = np.bincount(own, values) / sizes
    outer = float((sizes * (means - values.mean()) ** 2).sum())
    inner = float(((values - means[own]) ** 2).sum())
    size = (count - (sizes**2).sum() / count) / (number - 1)
    a, b = outer / (number - 1), inner / (count - number)
    within = min(max((a - b) / (a + (size - 1) * b), 0.0), 1.0) if a + (size - 1) * b > 0 else 0.0
    whole = outer + inner
    between = outer / whole if whole > 0 else float("nan")
    return {"between": between, "effective": count / (1 + (count / number - 1) * within)}


def resampled(
    values: Float[Array, "... prompt"],
    groups: Int[Groups, " prompt"] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Float[Array, "resample ..."]:
    """Means over prompts: those of the values themselves first, then those of resamples of the groups, the same for
    all rows.

    One group has no resamples: NaN.
    """
    drawn = draws(numbered(groups, values.shape[-1]), seed, resamples)
    weights = np.concatenate([np.full((1, values.shape[-1]), 1 / values.shape[-1]), drawn])
    return np.asarray(np.moveaxis(values @ weights.T, -1, 0), dtype=float)


def draws(groups: Int[Groups, " prompt"], seed: int, resamples: int) -> Float[Array, "resample prompt"]:
    """Weights of the prompts, which add up to 1, in resamples of whole groups; NaN for a single group."""
    number = int(groups.max()) + 1
    counts = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), resamples)
    weights = counts[:, groups].astype(float)
    return np.asarray(weights / (weights.sum(axis=1, keepdims=True) if number > 1 else np.nan))


def percentiles(
    means: Float[Array, "resample ..."], level: float = 0.95, groups: int | None = None
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The percentile interval of what `resampled` gave, or of anything computed from each resample; NaNs left out.

    Args:
        groups: how many there are: the percentiles are moved out so that few of them are not too narrow (expanded
            percentile interval; Hesterberg 2015, arXiv 1411.5279, section 4.3).
    """
    tail = (1 - level) / 2
    if groups is not None:
        if groups < 2:
            nothing = np.full(means.shape[1:], np.nan)
            return nothing, nothing.copy()
        tail = float(stats.norm.cdf(np.sqrt(groups / (groups - 1)) * stats.t.ppf(tail, groups - 1)))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing but NaN
        low, high = np.nanpercentile(means[1:], [100 * tail, 100 * (1 - tail)], axis=0)
    return low, high


def mean_interval(
    values: Float[Array, " prompt"], level: float = 0.95, groups: Int[Groups, " prompt"] | None = None
) -> tuple[float, float, float]:
    """The mean over prompts and its interval; NaN where there are no prompts."""
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    low, high = interval(values, level, groups)
    return float(np.mean(values)), float(low), float(high)


def benjamini_hochberg(p: Float[Array, " node"], tests: int | None = None) -> Float[Array, " node"]:
    """p-values adjusted so that a threshold on them bounds the share of false discoveries.

    Args:
        tests: how many there are in all, those that were not made counting as p = 1.
    """
    if not len(p):
        return np.asarray(p)
    rest = np.ones(max(0, (tests or 0) - len(p)))
    return np.asarray(stats.false_discovery_control([*p, *rest], method="bh"))[: len(p)]


def holm(p: Float[Array, " node"], tests: int | None = None) -> Float[Array, " node"]:
    """p-values adjusted so that a threshold on them bounds the chance of any false discovery (Holm); `tests` as
    above.
    """
    order = np.argsort(p)
    steps = np.arange(max(len(p), tests or 0), 0, -1)[: len(p)]
    stepped = np.maximum.accumulate(p[order] * steps)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def stability(
    find: Callable[[Float[Array, " prompt"]], Bool[Found, " node"]],
    groups: Int[Groups, " prompt"],
    seed: int = 0,
    resamples: int = 100,
) -> tuple[Float[Array, " resample"], Float[Array, " node"]]:
    """How far what is found depends on the prompts at hand.

    Args:
        find: from the prompts' weights, which add up to 1, to the nodes that are found.

    Returns:
        the Jaccard overlap of the nodes found on each resample of the groups with those found on all prompts (NaN
        where both are empty), and the share of resamples that find each node.
    """
    own = numbered(groups, len(groups))
    found = find(np.full(len(own), 1 / len(own)))
    if own.max() < 1:
        return np.full(resamples, np.nan), np.full(len(found), np.nan)
    sets = np.array([find(weights) for weights in draws(own, seed, resamples)])
    union = (sets | found).sum(axis=1)
    overlap = np.where(union > 0, (sets & found).sum(axis=1) / np.maximum(union, 1), np.nan)
    return overlap, sets.mean(axis=0)
