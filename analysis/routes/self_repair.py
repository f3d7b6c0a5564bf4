"""`self_repair`: what later nodes do when a carrier is removed.

The steered run, in which the carrier is set back to its clean output:

1. direct loss: only the carrier's own write to the final stream is taken back; all later nodes, and the scale of the
   final norm, stay as they are in the steered run.
2. net loss: everything downstream reacts. This is the carrier's necessity.
3. Between the two: each later node's change (its steered output against its output in the run without the carrier), put
   into the steered run alone; positive repairs, negative passes the loss on. Then what the final norm does by rescaling
   the stream that is left. So, exactly,

       direct loss = net loss + repaired by later nodes + repaired by the final norm + remainder

   The remainder is 0 where the metric is linear in the logits (`logit_direction`); otherwise it is what the parts do
   together beyond their sum.
4. The same for random vectors of equal norm, along the metric, and each along its own change of logits.

Sources: Rushing and Nanda 2024 (arXiv 2402.15390) for direct against total loss and the part of the final norm;
    McGrath et al. 2023 (arXiv 2307.15771) for compensation by later layers. Both remove by resampling or zeros; here
    by the clean run.
What it cannot see: what makes a later node react (see path_effect); repair of several carriers removed at once (see
    shapley).
"""

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.gate import Level, Share, Whole, gated
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import NODE, NUMBERS, Statistics, estimates, node_columns
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.results.stats import ratio_interval
from steerscope.analysis.tools.keeping import Arrays, each
from steerscope.analysis.tools.patching import against_plain
from steerscope.analysis.tools.record import check, record, tolerance
from steerscope.analysis.tools.strongest import chosen
from steerscope.analysis.tools.writes import changes

from .repair_terms import PARTS, Removal, Tail, after, removal, removed, sites

_PART = Column(
    "direct: loss when only the carrier's own write is taken back from the final stream, later nodes and the final "
    "norm's scale held; nodes: what later nodes make up for (negative: they pass the loss on); norm: what the final "
    "norm makes up for by rescaling; remainder: what these do together beyond their sum (0 where the metric is linear "
    "in the logits); net: loss that is left, the carrier's necessity; direct_live: direct, with the final norm's scale "
    "live. direct = nodes + norm + remainder + net",
    role="measure",
)
_SHARES = {
    "share": Column("over the total effect of the injection", role="share"),
    "of_direct": Column("over the carrier's direct loss; missing where that is below 5% of the total effect"),
}
COLUMNS: Frames = {
    "carriers": {
        **NODE,
        "part": _PART,
        **NUMBERS,
        "effect": Column("mean over prompts", "{metric}", "estimate"),
        **_SHARES,
        "of_direct_low": Column("lower end of its interval over prompts"),
        "of_direct_high": Column("upper end of its interval over prompts"),
    },
    "later": {
        "carrier": Column("the node that is removed", role="label"),
        **NODE,
        **NUMBERS,
        "effect": Column(
            "effect of this node's own change, caused by the removal, on the metric, with everything else held; mean "
            "over prompts; positive repairs where the direct loss is positive",
            "{metric}",
            "estimate",
        ),
        **_SHARES,
    },
    "per_prompt": {
        "prompt": Column("index of the prompt", role="label"),
        "node": Column("the carrier", role="node"),
        "part": _PART,
        "effect": Column("on this prompt", "{metric}", "estimate"),
    },
}

TOP, SAMPLES = 6, 4
LEAST = 0.05  # of the total effect: shares of a smaller direct loss would mean nothing
Values = NDArray[np.float64]


