"""What damage is, wherever the product says so: by how much an injection raises the loss of one named text.

The text is the one that comes with steerscope, cut in windows, or a user's own (`ordinary`). `freeze_attention`,
`exact` and `breakdown` measure it here, so that at one coefficient they say one number.
"""

from typing import Any

from steerscope.analysis.errors import SteerscopeError
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.prompts import Prompts
from steerscope.analysis.tools.ordinary import Text, ordinary


def of_text(experiment: Experiment, text: Text | None = None) -> tuple[Experiment | None, str]:
    """The experiment asked of the text, with the same references; where there is none, why.

    Raises:
        SteerscopeError: a text was given and does not do.
    """
    try:
        asked = ordinary(experiment, text)
    except SteerscopeError as error:
        if text is not None:
            raise
        return None, f"no text to measure it on, for this model and injection ({error})"
    vars(asked)["steering"] = experiment.steering  # references that are scaled on the prompts, not on the text
    return asked, ""


def about(prompts: Prompts) -> dict[str, Any]:
    """What a manifest says of the text."""
    return {
        "name": name(prompts),
        "count": len(prompts),
        "tokens": sum(map(len, prompts.full)),
        "hash": prompts.hash,
        "source": prompts.source,
    }


def name(prompts: Prompts) -> str:
    """The text in words."""
    sizes = sorted({len(ids) for ids in prompts.full})
    size = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else str(sizes[0])
    whose = {"shipped": "the text that comes with steerscope", "given": "the given text"}
    piece = f"{len(prompts)} piece{'s' * (len(prompts) > 1)} of {size} tokens"
    return f"{whose.get(prompts.source, prompts.source)} ({piece})"
