"""`Edit`, one change to one activation, and `Variant`, the edits of one prompt in one forward pass."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .errors import BadArgument
from .nodes import Site

Operation = Literal["add", "set", "scale", "hide"]


@dataclass(frozen=True, eq=False)
class Edit:
    """A change at a site.

    Edits are compared by identity: two variants that hold the *same* edit share its computation.

    Attributes:
        site: where. At `pattern`, positions are queries and rows of the value run over keys.
        operation: add the value, set the activation to it, or scale the activation by it; at `pattern` also hide: the
            keys whose value is not 0 are not seen, and the others share the attention among themselves.
        value: `[positions, width]` or `[width]` (repeated); a number for `scale`.
        positions: which positions of the prompt; None for all of them.
    """

    site: Site
    operation: Operation
    value: Tensor | float
    positions: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.operation not in ("add", "set", "scale", "hide"):
            raise BadArgument(
                f"unknown operation {self.operation!r}; expected add, set, scale or hide; choose one"
            )
        if self.operation == "hide" and self.site.name != "pattern":
            raise BadArgument(f"hide at {self.site}; expected a pattern; set or scale other sites")
        if isinstance(self.value, Tensor) != (self.operation != "scale"):
            expected = "a number" if self.operation == "scale" else "a tensor"
            raise BadArgument(
                f"{self.operation} at {self.site} got {type(self.value).__name__}; expected {expected}"
            )
        if isinstance(self.value, Tensor) and self.value.ndim not in (1, 2):
            raise BadArgument(
                f"{self.operation} at {self.site} got a value of shape {list(self.value.shape)}; "
                "expected [width] or [positions, width]"
            )


@dataclass(frozen=True, eq=False)
class Variant:
    """One row of the engine's batch: a prompt by index, and its edits in the order in which they apply."""

    prompt: int
    edits: tuple[Edit, ...] = ()
