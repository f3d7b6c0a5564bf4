"""`steerscope positions`: where in the prompt carriers write and read."""

from typing import TYPE_CHECKING

from steerscope.commands.question import Nodes, asks, listed

if TYPE_CHECKING:
    from steerscope.analysis.question.experiment import Experiment
    from steerscope.analysis.results.result import Result


def analyse(experiment: "Experiment", *, level: float, alpha: float, nodes: Nodes = None) -> "Result":
    """Where in the prompt each carrier writes and reads the vector: exact effects by node and place.

    Example: steerscope positions --model tinystories-2l --plus " wedding" --layer 0 --coef 3 --prompts prompts.txt
        --out out/positions
    """
    from steerscope.analysis.routes.by_position import by_position

    return by_position(experiment, nodes=listed(nodes), level=level, alpha=alpha)


positions = asks(analyse)
