"""The front door of every question: asked of an `Experiment`, or of what makes one."""

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.result import Result
from steerscope.questions import Question

OPTIONS = tuple(field.name for field in fields(Experiment))
FIRST = OPTIONS[:4]  # model, injections, prompts, metric: by position, too


def door(question: Question) -> Callable[..., Any]:
    """A question as one asks it: `name(experiment, **knobs)`, or `name(model, injections, prompts, metric, **options)`.

    Options are the attributes of `Experiment`, and the question's own knobs.

    Raises:
        BadArgument: neither an experiment nor a model, an experiment with further attributes of one, or an argument
            twice.
    """
    function = question.function

    @wraps(function)
    def ask(*first: Any, **options: Any) -> Any:
        if not first and "experiment" in options:
            first = (options.pop("experiment"),)
        if first and isinstance(first[0], (Experiment, Result) if question.results else Experiment):
            twice = sorted(set(options) & {*OPTIONS, "experiment"})
            if twice:
                raise BadArgument(
                    f"{question.name} got an experiment and {', '.join(twice)}; expected these to be the "
                    "experiment's own; use dataclasses.replace(experiment, ...)"
                )
            return function(*first, **options)
        given = dict(zip(FIRST, first, strict=False))
        twice = sorted(set(given) & set(options))
        if twice:
            raise BadArgument(
                f"{question.name} got {', '.join(twice)} twice; expected each once; give it by its place or by its name"
            )
        given |= {name: options.pop(name) for name in OPTIONS if name in options}
        if not isinstance(given.get("model"), Model):
            raise BadArgument(
                f"{question.name} got {type(given.get('model')).__name__} first; expected an Experiment, or a model, "
                f"injections and prompts; for example {question.name}(model, injection, prompts)"
            )
        if given.get("metric", 0) is None:
            del given["metric"]
        missing = [name for name in ("injections", "prompts") if name not in given]
        if missing:
            raise BadArgument(
                f"{question.name} got no {' and no '.join(missing)}; expected them after the model; for example "
                f"{question.name}(model, injection, prompts)"
            )
        return function(Experiment(**given), *first[len(FIRST) :], **options)

    ask.__doc__ = (
        f"{function.__doc__}\n    Asked of an `Experiment`, or of `model, injections, prompts, metric` with an "
        "experiment's other\n    attributes and the arguments above by name.\n    "
    )
    return ask
