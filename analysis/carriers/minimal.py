"""How concentrated is a vector? The share of its effect against the number of nodes that are patched jointly.

1. Nodes stand in an order that begins with their single effects (or anything else that is given for each prompt) and
   is improved by exact joint patching, within a budget (see `order`).
2. A set flatters on the prompts that chose it. So one half of the groups of prompts chooses an order and the other half
   measures it, both ways, and the shares are averaged; with fewer than 4 groups the curve is measured where it was
   chosen, and says so. The order that all prompts choose gives the names.
3. Beside it: all other nodes jointly (what is left when the best are gone), random sets of the same layers, the same
   nodes in the runs of reference vectors, and, as the fair comparison, every vector with nodes of its own: ordered by
   their single effects on that vector's own change of logits, halved in the same way, without any search.

Source: faithfulness and completeness of sets of nodes, Wang et al. 2022 (arXiv 2211.00593, section 4), measured by
joint patching; cross-fitting, Chernozhukov et al. 2018 (arXiv 1608.00060, section 1).
What it cannot see: the smallest set there is; a search finds small ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import NDArray

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment, beyond_rounding
from steerscope.analysis.question.scores import Score
from steerscope.analysis.results.effects import Statistics, nonzero
from steerscope.analysis.results.schema import Column, Frame
from steerscope.analysis.results.stats import nonzero_p, numbered, percentiles, prediction_p, ratio_interval, resampled
from steerscope.analysis.results.verdicts import LEAST, NOISE
from steerscope.analysis.tools.keeping import Arrays, each
from steerscope.analysis.tools.patching import MEASURES, patched

from .order import BEAM, ENOUGH, MOST, Order, descending, search

Values = NDArray[np.float64]
Indices = NDArray[np.int64]
HALVES = 4  # groups of prompts from which on one half chooses for the other

SETS = {
    "best": "the nodes that the other half of the prompts chose",
    "chosen": "the nodes that all prompts chose, on the same prompts",
    "rest": "all nodes outside of best",
    "random": "random nodes, as many heads and MLPs of each layer as best has (so the MLPs are the same)",
    "noise": "the nodes of best, for reference vectors without meaning",
    "meaning": "the nodes of best, for reference vectors with a meaning of their own",
    "own": "this vector along its own change of logits, nodes ordered by their single effects on that",
    "own_noise": "the same of reference vectors without meaning, each with its own nodes",
    "own_meaning": "the same of reference vectors with a meaning, each with its own nodes",
}
MINIMAL: Frame = {
    "size": Column("nodes that are patched jointly", "nodes", "axis"),
    "node": Column("the node that joins at this size; for chosen, where names are known"),
    "measure": Column("necessity or sufficiency", role="measure"),
    "set": Column("; ".join(f"{name}: {what}" for name, what in SETS.items()), role="label"),
    "share": Column(
        "joint effect over the whole effect; of noise, meaning and own, of the vector's own; mean over sets or vectors",
        role="estimate",
    ),
    "low": Column(
        "lower end of the interval over groups, given the order; of random sets and reference vectors the smallest",
        role="low",
    ),
    "high": Column("upper end of the same, and the largest", role="high"),
}


@dataclass(frozen=True, eq=False)
class _Joint:
    """Joint effects for one vector, by one score; a set that was asked once is not run again.

    Attributes:
        score: the metric by default.
    """

    experiment: Experiment
    vector: int
    score: Score | None = None
    _known: dict[tuple[str, int, frozenset[int]], float] = field(default_factory=dict)

    @property
    def runs(self) -> int:
        return len(self._known)

    def effects(self, measure: str, asked: Sequence[tuple[int, Sequence[int]]]) -> Values:
        """Of sets of nodes (by their places) on a prompt each; zero of an empty one."""
        keys = [(measure, prompt, frozenset(members)) for prompt, members in asked]
        new = list(dict.fromkeys(key for key in keys if key[2] and key not in self._known))
        if new:
            self._known.update(zip(new, self._run(new).tolist(), strict=True))
        return np.array([self._known.get(key, 0.0) for key in keys])

    def _run(self, keys: Sequence[tuple[str, int, frozenset[int]]]) -> Values:
        experiment, vector, measure = self.experiment, self.vector, keys[0][0]
        lost = measure == "necessity"
        sources = experiment.patches(None if lost else vector, experiment.reachable, everywhere=False)
        ordered = [sources[node] for node in experiment.reachable]
        edits, prompts = experiment.edits(vector), [prompt for _, prompt, _ in keys]
        variants: list[Variant] = [
            patched(measure, p, edits, [ordered[n][p] for n in sorted(members)]) for _, p, members in keys
        ]
        score = self.score or experiment.along
        values = experiment.scores(variants, [score])[:, 0]
        clean, steered = (experiment.value(v, self.score)[prompts] for v in (None, vector))
        change = beyond_rounding(values - (steered if lost else clean), values, clean, steered)
        return np.asarray(-change if lost else change)


def minimal(
    experiment: Experiment,
    singles: Float[Values, "measure node prompt"],
    nodes: Sequence[Node],
    options: Statistics,
    *,
    own: Float[Values, "vector measure node prompt"] | None = None,
    random: int = 8,
    vectors: int = 4,
    budget: float = 0.1,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The growing set in both directions, with what stands beside it.

    Args:
        singles: what nodes do one by one along the metric, by measure (necessity, sufficiency): where orders begin.
        nodes: of `singles`; sets grow from these. Others stay as they are, and belong to the rest.
        own: what nodes do one by one to each vector's own change of logits; without it, or without reference vectors,
            no vector is compared.
        random: random sets of each size.
        vectors: reference vectors that are patched, of those without and of those with a meaning each.
        budget: sets that all searches may patch, as a share of the patches of single nodes of all vectors (`own`); some
            are always allowed, since a backup is found by trying all others beside what it backs up.

    Returns:
        the columns of `MINIMAL`, and what the manifest says of it: `missing` (why there is no curve, or empty),
        `halved` (whether one half chose for the other), `reached` (by measure, the size that has 80% with its
        interval), `searched` and `runs` (sets that were patched on every prompt), `random` and `vectors` (how many),
        and `concentration` (by measure, the mean share over the sizes 1, 2, 4, ..., every vector with its own nodes,
        and p of the hypothesis that the real one is one more of the others, after Bonferroni over the measures).
    """
    total, groups = experiment.effect(), experiment.prompts.by_group
    why = _nothing(total, groups, options)
    if why:
        return pd.DataFrame(columns=list(MINIMAL)), {"missing": why}
    joint, halves = _Joint(experiment, 0), _halves(groups)
    places = np.array([experiment.reachable.index(node) for node in nodes])
    patches = singles[:, :, 0].size * (1 if own is None else len(own))
    # Each measure has one search over all prompts and one over each half: as much as four over all.
    sets = max(int(budget * patches / 4), min(2 * MOST * BEAM, 2 * len(nodes)))
    orders = {m: _orders(joint, m, singles, places, halves, sets) for m in MEASURES}
    searched = joint.runs
    sizes, frames, reached = _sizes(len(nodes)), [], {}
    few = _few(sizes)
    for measure, (chosen, fitted) in orders.items():
        curves = _curves(joint, measure, chosen, fitted, sizes)
        frames += [_rows(measure, name, sizes, curve, total, groups, options) for name, curve in curves.items()]
        frames[-2] = frames[-2].assign(node=[str(experiment.reachable[chosen[k - 1]]) for k in sizes])
        reached[measure] = _reached(curves["best"], total, groups, sizes, options.level)
        drawn = _drawn(joint, measure, fitted, few, random, experiment.seed)
        frames.append(_spread_rows(measure, "random", few, drawn / nonzero(total.mean())))
    about: dict[str, Any] = {"missing": "", "halved": bool(halves.any()), "reached": reached, "random": random}
    about |= {"searched": searched / len(total), "runs": joint.runs / len(total)}
    if own is not None:
        fitted_of = {measure: fitted for measure, (_, fitted) in orders.items()}
        compared, further = _vectors(experiment, own, places, fitted_of, halves, vectors, options)
        frames, about = frames + compared, about | further
    found = pd.concat(frames, ignore_index=True)
    return found.assign(node=found["node"].fillna(""))[list(MINIMAL)], about


