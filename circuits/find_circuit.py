"""`find_circuit`: the edges that do a task, or that carry a vector: scored, pruned, tried on other prompts.

1. Half of the prompts of every group are searched with, the others are kept for the judgement.
2. All edges are scored by conductance (`conductance`); the strongest are pruned, each tried exactly (`pruning`).
3. On the other half: how much of the score the circuit has (faithfulness F), and how much the rest of the model has
   without it (completeness 1 - F of the rest), under every ablation that can be made; beside random circuits with as
   many edges between the same layers and kinds.
4. F of the strongest edges, more and more of them: the curve that other finders are compared by.
5. Which edges come back on resampled prompts (`consensus`).

Source: Conmy et al. 2023 (arXiv 2304.14997), Hanna et al. 2024 (2403.17806), Miller et al. 2024 (2407.08734: F depends
on the ablation, so it stands beside every number).
What it cannot see: positions; circuits that are as good; whether an edge would be found in other templates.
"""

import time
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steerscope.analysis.errors import BadArgument, BadCircuit
from steerscope.analysis.gate import Bytes, Count, Level, Seed, Share, Whole, Within, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.prompts import Prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.results.stats import interval, ratio_interval
from steerscope.analysis.tools.record import check, made_now, record, tolerance

from .circuit_run import Ablation, CircuitRuns
from .conductance import GAP, EdgeScores, edge_conductance
from .consensus import consensus, how_many_random, label, random_like
from .contrast import Contrast, contrast_of, contrast_of_task
from .looks import looks
from .masks import Mask, members
from .pruning import By, ordered, prune, strongest
from .task import TaskPrompts
from .tasks import task as task_named

COLUMNS: Frames = {
    "circuit": {
        "measure": Column(
            "faithfulness: share of the score that the circuit has; completeness: share that is lost without it; "
            "divergence: share of KL(run || whole run) that it takes away",
            role="measure",
        ),
        "ablation": Column("what stands in the place of what is left out", role="label"),
        "value": Column("on prompts that were not searched with", role="estimate"),
        "low": Column("lower end of its interval over groups of prompts", role="low"),
        "high": Column("upper end", role="high"),
        "random": Column("mean of random circuits of the same profile", role="reference"),
        "random_low": Column("the least of them", role="reference_low"),
        "random_high": Column("the most of them", role="reference_high"),
    },
    "nodes": {
        "node": Column("head or MLP", role="node"),
        "layer": Column("its layer", role="layer"),
        "head": Column("its number in the layer", role="head"),
        "through": Column("conductance through its edges in the circuit", "{metric}", "estimate"),
        "share": Column("the same over the effect", role="share"),
        "edges_in": Column("edges of the circuit into it"),
        "edges_out": Column("edges of the circuit out of it"),
        "frequency": Column("largest frequency of its edges over resampled prompts"),
        "looks": Column("where it looks from the scored position: mean attention, of named places"),
    },
    "edges": {
        "sender": Column("node that writes; input for what is put in", role="label"),
        "receiver": Column("input that reads: L1H5.q, .k, .v, L1M, or logits", role="label"),
        "sender_layer": Column("layer of the sender; none of the input"),
        "receiver_layer": Column("layer of the receiver; of the logits, the number of layers"),
        "conductance": Column("score, mean over the prompts of the search", "{metric}", "estimate"),
        "low": Column("lower end of its interval over groups of prompts", "{metric}", "low"),
        "high": Column("upper end", "{metric}", "high"),
        "integrated": Column("the same by integrated gradients", "{metric}"),
        "share": Column("conductance over the effect", role="share"),
        "frequency": Column("share of circuits of resampled prompts that hold it"),
        "label": Column("core: frequency .9 or more; noise: below .1; contingent: between", role="verdict"),
        "kept": Column("whether it is in the circuit"),
    },
    "curve": {
        "ablation": Column("what stands in the place of what is left out", role="label"),
        "edges": Column("how many of the strongest edges", role="axis"),
        "share_of_edges": Column("the same over all edges"),
        "faithfulness": Column("share of the score that they have, on the other prompts", role="estimate"),
        "low": Column("lower end of its interval over groups of prompts", role="low"),
        "high": Column("upper end", role="high"),
        "random": Column("the same of as many random edges of the same profile", role="reference"),
    },
}
ABLATIONS: tuple[Ablation, ...] = ("resample", "mean", "zero")
LISTED = 1000  # edges in the table, beside those of the circuit
POINTS = 8  # of the curve
Values = NDArray[np.float64]
Randoms = Annotated[int, Within(1, 1000)]


