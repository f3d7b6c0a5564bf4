"""What a sweep's trials say of each node and pair: estimates with a jackknife over prompts.

Model: outcome = prompt + sum over injected nodes of their contributions (+ cell of vector and coefficient)
+ noise, by least squares within prompts. Prompts are what results should hold for beyond those at
hand, so every estimate is made again without each group of prompts in turn; the spread of these gives
its standard error, and t with (groups - 1) degrees of freedom its interval and p (the delete-group
jackknife, "CV3": MacKinnon, Nielsen & Webb, "Fast and reliable jackknife and bootstrap methods for
cluster-robust inference", 2023).

Where every trial injects into the same number k of nodes, contributions are known only up to a common
constant. It is fixed by what is exactly true: nothing injected, nothing changed.

What it cannot see: effects that depend on more than two nodes are spread over the contributions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
GROUPS = 50  # of prompts, at most
LEAST = 4  # groups without which there is no interval
SEEN = 10  # trials that a pair must be in
JOINT = 600  # columns up to which all pairs are estimated together
STRONG, BESIDE = (0.05, 300)  # pairs below this adjusted p, and at most so many, stand beside all others
TINY = 1e-9


@dataclass(frozen=True)
class Trials:
    """Rows of a sweep as arrays.

    Attributes:
        x: whether each unit was injected into.
        y: the outcomes; 0 where nothing was changed.
        prompt: of each trial; the block.
        cell: vector and coefficient of each trial, numbered.
    """

    x: NDArray[np.bool_]
    y: Float[Array, "trial outcome"]
    prompt: NDArray[np.int64]
    cell: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.x)

    def where(self, chosen: NDArray[np.bool_]) -> "Trials":
        """Some of them."""
        return Trials(self.x[chosen], self.y[chosen], self.prompt[chosen], self.cell[chosen])

    @property
    def group(self) -> NDArray[np.int64]:
        """Prompts in groups, for the jackknife."""
        return np.asarray(self.prompt % GROUPS)


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
class _Moments:
    """Sums over each group of prompts, columns centred within prompts."""

    square: Float[Array, "group column column"]
    cross: Float[Array, "group column outcome"]
    x: Float[Array, "group column"]
    y: Float[Array, "group outcome"]
    count: Float[Array, " group"]


def contributions(trials: Trials) -> Estimate:
    """`[unit, outcome]`: marginal contributions of all units, estimated together."""
    return _solved(_moments(trials), trials.x.shape[1])


def differences(trials: Trials) -> Estimate:
    """`[unit, outcome]`: mean with the unit minus mean without it, within prompts."""
    moments, units = _moments(trials), trials.x.shape[1]

    def ratio(square: Array, cross: Array, *_: Array) -> Array:
        diagonal = np.diagonal(square)[:units, None]
        return np.where(diagonal > TINY, cross[:units] / np.maximum(diagonal, TINY), np.nan)

    return _jackknife(moments, ratio)


def means(trials: Trials) -> Estimate:
    """`[outcome]`: mean outcomes."""
    return _jackknife(_moments(trials, flat=True), lambda s, c, x, y, n: y / n)


def pairs(trials: Trials) -> tuple[NDArray[np.int64], NDArray[np.int64], Estimate, str]:
    """Interactions: what two units do together beyond the sum of their contributions.

    Returns:
        the pairs `[pair, 2]` that were seen often enough, how often, the interactions `[pair, outcome]`,
        and the method: "joint" (all pairs in one regression), or "one at a time" (beside the strong ones)
        where they are too many for the trials.
    """
    seen = trials.x.astype(np.float32).T @ trials.x.astype(np.float32)
    first, second = np.nonzero(np.triu(seen >= SEEN, 1))
    chosen = np.stack([first, second], axis=1)
    together = seen[first, second].astype(np.int64)
    columns = len(chosen) + trials.x.shape[1]
    if columns <= JOINT and columns * 5 <= len(trials):
        return chosen, together, _joint(trials, chosen), "joint"
    return chosen, together, _in_turn(trials, chosen), "one at a time"


def matched(
    trials: Trials, first: NDArray[np.bool_], second: NDArray[np.bool_], norm: Array, bins: int = 10
) -> Estimate:
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


def _columns(trials: Trials) -> Array:
    """Units, then a column for each cell but one."""
    cells = np.unique(trials.cell)
    dummies = [(trials.cell == cell)[:, None] for cell in cells[1:]]
    return np.hstack([trials.x, *dummies]).astype(np.float32)


def _moments(trials: Trials, columns: Array | None = None, flat: bool = False) -> _Moments:
    """Sums by group; `flat`: outcomes only."""
    columns = np.zeros((len(trials), 0), np.float32) if flat else _columns(trials) if columns is None else columns
    parts: list[tuple[Array, ...]] = []
    for group in np.unique(trials.group):
        rows = trials.group == group
        x, y = columns[rows].astype(np.float64), trials.y[rows].astype(np.float64)
        centred, outcome = _within(x, trials.prompt[rows]), _within(y, trials.prompt[rows])
        parts.append((centred.T @ centred, centred.T @ outcome, x.sum(0), y.sum(0), np.array(float(len(y)))))
    return _Moments(*(np.array(column) for column in zip(*parts, strict=True)))


def _within(values: Array, block: NDArray[np.int64]) -> Array:
    """Values minus the mean of their block."""
    _, of = np.unique(block, return_inverse=True)
    totals = np.zeros((of.max() + 1, values.shape[1]))
    np.add.at(totals, of, values)
    return values - (totals / np.bincount(of)[:, None])[of]


def _jackknife(moments: _Moments, solve: Callable[..., Array]) -> Estimate:
    parts = (moments.square, moments.cross, moments.x, moments.y, moments.count)
    totals = [part.sum(axis=0) for part in parts]
    without = [
        solve(*(total - part[g] for total, part in zip(totals, parts, strict=True)))
        for g in range(len(moments.count))
        if moments.count[g] < totals[-1]
    ]
    value = solve(*totals)
    return Estimate(value, np.array(without).reshape(len(without), *value.shape))


def _solved(moments: _Moments, units: int) -> Estimate:
    """Least squares, of minimal norm where the design leaves a direction open, then the common constant."""
    total = moments.square.sum(axis=0)
    open_ = _open(total)
    fill = open_ @ open_.T * max(float(np.trace(total)) / max(1, len(total)), 1.0)
    ones = np.zeros(len(total))
    ones[:units] = 1.0
    constant = bool(units) and np.linalg.norm(open_.T @ ones) > 0.9 * np.sqrt(units)

    def solve(square: Array, cross: Array, x: Array, y: Array, n: Array) -> Array:
        found = _solve(square + fill, cross)[:units]
        if constant and x[:units].sum():
            found = found + (y - x[:units] @ found) / x[:units].sum()
        return np.asarray(found)

    return _jackknife(moments, solve)


def _solve(square: Array, cross: Array) -> Array:
    try:
        return np.asarray(np.linalg.solve(square, cross))
    except np.linalg.LinAlgError:  # a replicate may lose the only trials of a unit
        return np.asarray(np.linalg.pinv(square, rcond=TINY, hermitian=True) @ cross)


def _open(square: Array) -> Float[Array, "column direction"]:
    """Directions that the design says nothing about."""
    values, vectors = np.linalg.eigh(square)
    return np.asarray(vectors[:, values <= 1e-8 * max(values.max(initial=0.0), TINY)])


def open_directions(trials: Trials) -> int:
    """How many combinations of the units' contributions the design cannot tell, beside the common constant."""
    square = _moments(trials).square.sum(axis=0)[: trials.x.shape[1], : trials.x.shape[1]]
    open_ = _open(square)
    ones = np.ones(len(square)) / np.sqrt(max(1, len(square)))
    return int(open_.shape[1] - (np.linalg.norm(open_.T @ ones) > 0.9))


