"""`attribute`: gradient estimates of every node as a result, each with its calibration against exact patching.

1. Estimate necessity and sufficiency of every node by a method of `gradients.METHODS`, for the vector and its references.
2. Split what attention does into queries, keys and values, with the softmax recomputed (`inputs.py`).
3. Patch a random sample of the nodes exactly, and say how far the estimates are from it: Pearson and Kendall
   (integration mends the large scores and scrambles the small), and the worst error.
"""

import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import (
    AGREEMENT,
    EFFECTS,
    NODE,
    NUMBERS,
    Statistics,
    agreement,
    node_columns,
    nonzero,
)
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frame, Frames
from steerscope.analysis.results.stats import interval
from steerscope.analysis.tools.gradients import Estimates, estimate
from steerscope.analysis.tools.patching import MEASURES, effects
from steerscope.analysis.tools.record import check, record

from .effect_table import effect_table
from .inputs import INPUTS, input_estimates

Values = NDArray[np.float64]
COMPLETE = 0.01  # of the effect: the gap of integrated gradients that is still fine

MEASURE: Frame = {
    "measure": Column(
        "necessity: what would be lost without the node, from the steered run; sufficiency: what it would bring "
        "alone, from the clean one",
        role="measure",
    )
}
INTERVAL: Frame = {"low": NUMBERS["low"], "high": NUMBERS["high"]}
COLUMNS: Frames = {
    "effects": EFFECTS
    | MEASURE
    | {"effect": Column("estimate: gradient times change; mean over prompts", "{metric}", "estimate")},
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
        **MEASURE,
        "effect": Column("estimate of what the node does at this position", "{metric}", "estimate"),
    },
    "sample": {
        **NODE,
        **MEASURE,
        "estimate": Column("what the gradient says", "{metric}", "estimate"),
        "effect": Column("what exact patching says", "{metric}", "estimate"),
    },
    "calibration": {
        **MEASURE,
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


def attribute(
    experiment: Experiment,
    method: Literal["gradient", "relp", "atp*", "ig"] = "ig",
    *,
    steps: int = 8,
    sample: int = 12,
    level: float = 0.95,
    alpha: float = 0.05,
) -> Result:
    """Necessity and sufficiency of every node, estimated from gradients.

    Args:
        method: how gradients become estimates (see `gradients`).
        steps: points along the coefficient, for ig.
        sample: nodes that are patched exactly, drawn at random, to calibrate the estimates.

    Returns:
        a `Result` of kind "attribute".

    Raises:
        BadMetric: a metric whose gradient says nothing here.
    """
    options = Statistics(level, alpha)
    if sample < 2:
        raise BadArgument(f"sample={sample}; expected at least 2 nodes to calibrate the estimates with; 12 is usual")
    start = time.perf_counter()
    found = [
        estimate(experiment, method, vector, steps) for vector in track(range(1 + experiment.references), "gradients")
    ]
    values = np.stack([one.values for one in found])  # [vector, measure, node, prompt]
    nodes = experiment.reachable
    drawn = sorted(np.random.default_rng(experiment.seed).permutation(len(nodes))[:sample].tolist())
    exact = effects(experiment.fewer(0), [nodes[i] for i in drawn])
    total = experiment.effect()
    frames = {
        "effects": effect_table(nodes, MEASURES, values, total, options, experiment.seed),
        "inputs": _inputs(experiment, options),
        "positions": _positions(experiment, found[0]),
        "sample": _sample([nodes[i] for i in drawn], values[0][:, drawn], exact.along[0]),
        "calibration": _calibration(values[0][:, drawn], exact.along[0], total),
        "path": _path(found[0], total, level, experiment.seed),
    }
    return record(
        "attribute",
        experiment,
        frames,
        COLUMNS,
        start,
        checks=_checks(found[0], total),
        method=method,
        steps=steps if method == "ig" else None,
        passes=sum(one.passes for one in found),
        total=float(total.mean()),
        level=level,
        alpha=alpha,
    )


def _inputs(experiment: Experiment, options: Statistics) -> pd.DataFrame:
    found = input_estimates(experiment)
    nodes = [node for node in experiment.reachable if node.head is not None]
    frames = []
    for index, measure in enumerate(MEASURES):
        for place, name in enumerate(INPUTS):
            low, high = interval(found[index, place], options.level, experiment.seed)
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
            for measure, values in zip(MEASURES, at[:, n], strict=True):
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


def _path(found: Estimates, total: Values, level: float, seed: int) -> pd.DataFrame:
    names = list(COLUMNS["path"])
    if found.path is None:
        return pd.DataFrame(columns=names)
    rows = {"integrated gradients": found.path[0], "effect": found.path[1], "gap": found.path[0] - found.path[1]}
    return pd.DataFrame(
        [(name, x.mean(), *map(float, interval(x, level, seed))) for name, x in rows.items()], columns=names
    )


def _checks(found: Estimates, total: Values) -> list[dict[str, object]]:
    if found.path is None:
        return []
    gap = abs(found.path[0].mean() - found.path[1].mean()) / abs(nonzero(found.path[1].mean()))
    name = (
        "integrated gradients at the injection add up to the effect (gap over the effect; more steps make it smaller)"
    )
    same = abs(found.path[1].mean() - total.mean())
    return [
        check(name, gap, COMPLETE),
        check("both ways of computing the effect agree", same, 1e-3 * max(1.0, abs(total.mean()))),
    ]
