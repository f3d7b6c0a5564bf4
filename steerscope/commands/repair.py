"""`steerscope repair`: what later nodes do when a carrier is removed."""

from typing import TYPE_CHECKING

from steerscope.commands.question import Nodes, asks, listed

if TYPE_CHECKING:
    from steerscope.analysis.question.experiment import Experiment
    from steerscope.analysis.results.result import Result


def analyse(experiment: "Experiment", *, level: float, alpha: float, nodes: Nodes = None) -> "Result":
    """What later nodes and the final norm do when a carrier is removed: self-repair, exactly.

    Example: steerscope repair --model tinystories-2l --plus " wedding" --layer 0 --coef 3 --prompts prompts.txt
        --out out/repair
    """
    from steerscope.analysis.routes.self_repair import self_repair

    return self_repair(experiment, nodes=listed(nodes), level=level, alpha=alpha)


repair = asks(analyse)
