"""Whether a node does more than for random vectors: a test over vectors.

A node's share of the vector's whole effect, along the vector's own change, against the same of each random vector, from
that vector's own trials. These are fewer than the real vector has, so their spread holds more sampling noise than the
real one's share: the test errs on the side of telling nothing apart.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.results.stats import benjamini_hochberg, holm, prediction_p
from steerscope.analysis.results.verdicts import LEAST, TOLD, band

from .estimate import Array, Estimate, Found

EFFECT, OWN = 0, 3  # of the outcomes: along the metric, and along the vector's own change


def compared(
    found: Estimate,
    whole: Estimate,
    vectors: Float[Array, "vector unit outcome"],
    wholes: Float[Array, "vector outcome"],
    o: int,
    options: Statistics,
    adds: bool = True,
) -> dict[str, Any]:
    """Shares of one outcome, where random vectors stand, p-values and verdicts, by unit.

    Args:
        found: contributions `[unit, outcome]`; `whole`: of the whole injection `[outcome]`.
        vectors, wholes: the same of random vectors.
        adds: whether contributions are what a node adds; what it does beyond others is claimed along the whole only.
    """
    value, total = found.value[:, o], whole.value[o]
    p = filled(found.p[:, o])
    if not adds:  # where others do more, that says nothing of what a node does
        p = np.where(value * np.sign(total) > 0, p, 1.0)
    share = value / (total or np.nan)
    own, others = share, vectors[:, :, o] / (total or np.nan)  # disturbances as they are, at equal norm
    clear = filled(whole.p)[o] < options.alpha
    if o == EFFECT:
        lengths = np.where(wholes[:, OWN] > 0, wholes[:, OWN], np.nan)
        own, others = found.value[:, OWN] / (whole.value[OWN] or np.nan), vectors[:, :, OWN] / lengths[:, None]
    count = np.isfinite(others).sum(axis=0)
    others = np.where(count >= LEAST, others, np.nan)
    mean, low, high = _over(others)
    p_noise = np.where(count >= LEAST, prediction_p(own, others), np.nan) if len(others) else np.full(len(p), np.nan)
    rate = _leave_one_out(others, options.alpha)
    trusted = np.isfinite(p_noise) & (rate is not None and rate <= 2 * options.alpha)
    # Beyond random vectors in the direction of the whole, and different from zero: the larger p counts.
    beyond = np.where(trusted & (own > mean), np.fmax(p_noise, p), 1.0)
    below = np.where(trusted & (own < mean - options.smallest), p_noise, 1.0)
    passes = np.where(trusted, np.maximum(_passing(others, options.smallest), p), 1.0)
    corrected, less, shared, zero = (holm(x) for x in (beyond, below, passes, p))
    large, alpha = np.abs(share) >= options.smallest, options.alpha
    verdict = np.full(len(p), "untested", dtype=object)
    # The last that fits is what is said.
    for name, fits in (
        ("small", ~large & adds),
        ("shared", large & (share > 0) & (shared < alpha)),
        ("less", (share >= 0) & (less < alpha) & adds),
        ("against", large & (share < 0) & (zero < alpha) & adds),
        ("concept", large & (share > 0) & (corrected < alpha)),
    ):
        verdict[fits] = name
    sure = clear & np.isfinite(share) & np.isfinite(found.error[:, o])
    return {
        "share": share,
        "own_share": own,
        "reference": mean * total,
        "reference_low": np.minimum(low * total, high * total),
        "reference_high": np.maximum(low * total, high * total),
        "vectors": count,
        "p": p,
        "p_noise": p_noise,
        "p_adjusted": benjamini_hochberg(beyond),
        "p_holm": corrected,
        "verdict": np.where(sure, verdict, "untested").astype(str),
        "leave_one_out": rate,
    }


def told(verdict: Any) -> Found:
    """Which verdicts say that something is told from noise."""
    return np.isin(np.asarray(verdict, dtype=str), TOLD)


def filled(p: Array) -> Array:
    """No interval, no claim: a missing p counts as 1."""
    return np.where(np.isnan(p), 1.0, p)


def _over(others: Float[Array, "vector unit"]) -> tuple[Array, Array, Array]:
    """Mean and band over random vectors, missing values left out."""
    mean, low, high = (np.full(others.shape[1], np.nan) for _ in range(3))
    for unit, column in enumerate(others.T):
        if len(known := column[np.isfinite(column)]):
            mean[unit], (low[unit], high[unit]) = known.mean(), band(known)
    return mean, low, high


def _leave_one_out(others: Float[Array, "vector unit"], alpha: float) -> float | None:
    """How often a random vector, playing the real one among the others, would be told from them at `alpha`."""
    found = []
    for column in others.T:
        known = column[np.isfinite(column)]
        if len(known) > LEAST and np.ptp(known) > 0:
            found += [float(prediction_p(known[n], np.delete(known, n)) < alpha) for n in range(len(known))]
    return float(np.mean(found)) if found else None


def _passing(others: Float[Array, "vector unit"], smallest: float) -> Float[Array, " unit"]:
    """One-sided p of the hypothesis that random vectors have less than the smallest share of interest on average."""
    found = np.ones(others.shape[1])
    for unit, column in enumerate(others.T):
        if len(known := column[np.isfinite(column)]) >= LEAST and np.ptp(known) > 0:
            found[unit] = stats.ttest_1samp(known, smallest, alternative="greater").pvalue
    return found
