"""`Freezing`: parts of attention set back to the clean run, and what each takes away from a steered one.

A pattern is a function of queries and keys: setting both back freezes it, on every architecture. Keys that
several query heads share cannot be set back for one of them: there the head's pattern itself is set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment

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


def shared(model: Model) -> bool:
    """Whether several query heads share keys and values."""
    return model.n_kv_heads < model.n_heads


def reached(experiment: Experiment) -> list[int]:
    """Layers that the injection can reach."""
    return sorted({node.layer for node in experiment.reachable})


def clean_edits(experiment: Experiment, patterns: bool = False) -> list[Kept]:
    """By prompt, edits that set queries, keys, values (patterns) and MLPs to what they are in the clean run."""
    names = ["q", "k", "v"] + ["pattern"] * patterns + ["mlp_out"] * experiment.model.has_mlp
    sites = [(name, layer) for name in names for layer in reached(experiment)]
    found: list[Kept] = []
    for read in experiment.read(experiment.nothing, sites):
        found.append({})
        for (name, layer), x in read.items():
            heads = [x] if name == "mlp_out" else x if name == "pattern" else x.unbind(1)
            for i, value in enumerate(heads):
                head = None if name == "mlp_out" else i
                found[-1][name, layer, head] = Edit(Site(name, layer, head), "set", value)
    return found


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
    experiment: Experiment, freezings: Sequence[Freezing], kept: Sequence[Kept], vectors: int = 1, own: bool = True
) -> Lost:
    """What each freezing takes away, for every vector, on the prompts of one experiment.

    Args:
        kept: clean values by prompt.
        vectors: how many: the real one, then references.
        own: whether to read each vector's own change of logits, too; without it the metric is every vector's own.
    """
    prompts, model = range(len(experiment.prompts)), experiment.model
    frozen = [[freeze(model, freezing, kept[p]) for p in prompts] for freezing in freezings]
    rows, totals = [], []
    for vector in track(range(vectors), "frozen attention"):
        edits = experiment.edits(vector)
        scores = [experiment.along, experiment.own(vector)] if own else [experiment.along]
        found = experiment.scores([Variant(p, (*row[p], *edits[p])) for row in frozen for p in prompts], scores)
        values = found.T.reshape(len(scores), len(freezings), len(prompts))
        rows.append([-experiment.change(own, vector, vector, score) for own, score in zip(values, scores, strict=True)])
        totals.append([experiment.effect(vector), experiment.own_effect(vector) if own else experiment.effect(vector)])
    gone, total = np.array(rows), np.array(totals)  # [vector, score, freezing, prompt], [vector, score, prompt]
    return Lost(tuple(freezings), gone[:, 0], gone[:, -1], total[:, 0], total[:, 1])
