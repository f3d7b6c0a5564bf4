"""Necessity and sufficiency of every head and MLP, by exact patching.

1. Run every prompt clean and steered; keep every node's output in both.
2. Necessity of a node: in the steered run set its output, at all positions, back to its clean value;
   the effect that is lost. Sufficiency: in the clean run set it to its steered value; the effect
   that appears. Everything downstream reacts.
3. The same for each reference vector, along its own change of logits; the real vector along both, so that it can be
   compared with the references by shares of each one's own whole effect.
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
from steerscope.analysis.question.experiment import Edits, Experiment, Patches
from steerscope.analysis.question.outputs import apart
from steerscope.analysis.results.verdicts import Basis

from .coarse import NOTES, Precision, checked, coarse_scores, precision
from .keeping import Arrays, each
from .record import check, tolerance

MEASURES = ("necessity", "sufficiency")
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Effects:
    """Raw effects, by vector (0 is the real one), for every prompt.

    Attributes:
        nodes: those that were patched.
        along: effects of the real vector along the metric.
        own: effects along each vector's own change of logits, in logits.
        basis: the whole effects in the same two readings, and what else inference needs.
        clean, steered: the metric itself, of the real vector's runs.
        kl: disturbance of the steered run, in nats.
        precision: how the references' effects were computed, for the manifest.
    """

    nodes: tuple[Node, ...]
    along: Float[Values, "measure node prompt"]
    own: Float[Values, "vector measure node prompt"]
    basis: Basis
    clean: Float[Values, " prompt"]
    steered: Float[Values, " prompt"]
    kl: Float[Values, "vector prompt"]
    precision: Precision


def effects(experiment: Experiment, nodes: Sequence[Node] | None = None) -> Effects:
    """Steps 1 to 3, for the real vector and all references.

    Args:
        nodes: those that are patched; all that the injection can reach by default.
    """
    nodes = experiment.reachable if nodes is None else tuple(nodes)
    how = precision(experiment)
    found = _every(experiment, nodes, how.coarse)
    if how.coarse:
        how = checked(how, np.stack([notes for *_, notes in found[1:]]))
        if not how.coarse:
            found = _every(experiment, nodes, False)
    own, kl = np.stack([one[-1] for one, *_ in found]), np.stack([kl for _, kl, _ in found])
    clean, steered = experiment.value(None), experiment.value(0)
    return Effects(nodes, found[0][0][0], own, experiment.basis(), clean, steered, kl, how)


def _every(experiment: Experiment, nodes: Sequence[Node], coarse: bool) -> list[Arrays]:
    """Of every vector its effects, its disturbance, and of coarse ones what `checked` asks for."""

    def read(vector: int) -> Arrays:
        found, notes = _one(experiment, vector, nodes, coarse and vector > 0)
        kl = experiment.disturbed(vector)
        experiment.own_effect(vector)  # kept from here on, its run is not
        return found, kl, notes

    return list(each(experiment, "vectors", read, *nodes, *["delta"] * coarse))


def _one(
    experiment: Experiment, vector: int, nodes: Sequence[Node], coarse: bool
) -> tuple[Float[Values, "score measure node prompt"], Values]:
    """Effects of one vector: of the real one along the metric, and of each along its own direction."""
    edits, sources = experiment.edits(vector), _sources(experiment, vector, nodes)  # these runs give outputs, too
    scores, prompts = experiment.readings(vector), range(len(experiment.prompts))
    variants = [
        patched(measure, p, edits, [sources[measure][node][p]])
        for measure in MEASURES
        for node in nodes
        for p in prompts
    ]
    if coarse:
        values, notes = coarse_scores(experiment, vector, variants)
    else:
        reads = experiment.scored_positions.reads if vector else None
        values, notes = experiment.scores(variants, scores, reads), np.zeros(NOTES)
    values = values.T.reshape(len(scores), len(MEASURES), len(nodes), len(prompts))
    found = [
        [-experiment.change(lost, vector, vector, score), experiment.change(given, None, vector, score)]
        for (lost, given), score in zip(values, scores, strict=True)
    ]
    return np.array(found), notes


def _sources(experiment: Experiment, vector: int, nodes: Sequence[Node]) -> dict[str, Patches]:
    """By measure, what nodes are set to."""
    return dict(zip(MEASURES, (experiment.patches(v, nodes, everywhere=False) for v in (None, vector)), strict=True))


def together(
    experiment: Experiment, groups: Sequence[tuple[str, Sequence[Node]]], vector: int = 0, own: bool = False
) -> Float[Values, "group prompt"]:
    """Step 4: effect of patching a group of nodes at once: (measure, nodes); zero of an empty one.

    Args:
        vector: whose; along the metric for the real one, along its own change for a reference.
        own: along its own change for the real one, too.
    """
    asked = [(at, measure, members) for at, (measure, members) in enumerate(groups) if members]
    nodes = [n for n in experiment.reachable if any(n in members for _, _, members in asked)]
    found = np.zeros((len(groups), len(experiment.prompts)))
    if not asked:
        return found
    score = experiment.own(vector) if vector or own else experiment.along
    edits, sources = experiment.edits(vector), _sources(experiment, vector, nodes)
    variants = [
        patched(measure, p, edits, [sources[measure][node][p] for node in members])
        for _, measure, members in asked
        for p in range(len(experiment.prompts))
    ]
    reads = experiment.scored_positions.reads if vector else None
    values = experiment.scores(variants, [score], reads)[:, 0].reshape(len(asked), -1)
    for (at, measure, _), row in zip(asked, values, strict=True):
        lost = measure == "necessity"
        change = experiment.change(row, vector if lost else None, vector, score)
        found[at] = -change if lost else change
    return found


def checks(experiment: Experiment, samples: int = 4) -> list[dict[str, object]]:
    """What must hold exactly, checked on this very run: against plain passes, and all nodes at once."""
    nodes, edits, prompts = experiment.reachable, experiment.edits(0), range(len(experiment.prompts))
    sources, limit = _sources(experiment, 0, nodes), tolerance(experiment.model)
    generator = np.random.default_rng(experiment.seed)
    questions = []
    for _ in range(samples):
        measure, p = MEASURES[generator.integers(2)], int(generator.integers(len(prompts)))
        node = nodes[generator.integers(len(nodes))]
        questions.append(patched(measure, p, edits, [sources[measure][node][p]]))
    found = [check("sampled nodes equal one plain pass each", against_plain(experiment, questions), limit)]
    free = _not_injected(experiment)  # at an injected position the vector itself goes to the logits, too
    for measure, name, other in zip(
        MEASURES, ("clean", "steered"), (experiment.clean, experiment.steered), strict=True
    ):
        if free.any():
            every = [patched(measure, p, edits, [sources[measure][node][p] for node in nodes]).edits for p in prompts]
            gap = apart(experiment.outputs(tuple(every)), other)[free].max().item()
            name = f"all nodes set to {name} give the {name} run, where nothing is injected"
            found.append(check(name, gap, limit))
    return found


def patched(measure: str, prompt: int, edits: Edits, edited: Sequence[Edit]) -> Variant:
    """Necessity starts from the steered run, sufficiency from the clean one; each is the base of its changes."""
    base = tuple(edits[prompt]) if measure == "necessity" else ()
    return Variant(prompt, (*base, *edited), base)


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
