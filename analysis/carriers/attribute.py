"""`attribute`: gradient estimates of every node as a result, each with its calibration against exact patching.

1. Estimate necessity and sufficiency of every node (`ig`: its conductance) by a method of `gradients.METHODS`, along
   the metric; and for the vector and its references along each one's own change, which is what verdicts compare.
2. Split what attention does into queries, keys and values, with the softmax recomputed (`inputs.py`).
3. Patch a random sample of the nodes exactly, and say how far the estimates are from it: Pearson and Kendall
   (integration mends the large scores and scrambles the small), and the worst error.

What it cannot see: `gradients.BLIND`. A verdict compares estimates with estimates; the sample says how good they are.
"""

import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steerscope.analysis.gate import Level, Share, gated
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import AGREEMENT, EFFECTS, NODE, NUMBERS, Statistics, agreement, node_columns
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frame, Frames
from steerscope.analysis.results.stats import interval
from steerscope.analysis.tools.gradients import BLIND, COMPLETE, Estimates, Several, Steps, estimate
from steerscope.analysis.tools.keeping import Arrays, each
from steerscope.analysis.tools.patching import MEASURES, effects
from steerscope.analysis.tools.record import check, record

from .effect_table import effect_table, self_check
from .inputs import INPUTS, input_estimates

Values = NDArray[np.float64]

MEASURE: Frame = {
    "measure": Column(
        "necessity: what would be lost without the node, from the steered run; sufficiency: what it would bring "
        "alone, from the clean one",
        role="measure",
    )
}
EXACT: Frame = {"measure": Column("exact measure that the estimates are compared with", role="measure")}
INTERVAL: Frame = {"low": NUMBERS["low"], "high": NUMBERS["high"]}
COLUMNS: Frames = {
    "effects": EFFECTS
    | {
        "measure": Column(
            "necessity: what would be lost without the node, from the steered run; sufficiency: what it would bring "
            "alone, from the clean one; conductance (ig): what flows through it as the coefficient grows, neither of "
            "the two",
            role="measure",
        ),
        "effect": Column("estimate: gradient times change; mean over prompts", "{metric}", "estimate"),
    },
    "inputs": {
        **{name: NODE[name] for name in ("node", "layer", "head")},
        "input": Column("q, k or v: what changes in the head, the softmax recomputed", role="label"),
        **MEASURE,
        "effect": Column("estimate of what goes through this input; mean over prompts", "{metric}", "estimate"),
        **INTERVAL,
    },
    "positions": {
        "prompt": Column("index of the prompt", role="label"),
        "position": Column("position in the prompt", role="axis"),
        "token": Column("its token"),
        "node": Column("one of the nodes with the largest estimates", role="node"),
        "measure": Column("as in effects", role="measure"),
        "effect": Column("estimate of what the node does at this position", "{metric}", "estimate"),
    },
    "sample": {
        **NODE,
        **EXACT,
        "estimate": Column("what the gradient says", "{metric}", "estimate"),
        "effect": Column("what exact patching says", "{metric}", "estimate"),
    },
    "calibration": {
        **EXACT,
        "nodes": Column("how many were drawn and patched exactly"),
        **AGREEMENT,
        "largest": Column("largest exact effect of the sample", "{metric}"),
    },
    "path": {
        "quantity": Column(
            "integrated gradients: what gradients at the injection add up to along the coefficient; effect: what they "
            "should; gap: the difference (empty for other methods than ig)",
            role="label",
        ),
        "value": Column("mean over prompts", "{metric}", "estimate"),
        **INTERVAL,
    },
}


