"""Trials as arrays, and estimates with a jackknife over groups of prompts.

Prompts are what results should hold for beyond those at hand, and those of one group (copies, one template) are not
independent; so every estimate is made again without each group in turn. The spread of these gives its standard error,
and t with (groups - 1) degrees of freedom its interval and p (the delete-group jackknife, "CV3": MacKinnon, Nielsen &
Webb, "Fast and reliable jackknife and bootstrap methods for cluster-robust inference", 2023).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Found = NDArray[np.bool_]
Numbers = NDArray[np.int64]
GROUPS = 50  # of prompts, at most
LEAST = 4  # groups without which there is no interval
FEW = 8  # groups below which an interval is rough
TINY = 1e-9


@dataclass(frozen=True)
class Trials:
    """Rows of a sweep as arrays.

    Attributes:
        x: whether each unit was injected into.
        y: the outcomes; 0 where nothing is injected.
        prompt: of each trial; the block.
        cell: vector and coefficient of each trial, numbered.
        of: the group of each trial's prompt; every prompt by itself where there are none.
        design: of each trial; all of one where there are none.
        pools: by unit, and `added`, `exchanged`: see `comparable`.
    """

    x: Bool[Found, "trial unit"]
    y: Float[Array, "trial outcome"]
    prompt: Int[Numbers, " trial"]
    cell: Int[Numbers, " trial"]
    of: Int[Numbers, " trial"] | None = None
    design: Int[Numbers, " trial"] | None = None
    pools: Int[Numbers, " unit"] | None = None
    added: Bool[Found, "trial unit"] | None = None
    exchanged: Bool[Found, "trial unit"] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def where(self, chosen: NDArray[np.bool_]) -> "Trials":
        """Some of them."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        kept = {n: v if v is None or n == "pools" else v[chosen] for n, v in parts.items()}
        return Trials(**kept)

    @property
    def group(self) -> Int[Numbers, " trial"]:
        """Groups of prompts for the jackknife, which are never parted."""
        return np.asarray((self.prompt if self.of is None else self.of) % GROUPS)

    @property
    def kind(self) -> Int[Numbers, " trial"]:
        """The design of each trial and its number of nodes, as one number."""
        design = np.zeros(len(self), dtype=np.int64) if self.design is None else self.design
        return np.asarray(np.unique(np.stack([design, self.size]), axis=1, return_inverse=True)[1].reshape(-1))

    @property
    def size(self) -> Int[Numbers, " trial"]:
        return np.asarray(self.x.sum(axis=1))


@dataclass(frozen=True)
class Estimate:
    """Numbers, and the same without each group of prompts in turn."""

    value: Float[Array, "..."]
    replicates: Float[Array, "group ..."]

    def map(self, change: Callable[[Array], Array]) -> "Estimate":
        """A function of the numbers, with its own replicates."""
        return Estimate(change(self.value), np.array([change(r) for r in self.replicates]))

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value - other.value, self.replicates - other.replicates)

    @property
    def error(self) -> Float[Array, "..."]:
        """Standard error; NaN with too few groups."""
        groups = len(self.replicates)
        if groups < LEAST:
            return np.full(np.shape(self.value), np.nan)
        spread = ((self.replicates - self.replicates.mean(axis=0)) ** 2).sum(axis=0)
        return np.asarray(np.sqrt((groups - 1) / groups * spread))

    def interval(self, level: float = 0.95) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Lower and upper ends."""
        half = stats.t.ppf((1 + level) / 2, max(1, len(self.replicates) - 1)) * self.error
        return self.value - half, self.value + half

    @property
    def p(self) -> Float[Array, "..."]:
        """Two-sided p of the hypothesis that the value is zero."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.abs(self.value) / self.error
        return np.asarray(2 * stats.t.sf(t, max(1, len(self.replicates) - 1)))


@dataclass(frozen=True)
class Moments:
    """Sums over each group of prompts, columns centred within prompts."""

    square: Float[Array, "group column column"]
    cross: Float[Array, "group column outcome"]
    x: Float[Array, "group column"]
    y: Float[Array, "group outcome"]
    count: Float[Array, " group"]


