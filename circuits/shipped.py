"""Files that come with steerscope, by name, and files of one's own: circuits and hypotheses."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadCircuit

from .circuit import SUFFIXES

T = TypeVar("T")
DATA = Path(__file__).parent / "data"


def shipped(kind: str) -> dict[str, Path]:
    """Names and files of what is shipped of a kind, which is the name of its folder."""
    return {path.stem: path for path in sorted((DATA / kind).glob("*.yaml"))}


def named(name: str | Path, kind: str, what: str, read: Callable[[Path], T]) -> T:
    """What is shipped under a name, or what a file holds; the name comes first.

    Args:
        what: one of the kind, in a word.
        read: makes it of a file.

    Raises:
        BadCircuit: there is no such name or file; and what `read` raises.
    """
    known, text = shipped(kind), str(name)
    if text in known:
        found: T = _once(read, known[text])
        return found
    if Path(text).suffix.lower() not in SUFFIXES:
        raise BadCircuit(
            f"no {what} {brief(repr(text), 80)}; expected one of {', '.join(known)}, or a file "
            f"({', '.join(SUFFIXES)}); see {kind}()"
        )
    return read(Path(text))


@cache
def _once(read: Callable[[Path], T], path: Path) -> T:
    return read(path)
