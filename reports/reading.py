"""What a result must hold before its page can be drawn: looked at once, at the door of every page.

1. Known entries of the manifest are what they should be: objects, lists, numbers, checks.
2. Columns hold what their role says: numbers are numbers, layers and heads are few enough for a map.
3. What a page finds missing or of another kind all the same is named in the sentence that refuses the result.

So a result that was changed, or made by hand, is drawn or refused, and never told falsely.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from numbers import Real
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from pandas.api.types import is_complex_dtype, is_numeric_dtype
from pandas.errors import DataError, InvalidIndexError, SpecificationError

from steerscope.analysis.errors import BadArgument, DamagedRun
from steerscope.analysis.gate import shown
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import with_role
from steerscope.reports.words import printable

Drawn = TypeVar("Drawn")
NUMBERS = ("layer", "head", "estimate", "low", "high", "reference", "reference_low", "reference_high", "share")
OBJECTS = (
    "model",
    "metric",
    "prompts",
    "references",
    "missing",
    "versions",
    "stability",
    "minimal",
    "lens",
    "leave_one_out",
    "design",
    "trials",
    "whole",
    "pairs",
    "windows",
    "ends",
    "precision",
)
ALWAYS = ("model", "metric", "prompts", "missing", "versions", "injections", "checks")  # where it is there
LISTS = ("injections", "checks", "reference_tests", "notes", "vectors", "coefficients")
SINGLE = ("alpha", "level", "smallest", "seconds", "total", "keep", "loss", "broken_at")
CHECK: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str),
    "value": lambda value: real(value) and not isinstance(value, bool),
    "limit": lambda value: real(value) and not isinstance(value, bool),
    "passed": lambda value: isinstance(value, bool),
}
LARGEST = 10**300  # that a float holds
MOST = 1_000_000  # cells of a map of nodes
# What reading a table or a manifest raises where they are not as they should be; anything else is a bug of the page.
FAULTS = (
    *(LookupError, AttributeError, TypeError, ValueError, ArithmeticError, RecursionError, StopIteration),
    *(InvalidIndexError, DataError, SpecificationError),  # of pandas
)


def drawing(draw: Callable[[Result], Drawn]) -> Callable[[Result], Drawn]:
    """A function that draws or tells a result, behind the look at what it holds. Sentences are made printable.

    Raises (the function that is made):
        DamagedRun: the result is not as its question made it; the message names what is missing or wrong.
    """

    @wraps(draw)
    def through(result: Result) -> Drawn:
        if not isinstance(result, Result):
            raise BadArgument(f"got {shown(result)}; expected a Result; give what a question or Result.load gives")
        try:
            with np.errstate(all="ignore"):  # what is no number is told as missing
                look(result)
                made: Any = draw(result)
        except FAULTS as fault:
            raise _damaged(result, _reason(fault)) from fault
        told: Any = [printable(line) for line in made] if isinstance(made, list) else made
        return told  # type: ignore[no-any-return]

    through.__drawing__ = True  # type: ignore[attr-defined]
    return through


def look(result: Result) -> None:
    """Refuses a result whose manifest or columns are of the wrong kind.

    Raises:
        DamagedRun: with the name of the entry.
    """
    manifest = result.manifest
    if not isinstance(manifest, Mapping):
        raise _damaged(result, f"its manifest is {shown(manifest)}")
    for kind, names, what in ((Mapping, OBJECTS, "an object"), (Sequence, LISTS, "a list"), (Real, SINGLE, "a number")):
        for name in names:
            value = manifest.get(name)
            if value is None and not (name in ALWAYS and name in manifest):
                continue
            if not isinstance(value, kind) or isinstance(value, str | bool) or kind is Real and not real(value):
                raise _damaged(result, f"{name} in its manifest is {shown(value)}, expected {what}")
    for name in ("injections", "reference_tests"):
        if not all(isinstance(item, Mapping) for item in manifest.get(name) or ()):
            raise _damaged(result, f"{name} in its manifest is {shown(manifest[name])}, expected a list of objects")
    for check in manifest.get("checks") or ():
        for key, expected in CHECK.items():
            found = check.get(key) if isinstance(check, Mapping) else None
            if not expected(found):
                raise _damaged(result, f"a check in its manifest has no {key}, or one that is none: {shown(check)}")
    for name, columns in result.columns.items():
        frame = result.frames[name]
        for column, about in columns.items():
            if about.role in NUMBERS and not numeric(frame[column]):
                raise _damaged(result, f"{name}.{column} holds other than numbers")
        places = [_largest(result, name, column) for role in ("layer", "head") for column in with_role(columns, role)]
        if len(places) == 2 and (places[0] + 1) * (places[1] + 2) > MOST:
            raise _damaged(result, f"{name} has layers and heads up to {places[0]:,} and {places[1]:,}")


def numeric(column: pd.Series) -> bool:
    """Whether a column holds real numbers that floats can hold, or nothing."""
    known = column.dropna()
    if is_numeric_dtype(known.dtype):
        return not is_complex_dtype(known.dtype)
    return all(real(value) for value in known)


def real(value: Any) -> bool:
    """Whether a value is a real number that floats can hold, or infinite, or none."""
    return isinstance(value, float) or (isinstance(value, int | np.integer) and abs(int(value)) <= LARGEST)


def _largest(result: Result, name: str, column: str) -> int:
    """The largest layer or head of a table; -1 where there is none."""
    found = pd.to_numeric(result.frames[name][column]).dropna().astype(float)
    if len(found) and not (found.ge(0) & found.le(MOST) & found.mod(1).eq(0)).all():
        raise _damaged(result, f"{name}.{column} holds other than whole numbers up to {MOST:,}")
    return int(found.max()) if len(found) else -1


def _reason(fault: BaseException) -> str:
    """What was not there; or what a library says of what was."""
    if isinstance(fault, KeyError) and fault.args:
        return f"it has no {shown(fault.args[0])}"
    if isinstance(fault, AttributeError) and isinstance(fault.obj, SimpleNamespace):
        return f"it has no {fault.name!r}"
    if isinstance(fault, StopIteration):
        return "a table that it needs has no rows"
    return f"{type(fault).__name__}: {str(fault)[:200]}"


def _damaged(result: Result, reason: str) -> DamagedRun:
    return DamagedRun(
        printable(
            f"this result of kind {shown(result.kind)} cannot be drawn ({reason}); expected tables and a manifest as "
            "its question makes them; ask it again, or look at result.frames"
        )
    )
