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
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerscope.analysis.brief import brief, counted
from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.finite import INSTEAD, check_logits
from steerscope.analysis.engine.run import Readout, Reads, run
from steerscope.analysis.errors import BadArgument, BadMetric, Overflow
from steerscope.analysis.gate import gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.results.stats import numbered

from .answers import Asked, PerPrompt, asked_as, padded, together
from .outputs import Outputs, pieced
from .prompts import Prompts


@dataclass(frozen=True, eq=False, repr=False)
class Scored:
    """The positions that are scored, of all prompts in one row: (prompt, position) -> place.

    Attributes:
        positions: by prompt.
    """

    model: Model
    prompts: Prompts
    positions: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        table = torch.zeros(len(self.positions), max(map(len, self.prompts.full)), dtype=torch.long)
        place = 0
        for prompt, positions in enumerate(self.positions):
            for position in positions:
                table[prompt, position] = place
                place += 1
        object.__setattr__(self, "_table", table.to(self.model.device))

    def __repr__(self) -> str:
        return (
            f"<Scored: {counted(sum(map(len, self.positions)), 'position')} of {counted(len(self.prompts), 'prompt')}>"
        )

    def places(self, readout: Readout) -> Int[Tensor, " read"]:
        """Where each read position of a readout stands in the one row."""
        return self._table[self.prompts_of(readout), readout.position]  # type: ignore[attr-defined, no-any-return]

    def prompts_of(self, readout: Readout) -> Int[Tensor, " read"]:
        """The prompt of each read position of a readout."""
        return torch.tensor([v.prompt for v in readout.variants], device=readout.row.device)[readout.row]

    def mean(self, values: Float[Tensor, " scored"]) -> Float[Tensor, " prompt"]:
        """Means over the scored positions of each prompt."""
        return torch.stack([part.mean() for part in torch.split(values, [len(p) for p in self.positions])])

    @property
    def next_tokens(self) -> Int[Tensor, " scored"]:
        """The token that follows each scored position.

        Raises:
            BadMetric: one of them has no logit.
        """
        full, logits = self.prompts.full, self.model.d_vocab_out
        tokens = [full[prompt][position + 1] for prompt, row in enumerate(self.positions) for position in row]
        if max(tokens, default=0) >= logits:
            raise BadMetric(
                f"the token {max(tokens)} follows a scored position, and {self.model.name} has logits of the tokens 0 "
                f"to {logits - 1}; expected these, for the loss of what follows; choose another metric or prompts"
            )
        return torch.tensor(tokens, device=self.model.device)

    def outputs(
        self, variants: Sequence[Variant], prompts: Sequence[Sequence[int]] | None = None, **options: Any
    ) -> Outputs:
        """Final states of the prompts, one variant each in their order, at the scored positions.

        Args:
            prompts: token ids to run on; the prompts with their continuations by default.
            options: of `engine.run`: budget, what.
        """
        run_on = self.prompts.full if prompts is None else prompts
        found: dict[int, Tensor] = {}
        for chunk, readout in run(self.model, run_on, variants, self.positions, reads=self.reads, **options):
            found.update(zip(chunk, self.split(readout), strict=True))
        return self.joined([found[n] for n in range(len(variants))])

    @property
    def vocab(self) -> int:
        """Tokens that the model may say."""
        return int(self.model.bridge.unembed.W_U.shape[-1])

    @property
    def reads(self) -> Reads:
        """What of a run final states are: the stream, where logits are linear in it."""
        return "logits" if self.model.softcap else "hidden"

    def split(self, readout: Readout) -> Sequence[Float[Tensor, "position width"]]:
        """Final states of each variant of a readout."""
        values = readout.logits if self.reads == "logits" else readout.hidden
        assert values is not None
        return torch.split(values, [len(self.positions[v.prompt]) for v in readout.variants])

    def joined(self, states: Sequence[Float[Tensor, "position width"]]) -> Outputs:
        """Outputs of all prompts, from the final states of each."""
        flat = torch.cat(list(states))
        if self.reads == "logits":
            return Outputs(None, flat)
        outputs = Outputs(flat, None, self.model.bridge.unembed, self.vocab)
        for piece in outputs.pieces:
            check_logits(self.model, outputs.rows(piece), "a run of the prompts")
        return outputs

    def readout(self, outputs: Outputs, reads: Reads = "logits") -> Readout:
        """Outputs of all prompts as if they had just been read: what a score can be taken of."""
        counts = torch.tensor([len(positions) for positions in self.positions])
        position = torch.tensor([p for positions in self.positions for p in positions])
        row = torch.repeat_interleave(torch.arange(len(counts)), counts)
        device = self.model.device
        variants = [Variant(prompt) for prompt in range(len(self.positions))]
        logits = outputs.logits if reads == "logits" or outputs.hidden is None else None
        return Readout(variants, row.to(device), position.to(device), logits, outputs.hidden)


