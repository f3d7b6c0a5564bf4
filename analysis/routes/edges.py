"""`edges`: the way of an effect through the model: all edges by gradients, the strongest and a sample patched exactly.

How the scores are made, and what they cannot see: `edge_scores`.
"""

import time
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import AGREEMENT, NUMBERS, Statistics, agreement, estimates, nonzero
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frame, Frames
from steerscope.analysis.tools.patching import MEASURES
from steerscope.analysis.tools.record import check, record

from .edge_scores import Input, connected, edge_scores, injected_at, inputs_of, senders_of
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
COMPLETE = 0.02  # of the effect: the gap of integrated gradients that is still fine
Values = NDArray[np.float64]


def edges(
    experiment: Experiment,
    *,
    steps: int = 5,
    verify: int = 20,
    sample: int = 20,
    references_at_most: int = 5,
    level: float = 0.95,
    alpha: float = 0.05,
) -> Result:
    """Scores of all edges from the injection and every node to every later input, with exact values for the strongest.

    Args:
        steps: points along the coefficient.
        verify: strongest edges that are patched exactly.
        sample: other edges, drawn at random, that are patched exactly, too.
        references_at_most: random vectors of equal norm, at most as many as the experiment has.

    Returns:
        a `Result` of kind "edges"; frames and columns as in `COLUMNS`; `edge_graph` makes a `networkx.DiGraph` of it.
    """
    options = Statistics(level, alpha)
    if steps < 1 or verify < 1 or sample < 2:
        raise BadArgument(
            f"steps={steps}, verify={verify}, sample={sample}; expected at least 1, 1 and 2; 5, 20 and 20 are usual"
        )
    start = time.perf_counter()
    experiment, model = experiment.fewer(references_at_most), experiment.model
    scores = np.stack([edge_scores(experiment, v, steps) for v in track(range(1 + experiment.references), "edges")])
    s, r = np.nonzero(connected(experiment))
    flat = scores[:, s, r]  # [vector, edge, prompt]
    order = np.argsort(-np.abs(flat[0].mean(-1)), kind="stable")
    top, listed = order[:verify], order[:LISTED]
    drawn = np.random.default_rng(experiment.seed).permutation(order[verify:])[:sample]
    chosen = np.concatenate([top, drawn])

    nodes, inputs = senders_of(experiment), inputs_of(model, experiment.reachable[0].layer)
    senders, receivers = [nodes[i] for i in s], [inputs[i] for i in r]
    exact = exact_paths(experiment, [(senders[e], _receiver(model, receivers[e])) for e in chosen]).mean(-1)
    total = float(experiment.effect().mean())
    ends = pd.DataFrame({"sender": [str(n or INJECTION) for n in senders], "receiver": [str(i) for i in receivers]})
    verified = ends.iloc[chosen].assign(
        verified=["top"] * len(top) + ["sample"] * len(drawn),
        estimate=flat[0, chosen].mean(-1),
        necessity=exact[0],
        sufficiency=exact[1],
    )
    first = injected_at(experiment)[0]
    layers = {
        "sender_layer": [n.layer if n else first for n in senders],
        "receiver_layer": [i.layer for i in receivers],
    }
    columns = estimates(flat[:, listed], options, experiment.seed)
    columns["share"] = columns["effect"] / nonzero(total)
    gap = abs(flat[0, s == 0].mean(-1).sum() - total) / abs(nonzero(total))
    what = "edges that leave the injection add up to the effect (gap over the effect; more steps make it smaller)"
    return record(
        "edges",
        experiment,
        {
            "edges": ends.assign(**layers).iloc[listed].assign(**columns).reset_index(drop=True),
            "verified": verified.reset_index(drop=True),
            "calibration": _calibration(verified, total),
        },
        COLUMNS,
        start,
        checks=[check(what, gap, COMPLETE)],
        count=len(s),
        listed=len(listed),
        shared=model.n_heads // model.n_kv_heads,
        steps=steps,
        total=total,
        level=level,
        alpha=alpha,
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
