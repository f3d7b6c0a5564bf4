"""`steerscope writers`: which nodes wrote a steering vector."""

from typing import TYPE_CHECKING

from steerscope.commands.question import asks

if TYPE_CHECKING:
    from steerscope.analysis.question.experiment import Experiment
    from steerscope.analysis.results.result import Result


def analyse(experiment: "Experiment", *, level: float, alpha: float) -> "Result":
    """Who wrote a steering vector: the exact parts that the embedding, heads and MLPs put into it, and what each does.

    Example: steerscope writers --model tinystories-2l --plus " wedding" --layer 1 --coef 3 --prompts prompts.txt
        --out out/writers
    """
    from steerscope.analysis.origin.writers import writers

    return writers(experiment, level=level, alpha=alpha)


writers = asks(analyse)