@gated
def self_repair(
    experiment: Experiment,
    nodes: Sequence[Node | str] | None = None,
    *,
    references_at_most: Whole = 8,
    level: Level = 0.95,
    alpha: Level = 0.05,
    smallest: Share = 0.02,
) -> Result:
    """Direct and net loss of removing each carrier, and who makes up for the difference.

    Args:
        nodes: by default the 6 with the largest exact necessity: of all nodes, or, in a model with more than 200, of
            the 24 that gradients rank highest.
        references_at_most: reference vectors, noise first, at most as many as the experiment has.

    Returns:
        a `Result` of kind "self_repair"; frames and columns as in `COLUMNS`.

    Raises:
        BadNode: a node that is not there, or that the injection cannot reach.
    """
    options = Statistics(level, alpha, smallest)
    start = time.perf_counter()
    experiment = experiment.held.fewer(references_at_most)
    carriers, rule = chosen(experiment, nodes, TOP, ("necessity",))
    later = [[n for n in experiment.reachable if after(experiment.model, c, n)] for c in carriers]
    experiment.patches(None, carriers)  # of all carriers in one run

    def read(vector: int) -> Arrays:
        experiment.activations(vector, sites(experiment.model, min(c.layer for c in carriers)))
        scores = experiment.readings(vector)
        row = [removal(experiment, vector, c, rest, scores) for c, rest in zip(carriers, later, strict=True)]
        experiment.own_effect(vector)  # kept from here on, its run is not
        gaps = np.array([r.gap for r in row])
        return np.stack([r.parts for r in row]), np.concatenate([r.later for r in row], axis=1), gaps

    ends = np.cumsum([len(nodes) for nodes in later])[:-1]
    found = [
        [Removal(*one) for one in zip(parts, np.split(after_it, ends, axis=1), gaps.tolist(), strict=True)]
        for parts, after_it, gaps in each(experiment, "self-repair", read, *carriers)
    ]
    parts = np.array([r.parts[0] for r in found[0]])  # [carrier, part, prompt]
    own = np.array([[r.parts[-1] for r in row] for row in found])  # [vector, carrier, part, prompt]
    total = float(experiment.effect().mean())
    direct = parts[:, 0].mean(-1)
    direct[~(np.abs(direct) > LEAST * abs(total))] = np.nan
    frames = {
        "carriers": _carriers(experiment, carriers, parts, own, direct, options),
        "later": _later(experiment, carriers, later, found, direct, options),
        "per_prompt": _per_prompt(carriers, parts),
    }
    return record(
        "self_repair",
        experiment,
        frames,
        COLUMNS,
        start,
        checks=_checks(experiment, carriers, later, found),
        nodes=[str(node) for node in carriers],
        rule=rule,
        total=total,
        level=level,
        alpha=alpha,
        smallest=smallest,
    )


def _carriers(
    experiment: Experiment,
    carriers: Sequence[Node],
    parts: Float[Values, "carrier part prompt"],
    own: Float[Values, "vector carrier part prompt"],
    direct: Float[Values, " carrier"],
    options: Statistics,
) -> pd.DataFrame:
    """A row for each carrier and part. Shares of the direct losses that are there."""
    basis, prompts = experiment.basis(), parts.shape[-1]
    columns = estimates(basis, parts.reshape(-1, prompts), own.reshape(len(own), -1, prompts), options)
    bounds = [
        ratio_interval(part, losses[0], options.level, basis.groups) if there else (np.nan, np.nan)
        for losses, there in zip(parts, np.isfinite(direct), strict=True)
        for part in losses
    ]
    return pd.DataFrame(
        {
            **node_columns([node for node in carriers for _ in PARTS]),
            "part": list(PARTS) * len(carriers),
            **columns,
            "of_direct": columns["effect"] / np.repeat(direct, len(PARTS)),
            "of_direct_low": [float(low) for low, _ in bounds],
            "of_direct_high": [float(high) for _, high in bounds],
        }
    )


def _later(
    experiment: Experiment,
    carriers: Sequence[Node],
    later: Sequence[Sequence[Node]],
    found: Sequence[Sequence[Removal]],
    direct: Float[Values, " carrier"],
    options: Statistics,
) -> pd.DataFrame:
    """Corrected over all pairs of a carrier and a later node."""
    pairs = [(i, node) for i, nodes in enumerate(later) for node in nodes]
    if not pairs:
        return pd.DataFrame(columns=list(COLUMNS["later"]))
    along = np.concatenate([removal.later[0] for removal in found[0]])
    own = np.stack([np.concatenate([removal.later[-1] for removal in row]) for row in found])
    columns = estimates(experiment.basis(), along, own, options)
    return pd.DataFrame(
        {
            "carrier": [str(carriers[i]) for i, _ in pairs],
            **node_columns([node for _, node in pairs]),
            **columns,
            "of_direct": columns["effect"] / direct[[i for i, _ in pairs]],
        }
    )


