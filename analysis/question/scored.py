"""`Scored`: the positions that a metric reads, of all prompts in one row; and the outputs of runs there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerscope.analysis.brief import counted
from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.finite import check_logits
from steerscope.analysis.engine.run import Readout, Reads, run
from steerscope.analysis.errors import BadMetric
from steerscope.analysis.model.models import Model

from .outputs import Outputs
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
        return self._table[readout.prompt, readout.position]  # type: ignore[attr-defined, no-any-return]

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
