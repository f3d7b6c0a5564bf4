"""One prompt's activations minus the mean activation of ordinary text.

`v = x(prompt) - mean over the tokens of a corpus of x`, position by position; BOS is no part of the mean, and the row
at BOS is zero. The corpus is everyday English that comes with steerscope, or a file's.

Source: asked in the comments on Turner et al.'s post ("Steering GPT-2-XL by adding an activation vector"): if a single
prompt fails because of a constant part that all streams share, taking out the mean should do as well as a pair.
Jorgensen et al., "Improving Activation Steering in Language Models with Mean-Centring", arXiv 2312.03813.
What it cannot see: what differs from position to position in all prompts.
"""

import json
from collections.abc import Sequence

import torch
from numpy.random import Generator

from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import gated
from steerscope.analysis.model.models import Model

from .corpus import corpus_texts
from .other_words import other_prompts
from .plans import HERE, Plan, Run, Weighed, make_one, place, whole
from .texts import Text, tokens_of
from .vector import SteeringVector

EXAMPLE = {"prompt": " wedding", "layer": 1}


@gated(error=BadVector)
def minus_mean(
    model: Model,
    prompt: str | Sequence[int],
    layer: int = 0,
    *,
    site: str = "resid_pre",
    head: int | None = None,
    corpus: Sequence[str] | str | None = None,
) -> SteeringVector:
    """The activations of one prompt minus the mean activation of a corpus, `[pos, width]`, BOS first.

    Args:
        prompt: text, or its token ids; a leading space matters.
        layer: where it is recorded, and injected unless the injection says otherwise.
        site: resid_pre, attn_out, mlp_out, or z with a head.
        head: head, for the site z.
        corpus: texts, or a file of them; everyday English that comes with steerscope by default.

    Raises:
        BadVector: a prompt that is blank or too long, or a corpus that cannot be read.
        BadNode: the model has no such layer, site or head.
    """
    return make_one(model, plan(model, prompt, corpus), place(model, layer, site, head))


def plan(model: Model, prompt: Text, corpus: str | Sequence[str] | None = None) -> Plan:
    """What it asks of the model (see `plans`)."""
    texts = corpus_texts(model, corpus) if corpus is None or isinstance(corpus, str) else list(corpus)
    [ids, *others] = tokens_of(model, [("the prompt", prompt), *((f"text {n}", t) for n, t in enumerate(texts, 1))])
    runs = [Run(tuple(own), tuple(range(model.has_bos(own), len(own)))) for own in others]
    count = sum(len(run.positions) for run in runs)
    if not count:
        raise BadVector("the corpus holds no tokens; expected some text; give other texts")
    rows = torch.cat([torch.eye(len(ids), dtype=torch.float64), torch.full((len(ids), count), -1.0 / count)], dim=1)
    rows[: model.has_bos(ids)] = 0.0
    kept = prompt if isinstance(prompt, str) else list(prompt)
    label = f"{json.dumps(kept, ensure_ascii=False)} - mean of {count:,} tokens"
    source = {"recipe": "minus_mean", "prompt": kept, "corpus": texts, "model": model.name, "label": label}
    nothing = f"the prompt's activation is that of the corpus at {HERE}; expected another; choose another prompt"
    return Plan(source, (whole(ids), *runs), lambda _: Weighed(rows), nothing)


def concepts(
    model: Model, vector: SteeringVector, words: Sequence[str], count: int, generator: Generator
) -> list[SteeringVector]:
    """Vectors of other prompts of as many tokens, minus the same mean (see `other_words`)."""
    corpus = vector.source["corpus"]
    return other_prompts(model, vector, lambda prompt: plan(model, prompt, corpus), words, count, generator)
