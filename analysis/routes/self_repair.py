"""`self_repair`: what later nodes do when a carrier is removed.

The steered run, in which the carrier is set back to its clean output:

1. direct loss: only the carrier's own write to the final stream is taken back; all later nodes, and the scale of the
   final
   norm, stay as they are in the steered run.
2. net loss: everything downstream reacts. This is the carrier's necessity.
3. Between the two: each later node's change (its steered output against its output in the run without the carrier), put
   into the steered run alone; positive repairs, negative passes the loss on. Then what the final norm does by rescaling
   the stream that is left. So, exactly,

       direct loss = net loss + repaired by later nodes + repaired by the final norm + remainder

   The remainder is 0 where the metric is linear in the logits (`logit_direction`); otherwise it is what the parts do
   together beyond their sum.
4. The same for random vectors of equal norm, along the metric, and each along its own change of logits.

Sources: Rushing and Nanda 2024 (arXiv 2402.15390) for direct against total loss and the part of the final norm;
    McGrath et
al. 2023 (arXiv 2307.15771) for compensation by later layers. Both remove by resampling or zeros; here by the clean run.
What it cannot see: what makes a later node react (see paths); repair of several carriers removed at once (see shapley).
"""

import time
from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.columns import COLUMNS
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.metrics import Score, logit_direction
from steerscope.analysis.results.effects import Statistics, band, estimates, nonzero, over_controls
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.stats import ratio_interval
from steerscope.analysis.tools.patches import Patches, activations, patches
from steerscope.analysis.tools.patching import against_plain, effect
from steerscope.analysis.tools.record import check, record, tolerance
from steerscope.analysis.tools.strongest import chosen
from steerscope.analysis.tools.writes import changes

from .repair_terms import PARTS, Removal, Tail, after, removal, sites

TOP, SAMPLES = 6, 4
LEAST = 0.05  # of the total effect: shares of a smaller direct loss would mean nothing
Values = NDArray[np.float64]


def self_repair(
    experiment: Experiment,
    nodes: Sequence[Node | str] | None = None,
    *,
    controls: int = 4,
    level: float = 0.95,
    alpha: float = 0.05,
) -> Result:
    """Direct and net loss of removing each carrier, and who makes up for the difference.

    Args:
        nodes: by default the 6 with the largest exact necessity: of all nodes, or, in a model with more than 200,
            of the 24
            that gradients rank highest.
        controls: random vectors of equal norm, at most as many as the experiment has.

    Returns:
        a `Result` of kind "self_repair"; frames and columns as in `columns.COLUMNS["self_repair"]`.

    Raises:
        BadNode: a node that is not there, or that the injection cannot reach.
    """
    options = Statistics(level, alpha)
    start = time.perf_counter()
    experiment = experiment.fewer(controls)
    carriers, rule = chosen(experiment, nodes, TOP, ("necessity",))
    later = [[n for n in experiment.reachable if after(experiment.model, c, n)] for c in carriers]
    to_clean = patches(experiment, experiment.nothing, carriers)
    found = [
        _one(experiment, vector, carriers, later, to_clean)
        for vector in track(range(1 + experiment.controls), "self-repair")
    ]
    parts = np.array([[r.parts for r in row] for row in found])  # [vector, carrier, score, part, prompt]
    total = effect(experiment)
    terms = [np.stack([row[i].later for row in found]) for i in range(len(carriers))]
    own_totals = np.array([row[0].own_total.mean() for row in found])
    frames = {
        "carriers": _carriers(carriers, parts, total, own_totals, options, experiment.seed),
        "later": _later(carriers, later, terms, parts[0, :, 0, 0], total, options, experiment.seed),
        "per_prompt": _per_prompt(carriers, parts[0, :, 0]),
    }
    return record(
        "self_repair",
        experiment,
        frames,
        start,
        checks=_checks(experiment, carriers, later, to_clean, found),
        nodes=[str(node) for node in carriers],
        rule=rule,
        total=float(total.mean()),
        level=level,
        alpha=alpha,
    )


