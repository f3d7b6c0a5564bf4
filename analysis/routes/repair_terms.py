"""What the final stream loses when a carrier is removed, part by part: arithmetic on two recorded runs.

The stream is a sum, so the stream of the run without the carrier is exactly the steered one, plus what the carrier
writes differently, plus what each later node writes differently because of it. With the final norm's scale held, the
norm is linear too. Each part is put on the steered stream alone and the metric read off: the same as running the model
with every later node frozen, which the run checks on a sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.model.norms import Norm, norm_of
from steerscope.analysis.question.experiment import Activations, Edits, Experiment
from steerscope.analysis.question.outputs import Outputs
from steerscope.analysis.question.scores import Score
from steerscope.analysis.tools.writes import changes

PARTS = ("direct", "nodes", "norm", "remainder", "net", "direct_live")
ROUNDING = 1e-9  # of the largest of effect and losses: what is below is no remainder
Values = NDArray[np.float64]


def after(model: Model, carrier: Node, node: Node) -> bool:
    """Whether a node can see what the carrier writes (a norm after attention shows it to the layer's other heads)."""
    if node.layer != carrier.layer:
        return node.layer > carrier.layer
    if carrier.head is None or node == carrier:
        return False
    return model.post_norm if node.head is not None else not model.parallel


@dataclass(frozen=True, eq=False)
class Removal:
    """A carrier's removal, on all prompts, for one vector.

    Attributes:
        parts: in the order of `PARTS`, by score.
        later: effect of each later node's change alone, by score; positive repairs.
        gap: how far the parts are from the run's own final stream, relative.
    """

    parts: Float[Values, "score part prompt"]
    later: Float[Values, "score node prompt"]
    gap: float


@dataclass(frozen=True, eq=False)
class Tail:
    """The end of the model: from final streams at the scored positions to scores."""

    experiment: Experiment

    @cached_property
    def norm(self) -> Norm | None:
        """The final norm."""
        model = self.experiment.model
        return norm_of(model, getattr(model.bridge, "ln_final", None))

    def stream(self, kept: Activations) -> Float[Tensor, "scored d_model"]:
        """What the final norm reads, at the scored positions of all prompts in one row."""
        last = ("resid_post", self.experiment.model.n_layers - 1)
        return self.scored([row[last] for row in kept])

    def scored(self, rows: Sequence[Float[Tensor, "pos ..."]]) -> Float[Tensor, "scored ..."]:
        """Those of all prompts at the scored positions, in one row."""
        positions = self.experiment.scored_positions.positions
        return torch.cat([x[list(at)].double() for x, at in zip(rows, positions, strict=True)])

    @torch.no_grad()
    def scores(
        self,
        x: Float[Tensor, "scored d_model"],
        scores: Sequence[Score],
        held: Float[Tensor, "scored d_model"] | None = None,
    ) -> Float[Values, "score prompt"]:
        """Scores of a final stream; `held` is the stream whose scale the final norm keeps."""
        asked, norm = self.experiment, self.norm
        if norm is not None:
            x = norm.part(x, norm.scale(x if held is None else held)) + norm.bias
        logits = None
        if asked.reads == "logits":
            logits = asked.model.bridge.unembed(x[None].to(asked.model.dtype))[0].detach()
            logits = asked.model.capped(logits)
        readout = asked.scored_positions.readout(
            Outputs(x, logits, asked.model.bridge.unembed, asked.scored_positions.vocab), asked.reads
        )
        found = [asked.scored_positions.mean(score(readout).double()) for score in scores]
        return torch.stack(found).cpu().numpy()


def removed(experiment: Experiment, edits: Edits, carrier: Node) -> Edits:
    """A steered run in which the carrier is set back to its clean output."""
    to_clean = experiment.patches(None, [carrier])[carrier]
    return tuple((*own, patch) for own, patch in zip(edits, to_clean, strict=True))


@torch.no_grad()
def removal(
    experiment: Experiment, vector: int, carrier: Node, later: Sequence[Node], scores: Sequence[Score]
) -> Removal:
    """All parts of one carrier's removal, for one vector."""
    model, tail = experiment.model, Tail(experiment)
    seen = sites(model, carrier.layer)
    steered = experiment.activations(vector, seen)
    without = experiment.read(removed(experiment, experiment.edits(vector), carrier), seen)
    whole, left = tail.stream(steered), tail.stream(without)
    moved = tail.scored(
        [changes(model, [carrier, *later], a, b).transpose(0, 1) for a, b in zip(steered, without, strict=True)]
    )
    own, others = moved[:, 0], moved[:, 1:]
    base = tail.scores(whole, scores, whole)
    everything = whole + moved.sum(dim=1)
    direct = base - tail.scores(whole + own, scores, whole)
    terms = [tail.scores(whole + others[:, j], scores, whole) - base for j in range(len(later))]
    repaired = np.stack(terms) if terms else np.zeros((0, *base.shape))
    held = base - tail.scores(everything, scores, whole)
    net = base - tail.scores(left, scores)
    rest = direct - repaired.sum(axis=0) - held
    rest = np.where(np.abs(rest) < ROUNDING * np.abs([base, direct, net]).max(), 0.0, rest)
    live = base - tail.scores(whole + own, scores)
    parts = np.stack([direct, repaired.sum(axis=0), held - net, rest, net, live], axis=1)
    gap = ((everything - left).norm() / left.norm().clamp_min(1e-30)).item()
    return Removal(parts, repaired.swapaxes(0, 1), gap)


def sites(model: Model, first: int) -> list[tuple[str, int]]:
    """What must be kept of a run: what nodes write from a layer on, and the final stream."""
    names = ("z", "mlp_out") if model.has_mlp else ("z",)
    kept = [(name, layer) for layer in range(first, model.n_layers) for name in names]
    return [*kept, ("resid_post", model.n_layers - 1)]
