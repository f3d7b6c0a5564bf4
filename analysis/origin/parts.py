"""`parts`: a recorded steering vector as the exact sum of what every writer put into it.

1. Make the runs of the vector's recipe again, and hold the weighted sum of their activations (see `vectors.plans`)
   against the vector.
2. A stream is the embedding plus what every head and MLP below has written; a head writes its `z` through its
   part of the output matrix. So is a weighted sum of streams, in which biases cancel where the weights add up to zero.
3. Where a norm stands between attention and stream (Gemma), a head's write goes through it with the scale of
   its own run: given its scale a norm is linear, so the parts still add up.

Source: Elhage et al. 2021 (A Mathematical Framework for Transformer Circuits): a stream as a sum of writes.
What it cannot see: why a node wrote what it wrote; only who did.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadVector, SteerscopeError
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.tools.record import tolerance
from steerscope.analysis.tools.writes import raw_writes
from steerscope.analysis.vectors.plans import Plan, kept_at, relative, rows_of
from steerscope.analysis.vectors.recipes import RECIPES, Recipe, recipe_of
from steerscope.analysis.vectors.vector import SteeringVector

EMBEDDING, BIAS = "embedding", "bias"
CANCELLED = 1e-9  # of a bias: less is rounding
LONGEST = 200  # characters of the tokens of a row
Kept = dict[tuple[str, int], Float[Tensor, "kept ..."]]


@dataclass(frozen=True, eq=False)
class Part:
    """What one writer wrote into a vector.

    Attributes:
        writer: `embedding` (token and position), a node (`L0H3`, `L0M`), or `L0 bias` where one does not cancel.
        kind: embedding, head, mlp or bias.
    """

    writer: str
    kind: str
    layer: int | None
    head: int | None
    values: Float[Tensor, "row width"]


@dataclass(frozen=True, eq=False)
class Parts:
    """All parts of a vector.

    Attributes:
        tokens: of each row of the vector, the tokens whose activations are added, and those of which they are
            subtracted.
        error: conservation error: norm of the parts' sum minus the vector, over the vector's norm.
        recorded: the same of the two runs made again, against the vector.
    """

    parts: tuple[Part, ...]
    tokens: tuple[tuple[str, str], ...]
    error: float
    recorded: float


@torch.no_grad()
def parts(model: Model, vector: SteeringVector) -> Parts:
    """Who wrote a vector.

    Raises:
        BadVector: it is zero, is not made of activations, or the model does not reproduce it.
    """
    values = vector.values.double()
    if not values.any():
        raise BadVector(
            f"no writers possible: ({vector.label}) is zero everywhere; expected a vector with a direction; "
            "choose another row"
        )
    recipe = recipe_of(vector)
    if recipe is None or not recipe.planned:
        fit = " or ".join(name.replace("_", " ") for name, one in RECIPES.items() if one.planned)
        raise BadVector(
            f"no writers possible: ({vector.label}) has the recipe {vector.source.get('recipe', 'unknown')!r}; "
            f"expected a {fit}, whose runs can be made again; use steering_vector(model, plus, minus)"
        )
    plan, kept = _runs(model, vector, recipe)
    site = vector.site
    whole = kept[site.name, site.layer]
    whole = whole if site.head is None else whole[:, site.head]
    weights, recorded = rows_of(vector, plan.weigh(whole).weights, whole)
    if weights is None or recorded > tolerance(model):
        gap = "in shape" if weights is None else f"by {recorded:.2g} of its norm"
        raise BadVector(
            f"no writers possible: ({vector.label}) recorded anew on {model.name} at {site} differs from the vector "
            f"{gap}; expected the same values (or a row, the mean or the body of them); record it on this model"
        )
    found = tuple(
        Part(name, kind, layer, head, weights @ written)
        for name, kind, layer, head, written in _written(model, vector, kept, whole)
        if kind != BIAS or not _cancels(weights, written)
    )
    texts = [model.token_text(run.ids[position]) for run in plan.runs for position in run.positions]
    tokens = tuple((_joined(texts, row > 0), _joined(texts, row < 0)) for row in weights)
    error = relative(sum(part.values for part in found), values)  # type: ignore[arg-type]
    return Parts(found, tokens, error, recorded)


def _joined(texts: list[str], chosen: Tensor) -> str:
    return brief("".join(texts[i] for i in chosen.nonzero().flatten().tolist()), LONGEST)


def _cancels(weights: Float[Tensor, "row kept"], written: Float[Tensor, "kept width"]) -> bool:
    """Whether what is the same in all runs adds up to nothing."""
    return bool((weights @ written).norm() <= CANCELLED * (weights.abs() @ written.abs()).norm())


def _runs(model: Model, vector: SteeringVector, recipe: Recipe) -> tuple[Plan, Kept]:
    """The plan of a vector, made again, and of its runs all that is needed."""
    site = vector.site
    sites = {(site.name, site.layer)}
    if site.name == "resid_pre":
        below = range(site.layer)
        nodes = ("z", "mlp_out") if model.has_mlp else ("z",)
        sites |= {("resid_pre", 0)} | {(name, layer) for name in nodes for layer in below}
    if site.name == "attn_out":
        sites.add(("z", site.layer))
    try:
        model.check(site)
        plan = recipe.plan(model, vector.source)
        order = sorted(sites)
        return plan, dict(zip(order, kept_at(model, [(plan, one) for one in order]), strict=True))
    except (SteerscopeError, KeyError) as error:
        raise BadVector(
            f"no writers possible: the runs that ({vector.label}) was recorded from cannot be made again on "
            f"{model.name} ({error}); expected the model that it was recorded on; load that one"
        ) from error


Written = tuple[str, str, int | None, int | None, Tensor]


def _written(model: Model, vector: SteeringVector, kept: Kept, whole: Tensor) -> Iterator[Written]:
    """Every writer and what it wrote at all kept positions."""
    site = vector.site
    if site.name in ("z", "mlp_out"):
        node = Node(site.layer, site.head)
        yield str(node), node.kind, node.layer, node.head, whole
    elif site.name == "attn_out":
        yield from _heads(model, site.layer, kept)
    else:
        yield EMBEDDING, EMBEDDING, None, None, kept["resid_pre", 0]
        for layer in range(site.layer):
            yield from _heads(model, layer, kept)
            if model.has_mlp:
                yield str(Node(layer)), "mlp", layer, None, kept["mlp_out", layer]


def _heads(model: Model, layer: int, kept: Kept) -> Iterator[Written]:
    writes, bias, norm = raw_writes(model, layer, kept["z", layer])
    rest = bias.expand(writes.shape[1:])
    if norm is not None:
        scale = norm.scale(writes.sum(0) + bias)
        writes = norm.part(writes, scale)
        rest = norm.part(rest, scale) + norm.bias
    for head, write in enumerate(writes):
        yield str(Node(layer, head)), "head", layer, head, write
    if rest.any():
        yield f"L{layer} bias", BIAS, layer, None, rest
