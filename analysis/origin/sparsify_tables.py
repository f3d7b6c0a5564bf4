"""The tables of `sparsify`: what is kept against dimensions kept, with intervals and controls."""

from collections.abc import Sequence
from itertools import product
from typing import Any, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.results.effects import Statistics, band, nonzero, over_controls, wrong_way
from steerscope.analysis.results.stats import benjamini_hochberg, interval, ratio_interval, sign_flip_p

RESAMPLES = 4_999
Values = NDArray[np.float64]


class Kept(Protocol):
    """What is kept of one vector (`sparsify.Curves`)."""

    @property
    def effect(self) -> Float[Values, "order rescaled fraction prompt"]: ...
    @property
    def own(self) -> Float[Values, "order rescaled fraction prompt"]: ...
    @property
    def kl(self) -> Float[Values, "order rescaled fraction prompt"]: ...
    @property
    def norm(self) -> Float[Values, "order fraction"]: ...
    @property
    def total(self) -> Float[Values, " prompt"]: ...
    @property
    def own_total(self) -> Float[Values, " prompt"]: ...
    @property
    def kl_total(self) -> Float[Values, " prompt"]: ...


def curves_table(
    curves: Sequence[Kept],
    orders: Sequence[str],
    scales: Sequence[bool],
    fractions: Sequence[float],
    widths: Sequence[int],
    options: Statistics,
    seed: int,
) -> pd.DataFrame:
    """One row for each order, fraction and scaling; p is that of a share unlike the random vectors'."""
    real = curves[0]
    low, high = interval(real.effect, options.level, seed)
    kl_low, kl_high = interval(real.kl, options.level, seed)
    shares = [c.own / nonzero(c.own_total.mean()) for c in curves]
    control = np.stack(shares)[1:]
    control_low, control_high = band(control.mean(axis=-1))
    p = (
        sign_flip_p(shares[0] - over_controls(control), seed=seed)
        if len(control)
        else np.full(shares[0].shape[:-1], np.nan)
    )
    rows = []
    for o, s, f in product(range(len(orders)), range(len(scales)), range(len(fractions))):
        at = (o, s, f)
        kept_low, kept_high = ratio_interval(real.effect[at], real.total, options.level, seed)
        rows.append(
            {
                "order": orders[o],
                "rescaled": scales[s],
                **_size(fractions[f], widths),
                "norm": real.norm[o, f],
                "effect": real.effect[at].mean(),
                "low": low[at],
                "high": high[at],
                "kept": real.effect[at].mean() / nonzero(real.total.mean()),
                "kept_low": kept_low,
                "kept_high": kept_high,
                "kl": real.kl[at].mean(),
                "kl_low": kl_low[at],
                "kl_high": kl_high[at],
                "kl_kept": real.kl[at].mean() / nonzero(real.kl_total.mean()),
                "own_kept": shares[0][at].mean(),
                "control": over_controls(control)[at].mean() if len(control) else np.nan,
                "control_low": control_low[at],
                "control_high": control_high[at],
                "p": p[at],
                "wrong_way": float(wrong_way(real.effect[at])),
            }
        )
    table = pd.DataFrame(rows)
    tested = table["fraction"] < 1  # with all dimensions nothing is asked
    table.loc[~tested, "p"] = np.nan
    table["p_adjusted"] = np.nan
    if len(control) and tested.any():
        table.loc[tested, "p_adjusted"] = benjamini_hochberg(table.loc[tested, "p"].to_numpy())
    table["significant"] = table["p_adjusted"] < options.alpha
    return table


def _size(fraction: float, widths: Sequence[int]) -> dict[str, Any]:
    """The fraction that is really kept, and the dimensions of each row (of the first injection)."""
    counts = [int(np.ceil(fraction * width - 1e-9)) for width in widths]
    return {"fraction": sum(counts) / sum(widths), "dimensions": counts[0]}