def _both(trials: Trials, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a trial injects into both units of each pair."""
    return np.asarray(trials.x[:, chosen[:, 0]] & trials.x[:, chosen[:, 1]])


def _joint(trials: Trials, chosen: NDArray[np.int64]) -> Estimate:
    """All pairs in one regression, after the units: where the design leaves a direction open, of minimal norm."""
    base = _columns(trials)
    moments = _moments(trials, np.hstack([base, _both(trials, chosen)]).astype(np.float32))
    m = base.shape[1]

    def solve(square: Array, cross: Array, *_: Array) -> Array:
        inverse = np.linalg.pinv(square[:m, :m], rcond=TINY, hermitian=True)
        carried = square[m:, :m] @ inverse
        rest = square[m:, m:] - carried @ square[:m, m:]
        return np.asarray(np.linalg.pinv(rest, rcond=1e-7, hermitian=True) @ (cross[m:] - carried @ cross[:m]))

    return _jackknife(moments, solve)


def _in_turn(trials: Trials, chosen: NDArray[np.int64]) -> Estimate:
    """Each pair alone first; then the strong ones together, and each other one beside them."""
    alone = _single(trials, chosen, chosen[:0])
    p = np.where(np.isnan(alone.p), 1.0, alone.p)
    adjusted = [stats.false_discovery_control(column) for column in p.T if len(column)]
    order = np.argsort(p.min(axis=1, initial=1.0), kind="stable")[:BESIDE]
    strong = np.zeros(len(chosen), bool)
    strong[order] = np.min(adjusted, axis=0)[order] < STRONG if len(chosen) else False
    if not strong.any():
        return alone
    value, replicates = alone.value.copy(), alone.replicates.copy()
    for part, found in (
        (strong, _joint(trials, chosen[strong])),
        (~strong, _single(trials, chosen[~strong], chosen[strong])),
    ):
        value[part], replicates[:, part] = found.value, found.replicates
    return Estimate(value, replicates)


def _single(trials: Trials, chosen: NDArray[np.int64], beside: NDArray[np.int64], batch: int = 256) -> Estimate:
    """One pair at a time beside all units and some pairs: each has its own regression."""
    base = np.hstack([_columns(trials), _both(trials, beside)]).astype(np.float64)
    base = _within(base, trials.prompt)
    outcome = _within(trials.y, trials.prompt)
    rows = [trials.group == group for group in np.unique(trials.group)]
    square = np.array([base[r].T @ base[r] for r in rows])
    cross = np.array([base[r].T @ outcome[r] for r in rows])
    inverse = np.array([np.linalg.pinv(a, rcond=TINY, hermitian=True) for a in _left_out(square)])
    explained = inverse @ _left_out(cross)
    found = [np.zeros((len(rows) + 1, 0, trials.y.shape[1]))]
    for start in range(0, len(chosen), batch):
        both = _both(trials, chosen[start : start + batch]).astype(np.float64)
        both = _within(both, trials.prompt)
        with_base = _left_out(np.array([both[r].T @ base[r] for r in rows]))
        with_outcome = _left_out(np.array([both[r].T @ outcome[r] for r in rows]))
        own = _left_out(np.array([(both[r] ** 2).sum(0) for r in rows]))
        rest = own - np.einsum("gpm,gmn,gpn->gp", with_base, inverse, with_base, optimize=True)
        found.append((with_outcome - with_base @ explained) / np.maximum(rest, TINY)[:, :, None])
    everything = np.concatenate(found, axis=1)
    return Estimate(everything[0], everything[1:])


def _left_out(parts: Float[Array, "group ..."]) -> Float[Array, "sum ..."]:
    """The sum over all groups, then the sums without each of them."""
    total = parts.sum(axis=0, keepdims=True)
    return np.concatenate([total, total - parts])
