"""What injecting into a node adds, what two nodes do together, and the same of every random vector.

1. A node's contribution: trials with the node against trials without it, among those that have as many *other* nodes.
   Which other nodes these are is drawn alike for both, so a node that does nothing gets zero whatever the response is
   (saturating, interacting, of any sign): no additivity is assumed. The clean run, all of whose outcomes are zero,
   stands for trials without any node.
2. Precision comes from a regression of the outcomes on all nodes, whose residuals are compared. It is fitted without
   the group of prompts that it is applied to, so that it changes the width of intervals and not what is estimated.
3. An interaction: trials with both nodes, one, the other and neither, among equally many other nodes.
4. A random vector: the same comparisons among its own trials.

Source of 2: regression adjustment with cross-fitting, Wager, Du, Taylor & Tibshirani, "High-dimensional regression
adjustments in randomized experiments", PNAS 2016.

What it cannot see: where every trial injects into the same number of nodes (more than one), no trial tells what a node
adds. Then a contribution is what a node does beyond the mean of those that it is exchanged for, which may be negative
for a node that does nothing; and there are no interactions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import sparse

from .comparable import Found, Numbers
from .estimate import Array, Estimate, Trials, dummies, jackknife, moments_of

SEEN = 10  # trials that a pair must be in
BATCH = 512  # pairs at a time
RIDGE = 1.0  # of the regression: as one trial more of every node, without an effect
TINY, UNKNOWN = 1e-10, 1e-6
HELD = 20_000_000  # numbers at a time
NODE, PAIR = np.array([[0], [1]]), np.array([[0, 0], [1, 0], [0, 1], [1, 1]])  # with and without


@dataclass(frozen=True)
class _Fit:
    """Residuals of each trial, and the nodes' coefficients, both from the other groups of prompts.

    Attributes:
        clean: of a clean run in the place of each trial.
    """

    groups: Int[Numbers, " group"]
    residual: Float[Array, "trial outcome"]
    clean: Float[Array, "trial outcome"]
    nodes: Float[Array, "group unit outcome"]


def contributions(trials: Trials) -> tuple[Estimate, bool]:
    """`[unit, outcome]`, and whether they say what a node adds; else, what it does beyond the others."""
    fit = _fit(trials)
    units = np.arange(trials.x.shape[1])[:, None]
    found = _over_groups(_sums(trials, fit, units, trials.group))
    if np.isfinite(found.value).any():
        return found, True
    return _over_groups(_sums(trials, fit, units, trials.group, exchange=True)).map(
        lambda v: beyond_others(v, trials.pools)
    ), False


def of_each(trials: Trials, vector: Int[Numbers, " trial"], adds: bool = True) -> Float[Array, "vector unit outcome"]:
    """Contributions of each vector, from its own trials; `adds` as `contributions` says of the real one."""
    units = np.arange(trials.x.shape[1])[:, None]
    found = _solve(*_sums(trials, _fit(trials), units, vector, exchange=not adds))
    return found if adds else np.array([beyond_others(v, trials.pools) for v in found])


def pairs(trials: Trials) -> tuple[NDArray[np.int64], NDArray[np.int64], Estimate]:
    """The pairs `[pair, 2]` that were seen often enough and can be told, how often, and what both do beyond the sum of
    what each adds `[pair, outcome]`.
    """
    seen = trials.x.astype(np.float32).T @ trials.x.astype(np.float32)
    first, second = np.nonzero(np.triu(seen >= SEEN, 1))
    chosen, fit = np.stack([first, second], axis=1), _fit(trials)
    parts = [
        _over_groups(_sums(trials, fit, chosen[at : at + BATCH], trials.group)) for at in range(0, len(chosen), BATCH)
    ]
    if not parts:
        nothing = np.zeros((0, trials.y.shape[1]))
        return chosen, np.zeros(0, dtype=np.int64), Estimate(nothing, nothing[None])
    found = Estimate(np.concatenate([p.value for p in parts]), np.concatenate([p.replicates for p in parts], axis=1))
    kept = np.isfinite(found.value).all(axis=1)
    together = seen[first, second].astype(np.int64)
    return chosen[kept], together[kept], Estimate(found.value[kept], found.replicates[:, kept])


def beyond_others(
    values: Float[Array, "unit outcome"], pools: Int[Numbers, " unit"] | None
) -> Float[Array, "unit outcome"]:
    """Each value minus the mean of the others of its pool; missing where there are none."""
    found = np.full(values.shape, np.nan)
    pools = np.zeros(len(values), dtype=np.int64) if pools is None else pools
    for pool in np.unique(pools):
        here = (pools == pool) & np.isfinite(values).all(axis=1)
        count = here.sum()
        if count > 1:
            found[here] = (values[here] - values[here].mean(axis=0)) * count / (count - 1)
    return found


def _fit(trials: Trials) -> _Fit:
    units, cells = trials.x.shape[1], dummies(trials.cell)
    columns = np.hstack([trials.x, cells, dummies(trials.kind)]).astype(np.float32)
    penalty = np.full(columns.shape[1], UNKNOWN)
    penalty[:units] = RIDGE
    found = jackknife(
        moments_of(trials, columns), lambda square, cross, *_: np.linalg.solve(square + np.diag(penalty), cross)
    )
    groups, of = np.unique(trials.group, return_inverse=True)
    per_group = found.replicates if len(found.replicates) else found.value[None]  # a single group has no others
    used = units + cells.shape[1]
    residual, clean = np.empty(trials.y.shape), np.zeros(trials.y.shape)
    for g in range(len(groups)):
        rows, own = of == g, per_group[g]
        residual[rows] = trials.y[rows] - columns[rows, :used] @ own[:used]
        clean[rows] = -cells[rows] @ own[units:used]
    return _Fit(groups, residual, clean, per_group[:, :units])


def _over_groups(sums: tuple[Array, Array]) -> Estimate:
    """From sums by group to the estimate and the same without each group."""
    square, cross = sums
    value = _solve(square.sum(axis=0), cross.sum(axis=0))
    if len(square) < 2:
        return Estimate(value, np.zeros((0, *value.shape)))
    return Estimate(value, _solve(square.sum(axis=0) - square, cross.sum(axis=0) - cross))


def _solve(
    square: Float[Array, "... item column column"], cross: Float[Array, "... item column outcome"]
) -> Float[Array, "... item outcome"]:
    """The first column's coefficient beside all others; missing where the others leave nothing of it."""
    rest = square[..., 1:, 1:] + TINY * (1.0 + np.abs(square).max()) * np.eye(square.shape[-1] - 1)
    with_rest = square[..., 1:, :1]
    both = np.linalg.solve(rest, np.concatenate([with_rest, cross[..., 1:, :]], axis=-1))
    left = square[..., 0, 0] - (with_rest[..., 0] * both[..., 0]).sum(axis=-1)
    value = cross[..., 0, :] - (with_rest * both[..., 1:]).sum(axis=-2)
    known = left > UNKNOWN * np.maximum(square[..., 0, 0], TINY)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(known[..., None], value / left[..., None], np.nan)


