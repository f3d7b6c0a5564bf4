"""Features of a prompt that a claim may name: what a node is said to depend on, as a function or in words.

    prompt                     the whole prompt: nothing of it may be exchanged
    nothing                    any prompt will do
    answer                     the prompt's own answer
    steered                    whether the run is steered
    token at S2                the token at a place; also END-1 (the place before the last), or 4
    tokens at [IO, S1]         several, in this order
    order of [IO, S1]          which of the places comes first; `order`: of all that the task names
    place of S1                where it stands
    token at S2 and steered    several at once

Places are those of the task (`TaskPrompts.places`); END is the last token of every prompt.
"""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadCircuit
from steerscope.analysis.gate import shown

END, PROMPT = "END", "prompt"
ALONE = ("nothing", "answer", "steered", "order")
SHAPE = re.compile(r"(token at|place of|tokens at|order of) (?:\[(.+)\]|([^\[\]]+))")
SHIFTED = re.compile(r"(.+?)([+-]\d{1,6})?")
WORDS = f"{PROMPT}, {', '.join(ALONE)}, token at S2, tokens at [IO, S1], order of [IO, S1], place of S1"


@dataclass(frozen=True)
class Datum:
    """What a feature may depend on.

    Attributes:
        prompt: its number.
        ids: token ids, BOS included.
        steered: whether it is the steered run of it.
        places: named places in it.
        answer: tokens of its answer.
    """

    prompt: int
    ids: tuple[int, ...]
    steered: bool
    places: Mapping[str, int] = field(default_factory=dict, hash=False)
    answer: tuple[int, ...] = ()

    def at(self, place: str | int) -> int:
        """Where a place is.

        Raises:
            BadCircuit: the prompt has no such place.
        """
        name, shift = (place, 0) if isinstance(place, int) or place in self.places else _shifted(place)
        found = name if isinstance(name, int) else self.places.get(name)
        if found is None or not 0 <= found + shift < len(self.ids):
            raise BadCircuit(
                f"the place {shown(place)} of prompt {self.prompt + 1}, which has {len(self.ids)} tokens and the "
                f"places {brief(', '.join(self.places) or 'none', 200)}; expected one of these, perhaps with "
                "+1 or -1, or a position; name one"
            )
        return found + shift


Feature = Callable[[Datum], Hashable]


@dataclass(frozen=True)
class Named:
    """A feature in words.

    Raises:
        BadCircuit: it is none.
    """

    text: str

    def __post_init__(self) -> None:
        for part in self._parts:
            if part not in ALONE and not SHAPE.fullmatch(part):
                raise BadCircuit(f"the feature {shown(self.text)}; expected {WORDS}, joined with “and”; name one")

    @property
    def _parts(self) -> list[str]:
        return [" ".join(part.split()) for part in self.text.split(" and ")]

    def __call__(self, datum: Datum) -> Hashable:
        return tuple(_value(part, datum) for part in self._parts)


def _value(part: str, datum: Datum) -> Hashable:
    match = SHAPE.fullmatch(part)
    if match is None:
        order = tuple(sorted(datum.places, key=datum.places.__getitem__))
        return {"nothing": None, "answer": datum.answer, "steered": datum.steered, "order": order}[part]
    named = [place.strip() for place in (match[2] or match[3]).split(",")]
    places = [datum.at(place) for place in named]
    if match[1] == "order of":
        return tuple(sorted(range(len(places)), key=places.__getitem__))
    return tuple(places) if match[1] == "place of" else tuple(datum.ids[place] for place in places)


def _shifted(place: str) -> tuple[str | int, int]:
    """A place in words: `S1+1` is one behind S1, and `4` a position."""
    match = SHIFTED.fullmatch(place)
    name = match[1] if match else place
    shift = int(match[2] or 0) if match else 0
    return (int(name) if name.isdecimal() and name.isascii() and len(name) < 7 else name), shift


def feature_of(given: Feature | str | None) -> Feature | None:
    """A feature as it is used; None for the whole prompt.

    Raises:
        BadCircuit: words that name none.
    """
    if isinstance(given, str):
        return None if given == PROMPT else Named(given)
    return given


def told(given: Feature | str | None) -> str:
    """A feature in words."""
    if given is None or isinstance(given, str):
        return given or PROMPT
    return str(getattr(given, "text", getattr(given, "__name__", type(given).__name__)))


def where(at: Sequence[int | str] | None) -> str:
    """Places in words; empty for all of them."""
    return "" if at is None else ",".join(map(str, at))
