"""Activation addition: the activations of one prompt minus those of another, position by position.

1. Put BOS before both prompts.
2. Pad the shorter one on the right with a single space token, so that positions pair up.
3. Record both at the site; subtract. At BOS, which sees nothing else, the difference is zero.

Source: Turner et al., "Activation Addition: Steering Language Models Without Optimization",
arXiv 2308.10248, section 3.
"""

import json
from collections.abc import Sequence

import torch
from numpy.random import Generator

from steerscope.analysis.brief import brief
from steerscope.analysis.engine.activations import record
from steerscope.analysis.errors import BadMetric, BadVector
from steerscope.analysis.gate import gated
from steerscope.analysis.model.models import Model

from .other_words import distinct, ids_of, other_words, rows_like
from .plans import HERE, Kept, Plan, Weighed, make_one, place, whole
from .vector import SteeringVector

OPTIONS = ("plus", "minus", "pad")
EXAMPLE = {"plus": " wedding", "minus": " ship", "layer": 1}


@gated(error=BadVector)
def prompt_pair(
    model: Model,
    plus: str | Sequence[int],
    minus: str | Sequence[int] = " ",
    layer: int = 0,
    *,
    site: str = "resid_pre",
    head: int | None = None,
    pad: str | int = " ",
) -> SteeringVector:
    """The steering vector `plus - minus`, `[pos, width]`, BOS first.

    Args:
        plus: text of the positive side, or its token ids without BOS; a leading space matters (with SentencePiece,
            which puts one before every text, it is that one).
        minus: text of the negative side, or its token ids.
        layer: where it is recorded, and injected unless the injection says otherwise.
        site: resid_pre, attn_out, mlp_out, or z with a head.
        head: head, for the site z.
        pad: single token that fills up the shorter side, or its id.

    Raises:
        BadVector: the two are equal, both empty, or the padding is not a single token.
        BadNode: the model has no such layer, site or head.
    """
    return make_one(model, plan(model, plus, minus, pad), place(model, layer, site, head))


def plan(
    model: Model, plus: str | Sequence[int], minus: str | Sequence[int] = " ", pad: str | int | None = " "
) -> Plan:
    """What it asks of the model (see `plans`).

    Raises:
        BadVector: as `prompt_pair`.
    """
    pad = " " if pad is None else pad
    first, second = paired(model, plus, minus, pad)
    sides = {
        "plus": plus if isinstance(plus, str) else list(plus),
        "minus": minus if isinstance(minus, str) else list(minus),
    }
    label = " - ".join(json.dumps(side, ensure_ascii=False) for side in sides.values())
    source = {"recipe": "prompt_pair", **sides, "pad": pad, "model": model.name, "label": label}
    nothing = (
        f"plus {_short(plus)} and minus {_short(minus)} give the same activations at " + HERE + "; expected different "
        "prompts; choose others, or a later layer"
    )
    return Plan(source, (whole(first), whole(second)), _difference, nothing)


def _difference(kept: Kept) -> Weighed:
    """Row by row, the first run minus the second."""
    rows = torch.eye(len(kept) // 2, dtype=torch.float64)
    return Weighed(torch.cat([rows, -rows], dim=1))


def concepts(
    model: Model, vector: SteeringVector, words: Sequence[str], count: int, generator: Generator
) -> list[SteeringVector]:
    """Vectors of other words, recorded as `vector` was; a side that is blank stays blank.

    Each side has as many tokens as before: single-token words that none of its own words contains or is contained in.

    Args:
        words: to choose from.
        count: how many vectors.
        generator: draws the words.
    """
    source = vector.source
    avoid = [source["plus"], source["minus"]]

    def draw() -> tuple[list[int], list[int]] | None:
        sides = [other_words(model, side, avoid, words, generator) for side in avoid]
        pair = paired(model, sides[0], sides[1], source.get("pad", " "))
        return None if pair[0] == pair[1] else pair

    drawn = distinct(model, vector, count, draw)
    found = record(model, [ids for pair in drawn for ids in pair], vector.site)
    start = 0 if model.bos is None else 1
    made = []
    for n, (first, second) in enumerate(drawn):
        plus, minus = (model.text(ids[start:]) if model.tokenizer else str(ids[start:]) for ids in (first, second))
        about = {
            "recipe": "prompt_pair",
            "plus": plus,
            "minus": minus,
            "label": f"{json.dumps(plus, ensure_ascii=False)} - {json.dumps(minus, ensure_ascii=False)}",
        }
        made.append(rows_like(SteeringVector(found[2 * n] - found[2 * n + 1], vector.site, about), vector))
    return made


def paired(
    model: Model, plus: str | Sequence[int], minus: str | Sequence[int], pad: str | int = " "
) -> tuple[list[int], list[int]]:
    """Token ids of both prompts, BOS included, the shorter one padded on the right.

    Raises:
        BadVector: both are empty, or the padding is not a single token.
    """
    first, second = ids_of(model, plus), ids_of(model, minus)
    length = max(len(first), len(second))
    if length == 0:
        raise BadVector(
            f"plus {plus!r} and minus {minus!r} are both empty; expected some text in one of them; add some"
        )
    start = [] if model.bos is None else [model.bos]
    first, second = (
        ids + [padding(model, pad)] * (length - len(ids)) if len(ids) < length else ids for ids in (first, second)
    )
    return start + first, start + second


def padding(model: Model, pad: str | int) -> int:
    """The id of the token that fills up shorter prompts.

    Raises:
        BadVector: it is several tokens.
    """
    try:
        return model.single_token(pad)
    except BadMetric as error:
        raise BadVector(
            f"the padding {_short(pad)} is not a single token of {model.name}; expected one; choose another, for "
            "example pad='.'"
        ) from error


def _short(prompt: str | int | Sequence[int]) -> str:
    return repr(brief(prompt)) if isinstance(prompt, str) else brief(str(prompt))
