"""What a toy is asked: an injection that makes of a prompt exactly the one with another token, and a metric.

IOI: E[a] - E[b] at S = b: the prompt in which S is a, so that the answer turns from a to b.
Induction: E[other] - E[token] at the token's first occurrence: its second one then matches nothing.

The stream that layer 0 reads is a sum of embeddings, so the steered run *is* the run of the other prompt.
"""

from collections.abc import Iterator

import torch

from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import log_prob
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.vectors.vector import SteeringVector

from .recipes import Recipe
from .tasks import BOS, LETTERS, SUBJECT, ioi_prompt

PLACE = 3  # of the first token of an induction, in what is repeated


def questions(model: Model, recipe: Recipe, count: int = 8, seed: int = 0) -> Iterator[Experiment]:
    """Experiments without references, each of two prompts or more that differ from their steered runs in one token.

    Args:
        count: how many pairs of tokens.
    """
    dice = torch.Generator().manual_seed(seed)
    for _ in range(count):
        ask = _ioi if recipe.task == "ioi" else _induction
        yield ask(model, recipe, dice)


def _ioi(model: Model, recipe: Recipe, dice: torch.Generator) -> Experiment:
    a, b = (int(name) + 1 for name in torch.randperm(recipe.names, generator=dice)[:2])
    prompts = [ioi_prompt(*pair, b, recipe.names) for pair in ((a, b), (b, a))]
    return _asked(model, b, a, SUBJECT, prompts, answers=(a, b))


def _induction(model: Model, recipe: Recipe, dice: torch.Generator) -> Experiment:
    """Prompts `BOS ... token next ... token` of one length; the metric is the logit of `next` minus that of a token
    that is in none of them.
    """
    length = (recipe.shortest + recipe.longest) // 2
    token, following, other, absent, *rest = (int(t) + 1 for t in torch.randperm(len(LETTERS), generator=dice))
    prompts = []
    for _ in range(4):
        drawn = [rest[int(i)] for i in torch.randperm(len(rest), generator=dice)[: length - 2]]
        repeated = [*drawn[:PLACE], token, following, *drawn[PLACE:]]
        prompts.append([BOS, *repeated, *repeated[: PLACE + 1]])
    return _asked(model, token, other, 1 + PLACE, prompts, answers=(following, absent))


def _asked(
    model: Model, old: int, new: int, position: int, prompts: list[list[int]], answers: tuple[int, int]
) -> Experiment:
    embedding = model.bridge.embed.weight.detach()
    vector = SteeringVector(
        (embedding[new] - embedding[old])[None].float().cpu(),
        Site("resid_pre", 0),
        {"recipe": "embeddings", "label": f"{model.token_text(new)} - {model.token_text(old)}"},
    )
    injection = Injection(vector, 1.0, positions=(position,))
    right, wrong = answers
    asked = make_prompts(model, prompts)
    return Experiment(model, (injection,), asked, log_prob([right], [wrong]), references=0, scored="last")