EACH = "each prompt's own"
Score = Callable[[Readout], Float[Tensor, " read"]]


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
    return Projection(scored, _wide(clean.hidden), along, which)


def _others_direction(scored: Scored, clean: Outputs, steered: Outputs) -> Score:
    groups = torch.as_tensor(numbered(scored.prompts.by_group, len(scored.prompts)), device=scored.model.device)
    number = int(groups.max()) + 1
    if number < 2:
        return _own_direction(scored, clean, steered)
    counts = torch.tensor([len(positions) for positions in scored.positions], device=groups.device)
    prompt = torch.repeat_interleave(torch.arange(len(counts), device=groups.device), counts)
    sums = _wide(clean.states).new_zeros(number, clean.shape[1])
    for piece in clean.pieces:
        change, of = _centred(clean.rows(piece), steered.rows(piece)), prompt[piece]
        sums.index_add_(0, groups[of], change / counts[of, None])
    return _along(scored, clean, _unit(sums.sum(dim=0) - sums), groups[prompt])


def _centred(clean: Float[Tensor, "some vocab"], steered: Float[Tensor, "some vocab"]) -> Float[Tensor, "some vocab"]:
    change = _wide(steered) - _wide(clean)
    change = change.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)  # of tokens that it never says
    return change - change.mean(dim=-1, keepdim=True)


def _unembedding(model: Model) -> Float[Tensor, "d_model vocab"]:
    return _wide(model.bridge.unembed.W_U.detach())


