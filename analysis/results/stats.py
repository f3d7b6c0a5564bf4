"""Intervals over prompts, the sign-flip test against the reference, and corrections for many nodes.

A p-value of a comparison with 20 random vectors alone cannot be below 1/21, and no correction over
150 nodes survives that. So effects are paired over prompts: on each prompt the effect minus the mean
effect of the references, and the test asks whether the signs of these differences could be chance.
With n prompts the smallest two-sided p is 2 / 2**n.
"""

import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Found = NDArray[np.bool_]
RESAMPLES = 9999


def interval(
    values: Float[Array, "... prompt"], level: float = 0.95, seed: int = 0
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Bootstrap interval of the mean over prompts (bias-corrected and accelerated; scipy).

    One prompt gives no interval: NaN. Rows that do not vary give their value.
    """
    values = np.asarray(values, dtype=float)
    low = np.full(values.shape[:-1], np.nan)
    high = low.copy()
    if values.shape[-1] < 2:
        return low, high
    flat = values.reshape(-1, values.shape[-1])
    varies = np.ptp(flat, axis=1) > 1e-12 * (1e-12 + np.abs(flat).max(axis=1))
    lows, highs = flat.mean(axis=1), flat.mean(axis=1)
    if varies.any():
        batch = max(1, 20_000_000 // flat[varies].size)
        found = stats.bootstrap(
            (flat[varies],),
            np.mean,
            axis=1,
            confidence_level=level,
            n_resamples=RESAMPLES,
            batch=batch,
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        lows[varies], highs[varies] = found.low, found.high
    return lows.reshape(values.shape[:-1]), highs.reshape(values.shape[:-1])


def resampled(values: Float[Array, "... prompt"], seed: int = 0, resamples: int = 1000) -> Float[Array, "resample ..."]:
    """Means over prompts: those of the values themselves first, then those of bootstrap resamples, the same for all
    rows.

    One prompt has no resamples: NaN.
    """
    count = values.shape[-1]
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    weights = np.concatenate([np.ones((1, count)), drawn / (1.0 if count > 1 else np.nan)]) / count
    return np.asarray(np.moveaxis(values @ weights.T, -1, 0), dtype=float)


def percentiles(
    means: Float[Array, "resample ..."], level: float = 0.95
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The percentile interval of what `resampled` gave, or of anything computed from each resample; NaNs left out."""
    tail = 50 * (1 - level)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing but NaN
        low, high = np.nanpercentile(means[1:], [tail, 100 - tail], axis=0)
    return low, high


def mean_interval(values: Float[Array, " prompt"], level: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """The mean over prompts and its percentile interval; NaN where there are no prompts."""
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    means = resampled(values, seed)
    low, high = percentiles(means, level)
    return float(means[0]), float(low), float(high)


def ratio_interval(
    part: Float[Array, " prompt"], whole: Float[Array, " prompt"], level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of mean(part) / mean(whole), prompts resampled together."""
    if len(part) < 2 or np.ptp(whole) == np.ptp(part) == 0:
        return float("nan"), float("nan")

    def ratio(a: Array, b: Array, axis: int = -1) -> Array:
        return np.asarray(a.mean(axis=axis) / b.mean(axis=axis))

    found = stats.bootstrap(
        (part, whole),
        ratio,
        paired=True,
        vectorized=True,
        confidence_level=level,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def sign_flip_p(
    differences: Float[Array, "... prompt"],
    weights: Float[Array, " prompt"] | None = None,
    seed: int = 0,
    resamples: int = 19_999,
) -> Float[Array, "..."]:
    """Two-sided p of the hypothesis that each difference is as likely positive as negative.

    All sign patterns where there are few enough, random ones (seeded) otherwise: then p is
    (1 + those at least as extreme) / (1 + resamples). As `scipy.stats.permutation_test` with
    `permutation_type="samples"`, as one matrix product for all nodes.

    Args:
        weights: how often each prompt counts, for resamples of the prompts; its copies flip together.
    """
    differences = np.asarray(differences, dtype=float)
    count = differences.shape[-1]
    signs, exact = _signs(count, seed, resamples)
    flat = differences.reshape(-1, count)
    flat = flat if weights is None else flat * weights
    observed = np.abs(flat.sum(axis=1))
    # Equal patterns must count as equal in floating point.
    tolerance = 1e-9 * np.abs(flat).sum(axis=1)
    extreme = (np.abs(signs @ flat.T) >= observed - tolerance).sum(axis=0)
    p = extreme / len(signs) if exact else (extreme + 1) / (len(signs) + 1)
    p = np.where(np.isfinite(flat).all(axis=1), p, 1.0)  # of what is missing nothing can be claimed
    return np.asarray(p.reshape(differences.shape[:-1]))


def _signs(count: int, seed: int, resamples: int) -> tuple[Array, bool]:
    if 2**count <= resamples + 1:
        bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return np.asarray(1.0 - 2.0 * bits, dtype=float), True
    bits = np.random.default_rng(seed).integers(0, 2, size=(resamples, count))
    return np.asarray(1.0 - 2.0 * bits, dtype=float), False


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


def carrier_p(
    effect: Float[Array, "node prompt"],
    reference: Float[Array, "node prompt"],
    weights: Float[Array, " prompt"] | None = None,
    seed: int = 0,
    resamples: int = 19_999,
) -> Float[Array, " node"]:
    """p of the hypothesis that a node is no carrier: an intersection-union test.

    A carrier's effect differs from zero *and* goes beyond the mean reference's in the same direction, so
    p is the larger of the two sign-flip tests, and 1 where the directions disagree (a node that does
    less for this vector than for random ones is no carrier of it).
    """
    gap = effect - reference
    mean = effect.mean(-1) if weights is None else effect @ weights
    beyond = gap.mean(-1) if weights is None else gap @ weights
    p = np.maximum(sign_flip_p(effect, weights, seed, resamples), sign_flip_p(gap, weights, seed, resamples))
    return np.where(mean * beyond > 0, p, 1.0)


def stability(
    find: Callable[[Float[Array, " prompt"]], Bool[Found, " node"]], prompts: int, seed: int = 0, resamples: int = 100
) -> tuple[Float[Array, " resample"], Float[Array, " node"]]:
    """How far what is found depends on the prompts at hand.

    Args:
        find: from how often each prompt counts to the nodes that are found.

    Returns:
        the Jaccard overlap of the nodes found on each bootstrap resample of the prompts with those
        found on all prompts (NaN where both are empty), and the share of resamples that find each node.
    """
    found = find(np.ones(prompts))
    generator = np.random.default_rng(seed)
    draws = [np.bincount(generator.integers(0, prompts, prompts), minlength=prompts) for _ in range(resamples)]
    sets = np.array([find(draw.astype(float)) for draw in draws])
    union = (sets | found).sum(axis=1)
    overlap = np.where(union > 0, (sets & found).sum(axis=1) / np.maximum(union, 1), np.nan)
    return overlap, sets.mean(axis=0)
