"""The gate: what comes through a public door is what the door says it takes, or is refused in one sentence.

A door is a function, a method or a dataclass; its annotations say what it takes. `@gated` holds every argument against
them before the body runs, and gives the body plain Python: a `numpy.int64` becomes an `int`, a generator a tuple.
Texts must be texts that a file can hold, numbers finite. Bounds stand in the annotation: `Count`, `Seed`, `Share`, or
`Annotated[int, Within(2, 10)]`. What depends on more than the one value (a layer that the model has) is the body's own.

A test holds that every public name is gated, another throws odd values at every one.
"""

import contextlib
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, overload

from .brief import brief
from .errors import BadArgument, SteerscopeError

Door = TypeVar("Door", bound=Callable[..., Any])
Check = Callable[[Any], Any]
CALLABLE: Any = get_origin(Callable[..., Any])
MOST = 1_000_000
NO_SEQUENCE = (str, bytes, bytearray, memoryview, Mapping, set, frozenset)  # one thing, or in no order
LARGEST = 2**63 - 1
LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, of most file systems


class Refused(Exception):
    """A value that is none of a kind; the message is what was expected."""


@dataclass(frozen=True)
class Within:
    """Bounds of a number, in `Annotated`.

    Attributes:
        low, high: both belong to it, unless `open`.
        open: neither belongs to it.
    """

    low: float = -math.inf
    high: float = math.inf
    open: bool = False

    def holds(self, value: float) -> bool:
        return self.low < value < self.high if self.open else self.low <= value <= self.high

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'above' if self.open else 'of at least'} {self.low:,}"
        return f"{'between' if self.open else 'from'} {self.low:,} {'and' if self.open else 'to'} {self.high:,}"


Count = Annotated[int, Within(1, MOST)]
Whole = Annotated[int, Within(0, MOST)]
Seed = Annotated[int, Within(0, LARGEST)]
Bytes = Annotated[int, Within(1, LARGEST)]
Share = Annotated[float, Within(0, 1)]
Level = Annotated[float, Within(0, 1, open=True)]
Positive = Annotated[float, Within(0, open=True)]


@overload
def gated(door: Door) -> Door: ...
@overload
def gated(*, error: type[SteerscopeError]) -> Callable[[Door], Door]: ...
def gated(door: Any = None, *, error: type[SteerscopeError] = BadArgument) -> Any:
    """Makes a door of a function, a method or a dataclass (as the decorator above all others).

    Args:
        error: what a refused argument raises.
    """
    if door is None:
        return lambda found: gated_by(found, error)
    return gated_by(door, error)


def gated_by(door: Any, error: type[SteerscopeError]) -> Any:
    """`door` with its arguments checked."""
    if isinstance(door, type):
        made: Any = door
        made.__init__ = _checked(made.__init__, error, door.__name__, door)
        made.__gated__ = True
        return made
    name = door.__qualname__.removesuffix(".__init__") if door.__name__ == "__init__" else door.__name__
    return _checked(door, error, name, door)


def _checked(function: Callable[..., Any], error: type[SteerscopeError], name: str, hinted: Any) -> Callable[..., Any]:
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters]
    known = frozenset(names)
    rest = [p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    plain = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    checks: dict[str, Check] = {}

    def prepare() -> None:  # at the first call: annotations may name what is imported later
        hints = typing.get_type_hints(hinted, include_extras=True)
        checks.update({key: check_of(hint) for key, hint in hints.items() if key in known and key not in rest})

    @wraps(function)
    def through(*args: Any, **options: Any) -> Any:
        if not checks:
            prepare()
            checks.setdefault("", _as_it_is)
        if len(args) > len(plain) or not options.keys() <= known:
            _bind(function, error, name, args, options)
        given = list(args)
        for place, argument in enumerate(plain[: len(args)]):
            check = checks.get(argument)
            if check is not None:
                given[place] = _pass(check, args[place], error, name, argument)
        for argument, value in options.items():
            check = checks.get(argument)
            if check is not None:
                options[argument] = _pass(check, value, error, name, argument)
        try:
            return function(*given, **options)
        except TypeError:
            _bind(function, error, name, args, options)  # an argument too many or too few, told in a sentence
            raise

    through.__gated__ = True  # type: ignore[attr-defined]
    return through


def _pass(check: Check, value: Any, error: type[SteerscopeError], name: str, argument: str) -> Any:
    try:
        return check(value)
    except Refused as expected:
        raise error(
            f"{name} got {argument}={shown(value)}; expected {expected}; give that, or leave it out where it has a "
            "default"
        ) from None


def _bind(function: Callable[..., Any], error: type[SteerscopeError], name: str, args: Any, options: Any) -> None:
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **options)
    except TypeError as reason:
        known = ", ".join(p for p in signature.parameters if p != "self")
        raise error(
            f"{name}: {brief(str(reason), 200)}; expected {known or 'no arguments'}; see help({name})"
        ) from None


