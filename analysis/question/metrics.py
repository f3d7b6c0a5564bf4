"""`Metric`: what is measured of a run, one number at each scored position, averaged over positions.

- `logit_direction` (the default, needs no labels): the projection of the run's change of logits on the unit direction
  in which the full injection moves the logits of the *other* groups of prompts. Linear in the logits; its sign is
  earned, since no prompt has a say in its own direction. A single group has no others: its own direction it is.
- `own_direction`: the same on the prompt's own change, position by position: the whole effect is positive by
  construction, and its sign says nothing.
- `log_prob`: log-probability that the next token is one of a set of targets, or how much more probable
  they are than another set.
- `kl`: KL(run || clean). A measure of disturbance, never of steering: a random vector of equal norm
  can disturb more than the real one.
- `perplexity`: negative log-probability of the tokens that really follow, or of a given
  continuation; its exponential is the perplexity.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerscope.analysis.brief import brief
from steerscope.analysis.engine.run import Reads
from steerscope.analysis.errors import BadMetric
from steerscope.analysis.gate import gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.results.stats import numbered

from .answers import Asked, PerPrompt, asked_as, padded
from .outputs import Outputs, pieced
from .scored import Scored
from .scores import Disturbance, LogitProjection, LogProb, OwnAnswers, Projection, Score, Surprise, wide

EACH = "each prompt's own"


@gated(error=BadMetric)
@dataclass(frozen=True, repr=False)
class Metric:
    """A metric by name.

    Attributes:
        unit: of its values and effects.
        prepare: from the scored positions and the clean and the steered outputs to a score.
        reads: what the score needs.
        options: what it was made with, for the manifest.
        needs_next: a scored position must have a token after it.
        flat_at_clean: its gradient is zero in the clean run, so that gradients there say nothing.
        own_direction: it is made from the steered run's own change, so that every vector has another.
        tokens: what must be single tokens of the model.
        answers: targets and distractors of which some are each prompt's own; an experiment puts them into its prompts.
        at_end: only the last position is scored, where nothing else is asked for.
    """

    name: str
    unit: str
    prepare: Callable[[Scored, Outputs, Outputs], Score] = field(repr=False)
    reads: Reads = "logits"
    options: dict[str, Any] = field(default_factory=dict)
    needs_next: bool = False
    flat_at_clean: bool = False
    own_direction: bool = False
    tokens: tuple[str | int, ...] = ()
    answers: tuple[Asked, Asked] | None = None
    at_end: bool = False

    def __repr__(self) -> str:
        options = "".join(f", {name} {brief(str(value), 40)}" for name, value in self.options.items())
        return f"<Metric {self.name} in {self.unit}{options}>"

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "unit": self.unit, **self.options}


@gated(error=BadMetric)
def logit_direction() -> Metric:
    """Projection on the injection's mean centred change of logits in the other groups of prompts, in logits.

    0 for the clean run. Leave-one-group-out: see the module.
    """
    return Metric("logit_direction", "logits", _others_direction, reads="hidden", own_direction=True)


@gated(error=BadMetric)
def own_direction() -> Metric:
    """Projection on the injection's own centred change of logits, prompt by prompt and position by position, in logits.

    0 for the clean run, positive for the steered one by construction.
    """
    return Metric("own_direction", "logits", _own_direction, reads="hidden", own_direction=True)


def _own_direction(scored: Scored, clean: Outputs, steered: Outputs) -> Score:
    which = torch.arange(clean.shape[0], device=scored.model.device)
    if clean.hidden is None:
        return _along(scored, clean, _unit(_centred(clean.logits, steered.logits)), which)
    unembedding = _unembedding(scored.model)
    along = pieced(lambda a, b: _unit(_centred(a, b)) @ unembedding.T, clean, steered)
    return Projection(scored, clean.hidden, along, which)


def _others_direction(scored: Scored, clean: Outputs, steered: Outputs) -> Score:
    groups = torch.as_tensor(numbered(scored.prompts.by_group, len(scored.prompts)), device=scored.model.device)
    number = int(groups.max()) + 1
    if number < 2:
        return _own_direction(scored, clean, steered)
    counts = torch.tensor([len(positions) for positions in scored.positions], device=groups.device)
    prompt = torch.repeat_interleave(torch.arange(len(counts), device=groups.device), counts)
    sums = wide(clean.states).new_zeros(number, clean.shape[1])
    for piece in clean.pieces:
        change, of = _centred(clean.rows(piece), steered.rows(piece)), prompt[piece]
        sums.index_add_(0, groups[of], change / counts[of, None])
    return _along(scored, clean, _unit(sums.sum(dim=0) - sums), groups[prompt])


def _centred(clean: Float[Tensor, "some vocab"], steered: Float[Tensor, "some vocab"]) -> Float[Tensor, "some vocab"]:
    change = wide(steered) - wide(clean)
    change = change.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)  # of tokens that it never says
    return change - change.mean(dim=-1, keepdim=True)


def _unembedding(model: Model) -> Float[Tensor, "d_model vocab"]:
    return wide(model.bridge.unembed.W_U.detach())


def _unit(directions: Float[Tensor, "direction vocab"]) -> Float[Tensor, "direction vocab"]:
    """Of length 1; a model without norms has changes whose squares single precision does not hold."""
    norm = torch.linalg.vector_norm(directions, dim=-1, keepdim=True, dtype=torch.float64).to(directions)
    return directions / torch.where(norm > 0, norm, 1.0)


def _along(
    scored: Scored, clean: Outputs, unit: Float[Tensor, "direction vocab"], which: Int[Tensor, " scored"]
) -> Score:
    """Projection of the change from the clean run on a direction; `which` one, by scored place."""
    if clean.hidden is not None:
        # The same projection, before the unembedding.
        return Projection(scored, clean.hidden, unit @ _unembedding(scored.model).to(unit).T, which)
    return LogitProjection(scored, clean.logits, unit, which)


@gated(error=BadMetric)
def log_prob(
    targets: str | int | Sequence[str | int] | PerPrompt, against: str | int | Sequence[str | int] | PerPrompt = ()
) -> Metric:
    """Log-probability that the next token is one of `targets`, in nats; minus that of `against`, where given.

    Any disturbance flattens the distribution, and so raises the probability of all rare words alike.
    Where targets are rare, compare them with words that are as rare: then only the topic counts.

    Args:
        targets, against: single tokens, as text or ids; or `PerPrompt`, those of each prompt. Then its last position
            alone is scored, unless others are asked for, and an answer and a distractor may be several tokens: the
            first that differ are compared (`question.answers`).
    """
    if isinstance(targets, PerPrompt) or isinstance(against, PerPrompt):
        asked: tuple[Asked, Asked] = (asked_as(targets), asked_as(against))
        told = {
            name: EACH if isinstance(a, PerPrompt) else a for name, a in zip(("targets", "against"), asked, strict=True)
        }
        told = {name: side for name, side in told.items() if side}
        return Metric("log_prob", "nats", _own_answers, options=told, answers=asked, at_end=True)
    wanted, others = _several(targets), _several(against)
    if not wanted:
        raise BadMetric("log_prob got no targets; expected at least one token; give for example targets=[' wedding']")
    options = {"targets": wanted} | ({"against": others} if others else {})
    prepare = partial(_log_prob, wanted, others)
    return Metric("log_prob", "nats", prepare, options=options, tokens=(*wanted, *others))


def _log_prob(
    wanted: list[str | int], others: list[str | int], scored: Scored, clean: Outputs, steered: Outputs
) -> Score:
    against = _ids(scored.model, others) if others else None
    return LogProb(_ids(scored.model, wanted), against)


def _own_answers(scored: Scored, clean: Outputs, steered: Outputs) -> Score:
    """Of each prompt, the log-probability of its own answer, minus that of its distractor where it has one.

    Raises:
        BadMetric: the prompts have no answers.
    """
    prompts = scored.prompts
    if not prompts.targets:
        raise BadMetric(
            "the prompts have no answers of their own; expected those of log_prob(PerPrompt([...])); make the metric "
            "again for these prompts"
        )
    wanted, others = (padded(side).to(scored.model.device) for side in (prompts.targets, prompts.against))
    return OwnAnswers(wanted, others if prompts.against else None)


def _several(tokens: str | int | Sequence[str | int]) -> list[str | int]:
    return [tokens] if isinstance(tokens, str | int) else list(tokens)


def _ids(model: Model, tokens: Sequence[str | int]) -> Int[Tensor, " token"]:
    return torch.tensor(sorted({model.target(t) for t in tokens}), dtype=torch.long, device=model.device)


@gated(error=BadMetric)
def kl() -> Metric:
    """KL(run || clean), in nats: disturbance."""
    return Metric("kl", "nats", _disturbance, flat_at_clean=True)


def _disturbance(scored: Scored, clean: Outputs, steered: Outputs) -> Score:
    return Disturbance(scored, clean)


@gated(error=BadMetric)
def perplexity(continuation: str | Sequence[int] | None = None) -> Metric:
    """Log-perplexity, in nats a token: of the prompt's own tokens, or of a continuation put after it."""
    options = (
        {}
        if continuation is None
        else {"continuation": continuation if isinstance(continuation, str) else list(continuation)}
    )
    return Metric("perplexity", "nats per token", _surprise, options=options, needs_next=True)


def _surprise(scored: Scored, clean: Outputs, steered: Outputs) -> Score:
    return Surprise(scored, scored.next_tokens)


METRICS: dict[str, Callable[..., Metric]] = {
    "logit_direction": logit_direction,
    "own_direction": own_direction,
    "log_prob": log_prob,
    "kl": kl,
    "perplexity": perplexity,
}