def _scores(experiment: Experiment, vector: int) -> list[Score]:
    """The metric of the real vector, and the vector's own change of logits."""
    prepared = (experiment.scored_positions, experiment.clean)
    outputs = experiment.outputs(experiment.edits(vector))
    return [experiment.metric.prepare(*prepared, experiment.steered), logit_direction().prepare(*prepared, outputs)]


def _one(
    experiment: Experiment, vector: int, carriers: Sequence[Node], later: Sequence[Sequence[Node]], to_clean: Patches
) -> list[Removal]:
    edits, scores = experiment.edits(vector), _scores(experiment, vector)
    first = min(node.layer for node in carriers)
    steered = activations(experiment, edits, sites(experiment.model, first))
    return [
        removal(experiment, carrier, others, edits, to_clean, steered, scores)
        for carrier, others in zip(carriers, later, strict=True)
    ]


def _carriers(
    carriers: Sequence[Node],
    parts: Float[Values, "vector carrier score part prompt"],
    total: Values,
    own_totals: Values,
    options: Statistics,
    seed: int,
) -> pd.DataFrame:
    values = parts[:, :, 0]
    columns = estimates(values.reshape(len(values), -1, values.shape[-1]), options, seed)
    divide_by = np.array([nonzero(x) for x in own_totals])
    own = parts[:, :, 1].mean(axis=-1) / divide_by[:, None, None]  # [vector, carrier, part]
    low, high = band(own[1:])
    control = over_controls(own[1:]) if len(own) > 1 else np.full(own.shape[1:], np.nan)
    rows = []
    for (c, node), (i, part) in product(enumerate(carriers), enumerate(PARTS)):
        row = {"of_direct": np.nan, "of_direct_low": np.nan, "of_direct_high": np.nan}
        direct = values[0, c, 0]
        if _speaks(direct, total):
            bounds = ratio_interval(values[0, c, i], direct, options.level, seed)
            row = {
                "of_direct": values[0, c, i].mean() / direct.mean(),
                "of_direct_low": bounds[0],
                "of_direct_high": bounds[1],
            }
        rows.append(
            row
            | {
                "node": str(node),
                "layer": node.layer,
                "head": node.head,
                "kind": node.kind,
                "part": part,
                "share": values[0, c, i].mean() / nonzero(total.mean()),
                "own_share": own[0, c, i],
                "own_control": control[c, i],
                "own_control_low": low[c, i],
                "own_control_high": high[c, i],
            }
        )
    table = pd.DataFrame(rows).assign(**columns).astype({"head": "Int64"})
    return table[list(COLUMNS["self_repair"]["carriers"])]


def _speaks(direct: Float[Values, " prompt"], total: Float[Values, " prompt"]) -> bool:
    """Whether there is a direct loss to take a share of."""
    return bool(abs(direct.mean()) > LEAST * abs(total.mean()))


