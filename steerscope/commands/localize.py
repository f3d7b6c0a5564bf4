"""`steerscope localize`: which heads and MLPs carry a steering vector."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from steerscope.commands.question import asks

if TYPE_CHECKING:
    from steerscope.analysis.question.experiment import Experiment
    from steerscope.analysis.results.result import Result


class Method(StrEnum):
    exact = "exact"
    screen = "screen"
    gradient = "gradient"
    relp = "relp"
    atp = "atp"
    ig = "ig"
    shapley = "shapley"


EXAMPLE = """
Example:

    steerscope localize --model tinystories-2l --plus " wedding" --minus " " --layer 0 --coef 3
    --prompts prompts.txt --metric log_prob --targets " wedding, bride" --out out/wedding

Writes effects.parquet and other tables, manifest.json and report.html into the folder.
"""


def analyse(
    experiment: "Experiment",
    *,
    level: float,
    alpha: float,
    method: Annotated[
        Method,
        typer.Option(
            help="exact patches every node; screen ranks by gradients and patches the best; gradient, relp, atp and ig "
            "estimate from gradients; shapley shares the effect out."
        ),
    ] = Method.exact,
    completions: Annotated[int, typer.Option(help="Prompts to complete with and without the injection.")] = 4,
) -> "Result":
    """Which heads and MLPs carry a steering vector: necessity and sufficiency of each, with controls."""
    from steerscope.analysis.carriers.localize import METHODS

    own = {"completions": completions} if method is Method.exact else {}
    return METHODS[method.value](experiment, level=level, alpha=alpha, **own)


analyse.__doc__ = (analyse.__doc__ or "") + "\n" + EXAMPLE
localize = asks(analyse)
