"""How large what is injected may be, and how small: what the numbers of a model's dtype hold.

1. A norm squares the stream and sums the squares, halves in single precision, too. A sum that overflows is infinite:
   the norm then divides by it, and the vector counts as nothing, without a sign of it.
2. Each number of the stream must be one of the dtype.
3. What is less than a unit in the last place of all that it is added to is nothing: what is measured is no effect.

Of several injections the sizes are added, wherever they stand: all may meet in one stream. References have the norm of
the real vector, and so its bounds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from operator import mul
from typing import Protocol

import torch
from torch import Tensor

from steerscope.analysis.brief import brief
from steerscope.analysis.engine.edits import Edit, touched
from steerscope.analysis.errors import BadInjection
from steerscope.analysis.model.models import HOOKS, Model
from steerscope.analysis.vectors.vector import SteeringVector

SPARE = 1024  # between the largest norm and the first that overflows: layers add to the stream and stretch it
SPARE_ENTRY = 4  # the same of single numbers: a reference of the same norm has larger ones


class Added(Protocol):
    """What an injection is to its size."""

    @property
    def vector(self) -> SteeringVector:
        """What is added."""

    @property
    def coefficient(self) -> float:
        """Multiplies it."""

    @property
    def operation(self) -> str:
        """What is done with it."""


def bounds(dtype: torch.dtype) -> tuple[float, float]:
    """The largest number, and the largest norm, of what is added at one position."""
    single = torch.finfo(torch.float32)  # a vector's values are
    squares = torch.finfo(torch.float64) if dtype == torch.float64 else single
    return min(torch.finfo(dtype).max, single.max) / SPARE_ENTRY, squares.max**0.5 / SPARE


def largest(model: Model, injections: Sequence[Added]) -> float:
    """What the largest coefficient of injections may be at most, all others in proportion; infinite where nothing is
    added.
    """
    entry, norm = _unit(injections)
    most, longest = bounds(model.dtype)
    return min((bound / own for bound, own in ((most, entry), (longest, norm)) if own), default=math.inf)


def check_size(model: Model, injections: Sequence[Added]) -> None:
    """Refuses injections that the model's numbers do not hold, or that they round to nothing.

    Raises:
        BadInjection: it says the largest coefficient that is allowed, or the smallest.
    """
    coefficient, most = _coefficient(injections), largest(model, injections)
    entry, norm = _unit(injections)
    dtype = _name(model)
    said = f"a coefficient of {coefficient:.3g} times a vector of norm {norm:.3g}"
    if coefficient > most:
        other = "" if model.dtype in (torch.float32, torch.float64) else ", or load the model with dtype='float32'"
        raise BadInjection(
            f"{said} is more than the numbers of {model.name} hold ({dtype}); expected a coefficient of at most "
            f"{0.99 * most:.3g}; choose a smaller one{other}"  # what is told is allowed, however it is rounded
        )
    least = max(torch.finfo(model.dtype).smallest_normal, torch.finfo(torch.float32).smallest_normal)
    if coefficient and entry and coefficient * entry < least:
        raise BadInjection(
            f"{said} is rounded to nothing in {dtype}; expected a coefficient of at least "
            f"{1.01 * least / entry:.3g}; choose a larger one, or 0"
        )


def check_moved(
    model: Model,
    injections: Sequence[Added],
    edits: Sequence[Sequence[Edit]],
    activations: Callable[[Sequence[tuple[str, int]]], Sequence[Mapping[tuple[str, int], Tensor]]],
) -> None:
    """Of injections that change nothing that comes out: refuses them, where that is rounding (see `check_lost`).

    Args:
        activations: gives those of the clean run at some sites, by prompt.
    """
    sites = sorted({(edit.site.name, edit.site.layer) for own in edits for edit in own})
    adds = all(injection.operation == "add" for injection in injections)
    if adds and all(name in HOOKS and name != "pattern" for name, _ in sites):
        check_lost(model, injections, edits, activations(sites))


def check_lost(
    model: Model,
    injections: Sequence[Added],
    edits: Sequence[Sequence[Edit]],
    kept: Sequence[Mapping[tuple[str, int], Tensor]],
) -> None:
    """Refuses injections that add something, all of which is rounded away where it is added.

    Args:
        edits: what they do, by prompt.
        kept: by prompt, the activations that it is added to, by (site, layer): `[pos, ...]`.

    Raises:
        BadInjection: nothing of it is left.
    """
    if any(map(touched, edits)) and all(_is_lost(own, x) for own, x in zip(edits, kept, strict=True)):
        raise BadInjection(
            f"what is injected ({brief(', '.join(map(repr, injections)), 200)}) is so small that all of it is rounded "
            f"away in {_name(model)}; expected a coefficient that changes the stream; choose a larger one"
        )


def _is_lost(edits: Sequence[Edit], kept: Mapping[tuple[str, int], Tensor]) -> bool:
    for edit in edits:
        assert isinstance(edit.value, Tensor) and edit.positions is not None
        x = kept[edit.site.name, edit.site.layer]
        x = (x if edit.site.head is None else x[:, edit.site.head])[list(edit.positions)]
        if not torch.equal(x + edit.value.to(x), x):
            return False
    return True


def _name(model: Model) -> str:
    return str(model.dtype).removeprefix("torch.")


def _coefficient(injections: Sequence[Added]) -> float:
    return max((abs(float(i.coefficient)) for i in injections), default=0.0)


def _unit(injections: Sequence[Added]) -> tuple[float, float]:
    """The largest number and the largest norm of injections together, where the largest coefficient is 1."""
    whole = _coefficient(injections) or 1.0
    shares = [abs(i.coefficient) / whole for i in injections]
    entries = [float(i.vector.values.abs().max()) for i in injections]
    norms = [float(i.vector.norms.max()) for i in injections]
    return sum(map(mul, shares, entries)), sum(map(mul, shares, norms))
