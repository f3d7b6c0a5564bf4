"""`steerscope paths`: the way of an effect through the model."""

from typing import TYPE_CHECKING, Annotated

import typer

from steerscope.analysis.errors import BadArgument
from steerscope.commands.question import asks

if TYPE_CHECKING:
    from steerscope.analysis.question.experiment import Experiment
    from steerscope.analysis.results.result import Result


def analyse(
    experiment: "Experiment",
    *,
    level: float,
    alpha: float,
    sender: Annotated[
        str | None, typer.Option("--from", help="Path patching: injection or nodes such as L0M,L0H3.")
    ] = None,
    receiver: Annotated[str | None, typer.Option("--to", help="Inputs such as L1H5.q,L1M, or logits.")] = None,
    steps: Annotated[int, typer.Option(help="Points along the coefficient.")] = 5,
    verify: Annotated[int, typer.Option(help="Strongest edges that are patched exactly.")] = 20,
) -> "Result":
    """Draws the graph of an effect: injection, carriers, logits; or patches single paths exactly (--from, --to).

    Example: steerscope paths --model tinystories-2l --plus " wedding" --layer 0 --coef 3 --prompts prompts.txt
        --out out/paths
    """
    if (sender is None) != (receiver is None):
        raise BadArgument("got one of --from and --to; expected both, or neither for the whole graph; give the other")
    if sender is not None and receiver is not None:
        from steerscope.analysis.routes.path_effect import path_effect

        return path_effect(experiment, sender.split(","), receiver.split(","), level=level, alpha=alpha)
    from steerscope.analysis.routes.edges import edges

    return edges(experiment, steps=steps, verify=verify, level=level, alpha=alpha)


paths = asks(analyse)
