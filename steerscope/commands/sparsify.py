"""`steerscope sparsify`: how few dimensions of a vector keep its effect."""

from typing import TYPE_CHECKING, Annotated

import typer

from steerscope.commands.question import asks

if TYPE_CHECKING:
    from steerscope.analysis.question.experiment import Experiment
    from steerscope.analysis.results.result import Result


def analyse(
    experiment: "Experiment",
    *,
    level: float,
    alpha: float,
    keep: Annotated[float, typer.Option(help="Share of the effect to keep.")] = 0.9,
) -> "Result":
    """How few dimensions of the vector keep its effect: by size, by gradient, the first, at random.

    Example: steerscope sparsify --model tinystories-2l --plus " wedding" --layer 0 --coef 3 --prompts prompts.txt
        --out out/sparsify
    """
    from steerscope.analysis.origin.sparsify import sparsify

    return sparsify(experiment, keep=keep, level=level, alpha=alpha)


sparsify = asks(analyse)
