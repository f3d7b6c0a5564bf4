"""`solved`: how many prompts of a task a model gets right, and by how much."""

from dataclasses import dataclass

from jaxtyping import Float
from scipy.stats import binomtest
from torch import Tensor

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import measure
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.answers import padded
from steerscope.analysis.question.prompts import Prompts
from steerscope.analysis.question.scores import OwnAnswers


@dataclass(frozen=True, repr=False)
class Solved:
    """What the model gets right.

    Attributes:
        share: of clean prompts in which the answers have more probability than the distractors.
        low, high: its interval (Wilson, 95%).
        difference: mean log odds of answers against distractors, clean.
        corrupted: the same of the corrupted prompts, by the clean prompts' answers.
    """

    share: float
    low: float
    high: float
    difference: float
    corrupted: float

    def __repr__(self) -> str:
        return (
            f"{self.share:.0%} right [{self.low:.0%}, {self.high:.0%}], log odds {self.difference:.2f} clean, "
            f"{self.corrupted:.2f} corrupted"
        )


def log_odds(model: Model, prompts: Prompts) -> Float[Tensor, " prompt"]:
    """Log odds of each prompt's targets against its distractors, after its last token."""
    targets, against = (padded(side).to(model.device) for side in (prompts.targets, prompts.against))
    variants = [Variant(prompt=index) for index in range(len(prompts))]
    return measure(model, prompts.ids, variants, None, OwnAnswers(targets, against)).cpu()


def solved(model: Model, clean: Prompts, corrupted: Prompts) -> Solved:
    """What the model gets right."""
    found, others = log_odds(model, clean), log_odds(model, corrupted)
    right = int((found > 0).sum())
    share = binomtest(right, len(clean)).proportion_ci(0.95, method="wilson")
    return Solved(right / len(clean), float(share.low), float(share.high), float(found.mean()), float(others.mean()))
