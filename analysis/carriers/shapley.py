"""`shapley`: the effect shared out among its carriers, with redundancy and self-repair taken into account.

The game: a coalition's nodes run live in the steered run, all others are held at their clean outputs. Its
value is the metric of that run minus that of the clean run: what reaches the output through these nodes.

1. The empty coalition is the injection's direct way to the output, past all nodes; the full one is the whole effect.
   A node's Shapley value is its mean contribution over all orders in which nodes could be let go, so that
   values and the direct way add up to the effect.
2. An interaction of two nodes is what they do together beyond the sum: of the effect's own sign where one needs
   the other (a relay), of the opposite sign where they stand in for each other (redundancy, self-repair).
3. Estimators: `regression` on pairs of complementary coalitions (`surrogate`), or `permutation`: antithetic pairs of
   orders, each node's contribution as it is let go. Every coalition runs on every prompt.

Sources: Shapley 1953; Castro et al. 2009 for permutations; `surrogate` for the regression.
What it cannot see: which of two nodes that need each other comes first (see paths). A node held at its clean output
beside live ones is in a state that the model never visits by itself.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.gate import Count, Level, Share, Whole, gated
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.scores import Score
from steerscope.analysis.results.effects import EFFECTS, NUMBERS, Statistics
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frame, Frames
from steerscope.analysis.results.stats import benjamini_hochberg, holm, interval, nonzero_p
from steerscope.analysis.results.verdicts import Basis
from steerscope.analysis.tools.keeping import Arrays, each
from steerscope.analysis.tools.record import check, record
from steerscope.analysis.tools.strongest import given

from .effect_table import effect_table, self_check
from .surrogate import Fit, fit

Values = NDArray[np.float64]
Members = NDArray[np.bool_]
MOST = 256  # coalitions a node

SAMPLING: Frame = {
    "sampling_error": Column(
        "standard error of the mean over prompts that comes from running some coalitions only", "{metric}"
    )
}
INTERVAL: Frame = {"low": NUMBERS["low"], "high": NUMBERS["high"]}
COLUMNS: Frames = {
    "effects": EFFECTS
    | {
        "measure": Column("shapley: mean contribution over all orders of letting nodes go", role="measure"),
        "effect": Column("Shapley value; mean over prompts", "{metric}", "estimate"),
        "share": Column("value over the total effect; with the direct way they add up to 1", role="share"),
    }
    | SAMPLING,
    "interactions": {
        "node_a": Column("one node", role="label"),
        "node_b": Column("another", role="label"),
        "effect": Column(
            "Shapley interaction: of the effect's sign where one needs the other, of the opposite sign where they "
            "stand in for each other; mean over prompts",
            "{metric}",
            "estimate",
        ),
        **INTERVAL,
        **SAMPLING,
        "p": Column("t test over groups of prompts, sampling error included: the interaction differs from zero"),
        "p_adjusted": Column("p after Benjamini-Hochberg over pairs"),
        "p_holm": Column("p after Holm over pairs"),
        "significant": Column("p_holm below the manifest's alpha: not zero", role="verdict"),
    },
    "totals": {
        "quantity": Column(
            "effect: steered minus clean; direct: what goes past all nodes that play; nodes: sum of the values",
            role="label",
        ),
        "value": Column("mean over prompts", "{metric}", "estimate"),
        **INTERVAL,
    },
}


@dataclass(frozen=True, eq=False)
class Game:
    """Values of coalitions, for one vector, along one score."""

    experiment: Experiment
    players: tuple[Node, ...]
    vector: int
    score: Score

    def values(self, members: Members) -> Float[Values, "coalition prompt"]:
        """Score of the run in which the members are live, minus that of the clean run."""
        asked, prompts = self.experiment, range(len(self.experiment.prompts))
        edits, to_clean = asked.edits(self.vector), asked.patches(None, self.players)
        variants = []
        for row in members:
            held = [n for n, live in zip(self.players, row, strict=True) if not live]
            variants += [Variant(p, (*edits[p], *(to_clean[n][p] for n in held))) for p in prompts]
        found = asked.scores(variants, [self.score]).reshape(len(members), -1)
        return np.asarray(found - asked.value(None, self.score))


@gated
def shapley(
    experiment: Experiment,
    *,
    estimator: Literal["regression", "permutation"] = "regression",
    passes: Count | None = None,
    nodes: Sequence[Node | str] | None = None,
    interactions: bool = True,
    references_at_most: Whole = 8,
    level: Level = 0.95,
    alpha: Level = 0.05,
    smallest: Share = 0.02,
) -> Result:
    """Shapley values of nodes as carriers, and interactions of pairs.

    Args:
        estimator: how values come from coalitions; permutation gives no interactions.
        passes: coalitions that are run on every prompt; 8 a node by default.
        nodes: the players; all that the injection can reach by default. Others stay live.
        interactions: whether to say what pairs of nodes do together, too.
        references_at_most: reference vectors, noise first, at most as many as the experiment has.

    Returns:
        a `Result` of kind "shapley".

    Raises:
        BadArgument: fewer than 2 nodes, too few passes, or too many.
        BadNode: a node that is not there, or that the injection cannot reach.
    """
    options = Statistics(level, alpha, smallest)
    players = experiment.reachable if nodes is None else given(experiment, nodes)
    if len(players) < 2:
        raise BadArgument(f"{len(players)} node; expected at least 2 to share an effect; give more")
    passes = 8 * len(players) + 2 if passes is None else passes
    least, most = 2 * len(players) + 2, MOST * len(players)
    if not least <= passes <= most:
        raise BadArgument(
            f"passes={passes} for {len(players)} nodes; expected {least} to {most} coalitions ({MOST} a node): each "
            "is a run of every prompt and vector; leave it out, or give other nodes"
        )
    start = time.perf_counter()
    experiment = experiment.fewer(references_at_most)
    real, (total, direct) = ESTIMATORS[estimator](Game(experiment, players, 0, experiment.along), passes, interactions)

    def read(vector: int) -> Arrays:
        if vector == 0 and experiment.metric.own_direction:
            values = real.values
        else:
            game = Game(experiment, players, vector, experiment.own(vector))
            values = ESTIMATORS[estimator](game, passes, False)[0].values
        experiment.own_effect(vector)  # kept from here on, its run is not
        return (values,)

    own = [values for (values,) in each(experiment, "coalitions", read, estimator, passes, *players)]
    basis, shares = experiment.basis(), np.stack(own)[:, None]
    table = effect_table(players, ("shapley",), real.values[None], shares, basis, options, further=real.error[None])
    gap = np.abs(real.values.sum(axis=0) - (total - direct)).max() / max(np.abs(total).max(), 1e-12)
    frames = {
        "effects": table.assign(sampling_error=real.error),
        "interactions": _interactions(players, real, options, basis),
        "totals": _totals(total, direct, real.values, level, basis),
    }
    return record(
        "shapley",
        experiment,
        frames,
        COLUMNS,
        start,
        checks=[check("values and the direct way add up to the effect (relative)", gap, 1e-6)],
        estimator=estimator,
        passes=passes,
        players=len(players),
        sampling_error=float(real.error.mean()),
        total=float(total.mean()),
        level=level,
        alpha=alpha,
        smallest=smallest,
        **self_check(basis, shares, ("shapley",), options),
    )


def coalitions(players: int, pairs: int, seed: int) -> Members:
    """One of each pair of complementary coalitions, all different where there are enough; the first holds everybody.

    Sizes are drawn as the Shapley kernel weighs them, 1 / (k (n - k)), in even proportions.
    """
    generator = np.random.default_rng(seed)
    if 2 ** (players - 1) <= pairs:
        rest = ((np.arange(2 ** (players - 1))[:, None] >> np.arange(players - 1)) & 1).astype(bool)
        every = np.concatenate([np.ones((len(rest), 1), bool), rest], axis=1)
        return every[np.argsort(-every.sum(axis=1), kind="stable")]
    sizes = np.arange(1, players // 2 + 1)
    weight = 1.0 / (sizes * (players - sizes))
    weight[-1] /= 2 if players % 2 == 0 else 1
    # Even proportions: the next size is the one that is furthest behind its share.
    counts = np.zeros(len(sizes))
    rows, seen = [np.ones(players, bool)], {b"all"}
    while len(rows) < pairs:
        size = int(np.argmax(weight / weight.sum() * (len(rows) + 1) - counts))
        counts[size] += 1
        row = np.zeros(players, bool)
        row[generator.permutation(players)[: sizes[size]]] = True
        key = min(row.tobytes(), (~row).tobytes())
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return np.array(rows)


def _regression(game: Game, passes: int, interactions: bool) -> tuple[Fit, tuple[Values, Values]]:
    members = coalitions(len(game.players), passes // 2, game.experiment.seed)
    values = game.values(np.concatenate([members, ~members]))
    inside, outside = values[: len(members)], values[len(members) :]
    return fit(members, inside, outside, interactions), (inside[0], outside[0])


def _permutation(game: Game, passes: int, interactions: bool) -> tuple[Fit, tuple[Values, Values]]:
    players = len(game.players)
    pairs = max(1, (passes - 2) // (2 * (players - 1)))
    generator = np.random.default_rng(game.experiment.seed)
    orders = [generator.permutation(players) for _ in range(pairs)]
    orders = [o for order in orders for o in (order, order[::-1])]
    members = [np.ones(players, bool), np.zeros(players, bool)]
    for order in orders:
        row = np.zeros(players, bool)
        for player in order[:-1]:
            row = row.copy()
            row[player] = True
            members.append(row)
    found = game.values(np.array(members))
    full, empty = found[0], found[1]
    steps = found[2:].reshape(len(orders), players - 1, -1)
    samples = np.zeros((len(orders), players, found.shape[1]))
    for sample, order, step in zip(samples, orders, steps, strict=True):
        path = np.concatenate([empty[None], step, full[None]])
        sample[order] = np.diff(path, axis=0)
    both = samples.reshape(pairs, 2, players, -1).mean(axis=1)
    scatter = both.mean(axis=-1).std(axis=0, ddof=1) if pairs > 1 else np.full(players, np.nan)
    nothing = np.zeros((0, found.shape[1]))
    return Fit(samples.mean(axis=0), scatter / np.sqrt(pairs), nothing, np.zeros(0)), (full, empty)


Estimator = Callable[[Game, int, bool], tuple[Fit, tuple[Values, Values]]]
ESTIMATORS: dict[str, Estimator] = {"regression": _regression, "permutation": _permutation}


def _interactions(players: Sequence[Node], real: Fit, options: Statistics, basis: Basis) -> pd.DataFrame:
    if not len(real.pairs):
        return pd.DataFrame(columns=list(COLUMNS["interactions"]))
    first, second = np.triu_indices(len(players), 1)
    low, high = interval(real.pairs, options.level, basis.groups, real.pairs_error)
    p = nonzero_p(real.pairs, basis.groups, real.pairs_error)
    corrected = holm(p)
    return pd.DataFrame(
        {
            "node_a": [str(players[int(i)]) for i in first],
            "node_b": [str(players[int(i)]) for i in second],
            "effect": real.pairs.mean(-1),
            "low": low,
            "high": high,
            "sampling_error": real.pairs_error,
            "p": p,
            "p_adjusted": benjamini_hochberg(p),
            "p_holm": corrected,
            "significant": corrected < options.alpha,
        }
    )


def _totals(total: Values, direct: Values, values: Values, level: float, basis: Basis) -> pd.DataFrame:
    rows = {"effect": total, "direct": direct, "nodes": values.sum(axis=0)}
    return pd.DataFrame(
        [(name, x.mean(), *map(float, interval(x, level, basis.groups))) for name, x in rows.items()],
        columns=list(COLUMNS["totals"]),
    )
