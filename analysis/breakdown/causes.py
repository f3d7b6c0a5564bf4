"""`causes`: at a coefficient that breaks the model, how much of the damage goes when a mechanism is undone.

1. Run every subset of the mechanisms undone (see `mechanisms`): damage and effect of each, exactly.
2. Alone: what goes when this one alone is undone, and how much of the effect stays.
3. Shapley values over all subsets: shares of the damage that add up, with what no mechanism explains, to all of it.
   Mechanisms overlap (freezing patterns and hiding positions both keep attention away), so what each does alone
   does not add up, and may be more than all of it.
4. Every node by itself set back to its clean output. Which nodes take most of the damage away is chosen on one half of
   the text's groups and judged on the other, both ways; one group cannot be parted, and gives no nodes.

Source: Shapley 1953, every subset, no sampling; cross-fitting as in Chernozhukov et al. 2018 (arXiv 1608.00060).
"""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import NDArray

from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.results.stats import interval, mean_interval, ratio_interval

from .mechanisms import Undo
from .outcomes import Asked, Runs, between, bounded, of_prompts, of_runs, of_text
from .strength import at

Values = NDArray[np.float64]
Groups = NDArray[np.int64]
NODES = 5  # that each half chooses
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
        **between(
            "gone",
            "share of the damage that goes when this alone is undone; above 1 where the loss ends below that of the "
            "clean run, below 0 where it rises; of a node on that half of the text on which it was not chosen",
            drawn=True,
            over="the text",
        ),
        **between("left", "damage that is left then", "nats", over="the text"),
        **between("effect", "share of the effect that stays then"),
        **between(
            "shapley",
            "Shapley value: share of the damage, over all subsets of mechanisms; for all together, what goes",
            over="the text",
        ),
        "halves": Column("of a node: halves of the text that chose it, so that the other judged it; 2 where both did"),
    }
}


def causes(asked: Asked, coefficient: float, level: float) -> tuple[pd.DataFrame, float, dict[str, str]]:
    """The table of causes; how far the Shapley values are from adding up (relative); what is missing, and why."""
    assert asked.text is not None
    players = Undo(asked.prompts, coefficient).there
    subsets = [frozenset(s) for n in range(len(players) + 1) for s in combinations(players, n)]
    nothing, everything = frozenset[str](), frozenset(players)
    shown = [nothing, *(frozenset({name}) for name in players), everything]

    def undone(some: Sequence[frozenset[str]]) -> Runs:
        return lambda one: map(Undo(one, coefficient).edits, some)

    hurt = of_text(asked.text, undone(subsets), "causes", len(subsets))["damage"]
    stays = dict(zip(shown, of_prompts(asked.prompts, undone(shown))["effect"], strict=True))
    place = {subset: i for i, subset in enumerate(subsets)}
    shapley = {p: _shapley(hurt, place, players, p) for p in players}
    whole, total = hurt[place[nothing]], stays[nothing]
    row = partial(_row, asked, whole=whole, total=total, level=level)
    table = []
    for name in players:
        alone = frozenset({name})
        table.append(row(name, "mechanism", whole - hurt[place[alone]], stays[alone], share=shapley[name]))
    together = whole - hurt[place[everything]]
    table.append(row("all of them", "together", together, stays[everything], share=together))
    found, missing = _nodes(asked, coefficient, whole)
    for node, gone, kept, judged, chose in found:
        table.append(row(node, "node", gone, kept, judged=judged, halves=chose))
    summed = np.sum(list(shapley.values()), axis=0) - together
    gap = float(np.abs(summed).max() / max(float(np.abs(whole).max()), 1e-30))
    low, high = interval(whole, level, asked.groups("damage"))
    if not low > 0:
        bounds = f" [{float(low):.3g}, {float(high):.3g}]" if np.isfinite(low) else " and one group gives no interval"
        missing["shares of the damage"] = (
            f"the damage is {whole.mean():.3g}{bounds} nats, not told from zero: intervals of shares of it would mean "
            "nothing"
        )
    return pd.DataFrame(table, columns=list(CAUSES["causes"])), gap, missing