def differences(trials: Trials) -> Estimate:
    """`[unit, outcome]`: mean with the unit minus mean without it, within prompts."""
    columns = np.hstack([trials.x, dummies(trials.cell)]).astype(np.float32)
    moments, units = moments_of(trials, columns), trials.x.shape[1]

    def ratio(square: Array, cross: Array, *_: Array) -> Array:
        diagonal = np.diagonal(square)[:units, None]
        return np.where(diagonal > TINY, cross[:units] / np.maximum(diagonal, TINY), np.nan)

    return jackknife(moments, ratio)


def means(trials: Trials) -> Estimate:
    """`[outcome]`: mean outcomes."""
    return jackknife(moments_of(trials, np.zeros((len(trials), 0), np.float32)), lambda s, c, x, y, n: y / n)


def matched(trials: Trials, first: Found, second: Found, norm: Array, bins: int = 10) -> Estimate:
    """`[outcome]`: mean of the first minus mean of the second, at equal k and equal norm.

    Trials are compared within cells of k and of tenths of the norm, the cells weighted by how well
    they can be compared.
    """
    edges = np.quantile(norm[first | second], np.linspace(0, 1, bins + 1)[1:-1])
    k = trials.x.sum(axis=1)
    cell = k * bins + np.searchsorted(edges, norm)
    _, cell = np.unique(cell, return_inverse=True)
    groups, of = np.unique(trials.group, return_inverse=True)
    shape = (len(groups), cell.max() + 1)
    sums = []
    for chosen in (first, second):
        count, total = np.zeros(shape), np.zeros((*shape, trials.y.shape[1]))
        np.add.at(count, (of[chosen], cell[chosen]), 1)
        np.add.at(total, (of[chosen], cell[chosen]), trials.y[chosen])
        sums.append((count, total))

    def difference(keep: Array) -> Array:
        (n, a), (m, b) = (((c * keep[:, None]).sum(0), (t * keep[:, None, None]).sum(0)) for c, t in sums)
        both = (n > 0) & (m > 0)
        weight = n[both] * m[both] / (n[both] + m[both])
        if not weight.sum():
            return np.full(trials.y.shape[1], np.nan)
        gap = a[both] / n[both, None] - b[both] / m[both, None]
        return np.asarray(weight @ gap / weight.sum())

    everyone = np.ones(len(groups))
    return Estimate(difference(everyone), np.array([difference(everyone - row) for row in np.eye(len(groups))]))


def dummies(numbers: Numbers) -> NDArray[np.float32]:
    """A column for each of some numbers but the first."""
    return np.asarray((numbers[:, None] == np.unique(numbers)[1:]).astype(np.float32))


def moments_of(trials: Trials, columns: NDArray[np.float32]) -> Moments:
    """Sums by group."""
    parts: list[tuple[Array, ...]] = []
    for group in np.unique(trials.group):
        rows = trials.group == group
        x, y = columns[rows].astype(np.float64), trials.y[rows].astype(np.float64)
        centred, outcome = within(x, trials.prompt[rows]), within(y, trials.prompt[rows])
        parts.append((centred.T @ centred, centred.T @ outcome, x.sum(0), y.sum(0), np.array(float(len(y)))))
    return Moments(*(np.array(column) for column in zip(*parts, strict=True)))


def within(values: Array, block: Numbers) -> Array:
    """Values minus the mean of their block."""
    _, of = np.unique(block, return_inverse=True)
    totals = np.zeros((of.max() + 1, values.shape[1]))
    np.add.at(totals, of, values)
    return values - (totals / np.bincount(of)[:, None])[of]


def jackknife(moments: Moments, solve: Callable[..., Array]) -> Estimate:
    parts = (moments.square, moments.cross, moments.x, moments.y, moments.count)
    totals = [part.sum(axis=0) for part in parts]
    without = [
        solve(*(total - part[g] for total, part in zip(totals, parts, strict=True)))
        for g in range(len(moments.count))
        if moments.count[g] < totals[-1]
    ]
    value = solve(*totals)
    return Estimate(value, np.array(without).reshape(len(without), *value.shape))
