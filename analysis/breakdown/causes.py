"""`causes`: at a coefficient that breaks the model, how much of the damage goes when a mechanism is undone.

1. Run every subset of the mechanisms undone (see `mechanisms`): damage and effect of each, exactly.
2. Alone: what goes when this one alone is undone, and how much of the effect stays.
3. Shapley values over all subsets: shares of the damage that add up, with what no mechanism explains, to all of it.
   Mechanisms overlap (freezing patterns and hiding positions both keep attention away), so what each does alone
   does not add up.
4. Every node by itself set back to its clean output.

Source: Shapley 1953, every subset, no sampling.
"""

from functools import partial
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.results.stats import percentiles, resampled

from .mechanisms import Undo
from .outcomes import DAMAGE, EFFECT, between, bounded, of_runs
from .strength import at

Values = NDArray[np.float64]
CARRIERS = 5  # nodes that are listed
CAUSES: Frames = {
    "causes": {
        "cause": Column(
            "patterns: attention patterns set to clean; seen: injected positions hidden from later ones; values: their "
            "values set to clean; scales: norms' scales set to clean; norm: the injected stream scaled back to its "
            "clean length; mean, rogue, sink: the vector's part along the mean stream, in the largest dimensions, "
            "along the first position's stream, taken away; or a node set to clean",
            role="label",
        ),
        "kind": Column("mechanism, together (all mechanisms undone), or node"),
        **between("gone", "share of the damage that goes when this alone is undone", drawn=True),
        **between("effect", "share of the effect that stays then"),
        **between(
            "shapley", "Shapley value: share of the damage, over all subsets of mechanisms; for all together, what goes"
        ),
    }
}


def causes(experiment: Experiment, coefficient: float, level: float) -> tuple[pd.DataFrame, float]:
    """The table of causes, and how far the Shapley values are from adding up (relative)."""
    undo = Undo(experiment, coefficient)
    players = undo.there
    subsets = [frozenset(s) for n in range(len(players) + 1) for s in combinations(players, n)]
    runs = (undo.edits(subset) for subset in subsets)
    outcomes = of_runs(experiment, runs, "causes", len(subsets))
    hurt, effect = outcomes[DAMAGE], outcomes[EFFECT]
    place = {subset: i for i, subset in enumerate(subsets)}
    nothing, everything = place[frozenset()], place[frozenset(players)]
    shapley = {p: _shapley(hurt, place, players, p) for p in players}
    whole, total = hurt[nothing], effect[nothing]
    row = partial(_row, whole=whole, total=total, level=level, seed=experiment.seed)
    alone = {name: place[frozenset({name})] for name in players}
    table = [row(name, "mechanism", whole - hurt[i], effect[i], shapley[name]) for name, i in alone.items()]
    together = whole - hurt[everything]
    table.append(row("all of them", "together", together, effect[everything], together))
    table += [row(*given) for given in _carriers(experiment, coefficient, whole)]
    summed = np.sum(list(shapley.values()), axis=0) - together
    gap = float(np.abs(summed).max() / max(float(np.abs(whole).max()), 1e-30))
    return pd.DataFrame(table, columns=list(CAUSES["causes"])), gap


def _shapley(
    hurt: Float[Values, "subset prompt"], place: dict[frozenset[str], int], players: tuple[str, ...], player: str
) -> Float[Values, " prompt"]:
    """By how much undoing this one lowers the damage, averaged over all orders in which they could be undone."""
    others = [p for p in players if p != player]
    total = np.zeros(hurt.shape[-1])
    for n in range(len(others) + 1):
        weight = factorial(n) * factorial(len(others) - n) / factorial(len(players))
        for subset in map(frozenset, combinations(others, n)):
            total += weight * (hurt[place[subset]] - hurt[place[subset | {player}]])
    return total


def _row(
    name: str,
    kind: str,
    gone: Values,
    kept: Values,
    share: Values | None = None,
    *,
    whole: Values,
    total: Values,
    level: float,
    seed: int,
) -> dict[str, object]:
    """Shares of the mean damage and of the mean effect, prompts resampled together."""
    row: dict[str, object] = {"cause": name, "kind": kind}
    parts = {"gone": (gone, whole), "effect": (kept, total), "shapley": (share, whole)}
    for column, (part, all_) in parts.items():
        bounds = (np.nan, np.nan, np.nan)
        if part is not None:
            means = resampled(np.stack([part, all_]), seed)
            ratio = means[:, 0] / np.where(means[:, 1] == 0, np.nan, means[:, 1])
            bounds = (ratio[0], *map(float, percentiles(ratio, level)))
        row |= bounded(column, bounds)
    return row


def _carriers(experiment: Experiment, coefficient: float, whole: Values) -> list[tuple[str, str, Values, Values]]:
    """The nodes whose clean output takes most of the damage away: name, kind, what goes, the effect that stays."""
    nodes = experiment.reachable
    steering = at(experiment, coefficient)
    back = experiment.patches(None, nodes)
    runs = (tuple((*own, back[n][p]) for p, own in enumerate(steering)) for n in nodes)
    outcomes = of_runs(experiment, runs)
    gone = whole - outcomes[DAMAGE]
    best = np.argsort(-gone.mean(axis=1), kind="stable")[:CARRIERS]
    return [(str(nodes[i]), "node", gone[i], outcomes[EFFECT, i]) for i in best.tolist()]
