"""`steerscope breakdown`: why large coefficients break a model, or why they do not."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerscope.analysis.errors import BadArgument
from steerscope.commands.question import asks
from steerscope.commands.trace import Lens

if TYPE_CHECKING:
    from steerscope.analysis.question.experiment import Experiment
    from steerscope.analysis.results.result import Result


def analyse(
    experiment: "Experiment",
    *,
    level: float,
    alpha: float,
    coefficients: Annotated[
        str | None, typer.Option(help="Coefficients to try, separated by commas; 81 from -10,000 to 10,000 by default.")
    ] = None,
    on_topic: Annotated[
        Path | None, typer.Option(help="Texts on the vector's topic, to measure their loss, too.")
    ] = None,
    broken_at: Annotated[
        float | None, typer.Option(help="Coefficient whose damage is explained; found by default.")
    ] = None,
    loss: Annotated[float, typer.Option(help="Share of the perplexity that a safe coefficient may cost.")] = 0.1,
    lens: Lens = None,
) -> "Result":
    """What a large coefficient does, from minus to plus infinity: safe range, limits, causes, remedies.

    Example: steerscope breakdown --model tinystories-2l --plus " wedding" --layer 0 --coef 3 --prompts prompts.txt
        --out out/breakdown
    """
    from steerscope.analysis.breakdown.breakdown import breakdown_of
    from steerscope.analysis.lens.lens import load_lens
    from steerscope.analysis.question.prompts import make_prompts, read_prompts

    topic = None if on_topic is None else make_prompts(experiment.model, read_prompts(on_topic))
    return breakdown_of(
        experiment,
        coefficients=_numbers(coefficients),
        on_topic=topic,
        lens=load_lens(experiment.model, lens),
        broken_at=broken_at,
        loss=loss,
        level=level,
    )


def _numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise BadArgument(
            f"--coefficients {text!r}; expected numbers separated by commas; for example 1,10,100"
        ) from error


breakdown = asks(analyse)
