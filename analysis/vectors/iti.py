"""Inference-time intervention: the heads in which two kinds of texts are told apart best, and a direction for each.

1. Record `z` of every head at the last token of every text, in one pass over the texts.
2. Fit a probe to each head (see `probe`); keep the heads whose probe is most accurate on held-out texts, and of equal
   ones those of earlier layers.
3. Each head's vector is the probe's direction times sigma, its standard deviation over the texts: inject all of them at
   every position, with one coefficient (the paper's alpha).

Source: Li et al., "Inference-Time Intervention: Eliciting Truthful Answers from a Language Model", arXiv 2306.03341.
What it cannot see: that the best of many heads is better on the held-out texts than it will be on others (accuracies
are of the choice, not of a third set of texts).
"""

from collections.abc import Sequence
from typing import Literal

import torch

from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import Count, Positive, Seed, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site

from .plans import kept_at, vector_of
from .probe import accuracy_of, plan
from .vector import SteeringVector


@gated(error=BadVector)
def iti(
    model: Model,
    positive: Sequence[str] | Sequence[Sequence[int]],
    negative: Sequence[str] | Sequence[Sequence[int]],
    heads: Count = 48,
    *,
    kind: Literal["logistic", "mass_mean"] = "mass_mean",
    l2: Positive = 1.0,
    seed: Seed = 0,
) -> list[SteeringVector]:
    """A vector for each of the heads in which two kinds of texts are told apart best, the best first.

    Args:
        positive: texts of the positive side, or lists of token ids.
        negative: texts of the negative side.
        heads: how many heads.
        kind: whose direction is injected: that of logistic regression, or mass_mean; heads are ranked by logistic
            regression, as in the paper.
        l2: weight of the penalty, of logistic regression.
        seed: draws the texts that are held out.

    Raises:
        BadVector: more heads than the model has, fewer than two texts on a side, or texts that cannot be used.
    """
    if heads > model.n_layers * model.n_heads:
        raise BadVector(
            f"heads={heads:,}; expected at most {model.n_layers * model.n_heads:,}: {model.name} has no more; ask for "
            "fewer"
        )
    made = plan(model, positive, negative, kind, l2, seed)
    ranking = {**made.source, "kind": "logistic"}
    labels = torch.zeros(len(made.runs), dtype=torch.float64)
    labels[: len(made.source["positive"])] = 1.0
    found = []
    for layer, kept in enumerate(kept_at(model, [(made, ("z", layer)) for layer in range(model.n_layers)])):
        for head in range(model.n_heads):
            own = kept[:, head]
            found.append((-accuracy_of(own, labels, ranking), layer, head, own))
    best = sorted(found, key=lambda one: one[:3])[:heads]
    return [vector_of(made, Site("z", layer, head), own) for _, layer, head, own in best]
