"""`Readout`: what was read of a chunk of variants."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerscope.analysis.brief import brief, counted

from .edits import Variant

Reads = Literal["logits", "hidden", "none"]


@dataclass(frozen=True, eq=False, repr=False)
class Readout:
    """What a chunk of variants gave.

    Attributes:
        variants: the variants of this chunk, in order; `row` below counts within them.
        row: the variant that each read position belongs to.
        position: its position in the prompt.
        logits: `None` unless `reads="logits"`.
        hidden: the stream after the final norm, what the unembedding reads; `None` for `reads="none"`.
        activations: by (site name, layer): `[rows, pos, ...]`, edits included, padded on the right.
    """

    variants: Sequence[Variant]
    row: Int[Tensor, " read"]
    position: Int[Tensor, " read"]
    logits: Float[Tensor, "read vocab"] | None
    hidden: Float[Tensor, "read d_model"] | None
    activations: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        given = {"logits": self.logits, "hidden": self.hidden}
        read = [name for name, x in given.items() if x is not None] + [f"L{layer}.{s}" for s, layer in self.activations]
        what = f"{counted(len(self.variants), 'variant')}, {counted(len(self.row), 'position')}"
        return f"<Readout of {what}: {brief(', '.join(read) or 'nothing')}>"

    @property
    def prompt(self) -> Int[Tensor, " read"]:
        """The prompt of each read position."""
        return torch.tensor([v.prompt for v in self.variants], device=self.row.device)[self.row]

    def mean(self, values: Float[Tensor, " read"]) -> Float[Tensor, " rows"]:
        """Means over the read positions of each row."""
        rows = len(self.variants)
        total = torch.zeros(rows, dtype=values.dtype, device=values.device).index_add(0, self.row, values)
        count = torch.bincount(self.row, minlength=rows)
        return total / count
