"""Principal directions of activations: where texts, or pairs of texts, differ most.

Activations are those at the last token of each text. Of two sides, text i of one is the pair of text i of the other.

| method | what is decomposed | mean |
| --- | --- | --- |
| `texts` | x_i of all texts | removed |
| `center` | x_i minus the middle of its pair: ± half the difference (repeng's `pca_center`) | zero already |
| `difference` | x(positive_i) - x(negative_i) (repeng's `pca_diff`, its default) | removed |

`difference` removes the mean of the differences, which is what `mean_difference` finds: what is left is in what pairs
differ *differently*. The direction has norm 1; it is the k-th right singular vector, `v = X^T u / s`, so a weighted sum
of activations. Its sign: with two sides, positive texts lie further along it on average; with one, the text that lies
furthest out lies on the positive side.

Sources: Zou et al., "Representation Engineering", arXiv 2310.01405 (reading vectors); vgel/repeng, extract.py.
What it cannot see: labels, but for the sign. The largest variance may be one of topic or length.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import Whole, gated
from steerscope.analysis.model.models import Model

from .corpus import corpus_texts
from .plans import Kept, Plan, Weighed, last, make_one, place, relabelled
from .texts import TWO_KINDS, listed, tokens_of, words
from .vector import SteeringVector

EXAMPLE = {**TWO_KINDS, "layer": 1}
ROUNDING = 1e-6  # of the largest singular value: a direction of less is none
Indices = NDArray[np.int64]
Method = Literal["texts", "center", "difference"]


@gated(error=BadVector)
def pca(
    model: Model,
    positive: Sequence[str] | Sequence[Sequence[int]] | None = None,
    negative: Sequence[str] | Sequence[Sequence[int]] | None = None,
    layer: int = 0,
    *,
    site: str = "resid_pre",
    head: int | None = None,
    method: Literal["texts", "center", "difference"] | None = None,
    component: Whole = 0,
) -> SteeringVector:
    """A principal direction of the activations of texts at their last tokens, `[1, width]`, of norm 1.

    Args:
        positive: texts, or lists of token ids; everyday English that comes with steerscope by default.
        negative: texts of the other side, one for each; none for the directions of `positive` alone.
        layer: where it is recorded, and injected unless the injection says otherwise.
        site: resid_pre, attn_out, mlp_out, or z with a head.
        head: head, for the site z.
        method: texts, center or difference; center where there are two sides.
        component: which direction, from 0, the one of the largest variance.

    Raises:
        BadVector: sides of different lengths, too few texts for the component, or texts that cannot be used.
        BadNode: the model has no such layer, site or head.
    """
    return make_one(model, plan(model, positive, negative, method, component), place(model, layer, site, head))


def plan(
    model: Model, positive: Any = None, negative: Any = None, method: Method | None = None, component: int = 0
) -> Plan:
    """What it asks of the model (see `plans`)."""
    texts = corpus_texts(model) if positive is None else listed(positive, "positive")
    other = None if negative is None else listed(negative, "negative")
    method = method or ("texts" if other is None else "center")
    if other is None and method != "texts":
        raise BadVector(f"method {method} got one side; expected negative texts, too; give them, or method='texts'")
    if other is not None and method != "texts" and len(other) != len(texts):
        raise BadVector(
            f"got {len(texts)} positive and {len(other)} negative texts; expected one for each: text i is the pair of "
            "text i; give as many"
        )
    sides = {"positive": texts} | ({} if other is None else {"negative": other})
    ids = tokens_of(model, ((f"{s} text {n}", t) for s, own in sides.items() for n, t in enumerate(own, 1)))
    what = {"texts": "", "center": "centred pairs of ", "difference": "differences of pairs of "}[method]
    label = f"principal direction {component + 1} of {what}{words(texts)}"
    source = {"recipe": "pca", **sides, "method": method, "component": component, "model": model.name, "label": label}
    order = np.arange(len(ids))
    return Plan(source, tuple(map(last, ids)), lambda kept: _direction(kept, source, order), "")


def shuffled(model: Model, vector: SteeringVector, count: int, generator: Generator) -> list[SteeringVector]:
    """Directions of the same texts, with pairs and sides drawn anew at random.

    Raises:
        BadVector: the vector is of another model, or of one side: it has no labels.
    """
    source = vector.source
    if splits(source) < count:
        raise BadVector(
            f"the labels of ({vector.label}) cannot be exchanged {count} times; expected a vector of pairs, at "
            "least 4; ask for isotropic references"
        )
    made = plan(model, source["positive"], source["negative"], source["method"], source["component"])
    orders = [generator.permutation(len(made.runs)) for _ in range(count)]
    return relabelled(model, vector, made, [partial(_as_drawn, source, order) for order in orders])


def _as_drawn(source: Mapping[str, Any], order: Indices, kept: Kept) -> Float[Tensor, "1 kept"]:
    return _direction(kept, source, order).weights


def splits(source: Mapping[str, Any]) -> int:
    """How many directions of exchanged labels there are, as far as they are counted; none for one side."""
    few = min(len(source["positive"]), len(source.get("negative", ()))) < 4 or source["method"] == "texts"
    return 0 if few else 10**6


def _direction(kept: Kept, source: Mapping[str, Any], order: Indices) -> Weighed:
    """The weights of a principal direction: `X = M kept`, `v = X^T u / s`, so `W = u^T M / s`, with its sign.

    Args:
        order: which text stands in the place of each.
    """
    size, count = len(source["positive"]), len(kept)
    eye = torch.eye(count, dtype=torch.float64)[torch.from_numpy(order)]
    first, second = eye[:size], eye[size:]
    method, component = source["method"], source["component"]
    if method == "texts":
        made = eye - eye.mean(0)
    elif method == "center":
        made = torch.cat([first - second, second - first]) / 2
    else:
        made = first - second - (first - second).mean(0)
    u, s, _ = torch.linalg.svd(made @ kept, full_matrices=False)
    if component >= len(s) or s[component] <= ROUNDING * s[0]:
        rank = int((s > ROUNDING * s[0]).sum()) if float(s[0]) else 0
        raise BadVector(
            f"component={component} of texts that differ in {rank} directions; expected 0 to {max(rank - 1, 0)}; "
            "choose another, or give more and different texts"
        )
    weights = u[:, component] @ made / s[component]
    along = made @ kept @ (weights @ kept)
    if len(second):
        sign = (first.mean(0) - second.mean(0)) @ kept @ (weights @ kept)
    else:
        sign = along[along.abs().argmax()]
    explained = float(s[component] ** 2 / (s**2).sum())
    return Weighed((-weights if sign < 0 else weights)[None], {"explained": explained})
