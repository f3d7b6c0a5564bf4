"""`localize`: which nodes carry an injection's effect, by any of `METHODS`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import Metric, logit_direction
from steerscope.analysis.question.prompts import Prompts, make_prompts
from steerscope.analysis.results.result import Result

from .attribute import attribute
from .exact import carriers
from .screen import screen
from .shapley import shapley

METHODS: dict[str, Callable[..., Result]] = {
    "exact": carriers,
    "screen": screen,
    "gradient": partial(attribute, method="gradient"),
    "relp": partial(attribute, method="relp"),
    "atp": partial(attribute, method="atp*"),
    "ig": partial(attribute, method="ig"),
    "shapley": shapley,
}


def localize(
    model: Model,
    injections: Injection | Sequence[Injection],
    prompts: Prompts | Sequence[str] | Sequence[Sequence[int]],
    metric: Metric | None = None,
    *,
    method: str = "exact",
    controls: int = 20,
    matched: Literal["norm", "kl"] = "norm",
    scored: str | tuple[int, ...] | None = None,
    seed: int = 0,
    budget: int | None = None,
    **options: Any,
) -> Result:
    """Which heads and MLPs carry the effect of an injection.

    Args:
        metric: `logit_direction()` by default.
        method: exact patches every node; screen ranks by gradients and patches the best; gradient, relp, atp and ig
            estimate
            from gradients; shapley shares the effect out.
        controls: random vectors of equal norm (or, matched="kl", of equal disturbance).
        scored: positions that the metric reads; by default those after the injection.
        budget: bytes that the engine may take; worked out by default.
        options: of the method, as `carriers` (exact), `screen`, `attribute` and `shapley` list them: `level` and
            `alpha` for
            all; `completions`, `writers` and `attention` for exact.

    Returns:
        a `Result` of the method's kind; frames and columns as in `columns.COLUMNS`.

    Raises:
        BadArgument: an unknown method.
    """
    if method not in METHODS:
        raise BadArgument(f"unknown method {method!r}; expected one of {', '.join(METHODS)}; choose one")
    given = (injections,) if isinstance(injections, Injection) else tuple(injections)
    texts = make_prompts(model, prompts)
    experiment = Experiment(model, given, texts, metric or logit_direction(), controls, matched, scored, seed, budget)
    return METHODS[method](experiment, **options)
