"""`--inject`: injections in words, any number of them, from the command line or a TOML file.

    vector=v.safetensors,layer=6,coef=10,positions=front
    plus=" wedding",minus=" ",layer=6,coef=3,operation=add,during=both
    vector=control.gguf,coef=2,positions=all
    vector=refusal.safetensors,operation=ablate,everywhere=true,positions=all
    recipe=caa,questions=power.jsonl,layers=8-12,coef=2
    recipe=probe,positive=happy.txt,negative=sad.txt,layer=10,coef=5,positions=all

Commas part the settings, and a value with a comma stands in double quotes: `positions="3,4"`. The same as a JSON object
does, too, or a file `*.toml` with a table `[[inject]]` for each. A file of vectors by layer is injected at all its
layers, or at `layer`. A recipe is one of docs/vectors.md, its options are its own; with `layers` it makes a vector for
each of them. An option `vector` of a recipe's own is that recipe's.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadInjection, SteerscopeError
from steerscope.analysis.files import read_plain
from steerscope.analysis.reading import JSON
from steerscope.analysis.vectors.recipes import ASKED, OFFERED
from steerscope.commands import vectors
from steerscope.commands.recipe_options import knobs_of, layers_of, recipe_options

if TYPE_CHECKING:
    from steerscope.analysis.model.models import Model
    from steerscope.analysis.question.injection import Injection
    from steerscope.analysis.vectors.bundle import VectorBundle

OWN = ("vector", "recipe", "layer", "layers", "coef", "positions", "operation", "during", "everywhere")
MOST = 2**20  # bytes of a TOML file
_SETTING = re.compile(r'\s*([a-z_]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^,"]*?)\s*(,|$)')
_SPEC = "settings such as vector=v.safetensors,layer=6,coef=10, a JSON object of them, or a file .toml with [[inject]]"


@dataclass(frozen=True)
class Wanted:
    """What is injected, and how: of the command's own options, or of one `--inject`."""

    vector: "vectors.Chosen | vectors.Several | VectorBundle"
    layer: int | None = None
    coef: float = 1.0
    positions: str = "front"
    operation: Any = "add"
    during: Any = "prompt"
    everywhere: bool = field(default=False)

    def make(self, model: "Model") -> "tuple[Injection, ...]":
        """The injections, on a model that is loaded."""
        from steerscope.analysis.model.positions import parse_positions
        from steerscope.analysis.question.bundles import bundle, everywhere
        from steerscope.analysis.question.injection import Injection

        about: Any = (self.coef, self.positions, self.operation, self.during)
        made = self.vector.make(model) if isinstance(self.vector, vectors.Chosen | vectors.Several) else self.vector
        repeats = parse_positions(self.positions).repeats or self.during != "prompt"
        if isinstance(made, Mapping):
            return bundle({n: v.row(-1) if repeats and v.rows > 1 else v for n, v in made.items()}, *about)
        if repeats and made.body.rows > 1:
            made = made.row(-1)  # these take one row: that of the last token, as is usual
        if self.everywhere:
            return everywhere(model, made, *about)
        return (Injection(made, self.coef, self.layer, self.positions, self.operation, self.during),)


def wanted(specs: Sequence[str], seed: int) -> list[Wanted]:
    """What several `--inject` ask for; what needs no model is refused here.

    Raises:
        BadInjection: settings that cannot be read, that there are not, or that do not go together.
        BadVector: a vector that cannot be read, or no such recipe or option of it.
    """
    return [_wanted(settings, said, seed) for spec in specs for settings, said in _settings(spec)]


def injections_of(steering: "Sequence[Wanted]", model: "Model") -> "tuple[Injection, ...]":
    """All injections that are wanted, on a model that is loaded."""
    return tuple(injection for one in steering for injection in one.make(model))


def _settings(spec: str) -> list[tuple[dict[str, str], str]]:
    """By injection, its settings as texts, and the words to name it by."""
    said = f"--inject {brief(spec)!r}"
    if spec.lstrip().startswith("{"):
        return [(_texts(_parsed(spec, said), said), said)]
    if spec.endswith(".toml") and "=" not in spec:
        return _tables(spec, said)
    found: dict[str, str] = {}
    place = 0
    while place < len(spec) or not found:
        match = _SETTING.match(spec, place)
        if match is None or match[1] in found or (match[3] and match.end() == len(spec)):
            what = f"{match[1]} twice" if match is not None and match[1] in found else "what cannot be read"
            raise BadInjection(f"{said} holds {what}; expected {_SPEC}; mend it")
        value = match[2]
        found[match[1]] = _parsed(value, said) if value.startswith('"') else value
        place = match.end()
    return [(found, said)]