def _curves(
    joint: _Joint, measure: str, chosen: Order, fitted: Sequence[Order], sizes: Sequence[int]
) -> dict[str, Float[Values, "size prompt"]]:
    """Joint effects of best, chosen and rest."""
    prompts, everything = range(len(fitted)), range(len(joint.experiment.reachable))
    outside = [(p, [n for n in everything if n not in set(fitted[p][:k])]) for k in sizes for p in prompts]
    return {
        "best": _curve(joint, measure, fitted, sizes),
        "chosen": _curve(joint, measure, [chosen] * len(fitted), sizes),
        "rest": joint.effects(measure, outside).reshape(len(sizes), -1),
    }


def _nothing(total: Values, groups: Indices, options: Statistics) -> str:
    """Why there is no curve; a single group of prompts says nothing of others, but has a curve of its own."""
    if not np.abs(total).max() > 0 or total.mean() == 0:
        return "the whole effect is zero, and there are no shares of it"
    if len(set(groups.tolist())) > 1 and not nonzero_p(total, groups) < options.alpha:
        return "the whole effect is not told from zero over the groups of prompts, and there are no shares of nothing"
    return ""


def _halves(groups: Indices) -> Indices:
    """By prompt, 0 or 1: whole groups, about as many prompts in each; all 0 where there are too few groups."""
    own = numbered(groups, len(groups))
    counts = np.bincount(own)
    if len(counts) < HALVES:
        return np.zeros(len(groups), dtype=np.int64)
    side, load = np.zeros(len(counts), dtype=np.int64), [0, 0]
    for group in np.argsort(-counts, kind="stable"):
        side[group] = int(load[1] < load[0])
        load[side[group]] += counts[group]
    return np.asarray(side[own])


