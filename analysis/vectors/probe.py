"""A linear probe's direction: what tells two kinds of texts apart, at the last token; of a head, as inference-time
intervention has it.

1. `logistic`: `w` of logistic regression with an L2 penalty, `min sum log(1 + exp(-y (w x + b))) + l2/2 |w|^2`, of
   activations in units of their own spread. At the optimum `l2 w = sum (y_i - p_i) x_i`, a weighted sum of activations.
   `mass_mean`: `w = mean of the positive ones - mean of the negative ones`.
2. The vector is `sigma w / |w|`, sigma the standard deviation of all texts along it: coefficient 1 is one sigma.
3. The probe's accuracy is told on texts that were held out from fitting it (`held_out_accuracy` in the source); the
   vector is of all texts.
4. To know what such a direction is without its labels, they are exchanged among all texts.

Sources: Li et al., "Inference-Time Intervention", arXiv 2306.03341, sections 3 and 4 (probes of heads, mass-mean shift,
sigma); Marks and Tegmark, arXiv 2310.06824.
What it cannot see: whether the model uses what can be read.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from math import comb
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import Positive, Seed, gated
from steerscope.analysis.model.models import Model

from .contrast import MANY
from .plans import HERE, ROUNDING, Kept, Plan, Weighed, last, make_one, place, relabelled
from .texts import TWO_KINDS, listed, tokens_of, words
from .vector import SteeringVector

EXAMPLE = {**TWO_KINDS, "layer": 1}
HELD_OUT = 0.25  # share of each side that accuracy is measured on
STEPS, HALVINGS, PRECISE = 60, 30, 1e-10  # of Newton's method

Indices = NDArray[np.int64]


@gated(error=BadVector)
def probe(
    model: Model,
    positive: Sequence[str] | Sequence[Sequence[int]],
    negative: Sequence[str] | Sequence[Sequence[int]],
    layer: int = 0,
    *,
    site: str = "resid_pre",
    head: int | None = None,
    kind: Literal["logistic", "mass_mean"] = "logistic",
    l2: Positive = 1.0,
    seed: Seed = 0,
) -> SteeringVector:
    """The direction of a linear probe between two kinds of texts, at their last tokens, `[1, width]`.

    Args:
        positive: texts of the positive side, or lists of token ids; at the command line a file, one text a line.
        negative: texts of the negative side, in the same way.
        layer: where it is recorded, and injected unless the injection says otherwise.
        site: resid_pre, attn_out, mlp_out, or z with a head.
        head: head, for the site z.
        kind: logistic regression, or mass_mean, the difference of means.
        l2: weight of the penalty, of logistic regression.
        seed: draws the texts that are held out.

    Raises:
        BadVector: fewer than two texts on a side, texts that cannot be used, or sides that are the same.
        BadNode: the model has no such layer, site or head.
    """
    return make_one(model, plan(model, positive, negative, kind, l2, seed), place(model, layer, site, head))


def plan(model: Model, positive: Any, negative: Any, kind: str = "logistic", l2: float = 1.0, seed: int = 0) -> Plan:
    """What it asks of the model (see `plans`)."""
    sides = {"positive": listed(positive, "positive"), "negative": listed(negative, "negative")}
    if min(map(len, sides.values())) < 2:
        raise BadVector("a side with one text; expected at least two on each, of which one is held out; add some")
    ids = tokens_of(model, ((f"{s} text {n}", t) for s, own in sides.items() for n, t in enumerate(own, 1)))
    label = f"{kind.replace('_', '-')} probe of {' against '.join(words(own) for own in sides.values())}"
    source = {"recipe": "probe", **sides, "kind": kind, "l2": l2, "seed": seed, "model": model.name, "label": label}
    nothing = (
        f"the positive and the negative texts cannot be told apart at {HERE}; expected different texts; at layer 0 "
        "only their last tokens count: choose a later one, or other texts"
    )
    order = np.arange(len(ids))
    return Plan(source, tuple(map(last, ids)), lambda kept: _weighed(kept, source, order), nothing, ROUNDING)


def shuffled(model: Model, vector: SteeringVector, count: int, generator: Generator) -> list[SteeringVector]:
    """Directions of the same probe for the same texts, called positive and negative anew at random.

    Raises:
        BadVector: the vector is of another model, or its texts cannot be split in so many ways.
    """
    source, size = vector.source, len(vector.source["positive"])
    total = size + len(source["negative"])
    found = {tuple(range(size)): np.arange(total)}
    for _ in range(50 * count if count <= splits(source) else 0):
        order = generator.permutation(total)
        found.setdefault(tuple(sorted(order[:size].tolist())), order)
        if len(found) > count:
            break
    orders = list(found.values())[1:]
    if len(orders) < count:
        raise BadVector(
            f"the labels of ({vector.label}) can be exchanged in only {len(orders)} different ways; expected {count}; "
            "give more texts, or ask for fewer shuffled references"
        )
    made = plan(model, *(source[key] for key in ("positive", "negative", "kind", "l2", "seed")))
    return relabelled(model, vector, made, [partial(_as_drawn, source, order) for order in orders])


def splits(source: Mapping[str, Any]) -> int:
    """In how many ways the labels of a vector's texts can be exchanged, as far as they are counted."""
    size = len(source["positive"])
    return min(comb(size + len(source["negative"]), size) - 1, MANY)


