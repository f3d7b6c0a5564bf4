"""`parts`: a recorded steering vector as the exact sum of what every writer put into it.

1. Run the plus and the minus prompt again, and hold their difference at the vector's site against the vector.
2. A stream is the embedding plus what every head and MLP below has written; a head writes its `z` through its
   part of the output matrix. The same of the difference of two runs, in which biases cancel.
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

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.errors import BadVector, SteerscopeError
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.tools.record import tolerance
from steerscope.analysis.tools.writes import raw_writes
from steerscope.analysis.vectors.recipes import RECIPES, Runs, recipe_of
from steerscope.analysis.vectors.vector import SteeringVector

EMBEDDING = "embedding"
Kept = dict[tuple[str, int], Float[Tensor, "run pos ..."]]


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
        tokens: of each row of the vector, the token of the plus and of the minus prompt; all of them for a mean.
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
        BadVector: it is zero, is not the difference of two runs, or the model does not reproduce it.
    """
    values = vector.values.double()
    if not values.any():
        raise BadVector(
            f"no writers possible: ({vector.label}) is zero everywhere; expected a vector with a direction; "
            "choose another row"
        )
    recipe = recipe_of(vector)
    if recipe is None or recipe.runs is None:
        fit = " or ".join(name.replace("_", " ") for name, one in RECIPES.items() if one.runs is not None)
        raise BadVector(
            f"no writers possible: ({vector.label}) has the recipe {vector.source.get('recipe', 'unknown')!r}; "
            f"expected a {fit}, whose two runs can be made again; use steering_vector(model, plus, minus)"
        )
    pair, kept = _runs(model, vector, recipe.runs)
    site = vector.site
    whole = kept[site.name, site.layer]
    whole = _difference(whole if site.head is None else whole[:, :, site.head])
    rows, recorded = min(
        ((m, _relative(m @ whole, values)) for m in _maps(whole) if len(m) == len(values)),
        key=lambda found: found[1],
        default=(None, float("inf")),
    )
    if rows is None or recorded > tolerance(model):
        gap = "in shape" if rows is None else f"by {recorded:.2g} of its norm"
        raise BadVector(
            f"no writers possible: ({vector.label}) recorded anew on {model.name} at {site} differs from the vector "
            f"{gap}; expected the same values (or a row, the mean or the body of them); record it on this model"
        )
    found = tuple(
        Part(name, kind, layer, head, rows @ written)
        for name, kind, layer, head, written in _written(model, vector, kept, whole)
    )
    texts = [[model.token_text(token) for token in ids] for ids in pair]
    tokens = tuple(tuple("".join(text[i] for i in row.nonzero().flatten().tolist()) for text in texts) for row in rows)
    error = _relative(sum(part.values for part in found), values)  # type: ignore[arg-type]
    return Parts(found, tokens, error, recorded)  # type: ignore[arg-type]


def _runs(model: Model, vector: SteeringVector, again: Runs) -> tuple[list[list[int]], Kept]:
    """Token ids of both prompts, and of their runs all that is needed."""
    site = vector.site
    sites = {(site.name, site.layer)}
    if site.name == "resid_pre":
        below = range(site.layer)
        nodes = ("z", "mlp_out") if model.has_mlp else ("z",)
        sites |= {("resid_pre", 0)} | {(name, layer) for name in nodes for layer in below}
    if site.name == "attn_out":
        sites.add(("z", site.layer))
    kept: dict[tuple[str, int], list[Tensor]] = {key: [torch.empty(0)] * 2 for key in sites}
    try:
        model.check(site)
        pair = list(again(model, vector.source))
        for chunk, readout in run(model, pair, [Variant(0), Variant(1)], reads="none", sites=sorted(sites)):
            for row, index in enumerate(chunk):
                for key in sites:
                    kept[key][index] = readout.activations[key][row].double().cpu()
    except (SteerscopeError, KeyError) as error:
        raise BadVector(
            f"no writers possible: the runs that ({vector.label}) was recorded from cannot be made again on "
            f"{model.name} ({error}); expected the model that it was recorded on; load that one"
        ) from error
    return pair, {key: torch.stack(runs) for key, runs in kept.items()}


def _difference(runs: Float[Tensor, "run pos width"]) -> Float[Tensor, "pos width"]:
    return runs[0] - runs[1]


def _relative(value: Tensor, expected: Tensor) -> float:
    if value.shape != expected.shape:
        return float("inf")
    return float((value - expected).norm() / expected.norm())


def _maps(whole: Float[Tensor, "pos width"]) -> Iterator[Float[Tensor, "row pos"]]:
    """What a vector may have become since it was recorded: itself, its body, one row, a mean."""
    every = torch.eye(len(whole), dtype=torch.float64)
    body = every[int(whole.any(dim=-1).double().argmax()) :]
    yield from (every, body, *every[:, None], every.mean(0, keepdim=True), body.mean(0, keepdim=True))


Written = tuple[str, str, int | None, int | None, Tensor]


def _written(model: Model, vector: SteeringVector, kept: Kept, whole: Tensor) -> Iterator[Written]:
    """Every writer and the difference of what it wrote, at all positions."""
    site = vector.site
    if site.name in ("z", "mlp_out"):
        node = Node(site.layer, site.head)
        yield str(node), node.kind, node.layer, node.head, whole
    elif site.name == "attn_out":
        yield from _heads(model, site.layer, kept)
    else:
        yield EMBEDDING, EMBEDDING, None, None, _difference(kept["resid_pre", 0])
        for layer in range(site.layer):
            yield from _heads(model, layer, kept)
            if model.has_mlp:
                yield str(Node(layer)), "mlp", layer, None, _difference(kept["mlp_out", layer])


def _heads(model: Model, layer: int, kept: Kept) -> Iterator[Written]:
    writes, bias, norm = raw_writes(model, layer, kept["z", layer])
    if norm is not None:
        scale = norm.scale(writes.sum(0) + bias)
        writes = norm.part(writes, scale)
        rest = _difference(norm.part(bias.expand(*scale.shape, -1), scale))
    for head, write in enumerate(writes):
        yield str(Node(layer, head)), "head", layer, head, _difference(write)
    if norm is not None and rest.any():  # the two runs scale the same bias differently
        yield f"L{layer} bias", "bias", layer, None, rest
