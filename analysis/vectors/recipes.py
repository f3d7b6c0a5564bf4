"""`RECIPES`: every way to make a steering vector, one line each.

A recipe is a file of this folder with

- a function of its name, `name(model, *, options) -> SteeringVector`: it leaves its own name under `recipe` in the
  vector's `source`, and what the vector is in words under `label`;
- `EXAMPLE`, options that make a vector of any model that reads English; `vector.safetensors` stands for a saved one;
- where a vector is made of activations, `plan(model, options)` without layer, site and head: which runs, and how their
  activations are added up (see `plans`); the vector's source holds these options, so that it can be made again;
- where other concepts can stand in its place, `concepts(model, vector, words, count, generator)`: vectors of them;
- where labels can be exchanged, `shuffled(model, vector, count, generator)`: vectors of the same texts with labels that
  say nothing, and `splits(source)`: how many different ones there are.

Names only: nothing is imported before it is used, so that a command's help costs no torch.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import Check, Refused, check_of

if TYPE_CHECKING:
    from numpy.random import Generator

    from steerscope.analysis.model.models import Model

    from .plans import Plan
    from .vector import SteeringVector

# From a model, a vector, words to choose from, how many, and a generator to vectors of other concepts, recorded alike.
Concepts = Callable[["Model", "SteeringVector", Sequence[str], int, "Generator"], "list[SteeringVector]"]
# From a model, a vector, how many, and a generator to vectors of the same texts with their labels exchanged.
Shuffled = Callable[["Model", "SteeringVector", int, "Generator"], "list[SteeringVector]"]


@dataclass(frozen=True)
class Recipe:
    """A recipe by name: that of its file, of its function, and of what `source["recipe"]` says.

    Attributes:
        makes: what a vector of it is, in words.
        offered: made from a model and options; others come from arithmetic with vectors.
        asked: its options stand beside those of every question's command; others are made first (`vectors make`).
    """

    name: str
    makes: str
    offered: bool = True
    asked: bool = False

    @property
    def source(self) -> Path:
        """Its file: what can be read without importing it."""
        return Path(__file__).with_name(f"{self.name}.py")

    @property
    def function(self) -> "Callable[..., SteeringVector]":
        found: Callable[..., SteeringVector] = getattr(self._module, self.name)
        return found

    @property
    def example(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._module.EXAMPLE
        return found

    @property
    def planned(self) -> bool:
        """Whether its vectors are made of activations, of runs that can be made again."""
        return self.offered and hasattr(self._module, "plan")

    def plan(self, model: "Model", options: Mapping[str, Any]) -> "Plan":
        """What it asks of the model, from its options or from a vector's source (of which the rest is left out).

        Raises:
            BadVector: options that make no vector.
        """
        known = _options(self._module.plan)
        found: Plan = self._module.plan(model, **{name: options[name] for name in known if name in options})
        return found

    @property
    def concepts(self) -> Concepts | None:
        """Other concepts recorded as a vector of it was; None where it cannot."""
        return getattr(self._module, "concepts", None) if self.offered else None

    @property
    def shuffled(self) -> Shuffled | None:
        """The same texts with their labels exchanged; None where there are no labels."""
        return getattr(self._module, "shuffled", None) if self.offered else None

    def splits(self, vector: "SteeringVector") -> int:
        """How many different vectors `shuffled` can make."""
        return int(self._module.splits(vector.source)) if self.shuffled else 0

    @cached_property
    def _held(self) -> dict[str, tuple[bool, Check]]:
        """What a vector's source says of how it was made: by option, whether it must be there, and what it may be."""
        options, hints = _options(self.function), get_type_hints(self.function, include_extras=True)
        return {name: (option.default is option.empty, check_of(hints[name])) for name, option in options.items()}

    def check(self, source: Mapping[str, Any]) -> None:
        """Refuses a source that no vector of this recipe has.

        Raises:
            BadVector: an option is missing, or of another kind.
        """
        for name, (needed, check) in self._held.items() if self.offered else ():
            try:
                if name in source:
                    check(source[name])
                elif needed:
                    raise Refused("it to be there")
            except Refused as expected:
                raise BadVector(
                    f"a vector says that it was made by {self.name} with {name}={brief(repr(source.get(name)), 80)}; "
                    f"expected {expected}; make it again, or give it the recipe 'given'"
                ) from None

    def taken(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options as its function takes them, where another function is called with them.

        Raises:
            BadVector: one is of another kind.
        """
        found = {}
        for name, value in options.items():
            try:
                found[name] = self._held[name][1](value)
            except Refused as expected:
                raise BadVector(
                    f"the recipe {self.name} got {name}={brief(repr(value), 80)}; expected {expected}; give that"
                ) from None
        return found

    @property
    def _module(self) -> Any:
        return importlib.import_module(f"steerscope.analysis.vectors.{self.name}")


_MEMBERS = (
    Recipe("prompt_pair", "the activations of one prompt minus those of another", asked=True),
    Recipe("mean_difference", "the mean activation over texts of one kind minus that of another kind", asked=True),
    Recipe("pairs", "the mean over many pairs of prompts, at their last tokens"),
    Recipe("caa", "answers to multiple-choice questions that match a behaviour minus those that do not"),
    Recipe("pca", "a principal direction of the activations of texts, or of pairs of texts"),
    Recipe("probe", "the direction of a linear probe between two kinds of texts"),
    Recipe("svd", "a singular direction of a stack of vectors"),
    Recipe("sae", "a decoder direction of a sparse autoencoder"),
    Recipe("ladder", "a code-switching ladder: the sum over its rungs"),
    Recipe("without", "a vector without its parts along others"),
    Recipe("single_prompt", "the activations of one prompt"),
    Recipe("minus_mean", "the activations of one prompt minus the mean activation of ordinary text"),
    Recipe("random", "random directions, with the norms of another vector", asked=True),
    Recipe("sum", "two vectors, added or subtracted", offered=False),
    Recipe("multiple", "a vector times a number", offered=False),
)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _MEMBERS}
OFFERED = tuple(name for name, recipe in RECIPES.items() if recipe.offered)
ASKED = tuple(name for name, recipe in RECIPES.items() if recipe.asked)


def recipe_of(vector: "SteeringVector") -> Recipe | None:
    """The recipe that made a vector; None for one that was given.

    Raises:
        BadVector: its source does not fit the recipe that it names.
    """
    found = RECIPES.get(str(vector.source.get("recipe")).replace(" ", "_"))  # once written with a space
    if found is not None:
        found.check(vector.source)
    return found


def _options(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Every parameter after the model."""
    return dict(list(inspect.signature(function).parameters.items())[1:])


def make(model: "Model", recipe: str, **options: Any) -> "SteeringVector":
    """A vector by the name of its recipe: `make(model, "prompt_pair", plus=" wedding", layer=0)`.

    Raises:
        BadVector: no such recipe, or options that it lacks or does not have.
    """
    return member(recipe, options).function(model, **options)


def member(recipe: str, options: Mapping[str, Any]) -> Recipe:
    """The recipe of a name, which has these options and needs no others."""
    if recipe not in OFFERED:
        instead = "write for example a + b, or 2 * a" if recipe in RECIPES else "choose one"
        raise BadVector(f"{brief(recipe)!r} is no recipe with options; expected {' or '.join(OFFERED)}; {instead}")
    found = RECIPES[recipe]
    known = _options(found.function)
    needed = {name for name, option in known.items() if option.default is option.empty}
    unknown, missing = sorted(set(options) - set(known)), sorted(needed - set(options))
    if unknown or missing:
        faults = (("does not have", unknown), ("needs", missing))
        wrong = " and ".join(f"{verb} {', '.join(names)}" for verb, names in faults if names)
        example = ", ".join(f"{name}={value!r}" for name, value in found.example.items())
        raise BadVector(f"the recipe {recipe} {wrong}; expected {', '.join(known)}; give for example {example}")
    return found
