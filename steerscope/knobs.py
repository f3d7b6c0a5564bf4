"""The knobs of a question (or a recipe), read from its source without importing it: help costs no torch.

1. Find the function in its file: every parameter after the first is a knob.
2. Its kind is its annotation, its help the entry of that name under `Args:` in the docstring, its default a literal
   or the module's own literal constant.
3. Text of the command line becomes the value by its kind (`KINDS`).

A test holds every reading against `inspect.signature`.
"""

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

from steerscope.analysis.errors import BadArgument
from steerscope.questions import QUESTIONS, Question

NONE: Any = object()  # no default: it must be given


@dataclass(frozen=True)
class Knob:
    """One argument of a question.

    Attributes:
        kind: a key of `KINDS`.
        choices: the values of a `Literal`.
        default: `NONE` where it must be given.
    """

    name: str
    kind: str
    help: str
    default: Any = NONE
    choices: tuple[str, ...] = ()

    def parse(self, given: Any) -> Any:
        """The value of what was typed.

        Raises:
            BadArgument: it is none.
        """
        option = "--" + self.name.replace("_", "-")
        try:
            return None if given is None else KINDS[self.kind].parse(given)
        except ValueError as error:
            raise BadArgument(f"{option} {given!r}; expected {KINDS[self.kind].expected}") from error


@dataclass(frozen=True)
class Kind:
    """How the command line takes an annotation: as which type, and what becomes of it."""

    type: type
    parse: Callable[[Any], Any] = field(default=lambda given: given)
    expected: str = ""


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _texts(file: Path) -> list[str]:
    from steerscope.analysis.question.prompt_files import read_prompts

    return read_prompts(file)


_LIST = Kind(str, _names, "names separated by commas")
_FLOATS = Kind(str, _numbers, "numbers separated by commas, such as 1,10,100")
KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("int", "Count", "Whole", "Seed", "Several", "Steps", "Draws", "Verified", "Sampled"), Kind(int)),
    **dict.fromkeys(("float", "Share", "Level", "Positive", "Loss"), Kind(float)),
    "bool": Kind(bool),
    "str": Kind(str),
    "Literal": Kind(str),
    "Text": Kind(str),
    "Lens | str": Kind(str),
    "str | int": Kind(str),
    "str | Sequence[int]": Kind(str),
    "SteeringVector | str": Kind(str),
    **dict.fromkeys(("Sequence[str] | str", "Sequence[str | int] | str"), Kind(str)),
    "Sequence[SteeringVector | str]": _LIST,
    **dict.fromkeys(("str | Sequence[tuple[str, str]]", "str | Sequence[tuple[str, str, str]]"), Kind(str)),
    **dict.fromkeys(("Sequence[str]", "str | Sequence[str]", "Sequence[Node | str]"), _LIST),
    **dict.fromkeys(("Sequence[Order]", "Sequence[Scope]"), _LIST),
    **dict.fromkeys(("Sequence[float]", "Sequence[Share]"), _FLOATS),
    "Circuit | str | Sequence[Circuit | str]": Kind(list[str]),
    "Sequence[str] | Sequence[Sequence[int]]": Kind(Path, _texts, "a file of texts"),
}
SHARED = ("level", "alpha", "smallest")


@dataclass(frozen=True)
class Knobs:
    """What the command line must know of a question.

    Attributes:
        help: first paragraph of the docstring.
        own: its knobs, without those that all questions share.
        shared: which of `SHARED` it takes.
    """

    help: str
    own: tuple[Knob, ...]
    shared: tuple[str, ...]


def knobs(question: Question, own: bool = False) -> Knobs:
    """The knobs of a question, and, unless `own`, those of the methods that are asked through its command.

    The methods' have no default here: what is left out keeps the method's own.
    """
    found = read(question.source, question.name)
    more: dict[str, Knob] = {}
    takes: dict[str, list[str]] = {}
    for member in QUESTIONS.values() if not own else ():
        if member.door == question.name:
            for knob in read(member.source, member.name).own:
                more.setdefault(knob.name, knob)
                takes.setdefault(knob.name, []).append(member.name)
    for knob in found.own:
        more.pop(knob.name, None)
    others = (replace(k, help=f"{k.help} ({', '.join(takes[k.name])})", default=None) for k in more.values())
    return Knobs(found.help, (*found.own, *others), found.shared)


@cache
def read(file: Path, name: str) -> Knobs:
    """The knobs of a function in a file."""
    source = file.read_text(encoding="utf-8")
    # The function alone is parsed: a whole file each would be felt in every command's help.
    own_text = re.search(rf"^def {name}\(.*?(?=^(?:def|class|@|\w+ *[:=])|\Z)", source, re.S | re.M)
    [function] = [node for node in ast.parse(own_text[0] if own_text else source).body if _is(node, name)]
    text = ast.get_docstring(function) or ""
    described = _arguments(text)
    own, shared = [], []
    for argument, default in _parameters(function):
        if argument.arg in SHARED:
            shared.append(argument.arg)
            continue
        kind, choices = _kind(argument.annotation)
        if isinstance(default, ast.Name):
            default = _constant(source, default.id)
        value = NONE if default is None else ast.literal_eval(default)
        own.append(Knob(argument.arg, kind, described.get(argument.arg, ""), value, choices))
    return Knobs(" ".join(text.split("\n\n")[0].split()), tuple(own), tuple(shared))


def _is(node: ast.stmt, name: str) -> TypeGuard[ast.FunctionDef]:
    return isinstance(node, ast.FunctionDef) and node.name == name


def _constant(source: str, name: str) -> ast.expr:
    """The value of a name of the module."""
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return node.value
    raise KeyError(name)


def _parameters(function: ast.FunctionDef) -> list[tuple[ast.arg, ast.expr | None]]:
    """Every parameter after the first, with its default."""
    arguments = function.args
    plain = [*arguments.posonlyargs, *arguments.args]
    missing: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
    defaults = [*missing, *arguments.defaults, *arguments.kw_defaults]
    return list(zip([*plain, *arguments.kwonlyargs], defaults, strict=True))[1:]


def _kind(annotation: ast.expr | None) -> tuple[str, tuple[str, ...]]:
    text = "str" if annotation is None else ast.unparse(annotation).strip("'\"").removesuffix(" | None")
    if match := re.fullmatch(r"Literal\[(.*)\]", text):
        return "Literal", tuple(ast.literal_eval(f"({match[1]},)"))
    return text, ()


def _arguments(docstring: str) -> dict[str, str]:
    """Entries of the section `Args:` by name; an entry of two names stands for both."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", docstring, re.M)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section[1].splitlines() if section else ():
        if entry := re.fullmatch(r"    (\w+(?:, \w+)*): (.*)", line):
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2].strip())
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    # A sentence begins with a capital, the name of a thing does not.
    return {name: text if "_" in text.split(" ")[0] else text[:1].upper() + text[1:] for name, text in found.items()}