@gated
def find_circuit(
    model: Model,
    asked: Experiment | TaskPrompts | tuple[Prompts, Prompts] | str,
    *,
    n: Count = 64,
    ablation: Ablation = "resample",
    by: By = "score",
    lost: Share = 0.2,
    points: Annotated[int, Within(4, 10_000)] = 16,
    trials: Whole = 400,
    resamples: Whole = 200,
    randoms: Randoms = 20,
    curve: bool = True,
    seed: Seed = 0,
    level: Level = 0.95,
    budget: Bytes | None = None,
) -> Result:
    """The edges that do a task, or that carry an injection.

    Args:
        asked: pairs of a task, its name, clean and corrupted prompts of your own (with targets and against), or an
            experiment of this model (steered against unsteered).
        n: pairs, where a task's name is given.
        ablation: of the search: what stands in the place of edges that are left out.
        by: what a circuit must keep: the score, or all that the model says (divergence).
        lost: how much of it may be lost on the prompts of the search.
        points: gradients that are taken at most, a prompt on average.
        trials: circuits that are run at most to prune.
        resamples: of prompts, for the consensus.
        randoms: random circuits beside it.
        curve: whether F of growing circuits is measured.
        seed: of halves, resamples and random circuits.
        budget: bytes that a batch may take; worked out by default.

    Returns:
        a `Result` of kind "find_circuit"; frames and columns as in `COLUMNS`. `found_circuit` makes a `Circuit` of it.

    Raises:
        BadCircuit: the score does not tell the two runs apart, or the task is not solved.
        BadArgument: an experiment of another model.
        UnsupportedModel: norms between nodes and the stream, or something else that edges do not hold.
    """
    start = time.perf_counter()
    made = task_named(asked)(model, n=n, seed=seed) if isinstance(asked, str) else asked
    contrast = _contrast(model, made, budget)
    runs = CircuitRuns(contrast, ablation)
    gap = runs.check()
    search, judge = halves(contrast.groups, seed)
    _clear(contrast, level)
    scores = edge_conductance(contrast, search, points)
    found = prune(runs, scores.conductance.mean(-1), search, lost=lost, by=by, trials=trials)
    dice = np.random.default_rng(seed)
    others = list(random_like(contrast, found.mask, randoms, dice))
    again = consensus(contrast, scores.conductance, found.mask, contrast.groups[search], resamples, seed)
    missing: dict[str, str] = {}
    judged = _Judge(runs, judge, level, missing)
    frames = {
        "circuit": judged.circuit(found.mask, others),
        "nodes": _nodes(contrast, made, scores, found.mask, again.frequency),
        "edges": _edges(contrast, scores, found.mask, again.frequency, contrast.groups[search], level),
        "curve": judged.curve(scores, dice) if curve else pd.DataFrame(columns=list(COLUMNS["curve"])),
    }
    if len(judge) and set(judge) & set(search):
        missing["other prompts"] = "one prompt is searched with and judged on; give more"
    if len(set(contrast.groups.tolist())) < 2:
        missing["intervals"] = "prompts of one group (copies, or one template) give no interval; give others"
        missing["consensus"] = "prompts of one group are not drawn again; give others"
    told: dict[str, Any] = {
        "what": contrast.what,
        "effect": float(contrast.effect.mean()),
        "searched": len(search),
        "judged": len(judge),
        "all_edges": int(contrast.connected.sum()),
        "size": int(found.mask.sum()),
        "strongest": found.strongest,
        "loss": found.loss,
        "tried": found.trials,
        "each_edge_tried": found.complete,
        "ablation": ablation,
        "by": by,
        "lost": lost,
        "points": int(scores.intervals.sum()),
        "gap": float(scores.gaps.mean()),
        "worst_gap": float(scores.gaps.max()),
        "complete": bool(scores.gaps.mean() < GAP),
        "alike": again.alike,
        "alike_random": again.random,
        "random_circuits": how_many_random(contrast, found.mask),
        "level": level,
        "seed": seed,
    }
    checks = [check("all edges give the whole run, none the base run", gap, 100 * tolerance(model))]
    if isinstance(made, Experiment):
        return record("find_circuit", made, frames, COLUMNS, start, checks=checks, missing=missing, **told)
    clean = made.clean if isinstance(made, TaskPrompts) else made[0]
    solved = {"solved": made.solved.share} if isinstance(made, TaskPrompts) else {}
    manifest = {
        "model": model.describe(),
        "task": made.task if isinstance(made, TaskPrompts) else None,
        "metric": {"name": "log odds of the answer against the distractor", "unit": contrast.unit},
        "prompts": {"count": len(clean), "hash": clean.hash} | solved,
        "checks": checks,
        "missing": missing,
    }
    return Result("find_circuit", frames, COLUMNS, manifest | told | made_now(start))