def _shapley(
    hurt: Float[Values, "subset item"], place: dict[frozenset[str], int], players: tuple[str, ...], player: str
) -> Float[Values, " item"]:
    """By how much undoing this one lowers the damage, averaged over all orders in which they could be undone."""
    others = [p for p in players if p != player]
    total = np.zeros(hurt.shape[-1])
    for n in range(len(others) + 1):
        weight = factorial(n) * factorial(len(others) - n) / factorial(len(players))
        for subset in map(frozenset, combinations(others, n)):
            total += weight * (hurt[place[subset]] - hurt[place[subset | {player}]])
    return total


def _row(
    asked: Asked,
    name: str,
    kind: str,
    gone: Values,
    kept: Values,
    *,
    whole: Values,
    total: Values,
    level: float,
    share: Values | None = None,
    judged: NDArray[np.bool_] | None = None,
    halves: int | None = None,
) -> dict[str, object]:
    """Shares of the mean damage and of the mean effect.

    Args:
        judged: whether a piece of the text counts.
    """
    counts = np.ones(len(whole), dtype=bool) if judged is None else judged
    text, prompts = asked.groups("damage")[counts], asked.groups("effect")
    row: dict[str, object] = {"cause": name, "kind": kind, "halves": halves}
    row |= bounded("gone", _share(gone[counts], whole[counts], level, text))
    row |= bounded("left", mean_interval((whole - gone)[counts], level, text))
    row |= bounded("effect", _share(kept, total, level, prompts))
    nothing = (np.nan, np.nan, np.nan)
    return row | bounded("shapley", nothing if share is None else _share(share, whole, level, text))


def _share(part: Values, whole: Values, level: float, groups: Int[Groups, " item"]) -> tuple[float, float, float]:
    low, high = ratio_interval(part, whole, level, groups)
    mean = float(whole.mean())
    return float(part.mean()) / (mean if mean else np.nan), float(low), float(high)


def _nodes(
    asked: Asked, coefficient: float, whole: Values
) -> tuple[list[tuple[str, Values, Values, NDArray[np.bool_], int]], dict[str, str]]:
    """Nodes whose clean output takes most of the damage away: name, what goes, the effect that stays, the pieces of
    text that judge it, and how many halves chose it; or why there are none.
    """
    side = halves(asked.groups("damage"), asked.prompts.seed)
    if side is None:
        reason = "one group of text: nodes would be chosen and judged on the same; give more texts"
        return [], {"nodes": reason}
    nodes = asked.prompts.reachable

    def runs(one: Experiment) -> Iterable[Edits]:
        steering, back = at(one, coefficient), one.patches(None, nodes)
        return [tuple((*own, back[n][p]) for p, own in enumerate(steering)) for n in nodes]

    outcomes = of_runs(asked, runs)
    gone = whole - outcomes["damage"]
    best = [set(np.argsort(-gone[:, side == half].mean(axis=1), kind="stable")[:NODES].tolist()) for half in (0, 1)]
    found = []
    for i in sorted(best[0] | best[1]):
        by = [half for half in (0, 1) if i in best[half]]
        judged = np.ones(len(side), dtype=bool) if len(by) == 2 else side != by[0]
        found.append((str(nodes[i]), gone[i], outcomes["effect"][i], judged, len(by)))
    found.sort(key=lambda own: -own[1][own[3]].mean() / whole[own[3]].mean())
    return found, {}


def halves(groups: Int[Groups, " item"], seed: int) -> Int[Groups, " item"] | None:
    """By item, 0 or 1: its group's half, drawn at random; None for a single group."""
    names, number = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return None
    half = np.arange(len(names)) % 2
    return np.asarray(np.random.default_rng(seed).permutation(half)[number])
