"""`steerscope positions`: where in the prompt carriers write and read."""

from typing import TYPE_CHECKING, Annotated

import typer

from steerscope.commands.question import asks

if TYPE_CHECKING:
    from steerscope.analysis.experiment import Experiment
    from steerscope.analysis.results import Result


def analyse(
    experiment: "Experiment",
    *,
    level: float,
    alpha: float,
    nodes: Annotated[
        str | None, typer.Option(help="Nodes such as L0M,L1H5; the strongest by default.")
    ] = None,
) -> "Result":
    """Where in the prompt each carrier writes and reads the vector: exact effects by node and place.

    Example: steerscope positions --model tinystories-2l --plus " wedding" --layer 0 --coef 3 --prompts prompts.txt --out out/positions
    """
    from steerscope.analysis.attribution.positions import by_position

    return by_position(
        experiment, nodes=nodes.split(",") if nodes else None, level=level, alpha=alpha
    )


positions = asks(analyse)
