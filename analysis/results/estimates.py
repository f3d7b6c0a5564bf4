"""Means over prompts with their intervals, controls and p-values: the columns that every table of effects has."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.errors import BadArgument

from .stats import benjamini_hochberg, carrier_p, holm, interval

Values = NDArray[np.float64]
BAND = (2.5, 97.5)  # percentiles over the controls


@dataclass(frozen=True)
class Statistics:
    """Level of the intervals, and the threshold on adjusted p-values."""

    level: float = 0.95
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if not (0 < self.level < 1 and 0 < self.alpha < 1):
            raise BadArgument(
                f"level={self.level}, alpha={self.alpha}; expected both between 0 and 1; 0.95 and 0.05 are usual"
            )


def estimates(values: Float[Values, "vector item prompt"], options: Statistics, seed: int = 0) -> dict[str, Values]:
    """Columns effect, low, high, control, control_low, control_high, p, p_adjusted, p_holm, significant, wrong_way.

    Args:
        values: effects by vector (0 is the real one, the others are controls).
    """
    real, controls = values[0], values[1:]
    low, high = interval(real, options.level, seed)
    p = carrier_p(real, over_controls(controls), seed=seed)
    adjusted = benjamini_hochberg(p)
    control_low, control_high = band(controls.mean(-1))
    control = over_controls(controls).mean(-1)
    return {
        "effect": real.mean(-1),
        "low": low,
        "high": high,
        "control": control if len(controls) else np.full(len(control), np.nan),
        "control_low": control_low,
        "control_high": control_high,
        "p": p,
        "p_adjusted": adjusted,
        "p_holm": holm(p),
        "significant": adjusted < options.alpha,
        "wrong_way": wrong_way(real),
    }


def over_controls(controls: Float[Values, "control ..."]) -> Float[Values, "..."]:
    """Mean over control vectors; zero where there are none."""
    return controls.mean(axis=0) if len(controls) else np.zeros(controls.shape[1:])


def band(controls: Float[Values, "control ..."]) -> tuple[Float[Values, "..."], Float[Values, "..."]]:
    """Percentiles over control vectors; missing where there are none."""
    if len(controls) == 0:
        nothing = np.full(controls.shape[1:], np.nan)
        return nothing, nothing
    low, high = np.percentile(controls, BAND, axis=0)
    return low, high


def nonzero(value: float) -> float:
    """A number to divide by: missing instead of zero."""
    return float(value) if value != 0 else float("nan")


def wrong_way(values: Float[Values, "... prompt"]) -> Float[Values, "..."]:
    """Share of the prompts that move against the mean."""
    mean = values.mean(axis=-1, keepdims=True)
    return np.asarray((np.sign(values) * np.sign(mean) < 0).mean(axis=-1))