def _contrast(model: Model, asked: Experiment | TaskPrompts | tuple[Prompts, Prompts], budget: int | None) -> Contrast:
    if isinstance(asked, TaskPrompts):
        return contrast_of_task(model, asked.clean, asked.corrupted, budget=budget)
    if isinstance(asked, tuple):
        return contrast_of_task(model, *asked, budget=budget)
    if asked.model is not model:
        raise BadArgument(
            f"an experiment of {asked.model.name}, and the model {model.name}; expected the same one; pass "
            "experiment.model"
        )
    return contrast_of(asked)


def _clear(contrast: Contrast, level: float) -> None:
    """Refuses what the score does not tell apart: shares of nothing are no shares."""
    low, high = interval(contrast.effect, level, contrast.groups)
    if low <= 0 <= high or not np.abs(contrast.effect).max() > 0:
        raise BadCircuit(
            f"{contrast.what}: the score differs by {contrast.effect.mean():.3g} {contrast.unit} "
            f"[{low:.3g}, {high:.3g}]; expected a difference that is clear of zero, or there is nothing to find a "
            "circuit of; give more prompts, others, or another metric"
        )


def halves(groups: NDArray[np.int64], seed: int) -> tuple[list[int], list[int]]:
    """Prompts to search with, and prompts to judge on: of every group one after the other; one prompt is both."""
    order = np.random.default_rng(seed).permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]
    return sorted(order[::2].tolist()), sorted((order[1::2] if len(order) > 1 else order).tolist())


class _Judge:
    """Circuits on the prompts that were not searched with."""

    def __init__(self, searched: CircuitRuns, prompts: Sequence[int], level: float, missing: dict[str, str]) -> None:
        self.contrast, self.prompts, self.level = searched.contrast, list(prompts), level
        self.groups = self.contrast.groups[self.prompts]
        self.runs: dict[Ablation, CircuitRuns] = {}
        for ablation in ABLATIONS:
            try:
                runs = searched.under(ablation)
                _ = runs.reference
                self.runs[ablation] = runs
            except BadArgument as reason:
                missing[f"{ablation} ablation"] = str(reason)

    def _gained(self, runs: CircuitRuns, masks: Sequence[Mask], what: str) -> tuple[Values, Values]:
        """By circuit and prompt the score above that of no edge; and the same of the whole run."""
        empty = np.zeros_like(self.contrast.connected)
        values = runs.values([empty, *masks], self.prompts, what)
        return values[1:] - values[0], self.contrast.values(1.0)[self.prompts] - values[0]

    def _share(self, part: Values, whole: Values) -> dict[str, float]:
        low, high = ratio_interval(part, whole, self.level, self.groups)
        clear = interval(whole, self.level, self.groups)
        told = clear[0] * clear[1] > 0 or np.isnan(clear[0])
        share = part.mean() / whole.mean() if told and whole.mean() else np.nan
        return {"value": float(share), "low": float(low), "high": float(high)}

    def circuit(self, mask: Mask, others: Sequence[Mask]) -> pd.DataFrame:
        rows, rest = [], self.contrast.connected & ~mask
        for ablation, runs in self.runs.items():
            random = others if ablation == "resample" else others[:5]
            parts, whole = self._gained(runs, [mask, rest, *random], f"{ablation} ablation")
            shares = [self._share(part, whole)["value"] for part in parts[2:]]
            beside = {"random": np.mean(shares), "random_low": np.min(shares), "random_high": np.max(shares)}
            told = {"measure": "faithfulness", "ablation": ablation}
            rows.append(told | self._share(parts[0], whole) | beside)
            nothing = dict.fromkeys(beside, np.nan)
            told = {"measure": "completeness", "ablation": ablation}
            rows.append(told | self._share(whole - parts[1], whole) | nothing)
        rows.append(self._divergence(mask))
        return pd.DataFrame(rows, columns=list(COLUMNS["circuit"]))

    def _divergence(self, mask: Mask) -> dict[str, Any]:
        runs, scores = self.runs["resample"], [self.contrast.divergence]
        empty, own = runs.run([np.zeros_like(mask), mask], scores, self.prompts)[:, :, 0]
        told = {"measure": "divergence", "ablation": "resample", "random": np.nan}
        return told | self._share(empty - own, empty) | {"random_low": np.nan, "random_high": np.nan}

    def curve(self, scores: EdgeScores, dice: np.random.Generator) -> pd.DataFrame:
        order = ordered(self.contrast, scores.conductance.mean(-1))
        first = min(8, len(order))
        sizes = np.unique(np.geomspace(first, len(order), POINTS).round().astype(int)).tolist()
        masks = [strongest(self.contrast, order, size) for size in sizes]
        random = [next(random_like(self.contrast, mask, 1, dice)) for mask in masks]
        rows = []
        for ablation, runs in self.runs.items():
            asked = [*masks, *random] if ablation == "resample" else masks
            parts, whole = self._gained(runs, asked, f"curve, {ablation} ablation")
            for i, size in enumerate(sizes):
                share = self._share(parts[i], whole)
                beside = self._share(parts[len(sizes) + i], whole)["value"] if len(parts) > len(sizes) else np.nan
                told = {"ablation": ablation, "edges": size, "share_of_edges": size / len(order), "random": beside}
                rows.append(told | {"faithfulness": share["value"], "low": share["low"], "high": share["high"]})
        return pd.DataFrame(rows, columns=list(COLUMNS["curve"]))


