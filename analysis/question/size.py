"""How large what is injected may be, and how small: what the numbers of a model's dtype hold.

1. A norm squares the stream and sums the squares, halves in single precision, too. A sum that overflows is infinite:
   the norm then divides by it, and the vector counts as nothing, without a sign of it.
2. Each number of the stream must be one of the dtype.
3. What is less than a unit in the last place of all that it is added to is nothing: what is measured is no effect.

Of several injections the sizes are added, wherever they stand: all may meet in one stream. References have the norm of
the real vector, and so its bounds.
"""

import math
from collections.abc import Mapping, Sequence
from operator import mul
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.errors import BadInjection
from steerscope.analysis.model.models import Model

if TYPE_CHECKING:
    from .injection import Injection

SPARE = 1024  # between the largest norm and the first that overflows: layers add to the stream and stretch it
SPARE_ENTRY = 4  # the same of single numbers: a reference of the same norm has larger ones


def bounds(dtype: torch.dtype) -> tuple[float, float]:
    """The largest number, and the largest norm, of what is added at one position."""
    single = torch.finfo(torch.float32)  # a vector's values are
    squares = torch.finfo(torch.float64) if dtype == torch.float64 else single
    return min(torch.finfo(dtype).max, single.max) / SPARE_ENTRY, squares.max**0.5 / SPARE


def largest(model: Model, injections: "Sequence[Injection]") -> float:
    """What the largest coefficient of injections may be at most, all others in proportion; infinite where nothing is
    added.
    """
    entry, norm = _unit(injections)
    most, longest = bounds(model.dtype)
    return min((bound / own for bound, own in ((most, entry), (longest, norm)) if own), default=math.inf)


def check_size(model: Model, injections: "Sequence[Injection]") -> None:
    """Refuses injections that the model's numbers do not hold, or that they round to nothing.

    Raises:
        BadInjection: it says the largest coefficient that is allowed, or the smallest.
    """
    coefficient, most = _coefficient(injections), largest(model, injections)
    entry, norm = _unit(injections)
    dtype = str(model.dtype).removeprefix("torch.")
    said = f"a coefficient of {coefficient:.3g} times a vector of norm {norm:.3g}"
    if coefficient > most:
        other = "" if model.dtype in (torch.float32, torch.float64) else ", or load the model with dtype='float32'"
        raise BadInjection(
            f"{said} is more than the numbers of {model.name} hold ({dtype}); expected a coefficient of at most "
            f"{most:.3g}; choose a smaller one{other}"
        )
    least = max(torch.finfo(model.dtype).smallest_normal, torch.finfo(torch.float32).smallest_normal)
    if coefficient and entry and coefficient * entry < least:
        raise BadInjection(
            f"{said} is rounded to nothing in {dtype}; expected a coefficient of at least {least / entry:.3g}; choose "
            "a larger one, or 0"
        )


def is_lost(edits: Sequence[Edit], kept: Mapping[tuple[str, int], Tensor]) -> bool:
    """Whether all that edits add to activations is rounded away there.

    Args:
        kept: the activations that it is added to, by (site, layer): `[pos, ...]`.
    """
    for edit in edits:
        assert isinstance(edit.value, Tensor) and edit.positions is not None
        x = kept[edit.site.name, edit.site.layer]
        x = (x if edit.site.head is None else x[:, edit.site.head])[list(edit.positions)]
        if not torch.equal(x + edit.value.to(x), x):
            return False
    return True


def _coefficient(injections: "Sequence[Injection]") -> float:
    return max((abs(float(i.coefficient)) for i in injections), default=0.0)


def _unit(injections: "Sequence[Injection]") -> tuple[float, float]:
    """The largest number and the largest norm of injections together, where the largest coefficient is 1."""
    whole = _coefficient(injections) or 1.0
    shares = [abs(i.coefficient) / whole for i in injections]
    entries = [float(i.vector.values.abs().max()) for i in injections]
    norms = [float(i.vector.norms.max()) for i in injections]
    return sum(map(mul, shares, entries)), sum(map(mul, shares, norms))