def shown(value: Any) -> str:
    """A value in a message: short, and whatever it is."""
    try:
        return brief(repr(value), 80)
    except Exception:  # a value of the user's own, whose repr fails
        return f"<{type(value).__name__}>"


# Kinds: of an annotation, what it lets through and as what.


def check_of(hint: Any) -> Check:
    """The check of an annotation: gives the value as the body wants it, or raises `Refused`."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _within(check_of(inner[0]), [bound for bound in inner[1:] if isinstance(bound, Within)])
    if origin is Literal:
        return _one_of(inner)
    if origin in (Union, types.UnionType):
        return _any_of(inner)
    if hint in PLAIN:
        return PLAIN[hint]
    if hasattr(hint, "array_type"):  # of jaxtyping
        return check_of(hint.array_type)
    if origin is not None and isinstance(origin, type):
        if issubclass(origin, tuple):
            return _tuple(inner)
        if issubclass(origin, Mapping):
            return _mapping(inner)
        if issubclass(origin, Iterable) and not issubclass(origin, type):
            return _several(inner, list if origin is list else None)
        return callable_ if origin is CALLABLE else _instance(origin)
    if hint is Any or not isinstance(hint, type) or getattr(hint, "_is_protocol", False):
        return _as_it_is
    return _instance(hint)


def _as_it_is(value: Any) -> Any:
    return value


def whole(value: Any) -> int:
    """An integer that 64 bits hold."""
    if type(value) is int and -LARGEST <= value <= LARGEST:  # nearly always
        return value
    value = _scalar(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool) and abs(int(value)) <= LARGEST:
        return int(value)
    raise Refused("an integer")


def number(value: Any) -> float:
    """A finite number; integers stay integers."""
    if type(value) is float and math.isfinite(value):
        return value
    value = _scalar(value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError, ValueError, TypeError):
            if math.isfinite(float(value)):
                found = float(value)
                return int(value) if isinstance(value, numbers.Integral) and abs(found) <= LARGEST else found
    raise Refused("a finite number")


def _scalar(value: Any) -> Any:
    """What an array or a tensor of no dimension holds."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        with contextlib.suppress(RuntimeError, TypeError, ValueError):  # a tensor without values, say
            return value.item()
    return value


def boolean(value: Any) -> bool:
    """True or False, of numpy too."""
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_") and type(value).__module__ == "numpy":
        return bool(value)
    raise Refused("True or False")


