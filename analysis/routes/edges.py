"""`edges`: the edges of an effect as a result: ranked by integrated gradients, the strongest and a sample patched
exactly.
"""

import time
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import Statistics, estimates, nonzero
from steerscope.analysis.results.result import Result
from steerscope.analysis.tools.patching import MEASURES, effect
from steerscope.analysis.tools.record import check, record

from .edge_scores import Input, edge_scores, injected_at, inputs_of, reads, senders_of
from .path_effect import INJECTION, Receiver, exact_paths

LISTED = 1000  # strongest edges that the table holds
COMPLETE = 0.02  # of the effect: the gap of integrated gradients that is still fine
Values = NDArray[np.float64]


def edges(
    experiment: Experiment,
    *,
    steps: int = 5,
    verify: int = 20,
    sample: int = 20,
    controls: int = 5,
    level: float = 0.95,
    alpha: float = 0.05,
) -> Result:
    """Scores of all edges from the injection and every node to every later input, with exact values for the strongest.

    Args:
        steps: points along the coefficient.
        verify: strongest edges that are patched exactly. sample: others, drawn at random, that are too.
        controls: random vectors of equal norm, at most as many as the experiment has.

    Returns:
        a `Result` of kind "edges"; frames and columns as in `columns.COLUMNS["edges"]`; `edge_graph` makes a
        `networkx.DiGraph` of it.
    """
    options = Statistics(level, alpha)
    if steps < 1 or verify < 1 or sample < 2:
        raise BadArgument(
            f"steps={steps}, verify={verify}, sample={sample}; expected at least 1, 1 and 2; 5, 20 and 20 are usual"
        )
    start = time.perf_counter()
    model = experiment.model
    vectors = range(1 + min(controls, experiment.controls))
    scores = np.stack([edge_scores(experiment, v, steps) for v in track(vectors, "edges")])
    senders = senders_of(experiment)
    receivers = inputs_of(model, experiment.reachable[0].layer)
    injected = injected_at(experiment)
    places = [
        (s, r)
        for s in range(len(senders))
        for r in range(len(receivers))
        if reads(model, senders[s], receivers[r], injected)
    ]
    flat = scores[:, [s for s, _ in places], [r for _, r in places]]  # [vector, edge, prompt]
    order = np.argsort(-np.abs(flat[0].mean(-1)), kind="stable")
    total = effect(experiment)
    top = order[:verify]
    drawn = np.random.default_rng(experiment.seed).permutation(order[verify:])[:sample]
    chosen = [*top.tolist(), *drawn.tolist()]
    pairs = [(senders[places[e][0]], _receiver(experiment, receivers[places[e][1]])) for e in chosen]
    exact = exact_paths(experiment, pairs).mean(-1)
    names = [(INJECTION if senders[s] is None else str(senders[s]), str(receivers[r])) for s, r in places]
    verified = pd.DataFrame(
        {
            "sender": [names[e][0] for e in chosen],
            "receiver": [names[e][1] for e in chosen],
            "verified": ["top"] * len(top) + ["sample"] * len(drawn),
            "estimate": flat[0, chosen].mean(-1),
            "necessity": exact[0],
            "sufficiency": exact[1],
        }
    )
    listed = order[:LISTED]
    columns = estimates(flat[:, listed], options, experiment.seed)
    layers = {INJECTION: injected[0]} | {str(n): n.layer for n in experiment.reachable}
    table = pd.DataFrame(
        {
            "sender": [names[e][0] for e in listed],
            "receiver": [names[e][1] for e in listed],
            "sender_layer": [layers[names[e][0]] for e in listed],
            "receiver_layer": [receivers[places[e][1]].layer for e in listed],
            **columns,
            "share": columns["effect"] / nonzero(total.mean()),
        }
    )
    leaving = np.array([i for i, (s, _) in enumerate(places) if s == 0])
    gap = abs(flat[0, leaving].mean(-1).sum() - total.mean()) / abs(nonzero(total.mean()))
    return record(
        "edges",
        replace(experiment, controls=len(vectors) - 1),
        {"edges": table, "verified": verified, "calibration": _calibration(verified, total)},
        start,
        checks=[
            check(
                "edges that leave the injection add up to the effect (gap over the effect; more steps make it smaller)",
                gap,
                COMPLETE,
            )
        ],
        count=len(places),
        listed=len(listed),
        shared=model.n_heads // model.n_kv_heads,
        steps=steps,
        total=float(total.mean()),
        level=level,
        alpha=alpha,
    )


def _receiver(experiment: Experiment, given: Input) -> Receiver:
    if given.name == "logits":
        return Receiver(None)
    if given.head is None:
        return Receiver(Node(given.layer))
    model = experiment.model
    first = given.head * model.n_heads // model.heads(given.name)
    return Receiver(Node(given.layer, first), (given.name,), shared=True)


def _calibration(verified: pd.DataFrame, total: Values) -> pd.DataFrame:
    rows = []
    for measure in MEASURES:
        for which in ("top", "sample", "both"):
            own = verified if which == "both" else verified[verified["verified"] == which]
            a, b = own["estimate"].to_numpy(), own[measure].to_numpy()
            flat = len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0
            worst = float(np.abs(a - b).max()) if len(a) else np.nan
            rows.append(
                {
                    "measure": measure,
                    "verified": which,
                    "edges": len(a),
                    "pearson": np.nan if flat else float(stats.pearsonr(a, b).statistic),
                    "kendall": np.nan if flat else float(stats.kendalltau(a, b).statistic),
                    "worst_error": worst,
                    "worst_share": worst / abs(nonzero(total.mean())),
                }
            )
    return pd.DataFrame(rows)
