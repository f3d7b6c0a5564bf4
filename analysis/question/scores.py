"""Scores: a number at each position that a run was read at.

A score is plain data and a function of a readout: so it can go to another process, where the run is (see
`engine.elsewhere`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerscope.analysis.engine.finite import INSTEAD
from steerscope.analysis.engine.run import Readout
from steerscope.analysis.errors import BadArgument, BadMetric, Overflow

from .answers import together
from .outputs import Outputs, Unembed, with_logits
from .scored import Scored

Score = Callable[[Readout], Float[Tensor, " read"]]


@dataclass(frozen=True, eq=False)
class _Along:
    """A score: the change of what is read from an origin, along a direction.

    Attributes:
        origin: what the run that is 0 has there.
        along: the directions.
        which: of them, by scored place.
    """

    scored: Scored
    origin: Float[Tensor, "scored width"]
    along: Float[Tensor, "direction width"]
    which: Int[Tensor, " scored"]

    def _of(self, readout: Readout, found: Float[Tensor, "read width"]) -> Float[Tensor, " read"]:
        places = self.scored.places(readout)
        return ((found - wide(self.origin[places])) * self.along[self.which[places]]).sum(dim=-1)


class Projection(_Along):
    """The change of the final stream, along a direction in it."""

    def __call__(self, readout: Readout) -> Float[Tensor, " read"]:
        return self._of(readout, hidden_of(readout))

    def size(self, readout: Readout, base: Float[Tensor, "scored d_model"]) -> Float[Tensor, " read"]:
        """How much the score of a run would differ from that of a base, if nothing in the change cancelled."""
        places = self.scored.places(readout)
        change = (hidden_of(readout) - wide(base)[places]).norm(dim=-1)
        found: Tensor = change * self.along.norm(dim=-1)[self.which[places]]
        return found


class LogitProjection(_Along):
    """The same of logits, where they are no linear function of the final stream."""

    def __call__(self, readout: Readout) -> Float[Tensor, " read"]:
        return self._of(readout, logits_of(readout))


@dataclass(frozen=True, eq=False)
class LogProb:
    """Log-probability that the next token is one of some, minus that of others (of all, where there are none)."""

    targets: Int[Tensor, " token"]
    against: Int[Tensor, " token"] | None

    def __call__(self, readout: Readout) -> Float[Tensor, " read"]:
        logits = logits_of(readout)
        reference = logits if self.against is None else logits[:, self.against]
        return logits[:, self.targets].logsumexp(dim=-1) - reference.logsumexp(dim=-1)


@dataclass(frozen=True, eq=False)
class OwnAnswers:
    """The same of each prompt's own answer and distractor, padded as `answers.padded` does."""

    targets: Int[Tensor, "prompt token"]
    against: Int[Tensor, "prompt token"] | None

    def __call__(self, readout: Readout) -> Float[Tensor, " read"]:
        logits, prompt = logits_of(readout), readout.prompt
        reference = logits.logsumexp(dim=-1) if self.against is None else together(logits, self.against[prompt])
        return together(logits, self.targets[prompt]) - reference


@dataclass(frozen=True, eq=False)
class Disturbance:
    """KL(run || clean), in nats."""

    scored: Scored
    clean: Outputs

    @cached_property
    def _reference(self) -> Float[Tensor, "scored vocab"]:
        return wide(self.clean.logits).log_softmax(dim=-1)

    def __call__(self, readout: Readout) -> Float[Tensor, " read"]:
        at = self.scored.places(readout)
        own = self._reference[at] if self.clean.kept else wide(self.clean.rows(at)).log_softmax(dim=-1)
        return divergence(logits_of(readout), own)

    def __getstate__(self) -> dict[str, Any]:
        return {"scored": self.scored, "clean": self.clean}  # the reference is made where it is needed


def divergence(logits: Float[Tensor, "*rows vocab"], reference: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows"]:
    """KL(softmax(logits) || reference), the reference in log-probabilities, in nats."""
    own = wide(logits).log_softmax(dim=-1)
    return (own.exp() * (own - reference)).nansum(dim=-1).clamp_min(0.0)  # 0 of tokens that it never says


@dataclass(frozen=True, eq=False)
class Surprise:
    """Negative log-probability of the token that follows.

    Attributes:
        following: by scored place.
    """

    scored: Scored
    following: Int[Tensor, " scored"]

    def __call__(self, readout: Readout) -> Float[Tensor, " read"]:
        logits, token = logits_of(readout), self.following[self.scored.places(readout)]
        return logits.logsumexp(dim=-1) - logits.gather(1, token[:, None])[:, 0]


@dataclass(frozen=True, eq=False)
class Means:
    """Several scores, each averaged over the positions of a row: `[row, score]`, in double precision.

    Attributes:
        unembed: where the run reads the final stream, and scores ask for logits: what makes them, in pieces.
        vocab: how many logits.
    """

    scores: Sequence[Score]
    unembed: Unembed | None
    vocab: int

    def __call__(self, readout: Readout) -> Float[Tensor, "row score"]:
        parts = [readout] if self.unembed is None else with_logits(readout, self.unembed, self.vocab)
        values = torch.cat([torch.stack([taken(score, part) for score in self.scores]) for part in parts], dim=1)
        return torch.stack([readout.mean(row) for row in values], dim=-1)


def logits_of(readout: Readout) -> Float[Tensor, "read vocab"]:
    """The logits of a readout, at least in single precision.

    Raises:
        BadArgument: the run has not read them.
    """
    if readout.logits is None:
        raise BadArgument("a score of logits of a run that has not read them; expected reads='logits'; ask for them")
    return wide(readout.logits)


def hidden_of(readout: Readout) -> Float[Tensor, "read d_model"]:
    """The final stream of a readout, at least in single precision.

    Raises:
        BadArgument: the run has not read it.
    """
    if readout.hidden is None:
        raise BadArgument("a score of the final stream of a run that has not read it; expected reads='hidden'; ask so")
    return wide(readout.hidden)


def taken(score: Score, readout: Readout) -> Float[Tensor, " read"]:
    """A score of a readout, in double precision.

    Raises:
        BadMetric: it is no function of a readout that gives a number for each position that was read.
        Overflow: a number is not finite.
    """
    try:
        values: Any = score(readout)
    except TypeError as error:
        raise BadMetric(f"a score failed ({error}); expected a function of a readout; see Experiment.along") from error
    if not isinstance(values, Tensor) or values.shape != readout.row.shape:
        given = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise BadMetric(f"a score gave {given}; expected one number for each of {len(readout.row)} positions; mend it")
    if values.numel() and not torch.isfinite(values).all():
        raise Overflow(f"a score gave numbers that are not finite; expected finite ones; {INSTEAD}")
    return values.double()


def wide(x: Tensor) -> Tensor:
    """Halves in single precision: sums of their squares overflow, and differences are small."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