def text(value: Any) -> str:
    """A text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise Refused("a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Refused("a text without lone surrogates (half a character)") from error
    return str.__str__(value)


def place(value: Any) -> Path:
    """A path that a file system can hold."""
    found = fspath(value) if isinstance(value, PathLike) else value
    if not isinstance(found, str) or not found or "\0" in found:
        raise Refused("a path")
    try:
        names = found.encode(errors="surrogateescape").split(b"/")
    except UnicodeEncodeError as error:
        raise Refused("a path") from error
    if max(map(len, names)) > LONGEST_NAME or len(found) > LONGEST_PATH:
        raise Refused(f"a path of at most {LONGEST_PATH:,} bytes, each name of at most {LONGEST_NAME}")
    return Path(found)


def _path_text(value: Any) -> str:
    found = text(value)
    place(found)
    return found


def nothing(value: Any) -> None:
    """None."""
    if value is not None:
        raise Refused("None")


def callable_(value: Any) -> Any:
    """Something that can be called."""
    if not callable(value):
        raise Refused("a function")
    return value


PLAIN: Mapping[Any, Check] = {
    int: whole,
    float: number,
    bool: boolean,
    str: text,
    Path: place,
    type(None): nothing,
    None: nothing,
    Any: _as_it_is,
    object: _as_it_is,
}


def _within(check: Check, bounds: Sequence[Within]) -> Check:
    def bounded(value: Any) -> Any:
        try:
            found = check(value)
        except Refused as expected:
            raise Refused(" ".join([str(expected), *map(str, bounds)])) from None
        if not all(bound.holds(found) for bound in bounds):
            kind = "an integer" if isinstance(found, int) and check is whole else "a number"
            raise Refused(" ".join([kind, *map(str, bounds)]))
        return found

    return bounded


def _one_of(choices: Sequence[Any]) -> Check:
    def chosen(value: Any) -> Any:
        if isinstance(value, str | int | float) and value in choices:
            return choices[list(choices).index(value)]
        raise Refused("one of " + ", ".join(map(str, choices)))

    return chosen


def _any_of(hints: Sequence[Any]) -> Check:
    paths = Path in hints  # a text is one, too, then
    checks = [_path_text if paths and hint is str else check_of(hint) for hint in hints]

    def either(value: Any) -> Any:
        expected = []
        if isinstance(value, Iterator):  # each check would begin where the one before stopped
            value = _items(value)
        for check in checks:
            try:
                return check(value)
            except Refused as refused:
                expected.append(str(refused))
        *others, last = dict.fromkeys(expected)
        raise Refused(f"{', '.join(others)} or {last}" if others else last)

    return either


def _instance(kind: type) -> Check:
    def instance(value: Any) -> Any:
        if not isinstance(value, kind):
            raise Refused(f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}")
        return value

    return instance


def _several(inner: Sequence[Any], kind: type | None) -> Check:
    """A list or a tuple; None keeps a list one."""
    check = check_of(inner[0]) if inner else _as_it_is

    def several(value: Any) -> Any:
        if isinstance(value, NO_SEQUENCE) or not isinstance(value, Iterable):
            raise Refused("a sequence")
        items = _items(value)
        try:
            found = [check(item) for item in items]
        except Refused as expected:
            raise Refused(f"a sequence, each {expected}") from None
        return found if kind is list or (kind is None and isinstance(value, list)) else tuple(found)

    return several


def _items(value: Iterable[Any]) -> tuple[Any, ...]:
    try:
        items = tuple(islice(value, MOST + 1))
    except Exception as error:  # the user's own iterator's
        raise Refused(f"a sequence that can be read ({type(error).__name__}: {error})") from error
    if len(items) > MOST:
        raise Refused(f"a sequence of at most {MOST:,}")
    return items


def _tuple(inner: Sequence[Any]) -> Check:
    if not inner or inner[-1] is Ellipsis:
        return _several(inner[:1], tuple)
    checks = [check_of(hint) for hint in inner]

    def exactly(value: Any) -> Any:
        found = _several((), tuple)(value)
        if len(found) != len(checks):
            raise Refused(f"{len(checks)} values")
        return tuple(check(item) for check, item in zip(checks, found, strict=True))

    return exactly


def _mapping(inner: Sequence[Any]) -> Check:
    names, values = (check_of(hint) for hint in inner or (Any, Any))

    def mapping(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise Refused("a dictionary")
        try:
            checked = {names(key): values(item) for key, item in value.items()}
        except Refused as expected:
            raise Refused(f"a dictionary, each entry {expected}") from None
        return checked

    return mapping