def _sums(
    trials: Trials, fit: _Fit, items: Int[Numbers, "item member"], label: Int[Numbers, " trial"], exchange: bool = False
) -> tuple[Float[Array, "label item column column"], Float[Array, "label item column outcome"]]:
    """Sums of squares and products within prompts, by label (each group, or each vector).

    Args:
        items: nodes `[node, 1]`, or pairs `[pair, 2]`.
        exchange: trials with and without are compared at the same number of all nodes, not of other nodes.
    """
    states = NODE if items.shape[1] == 1 else PAIR
    kinds = trials.kind
    count = kinds.max() + 1
    size, design = np.zeros(count + 1, dtype=np.int64), np.zeros(count + 1, dtype=np.int64)
    size[kinds] = trials.size
    design[kinds] = 0 if trials.design is None else trials.design
    columns = _columns(size, design, states, exchange)
    names, labels = np.unique(label, return_inverse=True)
    # A clean run beside the trials of every number of nodes, as one more number.
    clean = 0.0 if exchange or not (size[:count] == 1).any() else 1 / len(np.unique(size[:count]))
    of_group = np.searchsorted(fit.groups, trials.group)
    # Blocks: what a label has of a prompt. They are worked on some at a time.
    keys = np.stack([labels.reshape(-1), of_group, trials.prompt])
    blocks, block = np.unique(keys, axis=1, return_inverse=True)
    block = block.reshape(-1)
    outcomes, width = trials.y.shape[1], columns.shape[1]
    square, cross = (np.zeros((len(names), len(items), width, last)) for last in (width, outcomes))
    largest = len(items) * max(len(columns) * (outcomes + 1), width * width)
    step = max(1, HELD // largest)
    for start in range(0, blocks.shape[1], step):
        label_of, group_of, _ = blocks[:, start : start + step]
        rows = np.flatnonzero((block >= start) & (block < start + step))
        n, r = _cells(trials, fit, items, states, rows, block[rows] - start, len(label_of), exchange)
        r += n[..., None] * np.einsum("sm,bimo->bsio", states, fit.nodes[group_of][:, items])[:, None]
        if clean:
            at = block[rows] - start
            n[:, count, 0] = clean * np.bincount(at, minlength=len(n))[:, None]
            for o in range(outcomes):
                r[:, count, 0, :, o] = clean * np.bincount(at, fit.clean[rows, o], minlength=len(n))[:, None]
        a, b = _centred(n.reshape(len(n), -1, len(items)), r.reshape(len(n), -1, len(items), outcomes), columns)
        add = sparse.csr_array((np.ones(len(n)), (label_of, np.arange(len(n)))), shape=(len(names), len(n)))
        square += (add @ a.reshape(len(n), -1)).reshape(square.shape)
        cross += (add @ b.reshape(len(n), -1)).reshape(cross.shape)
    return square, cross


def _cells(
    trials: Trials,
    fit: _Fit,
    items: Int[Numbers, "item member"],
    states: NDArray[np.int64],
    rows: Int[Numbers, " row"],
    block: Int[Numbers, " row"],
    blocks: int,
    exchange: bool,
) -> tuple[Float[Array, "block kind state item"], Float[Array, "block kind state item outcome"]]:
    """How many trials of each block, kind and state, and the sums of their residuals; one kind more, left empty."""
    kinds, usable = trials.kind, trials.exchanged if exchange else trials.added
    shape = (blocks, int(kinds.max()) + 2)
    gather = sparse.csr_array(
        (np.ones(len(rows)), (block * shape[1] + kinds[rows], np.arange(len(rows)))),
        shape=(shape[0] * shape[1], len(rows)),
    )
    by_state = _by_state(trials.x[rows], None if usable is None else usable[rows], items)
    n = np.stack([_gathered(gather, m, shape) for m in by_state], axis=2)
    r = np.empty((*n.shape, fit.residual.shape[1]))
    for o, residual in enumerate(fit.residual[rows].T):
        weighted = sparse.csr_array(gather.multiply(residual[None]))
        r[..., o] = np.stack([_gathered(weighted, m, shape) for m in by_state], axis=2)
    return n, r


def _centred(
    n: Float[Array, "block place item"],
    r: Float[Array, "block place item outcome"],
    columns: Float[Array, "place column"],
) -> tuple[Float[Array, "block item column column"], Float[Array, "block item column outcome"]]:
    """Sums of squares and products of the columns, centred within blocks."""
    everything = n.sum(axis=1)
    whole = np.where(everything > 0, everything, 1.0)
    mean = np.einsum("bji,jc->bic", n, columns)
    products = (columns[:, :, None] * columns[:, None, :]).reshape(len(columns), -1)
    a = (n.transpose(0, 2, 1) @ products).reshape(*mean.shape, -1)
    a -= mean[..., :, None] * mean[..., None, :] / whole[..., None, None]
    b = np.einsum("bjio,jc->bico", r, columns, optimize=True)
    b -= mean[..., None] * (r.sum(axis=1) / whole[..., None])[:, :, None, :]
    return a, b


def _columns(
    size: Int[Numbers, " kind"], design: Int[Numbers, " kind"], states: NDArray[np.int64], exchange: bool
) -> Float[Array, "place column"]:
    """By kind of trial and state: what is estimated, then what it is estimated beside."""
    rest = size[:, None] - (0 if exchange else states.sum(axis=1)[None])
    # Where nothing else is injected, it does not matter by which design.
    names = np.where(rest == 0, -1, rest * (design.max() + 1) + np.broadcast_to(design[:, None], rest.shape))
    names = np.broadcast_to(names, (len(size), len(states)))
    strata = names.reshape(-1)[:, None] == np.unique(names)[None]
    of_place = np.tile(states, (len(size), 1))
    # What one node of a pair adds may be another thing beside few and beside many others.
    singles = [strata * of_place[:, m : m + 1] for m in range(states.shape[1] if states.shape[1] > 1 else 0)]
    return np.hstack([of_place.prod(axis=1, keepdims=True), *singles, strata]).astype(float)


def _by_state(
    x: Bool[Found, "trial unit"], usable: Bool[Found, "trial unit"] | None, items: Int[Numbers, "item member"]
) -> Sequence[Any]:
    """For every state, which trials are in it and can be used, by item."""

    def held(chosen: Any) -> Any:  # scipy's types take it for one row
        return sparse.csr_array(np.asarray(chosen, dtype=float))

    inside = [held(x[:, items[:, m]]) for m in range(items.shape[1])]
    here = held(np.ones((len(x), len(items))))
    if usable is not None:
        here = held(usable[:, items].all(axis=2))
        inside = [sparse.csr_array(m.multiply(here)) for m in inside]
    if len(inside) == 1:
        return here - inside[0], inside[0]
    both = sparse.csr_array(inside[0].multiply(inside[1]))
    return here - inside[0] - inside[1] + both, inside[0] - both, inside[1] - both, both


def _gathered(gather: Any, values: Any, shape: tuple[int, int]) -> Array:
    return np.asarray((gather @ sparse.csr_array(values)).toarray()).reshape(*shape, -1)