def smallest_table(
    curves: Sequence[Kept],
    orders: Sequence[str],
    scales: Sequence[bool],
    fractions: Sequence[float],
    widths: Sequence[int],
    keep: float,
    options: Statistics,
    seed: int,
) -> pd.DataFrame:
    """The smallest fraction from which on `keep` of the effect is kept; resampled prompts give its interval."""
    real = curves[0]
    really = np.array([_size(f, widths)["fraction"] for f in fractions])
    prompts = len(real.total)
    draws = np.random.default_rng(seed).integers(0, prompts, size=(RESAMPLES, prompts))
    tail = 100 * (1 - options.level) / 2
    rows = []
    for (o, order), (s, rescaled) in product(enumerate(orders), enumerate(scales)):
        mean = really[_first(real.effect[o, s].mean(-1) / nonzero(real.total.mean()), keep)]
        low, high = np.nan, np.nan
        if prompts > 1:
            part = real.effect[o, s][:, draws].mean(-1) / real.total[draws].mean(-1)  # [fraction, resample]
            low, high = np.percentile(really[_first(part, keep)], [tail, 100 - tail])
        others = np.array(
            [really[_first(c.own[o, s].mean(-1) / nonzero(c.own_total.mean()), keep)] for c in curves[1:]]
        )
        own = really[_first(real.own[o, s].mean(-1) / nonzero(real.own_total.mean()), keep)]
        control_low, control_high = band(others)
        at = int(np.flatnonzero(really == mean)[0])
        rows.append(
            {
                "order": order,
                "rescaled": rescaled,
                "keep": keep,
                "fraction": mean,
                "low": low,
                "high": high,
                "dimensions": _size(fractions[at], widths)["dimensions"],
                "kl_kept": real.kl[o, s, at].mean() / nonzero(real.kl_total.mean()),
                "own": own,
                "control": others.mean() if len(others) else np.nan,
                "control_low": float(control_low),
                "control_high": float(control_high),
            }
        )
    return pd.DataFrame(rows)


def _first(kept: Float[Values, "fraction ..."], keep: float) -> NDArray[np.int64]:
    """Index of the first fraction from which on the share never falls below `keep`; the last one keeps all by
    definition.
    """
    enough = kept >= keep
    enough[-1] = True
    lasting = np.flip(np.logical_and.accumulate(np.flip(enough, axis=0), axis=0), axis=0)
    return np.asarray(lasting.argmax(axis=0))


def dimensions_table(
    edits: Sequence[Edit], gradients: Sequence[Float[Tensor, "prompt row dimension"]] | None
) -> pd.DataFrame:
    """Every dimension of every row that is not zero: its value times the coefficient, its gradient, and its ranks."""
    frames = []
    for i, edit in enumerate(edits):
        assert isinstance(edit.value, Tensor)
        for row, value in enumerate(edit.value.double().numpy()):
            if not value.any():
                continue
            gradient = (
                np.full(len(value), np.nan) if gradients is None else gradients[i][:, row].mean(0).double().numpy()
            )
            product_ = value * gradient
            ranked = np.full(len(value), np.nan) if gradients is None else _rank(product_)
            frames.append(
                pd.DataFrame(
                    {
                        "injection": i,
                        "row": row,
                        "dimension": range(len(value)),
                        "value": value,
                        "gradient": gradient,
                        "contribution": product_,
                        "rank_size": _rank(value),
                        "rank_gradient": ranked,
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def _rank(values: Values) -> Values:
    order = np.argsort(-np.abs(values), kind="stable")
    return np.argsort(order, kind="stable").astype(np.float64) + 1


def per_prompt_table(
    real: Kept, orders: Sequence[str], scales: Sequence[bool], fractions: Sequence[float], widths: Sequence[int]
) -> pd.DataFrame:
    really = [_size(f, widths)["fraction"] for f in fractions]
    names = list(product(orders, scales, really, range(len(real.total))))
    table = pd.DataFrame(names, columns=["order", "rescaled", "fraction", "prompt"])
    return table.assign(effect=real.effect.ravel(), kl=real.kl.ravel())
