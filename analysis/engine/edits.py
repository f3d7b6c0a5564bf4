"""`Edit`, one change to one activation, and `Variant`, the edits of one prompt in one forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.gate import Whole, gated
from steerscope.analysis.model.nodes import SCALES, Site

from .operations import DIRECTED, Directed

Operation = Literal["add", "set", "scale", "hide"] | Directed


@gated
@dataclass(frozen=True, eq=False, repr=False)
class Edit:
    """A change at a site.

    Edits are compared by identity: two variants that hold the *same* edit share its computation.

    Attributes:
        site: where. At `pattern`, positions are queries and rows of the value run over keys.
        operation: add the value, set the activation to it, or scale the activation by it; at `pattern` also hide: the
            keys whose value is not 0 are not seen, and the others share the attention among themselves; elsewhere also
            those that read the activation: `norm_add`, `project`, `clamp`, `stretch`, `rotate` (see `operations`).
        value: `[positions, width]` or `[width]` (repeated); a number for `scale`; directions for those that read.
        positions: which positions of the prompt; None for all of them.
        amount: of an operation that reads; in degrees for `rotate`.
        share: how far an operation that reads goes, from the activation to what it makes of it.

    Raises:
        BadArgument: an operation that the site or the value does not have.
    """

    site: Site
    operation: Operation
    value: Tensor | float
    positions: tuple[int, ...] | None = None
    amount: float = 1.0
    share: float = 1.0

    def __repr__(self) -> str:
        value = list(self.value.shape) if isinstance(self.value, Tensor) else self.value
        where = "all positions" if self.positions is None else f"positions {brief(','.join(map(str, self.positions)))}"
        return f"<Edit {self.operation} {value} at {self.site}, {where}>"

    @gated
    def times(self, share: float) -> "Edit":
        """The same edit with its value times a number; one that reads the activation goes so much of its way."""
        if self.reads:
            return replace(self, share=self.share * float(share))
        return replace(self, value=self.value * float(share))

    @property
    def reads(self) -> bool:
        """Whether what it does depends on the activation: it is not the same in every run."""
        return self.operation in DIRECTED

    def __post_init__(self) -> None:
        if self.reads and self.site.name in ("pattern", *SCALES):
            raise BadArgument(
                f"{self.operation} at {self.site}; expected an activation that has directions; add, set or scale there"
            )
        if self.operation == "hide" and self.site.name != "pattern":
            raise BadArgument(f"hide at {self.site}; expected a pattern; set or scale other sites")
        if isinstance(self.value, Tensor) != (self.operation != "scale"):
            expected = "a number" if self.operation == "scale" else "a tensor"
            raise BadArgument(
                f"{self.operation} at {self.site} got {type(self.value).__name__}; expected {expected}; give one"
            )
        if isinstance(self.value, Tensor) and self.value.ndim not in (1, 2):
            raise BadArgument(
                f"{self.operation} at {self.site} got a value of shape {list(self.value.shape)}; "
                "expected [width] or [positions, width]; reshape it"
            )
        if isinstance(self.value, Tensor) and (
            self.value.is_meta or self.value.is_complex() or self.value.layout != torch.strided
        ):
            raise BadArgument(
                f"{self.operation} at {self.site} got a tensor that is sparse, complex or without values; expected "
                "real numbers; make it dense"
            )


@gated
@dataclass(frozen=True, eq=False, repr=False)
class Variant:
    """One row of the engine's batch: a prompt by index, and its edits in the order in which they apply.

    Attributes:
        base: the edits of the run that its effect is measured against; only delta precision asks (see `delta`).
    """

    prompt: Whole
    edits: tuple[Edit, ...] = ()
    base: tuple[Edit, ...] | None = None

    def __repr__(self) -> str:
        shown = [repr(edit) for edit in self.edits[:1]] + [f"{len(self.edits) - 1} more"] * (len(self.edits) > 1)
        return f"<Variant of prompt {self.prompt}: {' and '.join(shown) or 'no edits'}>"


def added(edits: Sequence[Edit], length: int, width: int) -> Float[Tensor, "pos width"]:
    """What edits that add put there together, at every position of a prompt; in double precision."""
    total = torch.zeros(length, width, dtype=torch.float64)
    for edit in edits:
        assert edit.operation == "add" and isinstance(edit.value, Tensor) and edit.positions is not None
        at = list(edit.positions)
        total[at] += edit.value.double().cpu().expand(len(at), -1)
    return total


def matched(edits: Sequence[Edit], like: Sequence[Edit], length: int, scale: float = 1.0) -> tuple[Edit, ...]:
    """Edits that add, rescaled: what they add together has, at every site and position, the norm of what others add.

    Edits that read the activation stay as they are.

    Args:
        like: the others, at the same sites.
        length: of the prompt.
        scale: times that norm.
    """
    factors: dict[Site, Float[Tensor, "pos 1"]] = {}
    for site in {edit.site for edit in edits if not edit.reads}:
        norms = []
        for group in (edits, like):
            own = [edit for edit in group if edit.site == site and not edit.reads]
            width = max((edit.value.shape[-1] for edit in own if isinstance(edit.value, Tensor)), default=1)
            norms.append(added(own, length, width).norm(dim=-1, keepdim=True))
        factors[site] = torch.where(norms[0] > 0, scale * norms[1] / norms[0].clamp_min(1e-300), 1.0)
    found = []
    for edit in edits:
        if edit.reads:
            found.append(edit)
            continue
        assert isinstance(edit.value, Tensor) and edit.positions is not None
        value = edit.value.double().cpu().expand(len(edit.positions), -1) * factors[edit.site][list(edit.positions)]
        found.append(replace(edit, value=value.to(edit.value)))
    return tuple(found)


def changed_at(edit: Edit) -> tuple[int, ...] | None:
    """The positions that an edit may change, without those where it adds zero; None for all."""
    if edit.positions is None or edit.operation != "add" or not isinstance(edit.value, Tensor) or edit.value.ndim < 2:
        return edit.positions
    rows = edit.value.any(dim=1).tolist()
    return edit.positions if len(rows) == 1 else tuple(p for p, row in zip(edit.positions, rows, strict=True) if row)


def touched(edits: Sequence[Edit]) -> tuple[int, ...]:
    """The positions that edits of an injection change, rows of zeros left out."""
    found: set[int] = set()
    for edit in edits:
        assert isinstance(edit.value, Tensor) and edit.positions is not None
        rows = edit.value.expand(len(edit.positions), -1).any(dim=1).tolist()
        found |= {p for p, row in zip(edit.positions, rows, strict=True) if row}
    return tuple(sorted(found))
