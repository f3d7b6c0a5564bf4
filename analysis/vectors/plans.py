"""What a recipe asks of the model: runs, the positions of them that are kept, and how these are added up.

Every vector that is made of activations is a weighted sum of them: `row r = sum over kept positions k of W[r, k] x[k]`.
A plan names the runs, and gives `W` once their activations are known (a principal direction and a probe are sums of
activations, too). So one place records, for as many vectors and layers at once as there are (`make_all`), and who wrote
a vector can be asked of each alike: writes are weighted as activations are (`steerscope.analysis.origin.parts`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.brief import brief
from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.errors import BadNode, BadVector
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site

from .vector import SteeringVector

RECORDED = ("resid_pre", "attn_out", "mlp_out", "z")
BATCH = 64  # runs that are recorded at once
ROUNDING = 1e-5  # of the largest norm of the activations: a smaller difference of many is none

HERE = "<site>"  # in a message

Kept = Float[Tensor, "kept width"]


@dataclass(frozen=True)
class Run:
    """A forward pass of some tokens, and the positions of it that a vector is made of."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Weighed:
    """How kept activations are added up, and what was found on the way (for the vector's `source`)."""

    weights: Float[Tensor, "row kept"]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Plan:
    """How a vector is made of activations, at whatever site.

    Attributes:
        source: the vector's, but for the layer: recipe, options, model, label.
        runs: whose kept positions stand one after another.
        weigh: from the kept activations, in float64, to their weights.
        nothing: what to say where the sum is zero; `HERE` stands for the site.
        rounding: share of the largest norm of the activations that counts as zero.
    """

    source: Mapping[str, Any]
    runs: tuple[Run, ...]
    weigh: Callable[[Kept], Weighed]
    nothing: str
    rounding: float = 0.0


def whole(ids: Sequence[int]) -> Run:
    """A run of which all positions are kept."""
    return Run(tuple(ids), tuple(range(len(ids))))


def last(ids: Sequence[int]) -> Run:
    """A run of which the last position is kept."""
    return Run(tuple(ids), (len(ids) - 1,))


def place(model: Model, layer: int, site: str = "resid_pre", head: int | None = None) -> Site:
    """Where a vector is recorded.

    Raises:
        BadNode: the model has no such layer, site or head, or nothing is recorded there.
    """
    if site not in RECORDED:
        raise BadNode(f"a vector cannot be recorded at {brief(site)!r}; expected {', '.join(RECORDED)}; choose one")
    return model.check(Site(site, layer, head))


def make_one(model: Model, plan: Plan, at: Site) -> SteeringVector:
    """The vector of a plan at a site.

    Raises:
        BadVector: it is zero.
    """
    [kept] = recorded(model, [(plan, at)])
    return vector_of(plan, at, kept)


def make_all(model: Model, wanted: Sequence[tuple[Plan, Site]]) -> list[SteeringVector]:
    """The vectors of many plans, each run made once for all of them.

    Raises:
        BadVector: one of them is zero.
    """
    return [vector_of(plan, at, kept) for (plan, at), kept in zip(wanted, recorded(model, wanted), strict=True)]


def vector_of(plan: Plan, at: Site, kept: Kept) -> SteeringVector:
    """A vector of its activations.

    Raises:
        BadVector: it is zero.
    """
    found = plan.weigh(kept)
    values = added_up(found.weights, kept)
    if float(values.norm()) <= plan.rounding * float(kept.norm(dim=-1).max()):
        raise BadVector(plan.nothing.replace(HERE, str(at)))
    return SteeringVector(values, at, {**plan.source, **found.facts, "layer": at.layer})


def added_up(weights: Float[Tensor, "row kept"], kept: Kept) -> Float[Tensor, "row width"]:
    """The weighted sums; of one row what is added and what is subtracted apart: exchanged sides flip the sign."""
    if len(weights) > 1:
        return weights @ kept
    up, down = weights[0] > 0, weights[0] < 0
    return (weights[0, up] @ kept[up] - -weights[0, down] @ kept[down])[None]


def recorded(model: Model, wanted: Sequence[tuple[Plan, Site]]) -> list[Kept]:
    """By plan, the kept activations at its site, in float64 on the CPU; each run is made once."""
    found = kept_at(model, [(plan, (at.name, at.layer)) for plan, at in wanted])
    return [x if at.head is None else x[:, at.head] for x, (_, at) in zip(found, wanted, strict=True)]


@torch.no_grad()
def kept_at(model: Model, wanted: Sequence[tuple[Plan, tuple[str, int]]]) -> list[Float[Tensor, "kept *head width"]]:
    """The same, by the name of a site and its layer: of all heads, where it has heads."""
    users: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for number, (plan, _) in enumerate(wanted):
        for slot, one in enumerate(plan.runs):
            users.setdefault(one.ids, []).append((number, slot))
    parts: list[list[Tensor]] = [[torch.empty(0)] * len(plan.runs) for plan, _ in wanted]
    distinct = sorted(users, key=lambda ids: (len(ids), ids))  # whatever order they are asked in
    for start in range(0, len(distinct), BATCH):
        batch = distinct[start : start + BATCH]
        sites = sorted({wanted[number][1] for ids in batch for number, _ in users[ids]})
        variants = [Variant(index) for index in range(len(batch))]
        for chunk, readout in run(model, batch, variants, reads="none", sites=sites):
            for row, index in enumerate(chunk):
                for number, slot in users[batch[index]]:
                    plan, at = wanted[number]
                    x = readout.activations[at][row, list(plan.runs[slot].positions)]
                    parts[number][slot] = x.double().cpu()
    return [torch.cat(own) for own in parts]


def relabelled(
    model: Model, vector: SteeringVector, plan: Plan, weigh: Sequence[Callable[[Kept], Float[Tensor, "row kept"]]]
) -> list[SteeringVector]:
    """Vectors of the runs of another one, each weighed in its own way: what labels make that say nothing.

    Raises:
        BadVector: the vector is of another model.
    """
    if (made_on := vector.source.get("model")) != model.name:
        raise BadVector(
            f"the labels of ({vector.label}) cannot be exchanged on {model.name}: it was made on {made_on}; "
            "expected the same model; make it again on this one"
        )
    [kept] = recorded(model, [(plan, vector.site)])
    return [
        SteeringVector(
            added_up(own(kept), kept),
            vector.site,
            {"recipe": "shuffled", "number": n, "label": f"exchanged labels {n + 1}"},
        )
        for n, own in enumerate(weigh)
    ]


def rows_of(
    vector: SteeringVector, weights: Float[Tensor, "row kept"], kept: Kept
) -> tuple[Float[Tensor, "row kept"] | None, float]:
    """The weights of a vector whose plan was made again, and how far it is from their sum, over its norm.

    A vector may have become its body, one of its rows, or their mean since it was recorded; None where it has another
    number of rows.
    """
    every = weights @ kept
    body = weights[int(every.any(dim=-1).double().argmax()) :]
    maps = (weights, body, *weights[:, None], weights.mean(0, keepdim=True), body.mean(0, keepdim=True))
    fitting = [(own, relative(own @ kept, vector.values.double())) for own in maps if len(own) == vector.rows]
    return min(fitting, key=lambda found: found[1], default=(None, float("inf")))


def relative(value: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of what was expected."""
    if value.shape != expected.shape:
        return float("inf")
    return float((value - expected).norm() / expected.norm())
