"""Scores of reference vectors' patched runs in delta precision, held against float32 on this very run.

1. Which precision: "exact" (float32), "delta", or "auto": delta where a product in bfloat16 is fast enough to pay. The
   real vector stays float32 always, and with it every effect that a page shows; only what references do is coarse.
2. With an effect comes its *size*: |change of the final state| times |direction of the score|, what the effect would
   be if nothing cancelled. Rounding changes states in all directions, so errors go with sizes, not with effects.
3. Of each vector the largest sizes and some drawn at random run again in float32. Where one is off by more than
   `LIMIT` of its size, nothing that was coarse is used: all references run again in float32.

The limit was found by trying (two trained models, 3,720 effects; docs/precision.md), and is no proof: errors were at
most 0.95 of it. It takes a score that is linear in the final state, as what references are read by is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.delta import PAYS, gain
from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import Readout
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.scores import Projection

LIMIT = 2.0**-8  # of an effect's size
TOLD = 2.0**-7  # of it: how far an effect may be off, as it is told
LARGEST, DRAWN = 8, 8  # runs of each vector that are made again in float32
NOTES = 4  # numbers that are kept of each vector
NOTHING = 1e-4  # of the largest size: what is smaller is off by float32's own rounding
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Precision:
    """How the effects of reference vectors were computed.

    Attributes:
        mode: exact or delta.
        why: in words.
        worst: the largest error among the runs that were made again, as a share of the limit.
        again: runs that were made again in float32.
        runs: of references, in delta precision.
        bound: how far a node's share of a reference's whole effect may be off on a prompt: the largest.
    """

    mode: str
    why: str
    worst: float | None = None
    again: int = 0
    runs: int = 0
    bound: float | None = None

    @property
    def coarse(self) -> bool:
        return self.mode == "delta"

    def describe(self) -> dict[str, Any]:
        """What the manifest says."""
        return {**vars(self), "limit": LIMIT}


def precision(experiment: Experiment) -> Precision:
    """What a question's references are computed in, before anything has run."""
    asked, model = experiment.precision, experiment.model
    if asked == "exact":
        return Precision("exact", "asked for")
    reasons = {
        "there are no reference vectors, and the real one is never coarse": not len(experiment.beside),
        f"the model computes in {str(model.dtype).removeprefix('torch.')}": model.dtype != torch.float32,
        "the model's logits are not linear in its final state, so that no bound is known": bool(model.softcap),
    }
    for why, holds in reasons.items():
        if holds:
            return Precision("exact", why)
    if asked == "delta":
        return Precision("delta", "asked for")
    times = gain(model.device)
    why = f"a product in bfloat16 is {times:.1f} times as fast as one in float32 here; it pays from {PAYS:g} on"
    return Precision("delta" if times >= PAYS else "exact", why)


def checked(how: Precision, notes: Float[Values, "reference note"]) -> Precision:
    """The same with what its runs showed; float32 where an error was beyond the limit."""
    worst, again = float(notes[:, 0].max()), int(notes[:, 2].sum())
    if worst > 1:
        why = f"an error in delta precision was {worst:.3g} times the limit, so that all ran again in float32"
        return replace(how, mode="exact", why=why, worst=worst, again=int(notes[:, 3].sum()))
    return replace(how, worst=worst, bound=float(notes[:, 1].max()), again=again, runs=int(notes[:, 3].sum()))


def coarse_scores(
    experiment: Experiment, vector: int, variants: Sequence[Variant]
) -> tuple[Float[Values, "variant 1"], Float[Values, " note"]]:
    """Scores of a reference's variants along its own change, those that were made again in float32; and notes.

    The notes are: the largest error as a share of the limit, how far a share of the vector's whole effect may be off,
    how many runs were made again, of how many.

    Args:
        variants: each with a base: the clean run (no edits), or the vector's own.
    """
    score = experiment.own(vector)
    assert isinstance(score, Projection)
    reads = experiment.scored_positions.reads
    sizes_from = [Size(score, experiment.outputs_of(of).states) for of in (None, vector)]
    found = experiment.scores(variants, [score, *sizes_from], reads, "delta")
    values, sizes = found[:, :1].copy(), np.where([bool(v.base) for v in variants], found[:, 2], found[:, 1])
    tried = _tried(sizes, np.random.default_rng([experiment.seed, 5, vector]))
    exact = experiment.scores([replace(variants[n], base=None) for n in tried], [score], reads)
    known = sizes[tried] > NOTHING * sizes.max()
    off = np.abs(exact - values[tried])[known, 0] / sizes[tried][known]
    values[tried] = exact
    whole = abs(experiment.own_effect(vector).mean())
    bound = TOLD * sizes.max() / whole if whole else 0.0
    return values, np.array([off.max(initial=0.0) / LIMIT, bound, len(tried), len(variants)])


@dataclass(frozen=True, eq=False)
class Size:
    """A score: how much another one would differ from that of a base, if nothing in the change cancelled.

    Attributes:
        base: its final states.
    """

    score: Projection
    base: Float[Tensor, "scored d_model"]

    def __call__(self, readout: Readout) -> Float[Tensor, " read"]:
        return self.score.size(readout, self.base)


def _tried(sizes: Float[Values, " variant"], generator: np.random.Generator) -> NDArray[np.int64]:
    """The largest, and some of the others."""
    order = np.argsort(-sizes, kind="stable")
    rest = generator.permutation(order[LARGEST:])[:DRAWN]
    return np.concatenate([order[:LARGEST], rest])