def _per_prompt(carriers: Sequence[Node], parts: Float[Values, "carrier part prompt"]) -> pd.DataFrame:
    prompts = parts.shape[-1]
    return pd.DataFrame(
        {
            "prompt": np.tile(np.arange(prompts), len(carriers) * len(PARTS)),
            "node": np.repeat([str(c) for c in carriers], len(PARTS) * prompts),
            "part": np.tile(np.repeat(PARTS, prompts), len(carriers)),
            "effect": parts.ravel(),
        }
    )


def _checks(
    experiment: Experiment,
    carriers: Sequence[Node],
    later: Sequence[Sequence[Node]],
    found: Sequence[Sequence[Removal]],
) -> list[dict[str, object]]:
    """The parts add up, and on a sample equal runs of the model in which every later node is frozen."""
    edits = experiment.edits(0)
    without = [Variant(p, own) for c in carriers for p, own in enumerate(removed(experiment, edits, c))]
    values, steered = experiment.score(without).reshape(len(carriers), -1), experiment.value(0)
    parts = np.array([r.parts[0] for r in found[0]])  # [carrier, part, prompt]
    size = max(1.0, float(np.abs([steered, *values]).max()))
    net = np.abs(steered - values - parts[:, PARTS.index("net")]).max() / size
    sums = parts[:, [PARTS.index(name) for name in ("nodes", "norm", "remainder", "net")]].sum(axis=1)
    kept = np.abs(sums - parts[:, 0]).max() / size
    frozen, expected = _frozen(experiment, carriers, later)
    apart = np.abs(experiment.score(frozen) - expected).max() / size
    writes = max(r.gap for row in found for r in row)
    limit = tolerance(experiment.model)
    return [
        check("writes add up to the final stream without the carrier (relative)", writes, limit),
        check("net loss equals exact necessity (relative)", net, limit),
        check("parts add up to the direct loss (relative)", kept, limit),
        check("sampled parts equal runs with every later node frozen (relative)", apart, limit),
        check("those runs equal one plain pass each", against_plain(experiment, frozen), limit),
    ]


@torch.no_grad()
def _frozen(
    experiment: Experiment, carriers: Sequence[Node], later: Sequence[Sequence[Node]]
) -> tuple[list[Variant], Values]:
    """Sampled runs in which only a carrier, or only one later node, differs from the steered run; and what they should
    give.

    The final norm is live in them. Behind a norm after attention a head alone cannot change, so there MLPs are drawn.
    """
    model, edits = experiment.model, experiment.edits(0)
    generator, tail = np.random.default_rng(experiment.seed), Tail(experiment)
    held = experiment.patches(0, experiment.reachable)
    seen = sites(model, min(node.layer for node in carriers))
    steered = experiment.activations(0, seen)
    variants, expected = [], []
    for _ in range(SAMPLES):
        c, p = (int(generator.integers(size)) for size in (len(carriers), len(edits)))
        target = carrier = carriers[c]
        without = experiment.read(removed(experiment, edits, carrier), seen)
        drawn = [n for n in later[c] if n.head is None or not model.post_norm]
        if drawn and generator.integers(2):
            target = drawn[int(generator.integers(len(drawn)))]
        same = [n for n in later[c] if n.layer == carrier.layer and n.head is not None]
        moving = [target, *(same if target == carrier else [])]
        x = without[p][target.site.name, target.layer]
        patch = Edit(target.site, "set", x if target.head is None else x[:, target.head])
        freeze = [held[n][p] for n in experiment.reachable if after(model, target, n) and n not in moving]
        variants.append(Variant(p, (*edits[p], patch, *freeze)))
        moved = [changes(model, moving, a, b).sum(dim=0) for a, b in zip(steered, without, strict=True)]
        expected.append(tail.scores(tail.stream(steered) + tail.scored(moved), [experiment.along])[0, p])
    return variants, np.array(expected)
