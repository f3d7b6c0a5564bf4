"""`Freezing`: parts of attention set back to the clean run, and what each takes away from a steered one.

A pattern is a function of queries and keys: setting both back freezes it, on every architecture. Keys that
several query heads share cannot be set back for one of them: there the head's pattern itself is set.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection, compose
from steerscope.analysis.question.metrics import logit_direction

FROZEN = ("patterns", "values", "both")
SITES = {"patterns": ("q", "k"), "values": ("v",), "both": ("q", "k", "v")}
Values = NDArray[np.float64]
Kept = dict[tuple[str, int, int | None], Edit]  # (site, layer, head) -> sets it to its clean value


@dataclass(frozen=True)
class Freezing:
    """What is set to its clean value: patterns, values or both, everywhere, in a layer, or of a head."""

    frozen: str
    layer: int | None = None
    head: int | None = None

    @property
    def scope(self) -> str:
        return "all" if self.layer is None else "layer" if self.head is None else "head"

    def node(self, model: Model) -> str:
        """`all`, `L2`, `L2H3`, or `L2KV1` where heads share values."""
        if self.layer is None:
            return "all"
        letter = "KV" if shared(model) and self.frozen == "values" else "H"
        return f"L{self.layer}" + ("" if self.head is None else f"{letter}{self.head}")


@dataclass(frozen=True, eq=False)
class Lost:
    """What each freezing takes away, by vector (0 is the real one).

    Attributes:
        along: along the metric of the real vector.
        own: of each vector's own change of logits, or of its own damage.
        total, own_total: steered minus clean with nothing frozen, in the same two readings.
    """

    freezings: tuple[Freezing, ...]
    along: Float[Values, "vector freezing prompt"]
    own: Float[Values, "vector freezing prompt"]
    total: Float[Values, "vector prompt"]
    own_total: Float[Values, "vector prompt"]
    clean: Float[Values, " prompt"]
    steered: Float[Values, " prompt"]


def shared(model: Model) -> bool:
    """Whether several query heads share keys and values."""
    return model.n_kv_heads < model.n_heads


def reached(experiment: Experiment) -> list[int]:
    """Layers that the injection can reach."""
    return sorted({node.layer for node in experiment.reachable})


def clean_edits(experiment: Experiment, patterns: bool = False) -> list[Kept]:
    """By prompt, edits that set queries, keys, values (patterns) and MLPs to what they are in the clean run."""
    model, prompts = experiment.model, experiment.prompts.full
    names = ["q", "k", "v"] + ["pattern"] * patterns + ["mlp_out"] * model.has_mlp
    sites = [(name, layer) for name in names for layer in reached(experiment)]
    found: list[Kept] = [{} for _ in prompts]
    variants = [Variant(p) for p in range(len(prompts))]
    for chunk, readout in run(model, prompts, variants, reads="none", sites=sites, budget=experiment.budget):
        for row, p in enumerate(chunk):
            for name, layer in sites:
                x = readout.activations[name, layer][row]
                for head, value in _heads(name, x, len(prompts[p])):
                    edit = Edit(Site(name, layer, head), "set", value.clone())
                    found[p][name, layer, head] = edit
    return found


def _heads(name: str, x: Tensor, length: int) -> Iterator[tuple[int | None, Tensor]]:
    """The heads of an activation of one row, without padding; the whole where it has none."""
    if name == "mlp_out":
        yield None, x[:length]
    elif name == "pattern":
        yield from enumerate(x[:, :length, :length])
    else:
        yield from enumerate(x[:length].unbind(1))


def freeze(model: Model, freezing: Freezing, kept: Kept) -> tuple[Edit, ...]:
    """The edits of a prompt that freeze."""
    sites = SITES[freezing.frozen]
    if freezing.head is not None and freezing.frozen == "patterns" and shared(model):
        sites = ("pattern",)
    return tuple(
        edit
        for (name, layer, head), edit in kept.items()
        if name in sites and freezing.layer in (None, layer) and freezing.head in (None, head)
    )


def lost(
    experiment: Experiment,
    freezings: Sequence[Freezing],
    kept: Sequence[Kept],
    steering: Sequence[Sequence[Injection]],
    own: bool,
) -> Lost:
    """What each freezing takes away, for every vector, on the prompts of one experiment.

    Args:
        kept: clean values by prompt.
        steering: the injections, then those of each control.
        own: whether to read each vector's own change of logits, too; without it the metric is every vector's own.
    """
    prompts, model = range(len(experiment.prompts)), experiment.model
    edited = [[freeze(model, freezing, kept[p]) for p in prompts] for freezing in freezings]
    prepared = (experiment.scored_positions, experiment.clean)
    metric = experiment.metric.prepare(*prepared, experiment.steered)
    rows = []
    for vector in track(steering, "frozen attention"):
        edits = [compose(vector, len(ids), model.bos is not None) for ids in experiment.prompts.ids]
        scores = [metric]
        if own:
            outputs = experiment.outputs(tuple(edits))
            scores.append(logit_direction().prepare(*prepared, outputs))
        variants = [Variant(p) for p in prompts] + [Variant(p, edits[p]) for p in prompts]
        variants += [Variant(p, (*row[p], *edits[p])) for row in edited for p in prompts]
        found = experiment.scores(variants, scores, experiment.reads)
        rows.append(found.T.reshape(len(scores), 2 + len(freezings), len(prompts)))
    values = np.array(rows)  # [vector, score, run, prompt]
    clean, steered = values[:, :, 0], values[:, :, 1]
    gone, total = steered[:, :, None] - values[:, :, 2:], steered - clean
    return Lost(tuple(freezings), gone[:, 0], gone[:, -1], total[:, 0], total[:, -1], clean[0, 0], steered[0, 0])
