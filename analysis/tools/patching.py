"""Necessity and sufficiency of every head and MLP, by exact patching.

1. Run every prompt clean and steered; keep every node's output in both.
2. Necessity of a node: in the steered run set its output, at all positions, back to its clean value;
   the effect that is lost. Sufficiency: in the clean run set it to its steered value; the effect
   that appears. Everything downstream reacts.
3. The same for each control. Read along two directions: the metric of the real vector (is the
   effect specific to this vector?), and each vector's own change of logits (does the node carry
   whatever is put there?).
4. The nodes that count, patched all at once; and all nodes at once, which must give the other run.

A set of nodes patched together is not the sum of its nodes, and scores of different layers do not
add up to the total: an early node acts through later ones, and later ones make up for each other.

Source: Vig et al. 2020 (arXiv 2004.12265) for the two directions; Heimersheim and Nanda 2024
(arXiv 2404.15255) for what they can and cannot show.
What it cannot see: backup (a node whose loss is made up for looks unnecessary), sets of nodes that
only act together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.plain import plain_logits
from steerscope.analysis.engine.run import run
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.question.metrics import logit_direction

from .patches import patches
from .record import check, tolerance

MEASURES = ("necessity", "sufficiency")
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Effects:
    """Raw effects, by vector (0 is the real one), for every prompt.

    Attributes:
        nodes: those that were patched.
        along: effects along the metric of the real vector.
        own: effects along each vector's own change of logits, in logits.
        total, own_total: steered minus clean, in the same two readings.
        clean, steered: the metric itself, of the real vector's runs.
        kl: disturbance of the steered run, in nats.
    """

    nodes: tuple[Node, ...]
    along: Float[Values, "vector measure node prompt"]
    own: Float[Values, "vector measure node prompt"]
    total: Float[Values, "vector prompt"]
    own_total: Float[Values, "vector prompt"]
    clean: Float[Values, " prompt"]
    steered: Float[Values, " prompt"]
    kl: Float[Values, "vector prompt"]


def effects(experiment: Experiment, nodes: Sequence[Node] | None = None) -> Effects:
    """Steps 1 to 3, for the real vector and all controls.

    Args:
        nodes: those that are patched; all that the injection can reach by default.
    """
    nodes = experiment.reachable if nodes is None else tuple(nodes)
    to_clean = patches(experiment, experiment.nothing, nodes)
    rows = [_one(experiment, vector, nodes, to_clean) for vector in track(range(1 + experiment.controls), "vectors")]
    along, own, total, own_total, kl = (np.stack(part) for part in zip(*(row[:5] for row in rows), strict=True))
    return Effects(nodes, along, own, total, own_total, rows[0][5], rows[0][6], kl)


def effect(experiment: Experiment) -> Float[Values, " prompt"]:
    """The whole effect of the injection on every prompt."""
    score = experiment.metric.prepare(experiment.scored_positions, experiment.clean, experiment.steered)
    prompts = range(len(experiment.prompts))
    variants = [Variant(p) for p in prompts] + [Variant(p, experiment.edits(0)[p]) for p in prompts]
    values = experiment.scores(variants, [score], experiment.reads)[:, 0]
    return values[len(prompts) :] - values[: len(prompts)]


def together(
    experiment: Experiment, groups: Sequence[tuple[str, Sequence[Node]]]
) -> Float[Values, "vector group prompt"]:
    """Step 4: effect of patching a group of nodes at once: (measure, nodes), for every vector."""
    nodes = experiment.reachable
    to_clean = patches(experiment, experiment.nothing, nodes)
    prompts = range(len(experiment.prompts))
    found = []
    for vector in track(range(1 + experiment.controls), "joint patching"):
        edits = experiment.edits(vector)
        to_steered = patches(experiment, edits, nodes)
        variants = [Variant(p) for p in prompts] + [Variant(p, edits[p]) for p in prompts]
        for measure, members in groups:
            for p in prompts:
                variants.append(
                    patched(
                        measure, p, edits, [(to_clean if measure == "necessity" else to_steered)[n][p] for n in members]
                    )
                )
        reads = experiment.reads
        score = experiment.metric.prepare(experiment.scored_positions, experiment.clean, experiment.steered)
        values = experiment.scores(variants, [score], reads)[:, 0].reshape(2 + len(groups), -1)
        clean, steered = values[:2]
        found.append(
            [
                steered - v if measure == "necessity" else v - clean
                for (measure, _), v in zip(groups, values[2:], strict=True)
            ]
        )
    return np.array(found)


def checks(experiment: Experiment, samples: int = 4) -> list[dict[str, object]]:
    """What must hold exactly, checked on this very run: against plain passes, and all nodes at once."""
    nodes = experiment.reachable
    to_clean = patches(experiment, experiment.nothing, nodes)
    edits = experiment.edits(0)
    to_steered = patches(experiment, edits, nodes)
    limit = tolerance(experiment.model)
    generator = np.random.default_rng(experiment.seed)
    questions = []
    for _ in range(samples):
        measure, p = (MEASURES[generator.integers(2)], int(generator.integers(len(experiment.prompts))))
        node = nodes[generator.integers(len(nodes))]
        patch = (to_clean if measure == "necessity" else to_steered)[node][p]
        questions.append(patched(measure, p, edits, [patch]))
    found = [check("sampled nodes equal one plain pass each", against_plain(experiment, questions), limit)]
    for measure, other, source in (
        ("necessity", experiment.clean, to_clean),
        ("sufficiency", experiment.steered, to_steered),
    ):
        name = (
            f"all nodes set to {'clean' if measure == 'necessity' else 'steered'} give the "
            f"{'clean' if measure == 'necessity' else 'steered'} run"
        )
        outputs = experiment.outputs(
            tuple(
                patched(measure, p, edits, [source[n][p] for n in nodes]).edits for p in range(len(experiment.prompts))
            )
        )
        free = _not_injected(experiment)  # at an injected position the vector itself goes to the logits, too
        if free.any():
            gap = (outputs.logits.log_softmax(-1) - other.logits.log_softmax(-1))[free].abs().max().item()
            found.append(check(name + ", where nothing is injected", gap, limit))
    return found


def _one(
    experiment: Experiment, vector: int, nodes: Sequence[Node], to_clean: dict[Node, list[Edit]]
) -> tuple[Values, Values, Values, Values, Values, Values, Values]:
    """Effects of one vector: along the metric, along its own direction, totals, disturbance."""
    edits = experiment.edits(vector)
    to_steered = patches(experiment, edits, nodes)
    outputs = experiment.steered if vector == 0 else experiment.outputs(edits)
    scored, metric, own = experiment.scored_positions, experiment.metric, logit_direction()
    reads = experiment.reads
    scores = [
        metric.prepare(scored, experiment.clean, experiment.steered),
        own.prepare(scored, experiment.clean, outputs),
    ]
    prompts = range(len(experiment.prompts))
    variants = [Variant(p) for p in prompts] + [Variant(p, edits[p]) for p in prompts]
    for measure, source in zip(MEASURES, (to_clean, to_steered), strict=True):
        variants += [patched(measure, p, edits, [source[node][p]]) for node in nodes for p in prompts]
    values = experiment.scores(variants, scores, reads)
    values = values.T.reshape(2, 2 + 2 * len(nodes), len(prompts))
    clean, steered = values[:, 0], values[:, 1]
    edited = values[:, 2:].reshape(2, 2, len(nodes), len(prompts))
    change = np.stack([steered[:, None] - edited[:, 0], edited[:, 1] - clean[:, None]], axis=1)
    total = steered - clean
    return (change[0], change[1], total[0], total[1], experiment.disturbance(outputs), clean[0], steered[0])


def patched(measure: str, prompt: int, edits: Edits, edited: Sequence[Edit]) -> Variant:
    """Necessity starts from the steered run, sufficiency from the clean one."""
    return Variant(prompt, (*edits[prompt], *edited) if measure == "necessity" else tuple(edited))


def against_plain(experiment: Experiment, variants: Sequence[Variant]) -> float:
    """Largest difference in log-probability at the scored positions between the engine and plain passes."""
    scored = experiment.scored_positions.positions
    prompts = experiment.prompts.full
    worst = 0.0
    for chunk, readout in run(experiment.model, prompts, variants, scored, budget=experiment.budget):
        assert readout.logits is not None
        for row, index in enumerate(chunk):
            variant = variants[index]
            plain = plain_logits(experiment.model, prompts[variant.prompt], variant.edits)[list(scored[variant.prompt])]
            own = readout.logits[readout.row == row]
            worst = max(worst, (own.log_softmax(-1) - plain.log_softmax(-1)).abs().max().item())
    return worst


def _not_injected(experiment: Experiment) -> Tensor:
    flags = [
        position not in injected
        for injected, positions in zip(experiment.injected, experiment.scored_positions.positions, strict=True)
        for position in positions
    ]
    return torch.tensor(flags, device=experiment.model.device)
