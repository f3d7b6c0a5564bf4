"""`Positions`: where in a prompt an injection goes. Parsed once, resolved against a prompt's `Layout`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from steerscope.analysis.errors import BadInjection
from steerscope.analysis.gate import MOST, Count, gated, shown

from .chat import PARTS

PART = re.compile(rf"(?:(?P<end>first|last) of )?(?P<part>{'|'.join(PARTS)})")
PLACES = ("front", "middle", "back", "last", "all")


@gated(error=BadInjection)
@dataclass(frozen=True)
class Layout:
    """What positions are found by in one prompt; `Model.layout` makes it of token ids.

    Attributes:
        length: in tokens.
        has_bos: whether the first of them is BOS.
        parts: of a chat, the names of its parts and their positions (see `model.chat`).
    """

    length: Count
    has_bos: bool = False
    parts: tuple[tuple[str, tuple[int, ...]], ...] = ()


@gated(error=BadInjection)
@dataclass(frozen=True)
class Positions:
    """A named place or explicit indices.

    front: row i of the vector goes to position i of the prompt (BOS on BOS), as in activation additions;
    middle, back: the rows in one piece, centred or right-aligned; last: the last position only;
    all: every position after BOS; a part of a chat (`user`, `assistant start`, `last of instruction`...): all of its
    positions, or its first or last one (see `model.chat`); indices: as listed, each once, negative ones count from the
    end.
    """

    place: str | None = "front"
    indices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.place is None and not self.indices:
            raise BadInjection(f"no positions given; expected {_EXPECTED}; give some")
        if self.place is not None and self.place not in PLACES and not PART.fullmatch(self.place):
            raise BadInjection(f"unknown position {shown(self.place)}; expected {_EXPECTED}; choose one of them")
        if self.place is not None and self.indices:
            raise BadInjection(
                f"positions {self.place} and {shown(self.indices)} at once; expected one of both; give place=None "
                "with indices"
            )
        if any(abs(index) > MOST for index in self.indices):
            raise BadInjection(
                f"positions {shown(self.indices)} are in no prompt; expected at most {MOST:,}; mend them"
            )
        _refuse_twice(self.indices, self.indices)

    def __str__(self) -> str:
        return self.place if self.place is not None else ",".join(map(str, self.indices))

    @property
    def repeats(self) -> bool:
        """Whether one row is put everywhere, instead of one row to each position."""
        return self.place in ("last", "all") or self.part is not None

    @property
    def part(self) -> str | None:
        """The part of a chat that is named; None for a place of every prompt."""
        found = None if self.place in PLACES else PART.fullmatch(self.place or "")
        return found["part"] if found else None

    @gated(error=BadInjection)
    def resolve(self, prompt: Layout, rows: Count = 1) -> tuple[int, ...]:
        """The positions of a prompt that a vector of `rows` rows edits.

        Raises:
            BadInjection: the vector is longer than the prompt, an index is outside of it, or two are the same place.
        """
        length = prompt.length
        if self.place == "last":
            return (length - 1,)
        if self.place == "all":
            return tuple(range(1 if prompt.has_bos and length > 1 else 0, length))
        if self.place is None:
            return _refuse_twice(tuple(self._index(index, length) for index in self.indices), self.indices)
        if self.part is not None:
            return self._of_part(prompt)
        if rows > length:
            raise BadInjection(
                f"the vector has {rows} positions and the prompt only {length} tokens; "
                "expected a prompt at least as long; use a longer prompt or positions last or all"
            )
        start = {"front": 0, "middle": (length - rows) // 2, "back": length - rows}[self.place]
        return tuple(range(start, start + rows))

    def _of_part(self, prompt: Layout) -> tuple[int, ...]:
        found, end = dict(prompt.parts).get(self.part or ""), PART.fullmatch(self.place or "")
        if not found:
            there = ", ".join(name for name, _ in prompt.parts) or "no parts"
            raise BadInjection(
                f"a prompt has no part {shown(self.part)}; expected positions of every prompt (this one has {there}); "
                "give chats (messages with roles), or other positions"
            )
        return {"first": found[:1], "last": found[-1:]}.get(end["end"] if end else "", found)

    @staticmethod
    def _index(index: int, length: int) -> int:
        if not -length <= index < length:
            raise BadInjection(
                f"position {index} is outside of a prompt of {length} tokens; "
                f"expected {-length} to {length - 1}; use longer prompts or another position"
            )
        return index % length


_EXPECTED = "front, middle, back, last, all, a part of a chat such as user, or indices such as 3,4,-1"


def _refuse_twice(places: tuple[int, ...], given: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(places)) != len(places):
        raise BadInjection(f"positions {shown(given)} name one place twice; expected each once; leave one out")
    return places


@gated(error=BadInjection)
def parse_positions(value: "str | int | tuple[int, ...] | list[int] | Positions") -> Positions:
    """`front`, `3,4,-1`, an index or a sequence of indices as `Positions`.

    Raises:
        BadInjection: anything else, or the same index twice.
    """
    if isinstance(value, Positions):
        return value
    if isinstance(value, int):
        return Positions(None, (value,))
    if isinstance(value, str):
        text = value.strip()
        if not re.fullmatch(r"-?[0-9]{1,9}(\s*,\s*-?[0-9]{1,9})*", text):
            return Positions(text)
        value = tuple(int(part) for part in text.split(","))
    return Positions(None, tuple(value))


def later(injected: Sequence[int], length: int) -> list[int]:
    """The positions of a prompt after the first injected one that are not injected themselves; all, where none is."""
    return [p for p in range(min(injected, default=0), length) if p not in injected]