@gated
def attribute(
    experiment: Experiment,
    method: Literal["gradient", "relp", "atp*", "ig"] = "ig",
    *,
    steps: Steps = 8,
    sample: Several = 12,
    level: Level = 0.95,
    alpha: Level = 0.05,
    smallest: Share = 0.02,
) -> Result:
    """Necessity and sufficiency of every node, estimated from gradients; of `ig` its conductance.

    Args:
        method: how gradients become estimates (see `gradients`).
        steps: along the coefficient, that ig begins with; doubled until its parts add up to the effect within 1%.
        sample: nodes that are patched exactly, drawn at random, to calibrate the estimates; 2 or more, 8 for a
            correlation.

    Returns:
        a `Result` of kind "attribute".

    Raises:
        BadMetric: a metric whose gradient says nothing here.
    """
    options = Statistics(level, alpha, smallest)
    start = time.perf_counter()
    nodes, basis = experiment.reachable, experiment.basis()
    found = estimate(experiment, method, 0, steps)

    def read(vector: int) -> Arrays:
        same = vector == 0 and experiment.metric.own_direction
        own = found if same else estimate(experiment, method, vector, steps, experiment.own(vector))
        return own.values, np.array(0.0 if same else own.passes)

    rows, costs = zip(*each(experiment, "gradients", read, method, steps), strict=True)
    every, passes = np.stack(rows), found.passes + float(sum(costs))  # [vector, measure, node, prompt]
    drawn = sorted(np.random.default_rng(experiment.seed).permutation(len(nodes))[:sample].tolist())
    exact = effects(experiment.fewer(0), [nodes[i] for i in drawn]).along
    guess = np.broadcast_to(found.values, (len(MEASURES), *found.values.shape[1:]))[:, drawn]
    total = experiment.effect()
    frames = {
        "effects": effect_table(nodes, found.measures, found.values, every, basis, options),
        "inputs": _inputs(experiment, options),
        "positions": _positions(experiment, found),
        "sample": _sample([nodes[i] for i in drawn], guess, exact),
        "calibration": _calibration(guess, exact, total),
        "path": _path(found, options, basis.groups),
    }
    return record(
        "attribute",
        experiment,
        frames,
        COLUMNS,
        start,
        checks=_checks(found, total),
        method=method,
        blind=BLIND[method],
        steps=found.steps,
        gap=found.gap,
        complete=None if found.gap is None else bool(found.gap < COMPLETE),
        passes=passes,
        total=float(total.mean()),
        level=level,
        alpha=alpha,
        smallest=smallest,
        **self_check(basis, every, found.measures, options),
    )


def _inputs(experiment: Experiment, options: Statistics) -> pd.DataFrame:
    found = input_estimates(experiment)
    nodes = [node for node in experiment.reachable if node.head is not None]
    frames = []
    for index, measure in enumerate(MEASURES):
        for place, name in enumerate(INPUTS):
            low, high = interval(found[index, place], options.level, experiment.prompts.by_group)
            frames.append(
                pd.DataFrame(
                    node_columns(nodes)
                    | {"input": name, "measure": measure, "effect": found[index, place].mean(-1)}
                    | {"low": low, "high": high}
                )
            )
    return pd.concat(frames, ignore_index=True).drop(columns="kind")


def _positions(experiment: Experiment, found: Estimates) -> pd.DataFrame:
    """Estimates at every position of every prompt, of the nodes that matter most."""
    size = np.abs(found.values.mean(-1)).max(axis=0)
    best = np.argsort(-size, kind="stable")[:8]
    rows = []
    for p, at in enumerate(found.at):
        ids = experiment.prompts.full[p]
        for n in best.tolist():
            for measure, values in zip(found.measures, at[:, n], strict=True):
                rows += [
                    (p, i, experiment.model.token_text(ids[i]), str(found.nodes[n]), measure, float(x))
                    for i, x in enumerate(values)
                ]
    return pd.DataFrame(rows, columns=list(COLUMNS["positions"]))


def _sample(nodes: Sequence[Node], guess: Values, exact: Values) -> pd.DataFrame:
    return pd.concat(
        [
            pd.DataFrame(
                node_columns(nodes) | {"measure": m, "estimate": guess[i].mean(-1), "effect": exact[i].mean(-1)}
            )
            for i, m in enumerate(MEASURES)
        ],
        ignore_index=True,
    )


def _calibration(guess: Values, exact: Values, total: Values) -> pd.DataFrame:
    rows = []
    for index, measure in enumerate(MEASURES):
        a, b = guess[index].mean(-1), exact[index].mean(-1)
        about = {"measure": measure, "nodes": len(a), "largest": float(np.abs(b).max())}
        rows.append(about | agreement(a, b, float(total.mean())))
    return pd.DataFrame(rows)


def _path(found: Estimates, options: Statistics, groups: NDArray[np.int64]) -> pd.DataFrame:
    names = list(COLUMNS["path"])
    if found.path is None:
        return pd.DataFrame(columns=names)
    rows = {"integrated gradients": found.path[0], "effect": found.path[1], "gap": found.path[0] - found.path[1]}
    return pd.DataFrame(
        [(name, x.mean(), *map(float, interval(x, options.level, groups))) for name, x in rows.items()], columns=names
    )


def _checks(found: Estimates, total: Values) -> list[dict[str, object]]:
    if found.path is None:
        return []
    same = abs(found.path[1].mean() - total.mean())
    return [check("both ways of computing the effect agree", same, 1e-3 * max(1.0, abs(total.mean())))]
