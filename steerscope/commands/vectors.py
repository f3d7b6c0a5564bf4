"""The options that make a vector: those of every recipe of the family, or saved ones.

A recipe's options are read from its signature, as a question's knobs are; `layer` and `seed` are those of the command.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerscope.analysis.brief import brief, quoted
from steerscope.analysis.errors import BadArgument, BadVector
from steerscope.analysis.vectors.recipes import ASKED
from steerscope.commands.recipe_options import knobs_of
from steerscope.knobs import KINDS, NONE, Knob

if TYPE_CHECKING:
    from steerscope.analysis.model.models import Model
    from steerscope.analysis.vectors.bundle import VectorBundle
    from steerscope.analysis.vectors.vector import SteeringVector

OF_COMMAND = ("layer", "seed")
OTHERS = "any other in --inject recipe=NAME,...; docs/vectors.md lists all."


@dataclass(frozen=True)
class Chosen:
    """A vector that was asked for: a saved one, or a recipe with its options."""

    recipe: str = ""
    options: Mapping[str, Any] | None = None
    saved: "SteeringVector | None" = None
    file: Path | None = None

    def make(self, model: "Model") -> "SteeringVector":
        from steerscope.analysis.vectors.recipes import make

        return self.saved or make(model, self.recipe, **(self.options or {}))


@dataclass(frozen=True)
class Several:
    """A vector for each of some layers (None: of all but the first), by a recipe with its options."""

    recipe: str
    options: Mapping[str, Any]
    layers: Sequence[int] | None

    def make(self, model: "Model") -> "VectorBundle":
        from steerscope.analysis.vectors.making import make_bundle

        return make_bundle(model, self.recipe, self.layers, **self.options)


def offers(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose first parameter, a list of `Chosen`, is filled from the options of recipes, each given any number
    of times.
    """
    own = list(inspect.signature(command).parameters.values())[1:]
    made = options(several=True)
    names = [option.name for option in made]

    @wraps(command)
    def filled(**given: Any) -> Any:
        wanted = {name: given[name] for name in (*names, *OF_COMMAND) if name in given}
        return command(chosen(wanted), **{option.name: given[option.name] for option in own})

    both = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in (*own, *made)]
    filled.__signature__ = inspect.Signature(both)  # type: ignore[attr-defined]
    filled.__annotations__ = {option.name: option.annotation for option in both}
    return filled


def options(several: bool = False) -> list[inspect.Parameter]:
    """`--recipe`, `--vector`, and the options of every recipe, once each; all of them lists where `several`."""
    kinds: dict[str, Knob] = {}
    for knob in (knob for name in ASKED for knob in _knobs(name) if knob.name not in OF_COMMAND):
        kinds.setdefault(knob.name, knob)
    names = f"{'Saved vectors' if several else 'A saved vector'} instead of a recipe."
    found = [
        _option("recipe", str, f"How the vector is made: {', '.join(ASKED)}; {OTHERS}", ASKED[0]),
        _option("vector", list[Path] if several else Path, names),
    ]
    for knob in kinds.values():
        kind = KINDS[knob.kind].type
        found.append(_option(knob.name, GenericAlias(list, (kind,)) if several else kind, _about(knob)))
    return found


def chosen(given: Mapping[str, Any]) -> list[Chosen]:
    """The vectors that the options ask for; what needs no model is refused here.

    Raises:
        BadVector: a recipe and a saved vector, or neither; an option of another recipe; lists of options that do not
            pair up.
        BadArgument: no layer.
        BadPrompt: a file of texts that cannot be read.
    """
    recipe = given["recipe"]
    if recipe not in ASKED:
        there = ",".join(f"{name}=..." for name in knobs_of(recipe))
        raise BadVector(
            f"--recipe {recipe}; expected {', '.join(ASKED)}, whose options stand here; write --inject "
            f"recipe={recipe},{there}, or make it first with steerscope vectors make {recipe}"
        )
    knobs = _knobs(recipe)
    files = _list(given["vector"])
    lists = {knob.name: _list(given.get(knob.name)) for knob in knobs if knob.name not in OF_COMMAND}
    needed = [knob.name for knob in knobs if knob.default is NONE]
    absent = [name for name in needed if not lists[name]]
    if not files:
        _check_own(recipe, lists, given)
    if bool(files) == (not absent):
        what = " and ".join(f"--{name}" for name in (*needed, "vector")) if files else "neither"
        example = " ".join(f"--{name} ..." for name in needed)
        raise BadVector(f"got {what}; expected one of them; give {example} or --vector FILE")
    if files:
        return [Chosen(saved=saved(path, given.get("layer")), file=path) for path in files]
    of_command = {knob.name: given[knob.name] for knob in knobs if knob.name in OF_COMMAND and knob.name in given}
    if of_command.get("layer", 0) is None:
        raise BadArgument(
            "no --layer given; expected the layer to record and inject at, counted from 0; add for example --layer 0"
        )
    first = max(needed, key=lambda name: len(lists[name]))
    count = len(lists[first])
    for name, values in lists.items():
        if len(values) not in (0, 1, count):
            raise BadVector(
                f"{count} times --{first} and {len(values)} times --{name}; expected one --{name} for all, or one for "
                f"each --{first}"
            )
    parsed = {knob.name: [knob.parse(value) for value in lists[knob.name]] for knob in knobs if lists.get(knob.name)}
    return [
        Chosen(recipe, of_command | {name: values[i % len(values)] for name, values in parsed.items()})
        for i in range(count)
    ]


def saved(path: Path, layer: int | None) -> "SteeringVector":
    """The vector of a file; of several layers the one that is injected at --layer."""
    from steerscope.analysis.vectors.bundle import VectorBundle
    from steerscope.analysis.vectors.vector_files import read_vector

    found = read_vector(path)
    if not isinstance(found, VectorBundle):
        return found
    if layer is None or layer not in found:
        there = brief(", ".join(map(str, found)), 200)
        raise BadVector(
            f"{quoted(path)} holds vectors of the layers {there}; expected --layer with one of them; add it, or inject "
            "them all with --inject"
        )
    return found[layer]


def _check_own(recipe: str, own: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuses an option that only other recipes have."""
    for other in ASKED:
        for name in (knob.name for knob in _knobs(other) if knob.name not in (*own, *OF_COMMAND)):
            if _list(given.get(name)):
                raise BadVector(
                    f"--{name} is no option of the recipe {recipe}; expected {', '.join(f'--{n}' for n in own)}; add "
                    f"--recipe {other}, or leave it out"
                )


def _knobs(recipe: str) -> tuple[Knob, ...]:
    return tuple(knobs_of(recipe).values())


def _list(given: Any) -> list[Any]:
    return [] if given is None else given if isinstance(given, list) else [given]


def _about(knob: Knob) -> str:
    return knob.help if knob.default in (NONE, None) else f"{knob.help} [default: {knob.default!r}]"


def _option(name: str, kind: Any, about: str, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[
            kind | None if default is None else kind, typer.Option(help=about, rich_help_panel="Vector")
        ],
    )