def _sizes(nodes: int) -> list[int]:
    """Every size up to 16, then 24, 32, 48, 64, 96, ... and all."""
    steps = [base * 2**power for power in range(3, 20) for base in (2, 3)]
    return sorted({*range(1, min(MOST, nodes) + 1), *(k for k in steps if MOST < k < nodes), nodes})


def _few(sizes: Sequence[int]) -> list[int]:
    """Of these the sizes of what stands beside: 1, 2, 4, 8, 16, ...; with all nodes nothing is left to compare."""
    return [k for k in sizes[:-1] if k & (k - 1) == 0] or list(sizes)


# The order.


def _orders(
    joint: _Joint,
    measure: str,
    singles: Float[Values, "measure node prompt"],
    places: Indices,
    halves: Indices,
    budget: int,
) -> tuple[Order, list[Order]]:
    """The order that all prompts choose, and by prompt the one that the other half chose."""
    prompts, total, at = np.arange(len(halves)), joint.experiment.effect(), MEASURES.index(measure)

    def choose(train: Indices) -> Order:
        whole = nonzero(total[train].mean())
        first, second = (singles[m][:, train].mean(-1) / whole for m in (at, 1 - at))

        def ask(sets: Sequence[Sequence[int]]) -> Values:
            asked = [(int(p), places[list(members)].tolist()) for members in sets for p in train]
            return np.asarray(joint.effects(measure, asked).reshape(len(sets), -1).mean(-1) / whole)

        return [int(places[n]) for n in search(ask, first, second, budget)]

    everybody = choose(prompts)
    if not halves.any():
        return everybody, [everybody] * len(prompts)
    by_half = [choose(prompts[halves != half]) for half in (0, 1)]
    return everybody, [by_half[half] for half in halves]


