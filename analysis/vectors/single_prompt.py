"""One prompt's own activations: what activation addition is without a counterweight.

`v = x(prompt)`, position by position. At BOS, which sees nothing of the prompt, the row is zero.

Source: Turner et al., arXiv 2308.10248: the experiment in which "Love" alone does not work as "Love" - "Hate" does.
What it cannot see: what of it every prompt has. Most of the norm is that: see `minus_mean`.
"""

import json
from collections.abc import Sequence

import torch
from numpy.random import Generator

from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import gated
from steerscope.analysis.model.models import Model

from .other_words import other_prompts
from .plans import HERE, Plan, Weighed, make_one, place, whole
from .texts import Text, tokens_of
from .vector import SteeringVector

EXAMPLE = {"prompt": " wedding", "layer": 1}


@gated(error=BadVector)
def single_prompt(
    model: Model, prompt: str | Sequence[int], layer: int = 0, *, site: str = "resid_pre", head: int | None = None
) -> SteeringVector:
    """The activations of one prompt, `[pos, width]`, BOS first, whose row is zero.

    Args:
        prompt: text, or its token ids; a leading space matters.
        layer: where it is recorded, and injected unless the injection says otherwise.
        site: resid_pre, attn_out, mlp_out, or z with a head.
        head: head, for the site z.

    Raises:
        BadVector: a prompt that is blank or too long.
        BadNode: the model has no such layer, site or head.
    """
    return make_one(model, plan(model, prompt), place(model, layer, site, head))


def plan(model: Model, prompt: Text) -> Plan:
    """What it asks of the model (see `plans`)."""
    [ids] = tokens_of(model, [("the prompt", prompt)])
    kept = prompt if isinstance(prompt, str) else list(prompt)
    label = json.dumps(kept, ensure_ascii=False)
    source = {"recipe": "single_prompt", "prompt": kept, "model": model.name, "label": label}
    rows = torch.eye(len(ids), dtype=torch.float64)
    rows[: model.has_bos(ids)] = 0.0
    return Plan(
        source, (whole(ids),), lambda _: Weighed(rows), f"the prompt has no activation at {HERE}; choose another"
    )


def concepts(
    model: Model, vector: SteeringVector, words: Sequence[str], count: int, generator: Generator
) -> list[SteeringVector]:
    """Vectors of other prompts of as many tokens (see `other_words`)."""
    return other_prompts(model, vector, lambda prompt: plan(model, prompt), words, count, generator)
