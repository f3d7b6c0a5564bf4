"""`make_vector` and `make_bundle`: a vector, or one a layer, by the name of a recipe."""

from collections.abc import Sequence
from typing import Any

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import Whole, gated
from steerscope.analysis.model.models import Model

from .bundle import VectorBundle
from .plans import make_all, place
from .recipes import RECIPES, make, member
from .vector import SteeringVector


@gated(error=BadVector)
def make_vector(model: Model, recipe: str, **options: Any) -> SteeringVector:
    """A vector by the name of its recipe: `make_vector(model, "caa", questions="power.jsonl", layer=10)`.

    Args:
        recipe: a key of `RECIPES`; docs/vectors.md describes them.
        options: the recipe's own.

    Raises:
        BadVector: no such recipe, or options that it lacks, does not have, or cannot use.
        BadNode: the model has no such layer, site or head.
    """
    return make(model, recipe, **options)


@gated(error=BadVector)
def make_bundle(model: Model, recipe: str, layers: Sequence[Whole] | None = None, **options: Any) -> VectorBundle:
    """A vector for each of several layers, all from one pass over the runs of the recipe.

    Args:
        recipe: one whose vectors are made of activations.
        layers: which; by default every one but the first, where the last tokens of texts are all that there is.
        options: the recipe's own, without layer.

    Raises:
        BadVector: no such recipe, one that is made of no activations, or options that it lacks or does not have.
        BadNode: the model has no such layer, site or head.
    """
    chosen = list(range(1, model.n_layers)) if layers is None else list(layers)
    found = member(recipe, options)
    if not found.planned or not chosen or "layer" in options:
        fit = ", ".join(name for name, one in RECIPES.items() if one.planned)
        raise BadVector(
            f"a bundle of {recipe} over the layers {brief(str(chosen))}; expected some layers and no layer beside "
            f"them, and a recipe whose vectors are made of activations: {fit}; choose one"
        )
    options = found.taken(options)
    where = [place(model, n, options.get("site", "resid_pre"), options.get("head")) for n in chosen]
    plan = found.plan(model, options)
    made = make_all(model, [(plan, at) for at in where])
    return VectorBundle(dict(zip(chosen, made, strict=True)), {"recipe": recipe, "label": plan.source["label"]})
