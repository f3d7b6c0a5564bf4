"""The mean over many pairs of prompts: the activation at the last token of the first minus that of the second.

`v = 1/n sum_i (x(plus_i) - x(minus_i))`. What differs from pair to pair, averages out; what all pairs share, stays.

To know what such a vector is without its labels, half of the pairs are turned round (see `contrast`).

Sources: Turner et al., arXiv 2308.10248 (one pair); Rimsky et al., arXiv 2312.06681; Todd et al., "Function Vectors",
arXiv 2310.15213 (word pairs).
What it cannot see: positions other than the last; whether pairs are independent.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator

from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import gated
from steerscope.analysis.model.models import Model

from .contrast import difference, exchanged, kinds_of, shares, ways
from .plans import HERE, ROUNDING, Plan, Weighed, last, make_one, place
from .records import rows
from .texts import quoted, tokens_of
from .vector import SteeringVector

EXAMPLE = {
    "pairs": [("She was happy", "She was sad"), ("A day of joy", "A day of grief"), ("He laughed", "He cried")],
    "layer": 1,
}
FIELDS = (("plus", "minus"), ("positive", "negative"), ("input", "output"))

Pairs = str | Sequence[tuple[str, str]]


@gated(error=BadVector)
def pairs(
    model: Model,
    pairs: str | Sequence[tuple[str, str]],
    layer: int = 0,
    *,
    site: str = "resid_pre",
    head: int | None = None,
) -> SteeringVector:
    """The mean of `plus - minus` over pairs of prompts, at their last tokens, `[1, width]`.

    Args:
        pairs: pairs of texts; or a file (.csv, .jsonl) with columns plus and minus (or positive and negative, or input
            and output).
        layer: where it is recorded, and injected unless the injection says otherwise.
        site: resid_pre, attn_out, mlp_out, or z with a head.
        head: head, for the site z.

    Raises:
        BadVector: no pairs, a text that is blank or too long, or pairs that cancel.
        BadNode: the model has no such layer, site or head.
    """
    return make_one(model, plan(model, pairs), place(model, layer, site, head))


def plan(model: Model, pairs: Pairs) -> Plan:
    """What it asks of the model (see `plans`)."""
    listed = read_pairs(pairs) if isinstance(pairs, str) else [(str(plus), str(minus)) for plus, minus in pairs]
    if not listed:
        raise BadVector("there are no pairs; expected at least one; add some")
    sides = ((f"{side} of pair {n}", pair[i]) for n, pair in enumerate(listed, 1) for i, side in enumerate(FIELDS[0]))
    ids = tokens_of(model, sides)
    first = f"{quoted(listed[0][0])} - {quoted(listed[0][1])}{', ...' if len(listed) > 1 else ''}"
    label = f"mean of {len(listed)} pair{'s' * (len(listed) != 1)} ({first})"
    source = {"recipe": "pairs", "pairs": [list(pair) for pair in listed], "model": model.name, "label": label}
    nothing = (
        f"the first and the second texts of the pairs have the same mean activation at {HERE}; expected different "
        "ones; at layer 0 only their last tokens count: choose a later one, or other texts"
    )
    weights = difference(shares(_groups(listed), {0: 1.0}))
    return Plan(source, tuple(map(last, ids)), lambda kept: Weighed(weights), nothing, ROUNDING)


def shuffled(model: Model, vector: SteeringVector, count: int, generator: Generator) -> list[SteeringVector]:
    """Vectors of the same pairs, half of them turned round at random (see `contrast.exchanged`)."""
    listed = vector.source["pairs"]
    return exchanged(model, vector, plan(model, listed), _groups(listed), kinds_of(listed), {0: 1.0}, count, generator)


def splits(source: Mapping[str, Any]) -> int:
    """In how many ways the labels of a vector's pairs can be exchanged, up to its sign."""
    return ways(_groups(source["pairs"]), kinds_of(source["pairs"]))


def read_pairs(path: str) -> list[tuple[str, str]]:
    """Pairs of a file.

    Raises:
        BadVector: no such columns, or texts that cannot be used.
    """
    there = rows(path, ())[0].fields
    names = next((names for names in FIELDS if set(names) <= there.keys()), FIELDS[0])
    return [(row.fields[names[0]], row.fields[names[1]]) for row in rows(path, names)]


def _groups(pairs: Sequence[Any]) -> Any:
    return np.zeros(len(pairs), dtype=np.int64)
