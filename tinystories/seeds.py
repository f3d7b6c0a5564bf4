"""Statistics over trained models: the sample is of seeds, and prompts and concepts are what all models are asked.

A mean of a variant has a t interval over its seeds. A difference of two variants is Welch's (their spreads may differ);
p-values of all differences of all measures are corrected together (Holm). Models of one seed saw the same batches;
where that makes them alike, differences are steadier than this takes them to be. And the smallest difference that could
have been told: what the first step of Holm asks for, given the spreads that were found; with three seeds it is large.
"""

from math import isnan
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from steerscope.analysis.results.stats import holm, mean_interval

Values = NDArray[np.float64]


def summarized(table: pd.DataFrame, logged: tuple[str, ...], level: float) -> pd.DataFrame:
    """Of each variant and measure, the mean over seeds with its interval; of logged measures the geometric mean.

    Args:
        table: `variant`, `seed`, `measure`, `value`.
    """
    found = []
    for (measure, variant), own in table.groupby(["measure", "variant"], sort=False):
        values = _of(own, measure in logged)
        back = np.exp if measure in logged else float
        mean, low, high = (float(back(x)) for x in mean_interval(values, level))
        found.append({"measure": measure, "variant": variant, "value": mean, "low": low, "high": high})
        found[-1]["seeds"] = len(values)
    return pd.DataFrame(found)


def differences(table: pd.DataFrame, base: str, logged: tuple[str, ...], level: float, alpha: float) -> pd.DataFrame:
    """Each variant against the base: the difference of means (of logged measures their ratio), its interval, p, and
    the smallest difference that could have been told.
    """
    found: list[dict[str, Any]] = []
    for measure, rows in table.groupby("measure", sort=False):
        log = measure in logged
        own = {str(name): _of(part, log) for name, part in rows.groupby("variant", sort=False)}
        for variant in own:
            if variant != base:
                found.append({"measure": measure, "variant": variant, **_welch(own[variant], own[base], level)})
    tests = len(found)
    for row in found:
        row["smallest"] = _told(row.pop("error"), row.pop("freedom"), alpha / max(tests, 1))
        if row["measure"] in logged:
            row |= {name: float(np.exp(row[name])) for name in ("difference", "low", "high", "smallest")}
    out = pd.DataFrame(found, columns=["measure", "variant", "difference", "low", "high", "p", "smallest"])
    out["p_holm"] = holm(out["p"].to_numpy(dtype=float))
    out["told"] = out["p_holm"] < alpha
    return out


def _of(rows: pd.DataFrame, log: bool) -> Values:
    """Values by seed; those that are missing, or have no logarithm, are left out."""
    values = rows["value"].to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    return np.asarray(np.log(values[values > 0]) if log else values)


def _welch(one: Values, base: Values, level: float) -> dict[str, float]:
    """The difference of two means; p is 1 where nothing can be said."""
    nothing = {name: float("nan") for name in ("difference", "low", "high", "error", "freedom")} | {"p": 1.0}
    if min(len(one), len(base)) < 2:
        return nothing
    difference = float(one.mean() - base.mean())
    parts = [values.var(ddof=1) / len(values) for values in (one, base)]
    error = float(np.sqrt(sum(parts)))
    if not error > 0:
        same = {"difference": difference, "low": difference, "high": difference, "error": 0.0, "freedom": float("nan")}
        return same | {"p": 1.0 if difference == 0 else 0.0}
    freedom = sum(parts) ** 2 / sum(part**2 / (len(v) - 1) for part, v in zip(parts, (one, base), strict=True))
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    p = 2 * float(stats.t.sf(abs(difference) / error, freedom))
    found = {"difference": difference, "low": difference - half, "high": difference + half}
    return found | {"error": error, "freedom": float(freedom), "p": p}


def _told(error: float, freedom: float, alpha: float) -> float:
    return float("nan") if isnan(freedom) else float(stats.t.ppf(1 - alpha / 2, freedom)) * error