def _wide(x: Tensor) -> Tensor:
    """Halves in single precision: sums of their squares overflow, and differences are small."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _unit(directions: Float[Tensor, "direction vocab"]) -> Float[Tensor, "direction vocab"]:
    """Of length 1; a model without norms has changes whose squares single precision does not hold."""
    norm = torch.linalg.vector_norm(directions, dim=-1, keepdim=True, dtype=torch.float64).to(directions)
    return directions / torch.where(norm > 0, norm, 1.0)


@dataclass(frozen=True, eq=False)
class Projection:
    """A score: the change of the final stream from an origin, along a direction.

    Attributes:
        origin: the final stream of the run that is 0.
        along: the directions.
        which: of them, by scored place.
    """

    scored: Scored
    origin: Float[Tensor, "scored d_model"]
    along: Float[Tensor, "direction d_model"]
    which: Int[Tensor, " scored"]

    def __call__(self, readout: Readout) -> Float[Tensor, " read"]:
        places = self.scored.places(readout)
        return ((hidden_of(readout) - self.origin[places]) * self.along[self.which[places]]).sum(dim=-1)

    def size(self, readout: Readout, base: Float[Tensor, "scored d_model"]) -> Float[Tensor, " read"]:
        """How much the score of a run would differ from that of a base, if nothing in the change cancelled."""
        places = self.scored.places(readout)
        change = (hidden_of(readout) - _wide(base)[places]).norm(dim=-1)
        found: Tensor = change * self.along.norm(dim=-1)[self.which[places]]
        return found


def _along(
    scored: Scored, clean: Outputs, unit: Float[Tensor, "direction vocab"], which: Int[Tensor, " scored"]
) -> Score:
    """Projection of the change from the clean run on a direction; `which` one, by scored place."""
    if clean.hidden is not None:
        # The same projection, before the unembedding.
        return Projection(scored, _wide(clean.hidden), unit @ _unembedding(scored.model).to(unit).T, which)

    def from_logits(readout: Readout) -> Tensor:
        places = scored.places(readout)
        return ((logits_of(readout) - _wide(clean.logits[places])) * unit[which[places]]).sum(dim=-1)

    return from_logits


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

    def prepare(scored: Scored, clean: Outputs, steered: Outputs) -> Score:
        ids, rest = (_ids(scored.model, tokens) for tokens in (wanted, others))

        def score(readout: Readout) -> Tensor:
            logits = logits_of(readout)
            reference = logits[:, rest] if others else logits
            return logits[:, ids].logsumexp(dim=-1) - reference.logsumexp(dim=-1)

        return score

    options = {"targets": wanted} | ({"against": others} if others else {})
    return Metric("log_prob", "nats", prepare, options=options, tokens=(*wanted, *others))


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

    def score(readout: Readout) -> Tensor:
        logits, prompt = logits_of(readout), scored.prompts_of(readout)
        reference = together(logits, others[prompt]) if prompts.against else logits.logsumexp(dim=-1)
        return together(logits, wanted[prompt]) - reference

    return score


def _several(tokens: str | int | Sequence[str | int]) -> list[str | int]:
    return [tokens] if isinstance(tokens, str | int) else list(tokens)


def _ids(model: Model, tokens: Sequence[str | int]) -> Int[Tensor, " token"]:
    return torch.tensor(sorted({model.target(t) for t in tokens}), dtype=torch.long, device=model.device)


@gated(error=BadMetric)
def kl() -> Metric:
    """KL(run || clean), in nats: disturbance."""

    def prepare(scored: Scored, clean: Outputs, steered: Outputs) -> Score:
        reference = _wide(clean.logits).log_softmax(dim=-1) if clean.kept else None

        def score(readout: Readout) -> Tensor:
            at = scored.places(readout)
            own = _wide(clean.rows(at)).log_softmax(dim=-1) if reference is None else reference[at]
            return divergence(logits_of(readout), own)

        return score

    return Metric("kl", "nats", prepare, flat_at_clean=True)


def divergence(logits: Float[Tensor, "*rows vocab"], reference: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows"]:
    """KL(softmax(logits) || reference), the reference in log-probabilities, in nats."""
    own = _wide(logits).log_softmax(dim=-1)
    return (own.exp() * (own - reference)).nansum(dim=-1).clamp_min(0.0)  # 0 of tokens that it never says


@gated(error=BadMetric)
def perplexity(continuation: str | Sequence[int] | None = None) -> Metric:
    """Log-perplexity, in nats a token: of the prompt's own tokens, or of a continuation put after it."""

    def prepare(scored: Scored, clean: Outputs, steered: Outputs) -> Score:
        following = scored.next_tokens

        def score(readout: Readout) -> Tensor:
            logits, token = logits_of(readout), following[scored.places(readout)]
            return logits.logsumexp(dim=-1) - logits.gather(1, token[:, None])[:, 0]

        return score

    options = (
        {}
        if continuation is None
        else {"continuation": continuation if isinstance(continuation, str) else list(continuation)}
    )
    return Metric("perplexity", "nats per token", prepare, options=options, needs_next=True)


def logits_of(readout: Readout) -> Float[Tensor, "read vocab"]:
    """The logits of a readout, at least in single precision.

    Raises:
        BadArgument: the run has not read them.
    """
    if readout.logits is None:
        raise BadArgument("a score of logits of a run that has not read them; expected reads='logits'; ask for them")
    return _wide(readout.logits)


def hidden_of(readout: Readout) -> Float[Tensor, "read d_model"]:
    """The final stream of a readout, at least in single precision.

    Raises:
        BadArgument: the run has not read it.
    """
    if readout.hidden is None:
        raise BadArgument("a score of the final stream of a run that has not read it; expected reads='hidden'; ask so")
    return _wide(readout.hidden)


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


METRICS: dict[str, Callable[..., Metric]] = {
    "logit_direction": logit_direction,
    "own_direction": own_direction,
    "log_prob": log_prob,
    "kl": kl,
    "perplexity": perplexity,
}
