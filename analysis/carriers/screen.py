"""Screen and verify: gradients rank all nodes, exact patching verifies the top and a random sample of the rest.

1. Estimate necessity and sufficiency of every node from gradients (`gradients.rank`).
2. Patch exactly the nodes with the largest estimates of either measure, and a random sample of the others.
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
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steerscope.analysis.gate import Count, Level, Share, gated
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import NODE, Statistics, node_columns, nonzero
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.tools.gradients import rank
from steerscope.analysis.tools.patching import MEASURES, checks, effects
from steerscope.analysis.tools.record import record

from .effect_table import CARRIERS, TOTALS, carrier_table, told, totals

LEAST = 12  # nodes that are verified even in a small model
SHARE = 0.08  # of the nodes, in a large one
JOINT = ("told_necessity", "told_sufficiency", "unverified_necessity", "unverified_sufficiency")
Values = NDArray[np.float64]

COLUMNS: Frames = {
    "effects": CARRIERS,
    "estimates": {
        **NODE,
        "measure": Column("necessity or sufficiency", role="measure"),
        "estimate": Column("what gradients say the effect is; mean over prompts", "{metric}", "estimate"),
        "verified": Column(
            "top: patched exactly, since its estimate is large; sample: patched exactly, drawn at random from the "
            "others; unverified: the estimate is all there is",
            role="label",
        ),
        "effect": Column("exact effect, where it was verified", "{metric}", "estimate"),
    },
    "missed": {
        "measure": Column("necessity or sufficiency", role="measure"),
        "unverified": Column("nodes that were not patched one by one"),
        "sampled": Column("nodes that were drawn at random from those ranked low, and patched"),
        "together": Column("exact effect of all unverified nodes patched at once; mean over prompts", "{metric}"),
        "together_share": Column("the same over the total effect"),
        "largest_estimate": Column("largest estimate, in size, among the unverified nodes", "{metric}"),
        "worst_error": Column("largest difference between estimate and exact effect on the random sample", "{metric}"),
        "bound": Column(
            "largest estimate plus worst error: an upper bound on what an unverified node carries", "{metric}"
        ),
        "covers": Column(
            "share of the unverified nodes for which the bound holds with the confidence of the intervals"
        ),
    },
    "totals": TOTALS,
    "cost": {
        "what": Column("part of the screen, or the exact analysis of all nodes", role="label"),
        "passes": Column("forward-equivalents: layers that were run over layers of the model", "passes", "estimate"),
        "ratio": Column("passes of the exact analysis over these"),
    },
}


@gated
def screen(
    experiment: Experiment,
    *,
    ranked_by: Literal["gradient", "relp", "atp*", "ig"] = "gradient",
    top: Count | None = None,
    sample: Count = 5,
    level: Level = 0.95,
    alpha: Level = 0.05,
    smallest: Share = 0.02,
) -> Result:
    """Exact necessity and sufficiency of the nodes that matter, without patching all of them.

    Args:
        ranked_by: method of `attribute` that ranks the nodes.
        top: how many of the best ranked are verified; 8% of the nodes, at least 12, by default.
        sample: how many of the others are verified, drawn at random: they say how good the rest is.

    Returns:
        a `Result` of kind "screen".
    """
    options = Statistics(level, alpha, smallest)
    nodes = experiment.reachable
    top = many(len(nodes)) if top is None else min(top, len(nodes))
    start = time.perf_counter()
    guess, passes = rank(experiment, ranked_by)
    chosen, drawn = _choose(guess, top, sample, experiment.seed)
    verified = [nodes[i] for i in sorted({*chosen, *drawn})]
    raw = effects(experiment, verified)
    table, about = carrier_table(experiment, raw, options)
    rest = [node for node in nodes if node not in set(verified)]
    found = [(m, [n for n in verified if str(n) in told(table, m)]) for m in MEASURES]
    summed, joint = totals(experiment, raw, [*found, *((m, rest) for m in MEASURES)], options, JOINT)
    estimates = _estimates(nodes, guess, chosen, drawn, table)
    frames = {
        "effects": table,
        "estimates": estimates,
        "missed": _missed(estimates, joint[2:], raw.basis.total, level),
        "totals": summed,
        "cost": _cost(experiment, verified, passes),
    }
    return record(
        "screen",
        experiment,
        frames,
        COLUMNS,
        start,
        checks=checks(experiment),
        method="screen",
        ranked_by=ranked_by,
        top=len(chosen),
        sample=len(drawn),
        level=level,
        alpha=alpha,
        smallest=smallest,
        precision=raw.precision.describe(),
        **about,
    )


def best_first(guess: Values) -> list[int]:
    """Places of all nodes in the order of their best rank by either measure, equal ones by their size.

    So the first 2k hold the k largest of each measure, however far a few nodes of one stand above all others.

    Args:
        guess: estimates, `[measure, node]`.
    """
    size = np.abs(guess) / np.maximum(np.abs(guess).max(axis=1, keepdims=True), 1e-30)
    ranks = np.argsort(np.argsort(-size, axis=1, kind="stable"), axis=1, kind="stable")
    order: list[int] = np.lexsort((-size.max(axis=0), ranks.min(axis=0))).tolist()
    return order


def many(nodes: int) -> int:
    """How many of so many nodes are verified by default."""
    return min(max(LEAST, ceil(SHARE * nodes)), nodes)


def _choose(guess: Values, top: int, sample: int, seed: int) -> tuple[list[int], list[int]]:
    """The nodes with the largest estimates, and a random sample of the others."""
    order = best_first(guess)
    drawn = np.random.default_rng(seed).permutation(order[top:])[:sample]
    return order[:top], drawn.tolist()


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
                node_columns(nodes) | {"measure": measure, "estimate": guess[row], "verified": why, "effect": known}
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
    vectors = len(experiment.vectors)

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
