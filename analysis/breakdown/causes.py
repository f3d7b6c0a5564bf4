"""`causes`: at a coefficient that breaks the model, how much of the damage goes when a mechanism is undone.

1. Run every subset of the mechanisms undone (see `mechanisms`): damage and effect of each, exactly.
2. Alone: what goes when this one alone is undone, and how much of the effect stays.
3. Shapley values over all subsets: shares of the damage that add up, with what no mechanism explains, to all of it.
   Mechanisms overlap (freezing patterns and hiding positions both keep attention away), so what each does alone
   does not add up.
4. Every node by itself set back to its clean output.

Source: Shapley 1953, every subset, no sampling.
"""

from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.attribution.patches import patches
from steerscope.analysis.columns import COLUMNS
from steerscope.analysis.experiment import Experiment
from steerscope.analysis.progress import track
from steerscope.analysis.stats import percentiles, resampled

from .mechanisms import Undo
from .outcomes import damage, of_runs
from .strength import at

Values = NDArray[np.float64]
BATCH = 16  # subsets that are run at once
CARRIERS = 5  # nodes that are listed


def causes(experiment: Experiment, coefficient: float, level: float) -> tuple[pd.DataFrame, float]:
    """The table of causes, and how far the Shapley values are from adding up (relative)."""
    undo = Undo(experiment, coefficient)
    players = undo.there
    subsets = [frozenset(s) for n in range(len(players) + 1) for s in combinations(players, n)]
    clean = of_runs(experiment, [experiment.nothing])
    found = []
    for start in track(range(0, len(subsets), BATCH), "causes"):
        found.append(of_runs(experiment, [undo.edits(s) for s in subsets[start : start + BATCH]]))
    outcomes = np.concatenate(found, axis=1)
    hurt, effect = damage(outcomes, clean), outcomes[0]
    place = {subset: i for i, subset in enumerate(subsets)}
    nothing, everything = place[frozenset()], place[frozenset(players)]
    shapley = {p: _shapley(hurt, place, players, p) for p in players}
    whole, total = hurt[nothing], effect[nothing]
    table = [
        _row(name, "mechanism", whole - hurt[place[frozenset({name})]], effect[place[frozenset({name})]], shapley[name], whole, total, level, experiment.seed)
        for name in players
    ]  # fmt: skip
    table.append(_row("all of them", "together", whole - hurt[everything], effect[everything], whole - hurt[everything], whole, total, level, experiment.seed))  # fmt: skip
    table += _carriers(experiment, coefficient, clean, whole, total, level)
    summed = np.sum(list(shapley.values()), axis=0) - (whole - hurt[everything])
    gap = float(np.abs(summed).max() / max(float(np.abs(whole).max()), 1e-30))
    frame = pd.DataFrame(table)
    return frame[list(COLUMNS["breakdown"]["causes"])], gap


def _shapley(
    hurt: Float[Values, "subset prompt"], place: dict[frozenset[str], int], players: tuple[str, ...], player: str
) -> Float[Values, " prompt"]:  # fmt: skip
    """By how much undoing this one lowers the damage, averaged over all orders in which they could be undone."""
    others = [p for p in players if p != player]
    total = np.zeros(hurt.shape[-1])
    for n in range(len(others) + 1):
        weight = factorial(n) * factorial(len(others) - n) / factorial(len(players))
        for subset in map(frozenset, combinations(others, n)):
            total += weight * (hurt[place[subset]] - hurt[place[subset | {player}]])
    return total


def _row(
    name: str, kind: str, gone: Values, kept: Values, share: Values | None, whole: Values, total: Values, level: float, seed: int
) -> dict[str, object]:  # fmt: skip
    """Shares of the mean damage and of the mean effect, prompts resampled together."""
    row: dict[str, object] = {"cause": name, "kind": kind}
    parts = {"gone": (gone, whole), "effect": (kept, total), "shapley": (share, whole)}
    for column, (part, all_) in parts.items():
        values = np.full(2, np.nan) if part is None else resampled(np.stack([part, all_]), seed)
        ratio = (
            values
            if part is None
            else values[:, 0] / np.where(values[:, 1] == 0, np.nan, values[:, 1])
        )
        low, high = (np.nan, np.nan) if part is None else percentiles(ratio, level)
        row |= {column: float(ratio[0]), f"{column}_low": float(low), f"{column}_high": float(high)}
    return row


def _carriers(
    experiment: Experiment, coefficient: float, clean: Values, whole: Values, total: Values, level: float
) -> list[dict[str, object]]:  # fmt: skip
    """The nodes whose clean output takes most of the damage away."""
    nodes = experiment.reachable
    steering = at(experiment, coefficient)
    back = patches(experiment, experiment.nothing, nodes)
    found = []
    for start in range(0, len(nodes), BATCH):
        runs = [tuple((*own, back[n][p]) for p, own in enumerate(steering)) for n in nodes[start : start + BATCH]]  # fmt: skip
        found.append(of_runs(experiment, runs))
    outcomes = np.concatenate(found, axis=1)
    gone = whole - damage(outcomes, clean)
    best = np.argsort(-gone.mean(axis=1), kind="stable")[:CARRIERS]
    return [
        _row(
            str(nodes[i]),
            "node",
            gone[i],
            outcomes[0, i],
            None,
            whole,
            total,
            level,
            experiment.seed,
        )
        for i in best.tolist()
    ]
