"""The front door of every question: asked of an `Experiment`, or of what makes one."""

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.questions import Question

OPTIONS = tuple(field.name for field in fields(Experiment))
FIRST = OPTIONS[:4]  # model, injections, prompts, metric: by position, too


def door(question: Question) -> Callable[..., Any]:
    """A question as one asks it: `name(experiment, **knobs)`, or `name(model, injections, prompts, metric, **options)`.

    Options are the attributes of `Experiment`, and the question's own knobs.

    Raises:
        BadArgument: neither an experiment nor a model, or an experiment with further attributes of one.
    """
    function = question.function

    @wraps(function)
    def ask(experiment: Any = None, *more: Any, **options: Any) -> Any:
        if isinstance(experiment, Experiment):
            twice = sorted(set(options) & set(OPTIONS))
            if twice:
                raise BadArgument(
                    f"{question.name} got an experiment and {', '.join(twice)}; expected these to be the "
                    "experiment's own; use dataclasses.replace(experiment, ...)"
                )
            return function(experiment, *more, **options)
        given = dict(zip(FIRST[1:], more, strict=False))
        rest = more[len(given) :]
        model = options.pop("model", experiment)
        if not isinstance(model, Model):
            raise BadArgument(
                f"{question.name} got {type(model).__name__} first; expected an Experiment, or a model, injections and "
                f"prompts; for example {question.name}(model, injection, prompts)"
            )
        given |= {name: options.pop(name) for name in OPTIONS if name in options}
        if given.get("metric", 0) is None:
            del given["metric"]
        missing = [name for name in ("injections", "prompts") if name not in given]
        if missing:
            raise BadArgument(f"{question.name} got no {' and no '.join(missing)}; expected them after the model")
        return function(Experiment(model, **given), *rest, **options)

    ask.__doc__ = (
        f"{function.__doc__}\n    Asked of an `Experiment`, or of `model, injections, prompts, metric` with an "
        "experiment's other\n    attributes and the arguments above by name.\n    "
    )
    return ask
