"""`Injection` = vector x coefficient x site x positions; several compose by standing in a list."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from steerscope.analysis.brief import brief
from steerscope.analysis.engine.edits import Edit, matched
from steerscope.analysis.errors import BadInjection
from steerscope.analysis.gate import Whole, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.model.positions import Layout, Positions, parse_positions
from steerscope.analysis.vectors.vector import SteeringVector

from .size import check_size


@gated(error=BadInjection)
@dataclass(frozen=True, eq=False, repr=False)
class Injection:
    """A vector added to an activation of a prompt.

    Attributes:
        vector: what is added.
        coefficient: multiplies it.
        layer: where; the vector's own layer by default.
        positions: `front` (row i on position i, BOS on BOS; the default), `middle`, `back`, `last`,
            `all`, or indices. `last`, `all` and indices leave the vector's zero row for BOS out.

    Raises:
        BadInjection: coefficient or positions that make no sense.
    """

    vector: SteeringVector
    coefficient: float = 1.0
    layer: Whole | None = None
    positions: Positions | str | int | Sequence[int] = "front"

    def __post_init__(self) -> None:
        given = self.positions
        object.__setattr__(
            self, "positions", parse_positions(given if isinstance(given, Positions | str | int) else tuple(given))
        )
        rows = self._vector.rows
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
        what = f"{self.coefficient:g} x ({brief(self.vector.label)})"
        return f"<Injection {what} at {self.site}, positions {brief(str(self.place))}>"

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
        if self.vector.values.shape[1] != model.width(self.site):
            raise BadInjection(
                f"the vector has width {self.vector.values.shape[1]}, {model.name} has {model.width(self.site)} at "
                f"{self.site}; expected a vector recorded on this model; make it again there"
            )
        check_size(model, [self])

    @gated(error=BadInjection)
    def where(self, prompt: Layout) -> tuple[int, ...]:
        """The positions of a prompt that it edits."""
        return self.place.resolve(prompt, self._vector.rows)

    @gated(error=BadInjection)
    def edit(self, prompt: Layout) -> Edit:
        """What the engine does to a prompt."""
        return Edit(self.site, "add", float(self.coefficient) * self._vector.values, self.where(prompt))

    def describe(self) -> dict[str, Any]:
        """What the manifest says of the injection."""
        return {
            "vector": self.vector.describe(),
            "coefficient": self.coefficient,
            "site": str(self.site),
            "positions": str(self.place),
        }


def compose(injections: Injection | Sequence[Injection], prompt: Layout) -> tuple[Edit, ...]:
    """All edits of one or several injections on a prompt."""
    several = [injections] if isinstance(injections, Injection) else injections
    return tuple(injection.edit(prompt) for injection in several)


def composed(injections: Sequence[Injection], real: Sequence[Injection] | None, prompt: Layout) -> tuple[Edit, ...]:
    """The same; with `real` ones, what is added together has, at each site and position, the norm of what those add."""
    made = compose(injections, prompt)
    if real is None:
        return made
    pairs = zip(injections, real, strict=True)
    scale = next((one.coefficient / own.coefficient for one, own in pairs if own.coefficient), 1.0)
    return matched(made, compose(real, prompt), prompt.length, abs(scale))
