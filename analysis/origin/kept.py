"""What is kept of a vector when some of its dimensions are: curves of all orders and fractions, and the smallest
fraction that is enough, as tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.results.effects import Statistics, nonzero
from steerscope.analysis.results.stats import (
    benjamini_hochberg,
    draws,
    holm,
    interval,
    numbered,
    percentiles,
    prediction_p,
    ratio_interval,
)
from steerscope.analysis.results.verdicts import LEAST, band, wrong_way

RESAMPLES = 4_999
Values = NDArray[np.float64]
Groups = NDArray[np.int64]


def count_of(fraction: float, width: int) -> int:
    """How many dimensions a fraction keeps."""
    return ceil(fraction * width - 1e-9)


@dataclass(frozen=True)
class Tried:
    """All orders, scalings and fractions, for injections of some widths."""

    orders: tuple[str, ...]
    scales: tuple[bool, ...]
    fractions: tuple[float, ...]
    widths: tuple[int, ...]

    @property
    def counts(self) -> NDArray[np.int64]:
        """By fraction and injection, how many dimensions are kept."""
        return np.array([[count_of(fraction, width) for width in self.widths] for fraction in self.fractions])

    @property
    def really(self) -> Float[Values, " fraction"]:
        """The fractions that are kept, of the dimensions of all injections together."""
        return np.asarray(self.counts.sum(axis=1) / sum(self.widths))


@dataclass(frozen=True, eq=False)
class Curves:
    """What is kept of one vector.

    Attributes:
        effect: along the metric, of the real vector; of others as `own`.
        own: along the vector's own change of logits.
        kl: disturbance.
        norm: share of the vector's norm that is kept, before any rescaling; the same for all prompts of a half.
        total, own_total, kl_total: of the whole vector.
    """

    effect: Float[Values, "order rescaled fraction prompt"]
    own: Float[Values, "order rescaled fraction prompt"]
    kl: Float[Values, "order rescaled fraction prompt"]
    norm: Float[Values, "order fraction"]
    total: Float[Values, " prompt"]
    own_total: Float[Values, " prompt"]
    kl_total: Float[Values, " prompt"]

    @property
    def shares(self) -> Float[Values, "order rescaled fraction prompt"]:
        """Of its own change of logits."""
        return self.own / nonzero(self.own_total.mean())


def curves_table(curves: Sequence[Curves], tried: Tried, options: Statistics, groups: Groups) -> pd.DataFrame:
    """One row for each order, scaling and fraction; p is that of a share unlike the random vectors'."""
    real, shares = curves[0], np.stack([c.shares for c in curves])
    means = shares.mean(-1)
    few = len(curves) <= LEAST
    p = np.full(means[0].shape, np.nan) if few else prediction_p(means[0], means[1:])
    p[..., -1] = np.nan  # with all dimensions nothing is asked
    asked = ~np.isnan(p)
    adjusted, corrected = p.copy(), p.copy()
    adjusted[asked], corrected[asked] = benjamini_hochberg(p[asked]), holm(p[asked])
    found = {
        "dimensions": np.broadcast_to(tried.counts[:, 0], p.shape),
        "norm": np.broadcast_to(real.norm[:, None], p.shape),
        "effect": real.effect.mean(-1),
        "kept": real.effect.mean(-1) / nonzero(real.total.mean()),
        "kl": real.kl.mean(-1),
        "kl_kept": real.kl.mean(-1) / nonzero(real.kl_total.mean()),
        "own_kept": means[0],
        "reference": means[1:].mean(axis=0) if len(curves) > 1 else np.full(p.shape, np.nan),
        "p": p,
        "wrong_way": wrong_way(real.effect),
        "p_adjusted": adjusted,
        "p_holm": corrected,
        "significant": corrected < options.alpha,
    }
    found["low"], found["high"] = interval(real.effect, options.level, groups)
    found["kl_low"], found["kl_high"] = interval(real.kl, options.level, groups)
    found["reference_low"], found["reference_high"] = band(means[1:])
    found["kept_low"], found["kept_high"] = ratio_interval(real.effect, real.total, options.level, groups)
    names = pd.DataFrame(product(tried.orders, tried.scales, tried.really), columns=["order", "rescaled", "fraction"])
    return names.assign(**{name: values.ravel() for name, values in found.items()})


def smallest(
    curves: Sequence[Curves], tried: Tried, keep: float, options: Statistics, groups: Groups, seed: int
) -> pd.DataFrame:
    """The smallest fraction from which on `keep` of the effect is kept; resampled groups give its interval."""
    real, own_groups = curves[0], numbered(groups, len(curves[0].total))
    at = _first(real.effect.mean(-1) / nonzero(real.total.mean()), keep)  # [order, rescaled]
    own = tried.really[_first(np.stack([c.shares for c in curves]).mean(-1), keep)]  # [vector, order, rescaled]
    weights = draws(own_groups, seed, RESAMPLES).T
    parts = (real.effect @ weights) / (real.total @ weights)  # [order, rescaled, fraction, resample]
    number, nothing = int(own_groups.max()) + 1, np.full(at.shape, np.nan)
    kl_kept = real.kl.mean(-1) / nonzero(real.kl_total.mean())
    found = {
        "fraction": tried.really[at],
        "dimensions": tried.counts[at, 0],
        "kl_kept": np.take_along_axis(kl_kept, at[..., None], axis=-1),
        "own": own[0],
        "reference": own[1:].mean(axis=0) if len(curves) > 1 else nothing,
    }
    places = np.moveaxis(tried.really[_first(np.moveaxis(parts, 2, -1), keep)], -1, 0)
    ends = percentiles(np.concatenate([places[:1], places]), options.level, number)
    found["low"], found["high"] = ends if number > 1 else (nothing, nothing)
    found["reference_low"], found["reference_high"] = band(own[1:])
    names = pd.DataFrame(product(tried.orders, tried.scales), columns=["order", "rescaled"]).assign(keep=keep)
    return names.assign(**{name: values.ravel() for name, values in found.items()})


def _first(shares: Float[Values, "... fraction"], keep: float) -> NDArray[np.int64]:
    """Index of the first fraction from which on no share is below `keep`; the last one keeps all by definition."""
    enough = shares >= keep
    enough[..., -1] = True
    return np.asarray(np.logical_and.accumulate(enough[..., ::-1], axis=-1)[..., ::-1].argmax(axis=-1))
