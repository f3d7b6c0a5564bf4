"""`shapley`: the effect shared out among its carriers, with redundancy and self-repair taken into account.

The game: a coalition's nodes run live in the steered run, all others are held at their clean outputs. Its
value is the metric of that run minus that of the clean run: what reaches the output through these nodes.

1. The empty coalition is the injection's direct way to the output, past all nodes; the full one is the whole effect.
   A node's Shapley value is its mean contribution over all orders in which nodes could be let go, so that
   values and the direct way add up to the effect.
2. An interaction of two nodes is what they do together beyond the sum: negative where they stand in for each
   other (redundancy, self-repair), positive where one needs the other (a relay).
3. Estimators: `regression` on pairs of complementary coalitions (`surrogate`), or `permutation`: antithetic pairs of
   orders, each node's contribution as it is let go. Every coalition runs on every prompt.

Sources: Shapley 1953; Castro et al. 2009 for permutations; `surrogate` for the regression.
What it cannot see: which of two nodes that need each other comes first (see paths). A node held at its clean output
beside live ones is in a state that the model never visits by itself.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.errors import BadArgument, BadNode
from steerscope.analysis.model.nodes import Node, parse_node
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import Statistics, estimates, nonzero
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.stats import benjamini_hochberg, interval, sign_flip_p
from steerscope.analysis.tools.patches import Patches, patches
from steerscope.analysis.tools.record import check, record

from .surrogate import Fit, fit

Values = NDArray[np.float64]
Members = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Game:
    """Values of coalitions, for one vector."""

    experiment: Experiment
    players: tuple[Node, ...]
    vector: int
    to_clean: Patches

    def values(self, members: Members) -> Float[Values, "coalition prompt"]:
        """Metric of the run in which the members are live, minus that of the clean run."""
        asked, prompts = self.experiment, range(len(self.experiment.prompts))
        edits = asked.edits(self.vector)
        variants = []
        for row in members:
            held = [n for n, live in zip(self.players, row, strict=True) if not live]
            variants += [Variant(p, (*edits[p], *(self.to_clean[n][p] for n in held))) for p in prompts]
        variants += [Variant(p) for p in prompts]
        score = asked.metric.prepare(asked.scored_positions, asked.clean, asked.steered)
        found = asked.scores(variants, [score], asked.reads)[:, 0].reshape(len(members) + 1, -1)
        return np.asarray(found[:-1] - found[-1])


def shapley(
    experiment: Experiment,
    *,
    estimator: str = "regression",
    passes: int | None = None,
    nodes: Sequence[Node | str] | None = None,
    interactions: bool = True,
    controls: int = 4,
    level: float = 0.95,
    alpha: float = 0.05,
) -> Result:
    """Shapley values of nodes as carriers, and interactions of pairs.

    Args:
        estimator: regression or permutation (which gives no interactions).
        passes: coalitions that are run on every prompt; 8 a node by default.
        nodes: the players; all that the injection can reach by default. Others stay live.
        controls: random vectors of equal norm, at most as many as the experiment has.

    Returns:
        a `Result` of kind "shapley"; frames and columns as in `columns.COLUMNS["shapley"]`.

    Raises:
        BadArgument: an unknown estimator, or too few passes.
        BadNode: a node that is not there, or that the injection cannot reach.
    """
    options = Statistics(level, alpha)
    players = _players(experiment, nodes)
    passes = 8 * len(players) + 2 if passes is None else passes
    if estimator not in ESTIMATORS:
        raise BadArgument(f"unknown estimator {estimator!r}; expected one of {', '.join(ESTIMATORS)}; choose one")
    least = 2 * len(players) + 2
    if passes < least:
        raise BadArgument(
            f"passes={passes} for {len(players)} nodes; expected at least {least} coalitions (two a node); "
            "raise it, or give "
            "fewer nodes"
        )
    start = time.perf_counter()
    to_clean = patches(experiment, experiment.nothing, players)
    vectors = range(1 + min(controls, experiment.controls))
    fits, ends = [], []
    for vector in track(vectors, "coalitions"):
        game = Game(experiment, players, vector, to_clean)
        found, end = ESTIMATORS[estimator](game, passes, interactions and vector == 0)
        fits.append(found)
        ends.append(end)
    total, direct = ends[0]
    real = fits[0]
    values = np.stack([one.values for one in fits])
    gap = np.abs(values[0].sum(axis=0) - (total - direct)).max() / max(np.abs(total).max(), 1e-12)
    frames = {
        "values": _values(players, values, real, total, options, experiment.seed),
        "interactions": _interactions(players, real, options, experiment.seed),
        "totals": _totals(total, direct, values[0], level, experiment.seed),
    }
    return record(
        "shapley",
        replace(experiment, controls=len(vectors) - 1),
        frames,
        start,
        checks=[check("values and the direct way add up to the effect (relative)", gap, 1e-6)],
        estimator=estimator,
        passes=passes,
        players=len(players),
        sampling_error=float(real.error.mean()),
        total=float(total.mean()),
        level=level,
        alpha=alpha,
    )


def _players(experiment: Experiment, nodes: Sequence[Node | str] | None) -> tuple[Node, ...]:
    reachable = experiment.reachable
    given = reachable if nodes is None else [parse_node(n) if isinstance(n, str) else n for n in nodes]
    for node in given:
        experiment.model.check(node.site)
        if node not in set(reachable):
            raise BadNode(
                f"{node} lies before the injection, which cannot reach it; expected a node from layer "
                f"{reachable[0].layer} on; leave it out"
            )
    if len(set(given)) < 2:
        raise BadArgument(f"{len(set(given))} node; expected at least 2 to share an effect; give more")
    return tuple(node for node in reachable if node in set(given))


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


def _values(
    players: Sequence[Node], values: Values, real: Fit, total: Values, options: Statistics, seed: int
) -> pd.DataFrame:
    columns = estimates(values, options, seed)
    return pd.DataFrame(
        {
            "node": [str(n) for n in players],
            "layer": [n.layer for n in players],
            "head": pd.array([n.head for n in players], dtype="Int64"),
            "kind": [n.kind for n in players],
            **columns,
            "share": columns["effect"] / nonzero(total.mean()),
            "sampling_error": real.error,
        }
    )


def _interactions(players: Sequence[Node], real: Fit, options: Statistics, seed: int) -> pd.DataFrame:
    if not len(real.pairs):
        names = ["node_a", "node_b", "effect", "low", "high", "sampling_error", "p", "p_adjusted", "significant"]
        return pd.DataFrame(columns=names)
    first, second = np.triu_indices(len(players), 1)
    low, high = interval(real.pairs, options.level, seed)
    p = sign_flip_p(real.pairs, seed=seed)
    adjusted = benjamini_hochberg(p)
    mean = real.pairs.mean(-1)
    # Beyond the prompts' scatter an interaction must stand out of its own sampling error.
    clear = np.abs(mean) > 2 * real.pairs_error
    return pd.DataFrame(
        {
            "node_a": [str(players[int(i)]) for i in first],
            "node_b": [str(players[int(i)]) for i in second],
            "effect": mean,
            "low": low,
            "high": high,
            "sampling_error": real.pairs_error,
            "p": p,
            "p_adjusted": adjusted,
            "significant": (adjusted < options.alpha) & clear,
        }
    )


def _totals(total: Values, direct: Values, values: Values, level: float, seed: int) -> pd.DataFrame:
    rows = {"effect": total, "direct": direct, "nodes": values.sum(axis=0)}
    return pd.DataFrame(
        [(name, x.mean(), *map(float, interval(x, level, seed))) for name, x in rows.items()],
        columns=["quantity", "value", "low", "high"],
    )