def _nodes(contrast: Contrast, asked: object, scores: EdgeScores, mask: Mask, frequency: Values) -> pd.DataFrame:
    mean, own = np.where(mask, scores.conductance.mean(-1), 0.0), contrast.owners
    effect = float(contrast.effect.mean())
    nodes = members(contrast, mask)
    seen = looks(contrast, nodes, asked.places if isinstance(asked, TaskPrompts) else ())
    rows: list[dict[str, Any]] = []
    for node in nodes:
        s = contrast.senders.index(node)
        through = float(mean[s].sum())
        rows.append(
            {
                "node": str(node),
                "layer": node.layer,
                "head": node.head,
                "through": through,
                "share": through / effect,
                "edges_in": int(mask[:, own[:, s]].sum()),
                "edges_out": int(mask[s].sum()),
                "frequency": float(frequency[s].max()),
                "looks": seen.get(node, ""),
            }
        )
    rows.sort(key=lambda row: -abs(float(row["through"])))
    return pd.DataFrame(rows, columns=list(COLUMNS["nodes"])).astype({"head": "Int64"})


def _edges(
    contrast: Contrast, scores: EdgeScores, mask: Mask, frequency: Values, groups: NDArray[np.int64], level: float
) -> pd.DataFrame:
    mean = scores.conductance.mean(-1)
    order = ordered(contrast, mean)
    kept = mask.ravel()
    listed = [*order[kept[order]], *order[~kept[order]][:LISTED]]
    s, r = np.unravel_index(np.array(listed, dtype=np.int64), mask.shape)
    low, high = interval(scores.conductance[s, r], level, groups)
    effect = float(contrast.effect.mean())
    names = ["input", *map(str, contrast.senders[1:])]
    layers = [None, *(node.layer for node in contrast.senders if node is not None)]
    return pd.DataFrame(
        {
            "sender": [names[i] for i in s],
            "receiver": [str(contrast.receivers[i]) for i in r],
            "sender_layer": pd.array([layers[i] for i in s], dtype="Int64"),
            "receiver_layer": [contrast.receivers[i].layer for i in r],
            "conductance": mean[s, r],
            "low": low,
            "high": high,
            "integrated": scores.integrated.mean(-1)[s, r],
            "share": mean[s, r] / effect,
            "frequency": frequency[s, r],
            "label": [label(f) if f == f else "" for f in frequency[s, r]],
            "kept": mask[s, r],
        }
    )
