"""How a small story model is steered, in a few numbers: what the study of variants compares.

1. A concept is a topic of the grammar. Its vector is " word" - " " at the beginning of layer 0; what is measured, at
   the end of openings that name no topic, is the log-probability of the topic's other words against those of the other
   topics: words as rare, so that a model that is merely disturbed gains nothing.
2. `effect`: at the coefficient at which what is added is as large as the stream that it is added to (at the front,
   where the first words of the prompt stand). Streams have other sizes in other variants, so `per_norm` is the same for
   each unit of norm.
3. `mlp_share`: what of the effect is lost when all MLPs write what they write without the vector. `nodes`: how few
   heads and MLPs, set back together, lose 80% of it (see `analysis.carriers.minimal`).
4. `safe_front`, `safe_all`: the largest safe size of what is added, in sizes of the stream, at the front or at all
   positions: where the loss of held-out stories has risen by a tenth of the perplexity (the rule of `breakdown`).
   Beyond the largest that is tried, that stands for it.
"""

from dataclasses import replace
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerscope.analysis.breakdown.outcomes import of_text
from steerscope.analysis.breakdown.regimes import crossing
from steerscope.analysis.breakdown.strength import at, rows, streams
from steerscope.analysis.carriers.minimal import minimal
from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import log_prob, perplexity
from steerscope.analysis.question.prompts import Prompts, make_prompts
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.tools.patching import effects, patched
from steerscope.analysis.vectors.prompt_pair import prompt_pair

from .topics import TOPICS

SIZES = np.geomspace(0.01, 100, 13)  # of what is added, over the stream's own
MEASURES = {
    "effect": ("effect where as much is added as there is", "nats"),
    "per_norm": ("the same for each unit of norm", "nats per unit of norm"),
    "mlp_share": ("share of the effect that is lost without the MLPs' changes", ""),
    "nodes": ("nodes that carry 80% of the effect", "nodes"),
    "safe_front": ("largest safe size, added at the front", "sizes of the stream"),
    "safe_all": ("largest safe size, added at all positions", "sizes of the stream"),
}
LOGGED = ("per_norm", "safe_front", "safe_all")  # are compared by their ratios
Values = NDArray[np.float64]


def words(model: Model, topic: str) -> list[str]:
    """The words of a topic that are one token, without the one that its vector is made of."""
    own = next(entry.words for entry in TOPICS if entry.name == topic)
    known = [f" {word}" for word in own if not word.startswith(topic)]
    return [word for word in known if len(model.encode(word)) == 1]


def told(model: Model, concepts: tuple[str, ...]) -> float:
    """How far a topic in the sentence before raises its words over those of others, above what another topic there
    does, in nats; mean over topics.
    """
    prompts = [f"Tom and Lily saw the {topic}. He looked at the" for topic in concepts]
    found = []
    for topic in concepts:
        experiment = _experiment(model, concepts, topic, "front", prompts)
        own = experiment.value(None)
        at_own = concepts.index(topic)
        found.append(own[at_own] - np.delete(own, at_own).mean())
    return float(np.mean(found))


def measured(
    model: Model, concepts: tuple[str, ...], prompts: list[str], text: Prompts, loss: float = 0.1
) -> list[dict[str, Any]]:
    """Every measure of every concept: rows of `concept`, `measure`, `value`.

    Args:
        concepts: topics of the grammar.
        prompts: openings that name none.
        text: held-out stories, whose loss tells what is safe.
        loss: share of the perplexity that a safe size may cost.
    """
    found = []
    for topic in concepts:
        front = _sized(_experiment(model, concepts, topic, "front", prompts))
        everywhere = _sized(_experiment(model, concepts, topic, "all", prompts))
        own = {
            "effect": float(front.effect().mean()),
            "per_norm": float(front.effect().mean() / _added(front)),
            "mlp_share": mlp_share(front),
            "nodes": nodes(front),
            "safe_front": safe(front, text, loss),
            "safe_all": safe(everywhere, text, loss),
        }
        found += [{"concept": topic, "measure": name, "value": value} for name, value in own.items()]
    return found


def _experiment(model: Model, concepts: tuple[str, ...], topic: str, positions: str, prompts: list[str]) -> Experiment:
    targets = words(model, topic)
    against = sorted({w for other in concepts if other != topic for w in words(model, other)} - {*targets})
    injection = Injection(prompt_pair(model, f" {topic}", " "), 1.0, positions=positions)
    return Experiment(
        model,
        (injection,),
        make_prompts(model, prompts),
        metric=log_prob(targets, against),
        references=0,
        scored="last",
    )


def _sized(experiment: Experiment) -> Experiment:
    """The same, with the coefficient at which as much is added as there is."""
    there = [
        float(stream[list(where)].norm() / value.double().norm())
        for stream, (where, value) in zip(streams(experiment), rows(experiment, 1.0), strict=True)
    ]
    coefficient = float(np.mean(there))
    return replace(experiment, injections=(replace(experiment.injections[0], coefficient=coefficient),))


def _added(experiment: Experiment) -> float:
    """The norm of what is added, mean over prompts."""
    coefficient = experiment.injections[0].coefficient
    return float(np.mean([float(value.double().norm()) for _, value in rows(experiment, coefficient)]))


def mlp_share(experiment: Experiment) -> float:
    """What of the effect is lost when all MLPs together write what they write in the clean run."""
    mlps = [node for node in experiment.reachable if node.head is None]
    return _lost(experiment, mlps) / float(experiment.effect().mean())


def _lost(experiment: Experiment, chosen: list[Node]) -> float:
    clean, edits = experiment.patches(None, chosen), experiment.edits(0)
    variants: list[Variant] = [
        patched("necessity", p, edits, [clean[node][p] for node in chosen]) for p in range(len(experiment.prompts))
    ]
    return float((experiment.value(0) - experiment.score(variants)).mean())


def nodes(experiment: Experiment) -> float:
    """How many nodes, set back together, lose 80% of the effect; missing where none do, or where there is no effect."""
    raw = effects(experiment)
    _, about = minimal(experiment, raw.along, raw.nodes, Statistics(), random=0)
    size = None if about["missing"] else about["reached"]["necessity"]["size"]
    return float("nan") if size is None else float(size)


def safe(experiment: Experiment, text: Prompts, loss: float) -> float:
    """The size, in those of the stream on the prompts, at which the loss of a text has risen by so much; the smallest
    or the largest that is tried where that is below or beyond.
    """
    one = experiment.injections[0].coefficient
    asked = replace(experiment, prompts=text, metric=perplexity(), scored="all")
    hurt = of_text(asked, lambda run: (at(run, one * size) for size in SIZES))["damage"].mean(axis=1)
    place = float(crossing(SIZES, (hurt - log(1 + loss))[None])[0])
    return float(np.clip(place, SIZES[0], SIZES[-1]))
