"""`Injection` = vector x coefficient x site x positions x operation; several compose by standing in a list.

They act in the order of the list; what an operation reads of the stream is what those before it have left.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from steerscope.analysis.brief import brief
from steerscope.analysis.engine.edits import Edit, matched
from steerscope.analysis.errors import BadInjection
from steerscope.analysis.gate import Whole, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import SCALES, Site
from steerscope.analysis.model.positions import Layout, Positions, parse_positions
from steerscope.analysis.results.operations import said
from steerscope.analysis.vectors.vector import SteeringVector

from .size import check_size

Operation = Literal["add", "ablate", "set", "clamp", "scale", "rotate", "norm_add"]
During = Literal["prompt", "generation", "both"]
PUTS = ("add", "norm_add", "set", "clamp")  # coefficient times vector is what is put there
BOUNDS = {"ablate": (0.0, 1.0), "rotate": (-180.0, 180.0), "scale": (-1e6, 1e6)}  # of coefficients
_UNITS = "a share for ablate, degrees for rotate, a factor for scale"


@gated(error=BadInjection)
@dataclass(frozen=True, eq=False, repr=False)
class Injection:
    """A vector put into an activation: added to it, or any other operation with its direction.

    Attributes:
        vector: what is added; its direction, for the other operations, row by row.
        coefficient: by operation, with x the activation and r the direction of the vector v:
            add: x + coefficient v.
            norm_add: the same, scaled back to the norm of x.
            set: the component of x along r becomes coefficient |v|, as that of coefficient v is.
            clamp: the same where it is larger; for a lower bound take the opposite vector and coefficient.
            scale: the component of x along r, times the coefficient.
            ablate: the share of that component that is taken away: 1 for all of it.
            rotate: by so many degrees, -180 to 180, x is turned towards r in their plane.
        layer: where; the vector's own layer by default.
        positions: `front` (row i on position i, BOS on BOS; the default), `middle`, `back`, `last`,
            `all`, or indices. `last`, `all` and indices leave the vector's zero row for BOS out.
        operation: `add` (the default), `ablate`, `set`, `clamp`, `scale`, `rotate` or `norm_add`.
        during: what `generate` edits: these positions of the `prompt`, every token of the `generation`, or `both`.

    Raises:
        BadInjection: coefficient, positions or operation that make no sense.
    """

    vector: SteeringVector
    coefficient: float = 1.0
    layer: Whole | None = None
    positions: Positions | str | int | Sequence[int] = "front"
    operation: Operation = "add"
    during: During = "prompt"

    def __post_init__(self) -> None:
        given = self.positions
        object.__setattr__(
            self, "positions", parse_positions(given if isinstance(given, Positions | str | int) else tuple(given))
        )
        low, high = BOUNDS.get(self.operation, (-float("inf"), float("inf")))
        if not low <= self.coefficient <= high:
            raise BadInjection(
                f"{self.operation} with the coefficient {self.coefficient:g}; expected {low:g} to {high:g}: {_UNITS}; "
                "choose another"
            )
        rows = self._vector.rows
        if self.during != "prompt" and self.vector.body.rows > 1:
            raise BadInjection(
                f"the vector has {self.vector.body.rows} rows and a generated token takes one; expected a single row; "
                "use vector.row(-1) or vector.mean()"
            )
        if self.place.repeats and rows > 1:
            raise BadInjection(
                f"the vector has {rows} rows and positions {self.place} take one; "
                "expected a single row; use vector.row(-1) or vector.mean()"
            )
        if self.place.indices and rows not in (1, len(self.place.indices)):
            raise BadInjection(
                f"the vector has {rows} rows for {len(self.place.indices)} positions; expected one row, or one for "
                "each; use vector.row(-1), or as many positions"
            )

    def __repr__(self) -> str:
        what = said(self.operation, self.coefficient, brief(self.vector.label), "x")
        when = "" if self.during == "prompt" else f", during {self.during}"
        return f"<Injection {what} at {self.site}, positions {brief(str(self.place))}{when}>"

    @property
    def place(self) -> Positions:
        return self.positions  # type: ignore[return-value]  # parsed above

    @property
    def _vector(self) -> SteeringVector:
        """The rows that are put somewhere: all of them in one piece, or without the zero row for BOS."""
        return self.vector if self.place.place in ("front", "middle", "back") else self.vector.body

    @property
    def site(self) -> Site:
        site = self.vector.site
        return site if self.layer is None else replace(site, layer=self.layer)

    @gated(error=BadInjection)
    def check(self, model: Model) -> None:
        """Raises `BadInjection` or `BadNode` where it does not fit the model, or its numbers (see `size`)."""
        model.check(self.site)
        if self.operation != "add" and self.site.name in ("pattern", *SCALES):
            raise BadInjection(
                f"{self.operation} at {self.site}; expected an activation that has directions; inject at resid_pre, z, "
                "attn_out or mlp_out"
            )
        if self.vector.values.shape[1] != model.width(self.site):
            raise BadInjection(
                f"the vector has width {self.vector.values.shape[1]}, {model.name} has {model.width(self.site)} at "
                f"{self.site}; expected a vector recorded on this model; make it again there"
            )
        check_size(model, puts([self]))

    @gated(error=BadInjection)
    def where(self, prompt: Layout) -> tuple[int, ...]:
        """The positions of a prompt that it edits."""
        return self.place.resolve(prompt, self._vector.rows)

    @gated(error=BadInjection)
    def edit(self, prompt: Layout) -> Edit:
        """What the engine does to a prompt."""
        return self._edit(self._vector.values, self.where(prompt))

    @gated(error=BadInjection)
    def generated(self, at: Sequence[Whole]) -> Edit:
        """What it does to generated tokens, at positions of the text: the vector's last row, at each of them."""
        return self._edit(self.vector.body.values[-1:], tuple(at))

    def _edit(self, values: Tensor, at: tuple[int, ...]) -> Edit:
        c = float(self.coefficient)
        if self.operation in ("add", "norm_add"):
            return Edit(self.site, self.operation, c * values, at)
        if self.operation in ("set", "clamp"):
            return Edit(self.site, "project" if self.operation == "set" else "clamp", values, at, amount=c)
        if self.operation == "rotate":
            return Edit(self.site, "rotate", values, at, amount=c)
        return Edit(self.site, "stretch", values, at, amount=1 - c if self.operation == "ablate" else c)

    def describe(self) -> dict[str, Any]:
        """What the manifest says of the injection."""
        return {
            "vector": self.vector.describe(),
            "coefficient": self.coefficient,
            "site": str(self.site),
            "positions": str(self.place),
            "operation": self.operation,
            "during": self.during,
        }


def puts(injections: Sequence[Injection]) -> list[Injection]:
    """Those whose coefficient times vector is put into the stream: their size counts."""
    return [injection for injection in injections if injection.operation in PUTS]


def compose(injections: Injection | Sequence[Injection], prompt: Layout) -> tuple[Edit, ...]:
    """All edits of one or several injections on a prompt."""
    several = [injections] if isinstance(injections, Injection) else injections
    return tuple(injection.edit(prompt) for injection in several)


def composed(injections: Sequence[Injection], real: Sequence[Injection] | None, prompt: Layout) -> tuple[Edit, ...]:
    """The same; with `real` ones, what is added together has, at each site and position, the norm of what those add."""
    made = compose(injections, prompt)
    if real is None:
        return made
    pairs = [(one, own) for one, own in zip(injections, real, strict=True) if own.operation == "add"]
    scale = next((one.coefficient / own.coefficient for one, own in pairs if own.coefficient), 1.0)
    return matched(made, compose(real, prompt), prompt.length, abs(scale))
