"""Screen and verify: gradients rank all nodes, exact patching verifies the top and a random sample of the rest.

1. Estimate necessity and sufficiency of every node from gradients (`gradient.rank`).
2. Patch exactly the nodes with the largest estimates, and a random sample of the others.
3. Patch all nodes that were not verified at once: exactly what they carry together.
4. Bound what one of them alone may carry: the largest estimate among them plus the largest error on the
   random sample. With m sampled nodes such a bound covers a share `level'` of the rest with the stated
   confidence where level'^m = 1 - confidence (a distribution-free tolerance limit, Wilks 1941).

Source: AtP* (Kramar et al. 2024, arXiv 2403.00745) for ranking first and bounding what was missed.
What it cannot see: what exact patching cannot, and an outlier among the nodes that were neither ranked
high nor sampled: that is what the bound's confidence is about.
"""

import time
from collections.abc import Sequence
from math import ceil

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steerscope.analysis.carriers import effect_table as tables
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import Statistics, nonzero
from steerscope.analysis.results.result import Result
from steerscope.analysis.tools.gradients import rank
from steerscope.analysis.tools.patching import MEASURES, checks, effects, together
from steerscope.analysis.tools.record import record

LEAST = 12  # nodes that are verified even in a small model
SHARE = 0.08  # of the nodes, in a large one
JOINT = ("carriers_necessity", "carriers_sufficiency", "unverified_necessity", "unverified_sufficiency")
Values = NDArray[np.float64]


def screen(
    experiment: Experiment,
    *,
    estimator: str = "gradient",
    top: int | None = None,
    sample: int = 5,
    level: float = 0.95,
    alpha: float = 0.05,
) -> Result:
    """Exact necessity and sufficiency of the nodes that matter, without patching all of them.

    Args:
        estimator: a method of `attribute` that ranks the nodes.
        top: how many of the best ranked are verified; 8% of the nodes, at least 12, by default.
        sample: how many of the others are verified, drawn at random.

    Returns:
        a `Result` of kind "screen"; frames and columns as in `columns.COLUMNS["screen"]`.
    """
    options = Statistics(level, alpha)
    nodes = experiment.reachable
    top = max(LEAST, ceil(SHARE * len(nodes))) if top is None else top
    if top < 1 or sample < 1:
        raise BadArgument(
            f"top={top}, sample={sample}; expected at least 1 each: the sample is what says how good the rest "
            "is; raise them"
        )
    start = time.perf_counter()
    guess, passes = rank(experiment, estimator)
    chosen, drawn = _choose(guess, min(top, len(nodes)), sample, experiment.seed)
    verified = [nodes[i] for i in sorted({*chosen, *drawn})]
    raw = effects(experiment, verified)
    table, found, steadiness = tables.effects_table(experiment, raw, options)
    rest = [node for node in nodes if node not in set(verified)]
    groups = [(m, [n for n in verified if str(n) in found[m]]) for m in MEASURES]
    joint = together(experiment, [*groups, *((m, rest) for m in MEASURES)])
    estimates = _estimates(nodes, guess, chosen, drawn, table)
    frames = {
        "effects": table,
        "estimates": estimates,
        "missed": _missed(estimates, joint[0, 2:], raw.total[0], level),
        "totals": tables.totals(experiment, raw, joint, options, JOINT),
        "cost": _cost(experiment, verified, passes),
    }
    return record(
        "screen",
        experiment,
        frames,
        start,
        checks=checks(experiment),
        method="screen",
        estimator=estimator,
        top=len(chosen),
        sample=len(drawn),
        level=level,
        alpha=alpha,
        stability=steadiness,
    )


def _choose(guess: Values, top: int, sample: int, seed: int) -> tuple[list[int], list[int]]:
    """The nodes with the largest estimates in either measure, and a random sample of the others."""
    size = np.abs(guess) / np.maximum(np.abs(guess).max(axis=1, keepdims=True), 1e-30)
    order = np.argsort(-size.max(axis=0), kind="stable")
    others = order[top:]
    drawn = np.random.default_rng(seed).permutation(others)[:sample]
    return order[:top].tolist(), drawn.tolist()


def _estimates(
    nodes: Sequence[Node], guess: Values, chosen: list[int], drawn: list[int], table: pd.DataFrame
) -> pd.DataFrame:
    why = np.full(len(nodes), "unverified", dtype=object)
    why[chosen], why[drawn] = "top", "sample"
    exact = table.set_index(["measure", "node"])["effect"]
    frames = []
    for row, measure in enumerate(MEASURES):
        names = [str(node) for node in nodes]
        known = [
            exact.get((measure, n), np.nan) if w != "unverified" else np.nan for n, w in zip(names, why, strict=True)
        ]
        frames.append(
            pd.DataFrame(
                {
                    "node": names,
                    "layer": [n.layer for n in nodes],
                    "head": pd.array([n.head for n in nodes], dtype="Int64"),
                    "kind": [n.kind for n in nodes],
                    "measure": measure,
                    "estimate": guess[row],
                    "verified": why,
                    "effect": known,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _missed(estimates: pd.DataFrame, joint: Values, total: Values, level: float) -> pd.DataFrame:
    """What the nodes that were not verified may carry: together, exactly; one of them, at most."""
    rows = []
    for row, measure in enumerate(MEASURES):
        own = estimates[estimates["measure"] == measure]
        rest, drawn = own[own["verified"] == "unverified"], own[own["verified"] == "sample"]
        largest = rest["estimate"].abs().max() if len(rest) else 0.0
        error = (drawn["effect"] - drawn["estimate"]).abs().max() if len(drawn) else 0.0
        rows.append(
            {
                "measure": measure,
                "unverified": len(rest),
                "sampled": len(drawn),
                "together": joint[row].mean() if len(rest) else 0.0,
                "together_share": joint[row].mean() / nonzero(total.mean()) if len(rest) else 0.0,
                "largest_estimate": largest,
                "worst_error": error,
                "bound": largest + error if len(rest) else 0.0,
                "covers": (1 - level) ** (1 / len(drawn)) if len(drawn) else np.nan,
            }
        )
    return pd.DataFrame(rows)


def _cost(experiment: Experiment, verified: Sequence[Node], passes: float) -> pd.DataFrame:
    """Forward-equivalents: a patched row costs the layers from its node on, since what is before is shared."""
    layers, prompts = experiment.model.n_layers, len(experiment.prompts)
    vectors = 1 + experiment.controls

    def patched(nodes: Sequence[Node]) -> float:
        rows = sum((layers - node.layer) / layers for node in nodes)
        return len(MEASURES) * rows * prompts * vectors

    joint = len(MEASURES) * prompts * vectors  # the unverified, all at once
    screened = passes + patched(verified) + joint
    exact = patched(experiment.reachable)
    return pd.DataFrame(
        {
            "what": ["gradients", "verified nodes", "unverified together", "screen", "exact"],
            "passes": [passes, patched(verified), joint, screened, exact],
            "ratio": [np.nan, np.nan, np.nan, exact / screened, 1.0],
        }
    )
