"""Difference in means: the mean activation over texts of one kind minus that over texts of another, at the last token.

1. Record every text at the site; keep the last token's activation.
2. Average each side; subtract. The vector has one row, for positions `last`, `all` or indices.
3. To know what such a vector is without its labels, exchange them: all texts in one pool, split anew at random into
   sides of the same sizes (`shuffled`). What any difference of two means of these texts does, these do as well.

Sources: Rimsky et al., "Steering Llama 2 via Contrastive Activation Addition", arXiv 2312.06681; Marks and Tegmark,
"The Geometry of Truth", arXiv 2310.06824.

What it cannot see: which texts are a pair, or share a template. Labels are exchanged as if the texts were independent;
where both sides were written as pairs, the exchanged ones differ by their subjects, too.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.brief import brief
from steerscope.analysis.engine.activations import record
from steerscope.analysis.errors import BadNode, BadVector
from steerscope.analysis.gate import gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site

from .prompt_pair import RECORDED
from .vector import SteeringVector

EXAMPLE = {
    "positive": ["The party was great fun", "What a lovely day", "She smiled at the gift", "They danced and sang"],
    "negative": ["The dog was lost", "He cried all night", "Nobody came to help", "It was cold and dark"],
    "layer": 1,
}
BATCH = 64  # texts that are recorded at once: of each only the last token is kept
TRIES = 50  # random splits for each one that is wanted: none is used twice
ROUNDING = 1e-5  # of the norm of the activations: a smaller difference of means is none
MANY = 10**6  # splits that are counted
SHOWN = 40  # characters of a text in a label
SIDES = ("positive", "negative")

Texts = Sequence[str] | Sequence[Sequence[int]]
Indices = NDArray[np.int64]


@gated(error=BadVector)
def mean_difference(
    model: Model,
    positive: Sequence[str] | Sequence[Sequence[int]],
    negative: Sequence[str] | Sequence[Sequence[int]],
    layer: int = 0,
    *,
    site: str = "resid_pre",
    head: int | None = None,
) -> SteeringVector:
    """The mean activation at the last token of `positive` minus that of `negative`, `[1, width]`.

    Args:
        positive: texts of the positive side, or lists of token ids; at the command line a file, one text a line.
        negative: texts of the negative side, in the same way.
        layer: where it is recorded, and injected unless the injection says otherwise.
        site: resid_pre, attn_out, mlp_out, or z with a head.
        head: head, for the site z.

    Raises:
        BadVector: a side that is empty or no list, a text that is blank or too long, or two equal means.
        BadNode: the model has no such layer, site or head.
    """
    if site not in RECORDED:
        raise BadNode(f"a vector cannot be recorded at {brief(site)!r}; expected {', '.join(RECORDED)}; choose one")
    place = model.check(Site(site, layer, head))
    sides = {"positive": _listed(positive, "positive"), "negative": _listed(negative, "negative")}
    pool = _last(model, sides, place)
    values = _difference(pool, np.arange(len(sides["positive"])))
    if values.norm() <= ROUNDING * pool.norm(dim=-1).max():
        raise BadVector(
            f"the positive and the negative texts have the same mean activation at {place}; expected different texts; "
            "at layer 0 only their last tokens count: choose a later one, or other texts"
        )
    label = " - ".join(_words(texts) for texts in sides.values())
    source = {"recipe": "mean_difference", **sides, "layer": layer, "model": model.name, "label": label}
    return SteeringVector(values, place, source)


def shuffled(model: Model, vector: SteeringVector, count: int, generator: Generator) -> list[SteeringVector]:
    """Vectors of the same texts, recorded as `vector` was, their labels exchanged at random: no split twice.

    Args:
        count: how many vectors.
        generator: draws the splits.

    Raises:
        BadVector: the vector is of another model, or its texts cannot be split in so many ways.
    """
    source = vector.source
    if (made_on := source.get("model")) != model.name:
        raise BadVector(
            f"the labels of ({vector.label}) cannot be exchanged on {model.name}: it was made on {made_on}; "
            "expected the same model; make it again on this one"
        )
    drawn = _splits(source, count, generator)
    pool = _last(model, source, vector.site)
    made = []
    for n, positive in enumerate(drawn):
        about = {"recipe": "shuffled", "number": n, "label": f"exchanged labels {n + 1}"}
        made.append(SteeringVector(_difference(pool, positive), vector.site, about))
    return made


def splits(source: Mapping[str, Any]) -> int:
    """In how many ways the labels of a vector's texts can be exchanged, as far as they are counted (`MANY`).

    Copies of a text are one. Without the real split, without one whose sides are alike, and, where the sides are of
    equal size, a split and the same one turned round count once: they give one direction with two signs.
    """
    size, copies = len(source["positive"]), np.bincount(_kinds(source))
    ways = np.eye(1, size + 1)[0]  # by n, the different choices of n texts among the kinds of texts so far
    for most in copies:  # none to all of them: sums over a window
        total = np.concatenate([np.zeros(most + 1), ways.cumsum()])
        ways = np.minimum(total[most + 1 :] - total[: size + 1], MANY)
        if ways[size] == MANY:
            break
    alike = int((size * copies % copies.sum() == 0).all())
    return (int(ways[size]) - alike) // (2 if 2 * size == copies.sum() else 1) - 1


def _splits(source: Mapping[str, Any], count: int, generator: Generator) -> list[Indices]:
    """By split, the texts of the pool that are called positive."""
    kinds, size = _kinds(source), len(source["positive"])
    copies = np.bincount(kinds)

    def key(positive: Indices) -> tuple[int, ...] | None:
        """Equal for splits that give one direction; None where the sides are alike."""
        own = np.bincount(kinds[positive], minlength=len(copies))
        if (own * len(kinds) == copies * size).all():
            return None
        turned = [own, copies - own] if 2 * size == len(kinds) else [own]
        return min(tuple(side.tolist()) for side in turned)

    found = {None: np.arange(0), key(np.arange(size)): np.arange(size)}
    possible = splits(source)
    for _ in range(TRIES * count if count <= possible else 0):
        positive = generator.permutation(len(kinds))[:size]
        found.setdefault(key(positive), positive)
        if len(found) == 2 + count:
            return list(found.values())[2:]
    most = possible if possible < count else len(found) - 2
    raise BadVector(
        f"the labels of ({source['label']}) can be exchanged in only {most} different ways; expected {count}; give "
        "more texts, or ask for fewer shuffled references"
    )


def _kinds(source: Mapping[str, Any]) -> Indices:
    """By text of both sides, which one it is: copies have one number."""
    texts = [text if isinstance(text, str) else tuple(text) for side in SIDES for text in source[side]]
    numbers = {text: n for n, text in enumerate(dict.fromkeys(texts))}
    return np.array([numbers[text] for text in texts])


def _last(model: Model, source: Mapping[str, Any], site: Site) -> Float[Tensor, "text width"]:
    """The activation at the last token of every text, positive ones first, in float64."""
    ids = _tokens(model, source)
    found = []
    for start in range(0, len(ids), BATCH):
        found += [x[-1].double().cpu() for x in record(model, ids[start : start + BATCH], site)]
    return torch.stack(found)


def _difference(pool: Float[Tensor, "text width"], positive: Indices) -> Float[Tensor, "1 width"]:
    chosen = torch.zeros(len(pool), dtype=torch.bool)
    chosen[torch.from_numpy(positive)] = True
    return (pool[chosen].mean(dim=0) - pool[~chosen].mean(dim=0))[None]


def _listed(texts: Texts, side: str) -> list[Any]:
    """A side as what can be saved: texts, or lists of ids."""
    if len(texts) == 0:
        raise BadVector(f"there are no {side} texts; expected at least one on each side; add some")
    return [text if isinstance(text, str) else [int(i) for i in text] for text in texts]


def _tokens(model: Model, source: Mapping[str, Any]) -> list[list[int]]:
    """Token ids of all texts, BOS included where the model has one; all faults are reported together."""
    start = [] if model.bos is None else [model.bos]
    found, faults = [], []
    for side in SIDES:
        for number, text in enumerate(source[side], 1):
            ids = model.tokens(text) if isinstance(text, str) else [*(start if text[:1] != start else []), *text]
            unknown = [i for i in ids if not 0 <= i < model.d_vocab]
            if not (text.strip() if isinstance(text, str) else text):
                faults.append(f"{side} text {number} is empty or blank")
            elif unknown:
                faults.append(f"{side} text {number} has token ids outside of 0..{model.d_vocab - 1}: {unknown[:5]}")
            elif len(ids) > model.n_ctx:
                faults.append(f"{side} text {number} has {len(ids)} tokens, {model.name} reads at most {model.n_ctx}")
            found.append(ids)
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise BadVector(f"{shown}; expected texts of 1 to {model.n_ctx} tokens; mend or remove them")
    return found


def _words(texts: Sequence[Any]) -> str:
    """A side in words: `mean of 16 ("What a lovely day", ...)`."""
    first = json.dumps(brief(texts[0], SHOWN), ensure_ascii=False) if isinstance(texts[0], str) else str(texts[0])
    return f"mean of {len(texts)} ({first}{', ...' if len(texts) > 1 else ''})"
