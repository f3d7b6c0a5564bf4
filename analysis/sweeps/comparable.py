"""Which trials a unit may be compared in: those that could have been drawn with it and without it just as well.

A unit's effect is read from trials that differ in it and in nothing else that the design fixes. With R the other units
of a trial, whether a design could have drawn R alone and R with the unit depends on the design:

- uniform: always.
- horizontal (all in one layer): where R lies in the unit's layer.
- vertical (one a layer): where R has none in the unit's layer; with a step, where R and R with the unit both keep it.
- stratified: where the unit would be the next of its stratum.

Trials of equal size are compared by exchanging a unit for another of its pool (all units, or its layer or stratum).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from .design import KINDS
from .units import Unit

Found = NDArray[np.bool_]
Numbers = NDArray[np.int64]
UNIFORM, STRATIFIED, HORIZONTAL, VERTICAL = map(KINDS.index, ("uniform", "stratified", "horizontal", "vertical"))


def comparable(
    x: Bool[Found, "trial unit"], design: Int[Numbers, " trial"], units: Sequence[Unit], spacing: str = "any"
) -> tuple[Int[Numbers, " unit"], Bool[Found, "trial unit"] | None, Bool[Found, "trial unit"] | None]:
    """The pool of every unit, in which trials a unit can be added or left out, and in which it can be exchanged.

    None where that is so in all trials.

    Args:
        x: whether each unit was injected into.
        design: of each trial, its place in `KINDS`.
    """
    if (design == UNIFORM).all():
        return np.zeros(len(units), dtype=np.int64), None, None
    layer = np.array([unit.layer for unit in units])
    _, stratum = np.unique([f"{unit.layer} {unit.kind}" for unit in units], return_inverse=True)
    added, exchanged = np.ones(x.shape, dtype=bool), np.ones(x.shape, dtype=bool)
    for kind in np.unique(design):
        rows = design == kind
        if kind != UNIFORM:
            of = stratum if kind == STRATIFIED else np.unique(layer, return_inverse=True)[1]
            added[rows], exchanged[rows] = _within(x[rows], int(kind), of.reshape(-1), layer, spacing)
    pools = stratum if (design == STRATIFIED).any() else np.unique(layer, return_inverse=True)[1]
    return np.asarray(pools.reshape(-1), dtype=np.int64), added, exchanged


def _within(x: Found, kind: int, of: Numbers, layer: Numbers, spacing: str) -> tuple[Found, Found]:
    count = x.astype(np.int64) @ np.eye(of.max() + 1, dtype=np.int64)[of]
    inside = count[:, of]  # of the trial, in the unit's layer or stratum
    size = x.sum(axis=1, keepdims=True)
    others, rest = inside - x, size - x
    if kind == HORIZONTAL:
        return others == rest, inside == size
    if kind == STRATIFIED:
        strata = count.shape[1]
        balanced = ((count == size // strata) | (count == -(-size // strata))).all(axis=1, keepdims=True)
        return balanced & (others == rest // strata), balanced & (inside == -(-size // strata))
    if spacing == "any":
        return others == 0, inside == 1
    step = 1 if spacing == "consecutive" else int(spacing)
    lowest = np.where(x, layer, layer.max() + 1).min(axis=1, keepdims=True)
    highest = np.where(x, layer, -1).max(axis=1, keepdims=True)
    end = (layer == lowest) | (layer == highest)  # what is left of the row without the unit keeps the step
    beside = (layer == lowest - step) | (layer == highest + step)
    return np.where(x, end, beside), inside == 1
