"""`--inject`: injections in words, any number of them, from the command line or a TOML file.

    vector=v.safetensors,layer=6,coef=10,positions=front
    plus=" wedding",minus=" ",layer=6,coef=3,operation=add,during=both
    vector=control.gguf,coef=2,positions=all
    vector=refusal.safetensors,operation=ablate,everywhere=true,positions=all

Commas part the settings, and a value with a comma stands in double quotes: `positions="3,4"`. The same as a JSON object
does, too, or a file `*.toml` with a table `[[inject]]` for each. A file of vectors by layer is injected at all its
layers, or at `layer`.
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
from steerscope.analysis.vectors.recipes import ASKED, RECIPES
from steerscope.commands import vectors
from steerscope.knobs import KINDS, read

if TYPE_CHECKING:
    from steerscope.analysis.model.models import Model
    from steerscope.analysis.question.injection import Injection
    from steerscope.analysis.vectors.bundle import VectorBundle

OWN = ("vector", "recipe", "layer", "coef", "positions", "operation", "during", "everywhere")
MOST = 2**20  # bytes of a TOML file
_SETTING = re.compile(r'\s*([a-z_]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^,"]*?)\s*(,|$)')
_SPEC = "settings such as vector=v.safetensors,layer=6,coef=10, a JSON object of them, or a file .toml with [[inject]]"


@dataclass(frozen=True)
class Wanted:
    """What is injected, and how: of the command's own options, or of one `--inject`."""

    vector: "vectors.Chosen | VectorBundle"
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
        if not isinstance(self.vector, vectors.Chosen):
            return bundle(self.vector, *about)
        made = self.vector.make(model)
        if (parse_positions(self.positions).repeats or self.during != "prompt") and made.body.rows > 1:
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
    _check(recipe in ASKED, said, f"recipe={recipe!r}", f"one of {', '.join(ASKED)}")
    knobs = {knob.name: knob for knob in read(RECIPES[recipe].source, recipe).own}
    known = dict.fromkeys([*OWN, *knobs])
    for name in given:
        _check(name in known, said, name, f"some of {', '.join(known)}")
    layer = _number(int, given, "layer", None, said)
    everywhere = given.get("everywhere", "false")
    _check(everywhere in ("true", "false"), said, f"everywhere={everywhere!r}", "true or false")
    about: dict[str, Any] = {"layer": layer, "everywhere": everywhere == "true"}
    about["coef"] = _number(float, given, "coef", 1.0, said)
    for name, kinds, usual in (("operation", Operation, "add"), ("during", During, "prompt")):
        about[name] = given.get(name, usual)
        _check(about[name] in get_args(kinds), said, f"{name}={about[name]!r}", f"one of {', '.join(get_args(kinds))}")
    try:
        if "vector" in given:
            stored = _stored(given["vector"], layer)
            if stored is not None:
                _check(not about["everywhere"], said, "everywhere=true with vectors by layer", "one vector, or a layer")
                return Wanted(stored, **about, positions=given.get("positions", "all"))
        options: dict[str, Any] = {"recipe": recipe, "vector": Path(given["vector"]) if "vector" in given else None}
        options |= {name: KINDS[knob.kind].type(given[name]) for name, knob in knobs.items() if name in given}
        [chosen] = vectors.chosen(options | {"layer": layer, "seed": seed})
    except ValueError as error:
        raise BadInjection(f"{said}: {brief(str(error), 200)}; expected {_SPEC}; mend it") from error
    except SteerscopeError as error:
        raise type(error)(f"{said}: {error}") from error
    return Wanted(chosen, **about, positions=given.get("positions", "front"))


def _stored(path: str, layer: int | None) -> "VectorBundle | None":
    """The vectors of a file that holds some for several layers, where all of them are wanted."""
    from steerscope.analysis.vectors.bundle import VectorBundle
    from steerscope.analysis.vectors.vector_files import read_vector

    found = read_vector(Path(path)) if layer is None else None
    return found if isinstance(found, VectorBundle) else None


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
