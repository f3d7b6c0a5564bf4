"""What may be asked of an experiment: every fault of an argument is refused before a run."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.errors import BadArgument, BadInjection
from steerscope.analysis.model.models import Model

from .injection import Injection, puts
from .outputs import Outputs
from .size import check_size


def check_injections(model: Model, injections: Sequence[Injection], count: int | None = None) -> None:
    """Raises `BadInjection` or `BadNode` where they do not fit the model, or are none, or not `count`."""
    if not injections or len(injections) != (count or len(injections)):
        raise BadInjection(
            f"{len(injections) or 'no'} injections given; expected {count or 'at least one'}; make one with "
            "Injection(vector, coefficient)"
        )
    for injection in injections:
        injection.check(model)
        if injection.during == "generation":
            raise BadInjection(
                f"{injection!r} edits generated tokens alone, and an analysis reads prompts; expected an injection "
                "during prompt or both; generate with it, or give the text as a prompt"
            )
    check_size(model, puts(injections))


def check_adds(injections: Sequence[Injection], question: str, why: str) -> None:
    """Refuses injections that do not add.

    Args:
        why: what the question needs an addition for, in words.

    Raises:
        BadInjection: an operation other than add.
    """
    others = [injection for injection in injections if injection.operation != "add"]
    if others:
        raise BadInjection(
            f"{question} of {others[0]!r}: {why}, which {others[0].operation} has not; expected the operation add; ask "
            "localize, edges or trace, which take every operation"
        )


def check_vector(vector: int, count: int) -> int:
    """A vector of `count`, the real one among them.

    Raises:
        BadArgument: there are not so many.
    """
    if vector >= count:
        raise BadArgument(
            f"vector {vector} of an experiment with {count - 1} references; expected 0 for the real one, or 1 to "
            f"{count - 1} for a reference; choose one"
        )
    return vector


def check_edits(edits: Sequence[Sequence[Edit]], count: int) -> None:
    """Raises `BadArgument` where there are not edits of each of `count` prompts."""
    if len(edits) != count:
        raise BadArgument(
            f"edits of {len(edits)} prompts, there are {count}; expected edits of each, in their order; give an empty "
            "tuple where there is none"
        )


def check_values(values: NDArray[np.float64], count: int) -> None:
    """Raises `BadArgument` where values are no numbers, one for each of `count` prompts."""
    if values.dtype.kind not in "fiu" or values.shape[-1:] != (count,):
        raise BadArgument(
            f"values of the shape {list(values.shape)} ({values.dtype}); expected numbers, one for each of {count} "
            "prompts; give a column for each"
        )


def check_outputs(outputs: Outputs, like: Outputs) -> None:
    """Raises `BadArgument` where outputs are of other prompts or positions than others."""
    if outputs.shape != like.shape:
        raise BadArgument(
            f"{outputs!r} beside {like!r}; expected outputs of the same prompts; take them of this experiment"
        )