def _as_drawn(source: Mapping[str, Any], order: Indices, kept: Kept) -> Float[Tensor, "1 kept"]:
    return _weighed(kept, source, order, accuracy=False).weights


def _weighed(kept: Kept, source: Mapping[str, Any], order: Indices, accuracy: bool = True) -> Weighed:
    """Steps 1 to 3.

    Args:
        order: which texts are called positive: the first ones of it, as many as there are.
    """
    labels = torch.zeros(len(kept), dtype=torch.float64)
    labels[torch.from_numpy(order[: len(source["positive"])].copy())] = 1.0
    facts = {"held_out_accuracy": accuracy_of(kept, labels, source)} if accuracy else {}
    weights = fitted(kept, labels, source["kind"], source["l2"])[0]
    direction = weights @ kept
    size = float(direction.norm())
    sigma = float((kept @ direction).std(correction=0)) / size if size else 0.0
    return Weighed((weights * (sigma / size if size else 0.0))[None], facts | {"sigma": sigma})


def accuracy_of(kept: Kept, labels: Float[Tensor, " kept"], source: Mapping[str, Any]) -> float:
    """The accuracy of a probe that is fitted to three quarters of each side, on the others."""
    dice = np.random.default_rng(source["seed"])
    held = torch.zeros(len(labels), dtype=torch.bool)
    for side in (0.0, 1.0):
        own = np.flatnonzero((labels == side).numpy())
        held[torch.from_numpy(dice.permutation(own)[: max(1, int(HELD_OUT * len(own)))])] = True
    weights, bias = fitted(kept[~held], labels[~held], source["kind"], source["l2"])
    along = kept[held] @ (weights @ kept[~held]) + bias
    right = (along > 0) == (labels[held] > 0)
    return float(right[labels[held] > 0].double().mean() + right[labels[held] == 0].double().mean()) / 2


def fitted(
    x: Float[Tensor, "text width"], labels: Float[Tensor, " text"], kind: str, l2: float
) -> tuple[Float[Tensor, " text"], float]:
    """By text its weight in a probe's direction, and the probe's bias."""
    if kind == "mass_mean":
        weights = labels / labels.sum() - (1 - labels) / (1 - labels).sum()
        middle = (labels / labels.sum() + (1 - labels) / (1 - labels).sum()) @ x / 2
        return weights, -float(weights @ x @ middle)
    mean = x.mean(0)
    centred = x - mean
    spread = float(centred.square().mean().sqrt()) or 1.0
    found, bias = _logistic(centred / spread, labels, l2)
    found = found / spread**2  # which add up to zero, so that the mean cancels
    return found, bias - float(found @ x @ mean)


def _logistic(x: Float[Tensor, "text width"], y: Float[Tensor, " text"], l2: float) -> tuple[Tensor, float]:
    """Logistic regression by Newton's method, in the span of the texts: `l2 w = sum (y - p) x`, and the bias."""
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    z = torch.cat([u * s, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    penalty = torch.full((z.shape[1],), l2, dtype=x.dtype)
    penalty[-1] = 0.0
    a = torch.zeros(z.shape[1], dtype=x.dtype)

    def loss(a: Tensor) -> Tensor:
        f = z @ a
        return torch.nn.functional.softplus(f).sum() - y @ f + (penalty * a * a).sum() / 2

    for _ in range(STEPS):
        p = torch.sigmoid(z @ a)
        gradient = z.T @ (p - y) + penalty * a
        if float(gradient.norm()) < PRECISE * len(y):
            break
        hessian = z.T @ (z * (p * (1 - p))[:, None]) + torch.diag(penalty.clamp_min(1e-9))
        step, scale = torch.linalg.solve(hessian, gradient), 1.0
        for _ in range(HALVINGS):
            if loss(a - scale * step) <= loss(a):
                break
            scale /= 2
        a = a - scale * step
    return (y - torch.sigmoid(z @ a)) / l2, float(a[-1])