# The curves.


def _curve(joint: _Joint, measure: str, orders: Sequence[Order], sizes: Sequence[int]) -> Float[Values, "size prompt"]:
    """Joint effects of the beginnings of an order, which each prompt has of its own."""
    asked = [(p, order[:k]) for k in sizes for p, order in enumerate(orders)]
    return joint.effects(measure, asked).reshape(len(sizes), -1)


def _drawn(
    joint: _Joint, measure: str, orders: Sequence[Order], sizes: Sequence[int], count: int, seed: int
) -> Float[Values, "size set"]:
    """Effects of random sets with as many heads and MLPs of each layer, mean over prompts; missing where there is but
    one such set."""
    nodes = joint.experiment.reachable
    alike: dict[tuple[int, bool], list[int]] = {}
    for place, node in enumerate(nodes):
        alike.setdefault((node.layer, node.head is None), []).append(place)
    found = np.full((len(sizes), count), np.nan)
    for row, size in enumerate(sizes):
        sets = {tuple(order[:size]) for order in orders}
        profiles = {own: _profile(own, nodes) for own in sets}
        if all(profile.get(kind, 0) in (0, len(alike[kind])) for profile in profiles.values() for kind in alike):
            continue
        for draw in range(count):
            made = {}
            for number, own in enumerate(sorted(sets)):
                generator = np.random.default_rng([seed, size, draw, number])
                picks = [generator.permutation(alike[kind])[:k].tolist() for kind, k in profiles[own].items()]
                made[own] = [n for pick in picks for n in pick]
            asked = [(p, made[tuple(order[:size])]) for p, order in enumerate(orders)]
            found[row, draw] = joint.effects(measure, asked).mean()
    return found


def _profile(members: Sequence[int], nodes: Sequence[Node]) -> dict[tuple[int, bool], int]:
    """How many heads and MLPs of each layer."""
    found: dict[tuple[int, bool], int] = {}
    for place in members:
        kind = (nodes[place].layer, nodes[place].head is None)
        found[kind] = found.get(kind, 0) + 1
    return found


def _vectors(
    experiment: Experiment,
    own: Float[Values, "vector measure node prompt"],
    places: Indices,
    fitted: Mapping[str, Sequence[Order]],
    halves: Indices,
    most: int,
    options: Statistics,
) -> tuple[list[pd.DataFrame], dict[str, Any]]:
    """Every vector along its own change of logits, with the nodes of the real one and with its own; and what the
    manifest says of them.
    """
    groups, totals = experiment.prompts.by_group, {v: experiment.own_effect(v) for v in experiment.vectors}
    known = [v for v, total in totals.items() if not _nothing(total, groups, options)]
    clouds = {name: [v for v in _of_family(experiment, name)[:most] if v in known] for name in ("noise", "meaning")}
    about: dict[str, Any] = {"vectors": {name: len(cloud) for name, cloud in clouds.items()}, "concentration": {}}
    if 0 not in known:
        return [], about
    sizes, frames = _few(_sizes(len(places))), list[pd.DataFrame]()
    best, same = dict[tuple[str, int], Values](), dict[tuple[str, int], Values]()

    def read(vector: int) -> Arrays:
        joint, towards = _Joint(experiment, vector, experiment.own(vector)), np.sign(totals[vector].mean())
        orders: list[Sequence[Order]] = [
            _by_singles(towards * own[vector, m], places, halves) for m in range(len(MEASURES))
        ]
        both: list[list[Sequence[Order]]] = [orders, [fitted[m] for m in MEASURES]][: 1 + bool(vector)]
        return tuple(
            np.stack([_curve(joint, measure, one, sizes) for measure, one in zip(MEASURES, of, strict=True)])
            for of in both
        )

    chosen = [0, *clouds["noise"], *clouds["meaning"]]
    kept = each(experiment, "sets of every vector", read, sizes, fitted, vectors=chosen)
    for vector, found in zip(chosen, kept, strict=True):
        for curves, of in zip((best, same), found, strict=False):
            curves.update({(measure, vector): curve for measure, curve in zip(MEASURES, of, strict=True)})
    for measure in MEASURES:
        frames.append(_rows(measure, "own", sizes, best[measure, 0], totals[0], groups, options))
        real = float((best[measure, 0].mean(-1) / totals[0].mean()).mean())
        about["concentration"][measure] = {"own": real}
        for name, cloud in clouds.items():
            for title, curves in ((name, same), (f"own_{name}", best)) if cloud else ():
                shares = np.stack([curves[measure, v].mean(-1) / totals[v].mean() for v in cloud], axis=1)
                frames.append(_spread_rows(measure, title, sizes, shares))
            if len(cloud) >= LEAST:  # the mean over sizes: no size is picked that suits the real vector
                p = float(prediction_p(np.array(real), shares.mean(axis=0)))
                said = {name: float(shares.mean()), f"{name}_p": min(1.0, p * len(MEASURES))}
                about["concentration"][measure] |= said
    return frames, about


