"""Injections of equal disturbance: one factor on all coefficients, found by bisection on a log scale."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from steerscope.analysis.errors import BadInjection

from .injection import Injection

REACH = 1e3  # times larger or smaller


SCALED = ("add", "norm_add")  # operations that do more, the larger their coefficient is


def check_scale(injections: Sequence[Injection]) -> None:
    """Raises `BadInjection` where a factor on the coefficients is no factor on what injections do."""
    others = [injection for injection in injections if injection.operation not in SCALED]
    if others:
        raise BadInjection(
            f"{others[0]!r} has no strength that can be scaled to an equal disturbance; expected the operation "
            f"{' or '.join(SCALED)}; use matched='norm'"
        )


def at_kl(
    kl: Callable[[Sequence[Injection]], NDArray[np.float64]],
    injections: Sequence[Injection],
    target: float,
    most: float,
) -> tuple[Injection, ...]:
    """The injections, scaled by one factor so that they disturb by `target` nats on average.

    Args:
        kl: of injections, by prompt, in nats.
        most: what the largest coefficient may be (`size.largest`).

    Raises:
        BadInjection: no factor from 1e-3 to 1e3, or to where the model's numbers end, does; or an operation whose
            coefficient is no strength.
    """
    check_scale(injections)
    whole = max((abs(one.coefficient) for one in injections), default=0.0)
    room = 0.99 * most / whole if whole else REACH
    high = float(np.clip(room, 1 / REACH, REACH))
    factor = factor_at(lambda f: float(kl(_scaled(injections, f)).mean()), target, 1 / REACH, high)
    if factor is None:
        raise BadInjection(
            f"no coefficient from 1/1000 to 1000 times the given one disturbs by {target:.3g} nats; expected a "
            "disturbance within reach; use matched='norm'"
        )
    return _scaled(injections, factor)


def factor_at(kl: Callable[[float], float], target: float, low: float, high: float) -> float | None:
    """The factor from `low` to `high` at which a mean disturbance is `target` nats; None where none is."""

    def gap(log_factor: float) -> float:
        return float(np.log(max(kl(float(np.exp(log_factor))), 1e-12)) - np.log(target))

    ends = float(np.log(low)), float(np.log(high))
    if not target > 0 or gap(ends[0]) > 0 or gap(ends[1]) < 0:
        return None
    return float(np.exp(brentq(gap, *ends, xtol=1e-3)))


def _scaled(injections: Sequence[Injection], factor: float) -> tuple[Injection, ...]:
    return tuple(replace(i, coefficient=i.coefficient * factor) for i in injections)
