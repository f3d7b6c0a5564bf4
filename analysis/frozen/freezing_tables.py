"""The tables of `freeze_attention`: what survives each freezing, with intervals, controls and corrected p-values."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.columns import COLUMNS
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import Statistics, band, estimates, over_controls
from steerscope.analysis.results.stats import benjamini_hochberg, holm, interval, ratio_interval, sign_flip_p

from .freezing import Lost

Values = NDArray[np.float64]
CLEAR = 3  # standard errors


def tables(
    asked: Mapping[str, Experiment], raw: Mapping[str, Lost], options: Statistics
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """All frames by name, and why some shares are missing."""
    found, missing = [], {}
    for outcome, experiment in asked.items():
        table, reason = _outcome(experiment, outcome, raw[outcome], options)
        found.append(table)
        if reason:
            missing[f"shares of the {outcome}"] = reason
        clear = _clear(raw[outcome].own_total[1:], outcome)
        if len(clear) and not _enough(clear):
            missing[f"random vectors' shares of the {outcome}"] = (
                f"of {len(clear)} random vectors {clear.sum()} have one that is {CLEAR} standard errors from "
                "zero, fewer than half"
            )
    frames = {
        "attention": pd.concat(found, ignore_index=True)[list(COLUMNS["attention"]["attention"])],
        "per_prompt": pd.concat([_per_prompt(asked[o], o, raw[o]) for o in asked], ignore_index=True),
        "texts": pd.concat([_texts(asked[o], o, raw[o]) for o in asked], ignore_index=True),
    }
    return frames, missing


def _names(experiment: Experiment, raw: Lost) -> dict[str, list[str]]:
    return {"frozen": [f.frozen for f in raw.freezings], "node": [f.node(experiment.model) for f in raw.freezings]}


def _outcome(experiment: Experiment, outcome: str, raw: Lost, options: Statistics) -> tuple[pd.DataFrame, str]:
    """One row for every freezing, and why its shares are missing, if they are."""
    seed, level, unit = experiment.seed, options.level, experiment.metric.unit
    total = raw.total[0]
    low, high = (float(bound) for bound in interval(total, level, seed))
    clear = _clear(raw.total[:1], outcome)[0]
    reason = "" if clear else _unclear(float(total.mean()), low, high, unit, outcome)
    columns = estimates(raw.along, options, seed)
    if outcome == "damage":  # random vectors do damage, too: they are no null for it
        columns |= _differs(raw.along[0], options, seed)
    lost = columns.pop("effect")
    nothing = np.full((len(lost), 2), np.nan)
    ends = nothing if reason else np.array([ratio_interval(total - gone, total, level, seed) for gone in raw.along[0]])
    frame = pd.DataFrame(
        {
            "outcome": outcome,
            "unit": unit,
            **_names(experiment, raw),
            "scope": [f.scope for f in raw.freezings],
            "layer": pd.array([f.layer for f in raw.freezings], dtype="Int64"),
            "head": pd.array([f.head for f in raw.freezings], dtype="Int64"),
            "total": total.mean(),
            "total_low": low,
            "total_high": high,
            "lost": lost,
            "survives": np.nan if reason else 1 - lost / total.mean(),
            "survives_low": ends[:, 0],
            "survives_high": ends[:, 1],
            **columns,
            **_own(raw, outcome, seed),
        }
    )
    return frame, reason


def _clear(totals: Float[Values, "vector prompt"], outcome: str) -> NDArray[np.bool_]:
    """Of which totals one can speak of shares: they are 3 standard errors from zero (a damage: above zero).

    A ratio to less than that has intervals without end, for lack of a denominator.
    """
    means, count = totals.mean(-1), totals.shape[-1]
    errors = totals.std(-1, ddof=1) / np.sqrt(count) if count > 1 else np.zeros(len(means))
    sizes = means if outcome == "damage" else np.abs(means)
    return np.asarray((sizes > 0) & (sizes >= CLEAR * errors))


def _enough(clear: NDArray[np.bool_]) -> bool:
    """Whether the controls that have shares can speak for all: a few that were picked for a large total cannot."""
    return bool(clear.any() and 2 * clear.sum() >= len(clear))


def _unclear(mean: float, low: float, high: float, unit: str, outcome: str) -> str:
    """Why there are no shares."""
    ends = f" [{low:.3g}, {high:.3g}]" if np.isfinite(low) else ""
    wanted = "above" if outcome == "damage" else "away from"
    return (
        f"the {outcome} is {mean:.3g}{ends} {unit}, not {CLEAR} standard errors {wanted} zero: shares of it would "
        "mean nothing"
    )


def _differs(lost: Values, options: Statistics, seed: int) -> dict[str, NDArray[Any]]:
    """That what is lost differs from zero, in the columns of `estimates`."""
    p = sign_flip_p(lost, seed=seed)
    adjusted = benjamini_hochberg(p)
    return {"p": p, "p_adjusted": adjusted, "p_holm": holm(p), "significant": adjusted < options.alpha}


def _own(raw: Lost, outcome: str, seed: int) -> dict[str, Values]:
    """Shares of each vector's own change that survive: of the real one, and of random ones, where most have a total to
    speak of.
    """
    clear = _clear(raw.own_total, outcome)
    shares = raw.own / np.where(clear, raw.own_total.mean(-1), np.nan)[:, None, None]
    controls = shares[1:][clear[1:] & _enough(clear[1:])]
    left = 1 - shares.mean(-1)
    control_low, control_high = band(1 - controls.mean(-1))
    mean = over_controls(controls) if len(controls) else np.full(shares.shape[1:], np.nan)
    gap = shares[0] - mean
    p = sign_flip_p(gap, seed=seed) if np.isfinite(gap).all() else np.ones(len(gap))
    return {
        "own_survives": left[0],
        "control_survives": 1 - mean.mean(-1),
        "control_survives_low": control_low,
        "control_survives_high": control_high,
        "p_own": p,
        "p_own_adjusted": benjamini_hochberg(p),
    }


def _per_prompt(experiment: Experiment, outcome: str, raw: Lost) -> pd.DataFrame:
    count, freezings = raw.total.shape[-1], len(raw.freezings)
    return pd.DataFrame(
        {
            "outcome": outcome,
            "prompt": np.tile(np.arange(count), freezings),
            **{name: np.repeat(values, count) for name, values in _names(experiment, raw).items()},
            "total": np.tile(raw.total[0], freezings),
            "lost": raw.along[0].ravel(),
            "control": over_controls(raw.along[1:]).ravel(),
        }
    )


def _texts(experiment: Experiment, outcome: str, raw: Lost) -> pd.DataFrame:
    prompts = experiment.prompts
    return pd.DataFrame(
        {
            "outcome": outcome,
            "prompt": range(len(prompts)),
            "text": prompts.texts,
            "tokens": [len(ids) for ids in prompts.full],
            "injected": [",".join(map(str, p)) for p in experiment.injected],
            "scored": [",".join(map(str, p)) for p in experiment.scored_positions.positions],
            "clean": raw.clean,
            "steered": raw.steered,
        }
    )
