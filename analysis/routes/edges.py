"""`edges`: the way of an effect through the model: all edges by gradients, the strongest and a sample patched exactly.

How the scores are made, and what they cannot see: `edge_scores`. Each reference vector's edges are scored along its own
change, and verdicts compare shares; they are corrected over all edges, listed or not.
"""

import time
from itertools import product
from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steerscope.analysis.gate import Level, Share, Whole, Within, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.scores import Score
from steerscope.analysis.results.effects import AGREEMENT, NUMBERS, Statistics, agreement, estimates
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frame, Frames
from steerscope.analysis.results.verdicts import leave_one_out
from steerscope.analysis.tools.gradients import COMPLETE, Steps
from steerscope.analysis.tools.keeping import Arrays, each
from steerscope.analysis.tools.patching import MEASURES
from steerscope.analysis.tools.record import record

from .edge_scores import Input, complete_scores, connected, injected_at, inputs_of, senders_of
from .path_effect import INJECTION, Receiver, exact_paths

_ENDS: Frame = {
    "sender": Column("node that writes, or injection", role="label"),
    "receiver": Column(
        "input that reads: L1H5.q, .k, .v (k and v count key-value heads), L1M, or logits", role="label"
    ),
}
COLUMNS: Frames = {
    "edges": {
        **_ENDS,
        "sender_layer": Column("layer of the sender; of the injection, its own"),
        "receiver_layer": Column("layer of the receiver; of the logits, the number of layers"),
        **NUMBERS,
        "effect": Column("score by integrated gradients, mean over prompts", "{metric}", "estimate"),
        "share": Column("score over the total effect; edges that leave the injection add up to 1", role="share"),
    },
    "verified": {
        **_ENDS,
        "verified": Column("top: among the strongest; sample: drawn at random from the others", role="label"),
        "estimate": Column("score by integrated gradients", "{metric}", "estimate"),
        "necessity": Column("exact: effect lost when this path alone is set back to clean", "{metric}"),
        "sufficiency": Column("exact: effect that appears when this path alone is steered", "{metric}"),
    },
    "calibration": {
        "measure": Column("exact measure that the estimates are compared with", role="measure"),
        "verified": Column("which edges: top, sample or both", role="label"),
        "edges": Column("how many"),
        **AGREEMENT,
    },
}

LISTED = 1000  # strongest edges that the table holds
Verified = Annotated[int, Within(1, LISTED)]
Sampled = Annotated[int, Within(2, LISTED)]
Values = NDArray[np.float64]


@gated
def edges(
    experiment: Experiment,
    *,
    steps: Steps = 5,
    verify: Verified = 20,
    sample: Sampled = 20,
    references_at_most: Whole = 24,
    level: Level = 0.95,
    alpha: Level = 0.05,
    smallest: Share = 0.02,
) -> Result:
    """Scores of all edges from the injection and every node to every later input, with exact values for the strongest.

    Args:
        steps: points along the coefficient to begin with; doubled until the edges that leave the injection add up to
            the effect within 1%.
        verify: strongest edges that are patched exactly.
        sample: other edges, drawn at random, that are patched exactly, too, to calibrate the scores; 8 for a
            correlation.
        references_at_most: reference vectors, random ones first, at most as many as the experiment has.

    Returns:
        a `Result` of kind "edges"; frames and columns as in `COLUMNS`; `edge_graph` makes a `networkx.DiGraph` of it.
    """
    options = Statistics(level, alpha, smallest)
    start = time.perf_counter()
    experiment, model = experiment.held.fewer(references_at_most), experiment.model
    basis = experiment.basis()
    s, r = np.nonzero(connected(experiment))

    def read(vector: int, score: Score | None = None) -> Arrays:
        one = complete_scores(experiment, vector, steps, score)
        return one.values[s, r], np.array([one.steps, one.gap])

    def read_own(vector: int) -> Arrays:
        same = vector == 0 and experiment.metric.own_direction
        return (scores,) if same else read(vector, experiment.own(vector))[:1]

    [(scores, (taken, gap))] = each(experiment, "edges along the metric", read, steps, vectors=[0])
    own = np.stack([values for (values,) in each(experiment, "edges", read_own, steps)])
    order = np.argsort(-np.abs(scores.mean(-1)), kind="stable")
    top, listed = order[:verify], order[:LISTED]
    drawn = np.random.default_rng(experiment.seed).permutation(order[verify:])[:sample]
    chosen = np.concatenate([top, drawn])

    nodes, inputs = senders_of(experiment), inputs_of(model, experiment.reachable[0].layer)
    senders, receivers = [nodes[i] for i in s], [inputs[i] for i in r]
    exact = exact_paths(experiment, [(senders[e], _receiver(model, receivers[e])) for e in chosen]).mean(-1)
    total = float(basis.total.mean())
    ends = pd.DataFrame({"sender": [str(n or INJECTION) for n in senders], "receiver": [str(i) for i in receivers]})
    verified = ends.iloc[chosen].assign(
        verified=["top"] * len(top) + ["sample"] * len(drawn),
        estimate=scores[chosen].mean(-1),
        necessity=exact[0],
        sufficiency=exact[1],
    )
    first = injected_at(experiment)[0]
    layers = {
        "sender_layer": [n.layer if n else first for n in senders],
        "receiver_layer": [i.layer for i in receivers],
    }
    columns = pd.DataFrame(estimates(basis, scores, own, options, tests=len(s)))
    return record(
        "edges",
        experiment,
        {
            "edges": pd.concat([ends.assign(**layers), columns], axis=1).iloc[listed].reset_index(drop=True),
            "verified": verified.reset_index(drop=True),
            "calibration": _calibration(verified, total),
        },
        COLUMNS,
        start,
        checks=[],
        count=len(s),
        listed=len(listed),
        shared=model.n_heads // model.n_kv_heads,
        steps=int(taken),
        gap=float(gap),
        complete=bool(gap < COMPLETE),
        total=total,
        level=level,
        alpha=alpha,
        smallest=smallest,
        leave_one_out=leave_one_out(basis.shares(own), basis, alpha),
    )


def _receiver(model: Model, given: Input) -> Receiver:
    if given.name == "logits":
        return Receiver(None)
    if given.head is None:
        return Receiver(Node(given.layer))
    first = given.head * model.n_heads // model.heads(given.name)
    return Receiver(Node(given.layer, first), (given.name,), shared=True)


def _calibration(verified: pd.DataFrame, total: float) -> pd.DataFrame:
    rows = []
    for measure, which in product(MEASURES, ("top", "sample", "both")):
        own = verified if which == "both" else verified[verified["verified"] == which]
        a, b = own["estimate"].to_numpy(), own[measure].to_numpy()
        rows.append({"measure": measure, "verified": which, "edges": len(a)} | agreement(a, b, total))
    return pd.DataFrame(rows)
