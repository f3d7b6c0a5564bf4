"""`localize`: which nodes carry an injection's effect, by any of `METHODS`."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.gate import Level, Share, gated
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.result import Result

from .attribute import attribute
from .exact import exact
from .screen import screen
from .shapley import shapley

METHODS: dict[str, Callable[..., Result]] = {
    "exact": exact,
    "screen": screen,
    "gradient": partial(attribute, method="gradient"),
    "relp": partial(attribute, method="relp"),
    "atp": partial(attribute, method="atp*"),
    "ig": partial(attribute, method="ig"),
    "shapley": shapley,
}
OURS = ("experiment", "method", "level", "alpha", "smallest")


@gated
def localize(
    experiment: Experiment,
    *,
    method: Literal["exact", "screen", "gradient", "relp", "atp", "ig", "shapley"] = "exact",
    level: Level = 0.95,
    alpha: Level = 0.05,
    smallest: Share = 0.02,
    **knobs: Any,
) -> Result:
    """Which heads and MLPs carry the effect of an injection.

    Args:
        method: exact patches every node; screen ranks by gradients and patches the best; gradient, relp, atp and ig
            estimate from gradients; shapley shares the effect out.
        knobs: of the method, as `exact`, `screen`, `attribute` and `shapley` list them.

    Returns:
        a `Result` of the method's kind; `frames["effects"]` has the columns of `EFFECTS` whichever it is.

    Raises:
        BadArgument: an unknown method, or a knob that it does not have.
    """
    known = [name for name in inspect.signature(METHODS[method]).parameters if name not in OURS]
    unknown = sorted(set(knobs) - set(known))
    if unknown:
        raise BadArgument(
            f"method {method!r} got {brief(', '.join(unknown))}; expected no other knobs than {', '.join(known)}; "
            "leave it out, or choose another method"
        )
    return METHODS[method](experiment, level=level, alpha=alpha, smallest=smallest, **knobs)
