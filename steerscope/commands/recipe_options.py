"""What a recipe is told in words, `name=value`: of `vectors make` and of `--inject`.

The names and kinds are those of the recipe's signature; an error names them all.
"""

from collections.abc import Collection, Mapping
from typing import Any

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadArgument, BadVector
from steerscope.analysis.vectors.recipes import OFFERED, RECIPES
from steerscope.knobs import KINDS, NONE, Knob, read

FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
MOST = 10_000  # layers


def knobs_of(recipe: str) -> dict[str, Knob]:
    """Its options by name.

    Raises:
        BadVector: no such recipe.
    """
    if recipe not in OFFERED:
        raise BadVector(f"{brief(recipe)!r} is no recipe; expected {', '.join(OFFERED)}; choose one")
    return {knob.name: knob for knob in read(RECIPES[recipe].source, recipe).own}


def recipe_options(recipe: str, told: Mapping[str, str], elsewhere: Collection[str] = ("layer",)) -> dict[str, Any]:
    """The options of a recipe as values.

    Args:
        told: by name, as typed.
        elsewhere: options that are told in another way.

    Raises:
        BadVector: no such recipe, or an option that it does not have, or lacks.
        BadArgument: an option that is none of its kind.
    """
    knobs = {name: knob for name, knob in knobs_of(recipe).items() if name not in elsewhere}
    unknown = [name for name in told if name not in knobs]
    absent = [name for name, knob in knobs.items() if knob.default is NONE and name not in told]
    if unknown or absent:
        wrong = f"got {brief(unknown[0])}" if unknown else f"needs {' and '.join(absent)}"
        there = ", ".join(f"{name}=..." for name in knobs)
        raise BadVector(f"the recipe {recipe} {wrong}; expected {there}; mend it")
    return {name: _value(knobs[name], text) for name, text in told.items()}


def _value(knob: Knob, text: str) -> Any:
    kind = KINDS[knob.kind].type
    try:
        if kind is bool:
            return FLAGS[text.lower()]
        return knob.parse(kind(text))
    except (ValueError, KeyError):
        what = "true or false" if kind is bool else "a number"
        raise BadArgument(f"got {knob.name}={brief(text)!r}; expected {what}; give one") from None


def layers_of(text: str, name: str = "--layers") -> list[int] | None:
    """Layers as typed: numbers and ranges, both ends in them; None for `all`.

    Raises:
        BadArgument: something else.
    """
    found: list[int] = []
    try:
        for part in text.split(",") if text != "all" else ():
            low, between, high = part.partition("-")
            ends = int(low), int(high) if between else int(low)
            if not 0 <= ends[0] <= ends[1] < MOST:
                raise ValueError
            found += range(ends[0], ends[1] + 1)
    except ValueError:
        raise BadArgument(f"{name} {brief(text)!r}; expected for example 8,9 or 8-16 or all; write it so") from None
    return sorted(set(found)) or None
