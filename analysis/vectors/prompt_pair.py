"""Activation addition: the activations of one prompt minus those of another, position by position.

1. Put BOS before both prompts.
2. Pad the shorter one on the right with a single space token, so that positions pair up.
3. Record both at the site; subtract. At BOS, which sees nothing else, the difference is zero.

Source: Turner et al., "Activation Addition: Steering Language Models Without Optimization",
arXiv 2308.10248, section 3.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from numpy.random import Generator

from steerscope.analysis.brief import brief
from steerscope.analysis.engine.activations import record
from steerscope.analysis.errors import BadMetric, BadVector
from steerscope.analysis.gate import gated
from steerscope.analysis.model.models import Model

from .plans import HERE, Kept, Plan, Weighed, make_one, place, whole
from .vector import SteeringVector

OPTIONS = ("plus", "minus", "pad")
TRIES = 20  # draws for each other concept that is wanted: no concept is drawn twice
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
    drawn: list[tuple[list[int], list[int]]] = []
    for _ in range(TRIES * count):
        sides = [_other(model, source[side], source, words, generator) for side in ("plus", "minus")]
        pair = paired(model, sides[0], sides[1], source.get("pad", " "))
        if pair not in drawn and pair[0] != pair[1]:
            drawn.append(pair)
        if len(drawn) == count:
            break
    else:
        raise BadVector(
            f"there are only {len(drawn)} other concepts for {vector.label} in {model.name}; expected {count}; ask for "
            "fewer, or for isotropic references"
        )
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
        made.append(_rows_of(SteeringVector(found[2 * n] - found[2 * n + 1], vector.site, about), vector))
    return made


def _rows_of(made: SteeringVector, like: SteeringVector) -> SteeringVector:
    """The rows that another vector of as many tokens kept."""
    if like.source.get("rows") == "mean":
        return made.mean()
    row = like.source.get("row")
    if row is not None and like.rows == 1:
        one = made.row(row)
        return one if one.values.any() else made.body.row(row)
    return replace(made, values=made.values[-like.rows :])


def _other(
    model: Model, side: str | Sequence[int], source: Mapping[str, Any], words: Sequence[str], generator: Generator
) -> str | list[int]:
    """Other words with as many tokens as a side has; a blank side as it is."""
    if isinstance(side, str) and not side.strip():
        return side
    wanted = len(_ids(model, side))
    if model.tokenizer is None:
        used = {model.bos, model.bos_token, *(i for s in ("plus", "minus") for i in _ids(model, source[s]))}
        free = [i for i in range(model.d_vocab) if i not in used]
        return [int(i) for i in generator.choice(free, wanted)]
    own = " ".join(str(source[s]) if isinstance(source[s], str) else model.text(source[s]) for s in ("plus", "minus"))
    own = own.casefold()
    text = side if isinstance(side, str) else model.text(list(side))
    capital, space = text.strip()[:1].isupper(), text[:1].isspace()
    free_words = [w for w in words if w not in own and not any(part in w for part in own.split() if len(part) > 3)]
    ids: list[int] = []
    for index in generator.permutation(len(free_words)):
        word = free_words[int(index)]
        word = word.capitalize() if capital and not ids else word
        one = _encoded(model, f" {word}" if ids or space else word)
        if len(one) == 1:
            ids += one
        if len(ids) == wanted:
            return ids
    # No word is a single token: pieces of words, of which there are always enough.
    return (_encoded(model, " " + " ".join(generator.permutation(free_words)[:wanted].tolist())))[:wanted]


def paired(
    model: Model, plus: str | Sequence[int], minus: str | Sequence[int], pad: str | int = " "
) -> tuple[list[int], list[int]]:
    """Token ids of both prompts, BOS included, the shorter one padded on the right.

    Raises:
        BadVector: both are empty, or the padding is not a single token.
    """
    first, second = _ids(model, plus), _ids(model, minus)
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


def _ids(model: Model, prompt: str | Sequence[int]) -> list[int]:
    ids = _encoded(model, prompt) if isinstance(prompt, str) else [int(i) for i in prompt]
    return ids[1:] if model.bos is not None and ids[:1] == [model.bos] else ids


def _encoded(model: Model, text: str) -> list[int]:
    """A side's text: where SentencePiece puts a space before a text, one that stands there already is that space."""
    return model.encode_inner(text) if text[:1] == " " else model.encode(text)


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
