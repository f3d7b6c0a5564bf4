"""`steerscope trace`: norms, angles and predictions layer by layer."""

from typing import TYPE_CHECKING, Annotated

import typer

from steerscope.commands.question import asks

if TYPE_CHECKING:
    from steerscope.analysis.question.experiment import Experiment
    from steerscope.analysis.results.result import Result

Lens = Annotated[
    str | None, typer.Option(help="Folder of a tuned lens, a published name, or logit; by default the model's own.")
]


def analyse(experiment: "Experiment", *, level: float, alpha: float, lens: Lens = None) -> "Result":
    """The injected part on its way through every norm, and what each layer would predict.

    Example: steerscope trace --model tinystories-2l --plus " wedding" --layer 0 --coef 3 --prompts prompts.txt
        --out out/trace
    """
    from steerscope.analysis.lens.lens import load_lens
    from steerscope.analysis.trace import trace

    return trace(experiment, lens=load_lens(experiment.model, lens), level=level, alpha=alpha)


trace = asks(analyse)