def _tables(path: str, said: str) -> list[tuple[dict[str, str], str]]:
    try:
        text = read_plain(Path(path))[: MOST + 1]
        read = tomllib.loads(text.decode()) if len(text) <= MOST else {}
    except (OSError, ValueError, RecursionError) as error:
        raise BadInjection(f"{said} cannot be read ({brief(str(error), 200)}); expected {_SPEC}; mend it") from error
    tables = read.get("inject")
    if set(read) != {"inject"} or not isinstance(tables, list) or not tables:
        raise BadInjection(f"{said} holds no [[inject]], or more than that; expected {_SPEC}; mend it")
    return [(_texts(table, said), f"{said}, number {n}") for n, table in enumerate(tables, 1)]


def _parsed(text: str, said: str) -> Any:
    try:
        return JSON.decode(text)
    except (ValueError, RecursionError) as error:
        raise BadInjection(f"{said} cannot be read ({brief(str(error), 200)}); expected {_SPEC}; mend it") from error


def _texts(settings: Any, said: str) -> dict[str, str]:
    """Values as one would type them."""
    found = {}
    for name, value in settings.items() if isinstance(settings, Mapping) else ():
        if isinstance(value, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in value):
            value = ",".join(map(str, value))
        if not isinstance(value, str | int | float):
            raise BadInjection(f"{said} holds {name}={brief(repr(value))}; expected a text or a number; mend it")
        found[str(name)] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def _wanted(given: dict[str, str], said: str, seed: int) -> Wanted:
    from steerscope.analysis.question.injection import During, Operation

    recipe = given.get("recipe", ASKED[0])
    _check(recipe in OFFERED, said, f"recipe={recipe!r}", f"one of {', '.join(OFFERED)}")
    knobs = knobs_of(recipe)
    saved = "vector" in given and not ("recipe" in given and "vector" in knobs)
    own = {name: value for name, value in given.items() if name in knobs and name not in ("layer", *["vector"] * saved)}
    known = dict.fromkeys([*OWN, *knobs])
    for name in given:
        _check(name in known, said, name, f"some of {', '.join(known)}")
    _check(not (saved and own), said, f"vector and {next(iter(own), '')}", "one of them")
    places = given.keys() & {"layer", "layers"}
    _check(len(places) < 2 and not (saved and "layers" in places), said, "layers", "layer, or layers of a recipe")
    _check(
        saved or "layer" not in knobs or bool(places),
        said,
        "no layer",
        "one to record at, such as layer=6, or layers=6-9",
    )
    layer = _number(int, given, "layer", None, said)
    everywhere = given.get("everywhere", "false")
    _check(everywhere in ("true", "false"), said, f"everywhere={everywhere!r}", "true or false")
    about: dict[str, Any] = {"layer": layer, "everywhere": everywhere == "true"}
    about["coef"] = _number(float, given, "coef", 1.0, said)
    for name, kinds, usual in (("operation", Operation, "add"), ("during", During, "prompt")):
        about[name] = given.get(name, usual)
        _check(about[name] in get_args(kinds), said, f"{name}={about[name]!r}", f"one of {', '.join(get_args(kinds))}")
    try:
        found = _stored(given["vector"], layer) if saved else _made(recipe, own, given, seed)
    except ValueError as error:
        raise BadInjection(f"{said}: {brief(str(error), 200)}; expected {_SPEC}; mend it") from error
    except SteerscopeError as error:
        raise type(error)(f"{said}: {error}") from error
    several = not isinstance(found, vectors.Chosen)
    _check(
        not (several and about["everywhere"]), said, "everywhere=true with vectors by layer", "one vector, or a layer"
    )
    return Wanted(found, **about, positions=given.get("positions", "all" if several else "front"))


def _made(
    recipe: str, own: Mapping[str, str], given: Mapping[str, str], seed: int
) -> "vectors.Chosen | vectors.Several":
    """What a recipe is asked for, at one layer or several."""
    options, knobs = recipe_options(recipe, own), knobs_of(recipe)
    if "seed" in knobs:
        options.setdefault("seed", seed)
    if "layers" in given:
        return vectors.Several(recipe, options, layers_of(given["layers"], "layers"))
    return vectors.Chosen(recipe, options | ({"layer": int(given["layer"])} if "layer" in knobs else {}))


def _stored(path: str, layer: int | None) -> "vectors.Chosen | VectorBundle":
    """The vector of a file, or all of one that holds several, unless a layer is chosen."""
    from steerscope.analysis.vectors.bundle import VectorBundle
    from steerscope.analysis.vectors.vector_files import read_vector

    found = read_vector(Path(path))
    if isinstance(found, VectorBundle):
        return found if layer is None else vectors.Chosen(saved=vectors.saved(Path(path), layer), file=Path(path))
    return vectors.Chosen(saved=found, file=Path(path))


def _number(kind: type, given: Mapping[str, str], name: str, usual: Any, said: str) -> Any:
    if name not in given:
        return usual
    try:
        return kind(given[name])
    except ValueError:
        expected = "a number from 0 on" if kind is int else "a number"
        raise BadInjection(f"{said} holds {name}={brief(given[name])!r}; expected {expected}; mend it") from None


def _check(right: bool, said: str, what: str, expected: str) -> None:
    if not right:
        raise BadInjection(f"{said} holds {brief(what)}; expected {expected}; mend it")
