"""What vectors do, and what every node does to it: prompt by prompt, so that vectors can be held against each other.

1. `effects_of`: of every injection the centred change of the logits at the last position of every prompt.
2. `carriers_of`: of every injection its profile: necessity and sufficiency of every node (`ig`: conductance) for the
   injection's own change of the logits there, estimated by gradients, or exact. What an injection cannot reach is zero.
3. Of both all inner products are kept, prompt by prompt, and means over the halves of the groups of prompts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.model.models import Model
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import Prompts
from steerscope.analysis.tools.gradients import estimate
from steerscope.analysis.tools.patching import effects

Values = NDArray[np.float64]
Profile = Literal["gradient", "ig", "exact"]


@dataclass(frozen=True, eq=False)
class Alike:
    """What vectors have in common.

    Attributes:
        gram: inner products of what two vectors do on a prompt.
        between: inner products of one vector's mean over the first half of the prompts with another's over the second;
            missing for a single group.
    """

    gram: Float[Values, "prompt vector vector"]
    between: Float[Values, "vector vector"]

    @classmethod
    def of(cls, parts: Iterator[Float[torch.Tensor, "vector feature"]], groups: NDArray[np.int64]) -> "Alike":
        """From what each vector does on one prompt after the other."""
        grams, sums = [], [torch.zeros(1, dtype=torch.float64)] * 2
        halves = groups % 2  # groups are numbered in the order of the prompts
        counts = np.bincount(halves, minlength=2)
        for half, part in zip(halves, parts, strict=True):
            grams.append((part @ part.T).numpy())
            sums[half] = sums[half] + part / counts[half]
        found = np.full(grams[0].shape, np.nan)
        if counts.all():
            first, second = (one / _norm(one) for one in sums)
            found = (first @ second.T).numpy()
        return cls(np.array(grams), found)

    @property
    def itself(self) -> Float[Values, " vector"]:
        """The correlation of each vector's means over the two halves."""
        return np.asarray(np.diagonal(self.between))

    @property
    def across(self) -> Float[Values, "vector vector"]:
        """The correlation of two vectors' means over different halves of the prompts, both ways."""
        return np.asarray((self.between + self.between.T) / 2)

    @property
    def similarity(self) -> Float[Values, "vector vector"]:
        """The correlation over all prompts."""
        return correlation(self.gram.mean(axis=0))


def correlation(gram: Float[Values, "... vector vector"]) -> Values:
    """Inner products over norms; missing for what is nothing."""
    size = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.clip(gram / (size[..., :, None] * size[..., None, :]), -1, 1))


@torch.no_grad()
def effects_of(model: Model, injections: Sequence[Injection], prompts: Prompts) -> Alike:
    """Of the changes of the logits."""

    def each() -> Iterator[torch.Tensor]:
        for ids, layout in track(list(zip(prompts.full, prompts.layouts(model), strict=True)), "effects"):
            variants = [Variant(0), *(Variant(0, (injection.edit(layout),)) for injection in injections)]
            logits = torch.empty(len(variants), model.d_vocab_out, dtype=torch.float64)
            for chunk, readout in run(model, [ids], variants):
                assert readout.logits is not None
                logits[chunk] = readout.logits.double().cpu()
            change = logits[1:] - logits[:1]
            yield change - change.mean(dim=-1, keepdim=True)

    return Alike.of(each(), prompts.by_group)


def carriers_of(model: Model, injections: Sequence[Injection], prompts: Prompts, by: Profile, seed: int) -> Alike:
    """Of the profiles over nodes."""
    profiles = [_profile(model, injection, prompts, by, seed) for injection in track(injections, "carriers")]
    by_prompt = torch.from_numpy(np.array(profiles)).permute(3, 0, 1, 2).flatten(2)
    return Alike.of(iter(by_prompt), prompts.by_group)


def _profile(
    model: Model, injection: Injection, prompts: Prompts, by: Profile, seed: int
) -> Float[Values, "measure node prompt"]:
    """Of every node of the model."""
    alone = Experiment(model, (injection,), prompts, references=0, scored="last", seed=seed)
    values = effects(alone).along if by == "exact" else estimate(alone, by).values
    reached = {node: place for place, node in enumerate(alone.reachable)}
    found = np.zeros((len(values), len(model.nodes), len(prompts)))
    for place, node in enumerate(model.nodes):
        if node in reached:
            found[:, place] = values[:, reached[node]]
    return found


def _norm(x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return found