def _of_family(experiment: Experiment, name: str) -> list[int]:
    """Reference vectors that carry no meaning, or that carry one."""
    return [v for v, family in enumerate(experiment.beside.families, 1) if (family in NOISE) == (name == "noise")]


def _by_singles(singles: Float[Values, "node prompt"], places: Indices, halves: Indices) -> list[Order]:
    """By prompt, the order of single effects on the other half."""
    if not halves.any():
        return [places[descending(singles.mean(-1))].tolist()] * len(halves)
    by_half = [places[descending(singles[:, halves != half].mean(-1))].tolist() for half in (0, 1)]
    return [by_half[half] for half in halves]


# The rows.


def _rows(
    measure: str,
    name: str,
    sizes: Sequence[int],
    values: Float[Values, "size prompt"],
    total: Float[Values, " prompt"],
    groups: Indices,
    options: Statistics,
) -> pd.DataFrame:
    """Shares of the whole effect with their intervals over groups."""
    low, high = ratio_interval(values, total, options.level, groups)
    share = values.mean(-1) / nonzero(total.mean())
    return pd.DataFrame({"size": sizes, "measure": measure, "set": name, "share": share, "low": low, "high": high})


def _spread_rows(measure: str, name: str, sizes: Sequence[int], shares: Float[Values, "size other"]) -> pd.DataFrame:
    """Shares of several sets or vectors: their mean, and from the smallest to the largest."""
    columns = {"share": shares.mean(-1), "low": shares.min(-1), "high": shares.max(-1)} if shares.size else {}
    found = pd.DataFrame({"size": sizes, "measure": measure, "set": name} | columns)
    return found.reindex(columns=["size", "measure", "set", "share", "low", "high"])


def _reached(
    curve: Float[Values, "size prompt"],
    total: Float[Values, " prompt"],
    groups: Int[NDArray[np.int64], " prompt"],
    sizes: Sequence[int],
    level: float,
) -> dict[str, float | None]:
    """The first size that has enough of the effect, and its interval over resamples of the groups, given the order.

    None where it is never reached.
    """
    means = resampled(np.concatenate([curve, total[None]]), groups)
    enough = means[:, :-1] / means[:, -1:] >= ENOUGH
    first = np.where(enough.any(axis=1), np.array(sizes, dtype=float)[enough.argmax(axis=1)], np.inf)
    known = not np.isnan(means[1:]).any()
    ends = percentiles(np.minimum(first, 2 * sizes[-1]), level, len(set(groups.tolist()))) if known else (np.nan,) * 2
    size = float(first[0])
    low, high = (float(end) if np.isfinite(end) and end <= sizes[-1] else None for end in ends)
    return {"size": size if np.isfinite(size) else None, "low": low, "high": high}