def _later(
    carriers: Sequence[Node],
    later: Sequence[Sequence[Node]],
    terms: Sequence[Float[Values, "vector node prompt"]],
    direct: Float[Values, "carrier prompt"],
    total: Values,
    options: Statistics,
    seed: int,
) -> pd.DataFrame:
    """Corrected over all pairs of a carrier and a later node."""
    pairs = [(i, node) for i, nodes in enumerate(later) for node in nodes]
    names = list(COLUMNS["self_repair"]["later"])
    if not pairs:
        return pd.DataFrame(columns=names)
    columns = estimates(np.concatenate(list(terms), axis=1), options, seed)
    table = pd.DataFrame(
        {
            "carrier": [str(carriers[i]) for i, _ in pairs],
            "node": [str(n) for _, n in pairs],
            "layer": [n.layer for _, n in pairs],
            "head": pd.array([n.head for _, n in pairs], dtype="Int64"),
            "kind": [n.kind for _, n in pairs],
            **columns,
            "share": columns["effect"] / nonzero(total.mean()),
            "of_direct": [
                effect / direct[i].mean() if _speaks(direct[i], total) else np.nan
                for (i, _), effect in zip(pairs, columns["effect"].tolist(), strict=True)
            ],
        }
    )
    return table[names]


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
    to_clean: Patches,
    found: Sequence[Sequence[Removal]],
) -> list[dict[str, object]]:
    """The parts add up, and on a sample equal runs of the model in which every later node is frozen."""
    model, edits, prompts = experiment.model, experiment.edits(0), range(len(experiment.prompts))
    scores = _scores(experiment, 0)[:1]
    removed = [Variant(p, (*edits[p], to_clean[c][p])) for c in carriers for p in prompts]
    values = experiment.scores([*(Variant(p, edits[p]) for p in prompts), *removed], scores, experiment.reads)
    values = values[:, 0].reshape(1 + len(carriers), -1)
    parts = np.array([r.parts[0] for r in found[0]])  # [carrier, part, prompt]
    size = max(1.0, float(np.abs(values).max()))
    net = np.abs(values[0] - values[1:] - parts[:, PARTS.index("net")]).max() / size
    sums = parts[:, [PARTS.index(name) for name in ("nodes", "norm", "remainder", "net")]].sum(axis=1)
    kept = np.abs(sums - parts[:, 0]).max() / size
    frozen, expected = _frozen(experiment, carriers, later, to_clean)
    got = experiment.scores(frozen, scores, experiment.reads)[:, 0]
    limit = tolerance(model)
    return [
        check(
            "writes add up to the final stream without the carrier (relative)",
            max(r.gap for row in found for r in row),
            limit,
        ),
        check("net loss equals exact necessity (relative)", net, limit),
        check("parts add up to the direct loss (relative)", kept, limit),
        check(
            "sampled parts equal runs with every later node frozen (relative)",
            np.abs(got - expected).max() / size,
            limit,
        ),
        check("those runs equal one plain pass each", against_plain(experiment, frozen), limit),
    ]


@torch.no_grad()
def _frozen(
    experiment: Experiment, carriers: Sequence[Node], later: Sequence[Sequence[Node]], to_clean: Patches
) -> tuple[list[Variant], Values]:
    """Sampled runs in which only a carrier, or only one later node, differs from the steered run; and what they should
    give.

    The final norm is live in them. Behind a norm after attention a head alone cannot change, so there MLPs are drawn.
    """
    model, edits = experiment.model, experiment.edits(0)
    generator, tail = np.random.default_rng(experiment.seed), Tail(experiment)
    score = _scores(experiment, 0)[:1]
    held = patches(experiment, edits, experiment.reachable)
    first = min(node.layer for node in carriers)
    steered = activations(experiment, edits, sites(model, first))
    variants, expected = [], []
    for _ in range(SAMPLES):
        c, p = (int(generator.integers(size)) for size in (len(carriers), len(edits)))
        carrier, removed = carriers[c], tuple((*own, to_clean[carriers[c]][q]) for q, own in enumerate(edits))
        without = activations(experiment, removed, sites(model, first))
        drawn = [n for n in later[c] if n.head is None or not model.post_norm]
        target = carrier
        if drawn and generator.integers(2):
            target = drawn[int(generator.integers(len(drawn)))]
        same = [n for n in later[c] if n.layer == carrier.layer and n.head is not None]
        moving = [target, *(same if target == carrier else [])]
        x = without[p][target.site.name, target.layer]
        patch = Edit(target.site, "set", x if target.head is None else x[:, target.head])
        freeze = [held[n][p] for n in experiment.reachable if after(model, target, n) and n not in moving]
        variants.append(Variant(p, (*edits[p], patch, *freeze)))
        moved = [changes(model, moving, a, b).sum(dim=0) for a, b in zip(steered, without, strict=True)]
        expected.append(tail.scores(tail.stream(steered) + tail.scored(moved), score)[0, p])
    return variants, np.array(expected)
