"""Activation addition: the activations of one prompt minus those of another, position by position.

1. Put BOS before both prompts.
2. Pad the shorter one on the right with a single space token, so that positions pair up.
3. Record both at the site; subtract. At BOS, which sees nothing else, the difference is zero.

Source: Turner et al., "Activation Addition: Steering Language Models Without Optimization",
arXiv 2308.10248, section 3.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from steerscope.analysis.engine.activations import record
from steerscope.analysis.errors import BadMetric, BadNode, BadVector
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site

from .vector import SteeringVector

RECORDED = ("resid_pre", "attn_out", "mlp_out", "z")
EXAMPLE = {"plus": " wedding", "minus": " ship", "layer": 1}


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
        plus: text of the positive side, or its token ids without BOS; a leading space matters.
        minus: text of the negative side, or its token ids.
        layer: where it is recorded, and injected unless the injection says otherwise.
        site: resid_pre, attn_out, mlp_out, or z with a head.
        head: head, for the site z.
        pad: single token that fills up the shorter side, or its id.

    Raises:
        BadVector: the two are equal, both empty, or the padding is not a single token.
        BadNode: the model has no such layer, site or head.
    """
    if site not in RECORDED:
        raise BadNode(f"a vector cannot be recorded at {site!r}; expected {', '.join(RECORDED)}")
    place = model.check(Site(site, layer, head))
    first, second = paired(model, plus, minus, pad)
    a, b = record(model, [first, second], place)
    if (a == b).all():
        raise BadVector(
            f"plus {plus!r} and minus {minus!r} give the same activations at {place}; expected different prompts"
        )
    sides = {
        "plus": plus if isinstance(plus, str) else list(plus),
        "minus": minus if isinstance(minus, str) else list(minus),
    }
    label = " - ".join(json.dumps(side, ensure_ascii=False) for side in sides.values())
    source = {"recipe": "prompt_pair", **sides, "pad": pad, "layer": layer, "model": model.name, "label": label}
    return SteeringVector(a - b, place, source)


def runs(model: Model, source: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Token ids of both prompts of a vector, from its source."""
    return paired(model, source["plus"], source["minus"], source.get("pad", " "))


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
        raise BadVector(f"plus {plus!r} and minus {minus!r} are both empty; expected some text in one of them")
    start = [] if model.bos is None else [model.bos]
    first, second = (
        ids + [_pad(model, pad)] * (length - len(ids)) if len(ids) < length else ids for ids in (first, second)
    )
    return start + first, start + second


def _ids(model: Model, prompt: str | Sequence[int]) -> list[int]:
    ids = model.encode(prompt) if isinstance(prompt, str) else [int(i) for i in prompt]
    return ids[1:] if model.bos is not None and ids[:1] == [model.bos] else ids


def _pad(model: Model, pad: str | int) -> int:
    try:
        return model.single_token(pad)
    except BadMetric as error:
        raise BadVector(
            f"the padding {pad!r} is not a single token of {model.name}; expected one; choose another, for "
            "example pad='.'"
        ) from error
