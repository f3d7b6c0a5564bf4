"""`Words`: the word lists of tasks, as far as a model has them as single tokens."""

import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from steerscope.analysis.errors import BadCircuit
from steerscope.analysis.model.models import Model

FILE = Path(__file__).parent / "data" / "words.toml"
FEWEST = 4  # words that a slot must have to choose from
Word = TypeVar("Word")


@cache
def listed() -> dict[str, Any]:
    """The lists of `data/words.toml`."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


class Words:
    """Word lists for one model: a word stands behind a space."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._known: dict[str, list[str]] = {}
        self._one: dict[str, bool] = {}
        self._years: dict[int, list[str]] = {}

    def single(self, name: str, fewest: int = FEWEST) -> list[str]:
        """The words of a list that are one token, with their space.

        Raises:
            BadCircuit: fewer than `fewest` are.
        """
        if name not in self._known:
            words = map(str, range(1, 13)) if name == "numerals" else listed()[name].split()
            self._known[name] = [f" {word}" for word in words if self.is_one(f" {word}")]
        return self._enough(self._known[name], f"the list {name!r}", fewest)

    def known(self, given: Sequence[str], fewest: int = FEWEST) -> list[str]:
        """Of some words those that are one token, with their space.

        Raises:
            BadCircuit: fewer than `fewest` are.
        """
        return self._enough([f" {word}" for word in given if self.is_one(f" {word}")], "the toys' words", fewest)

    def pool(self, *names: str, fewest: int) -> list[str]:
        """The words of several lists that are one token.

        Raises:
            BadCircuit: fewer than `fewest` are.
        """
        found = list(dict.fromkeys(word for name in names for word in self.single(name, 0)))
        return self._enough(found, f"the lists {', '.join(names)}", fewest)

    def pairs(self, name: str) -> list[tuple[str, str]]:
        """Pairs of words (singular and plural) of which both are one token.

        Raises:
            BadCircuit: hardly any are.
        """
        rows = [[f" {word}" for word in row.split()] for row in listed()[name].replace("\n", " ").split(",")]
        found = [(one, other) for one, other in rows if self.is_one(one) and self.is_one(other)]
        return self._enough(found, f"the list {name!r}", FEWEST)

    def sayings(self) -> list[list[str]]:
        """Sayings, their last word, and the word in them that copying would give."""
        return list(listed()["sayings"])

    def years(self, century: int) -> list[str]:
        """By year of a century, the first token behind its first two digits: the year, or its first digit."""
        if century not in self._years:
            ids = self.model.encode(f"from the year {century}")
            first = [self.model.following(ids, f"{year:02d}").ids[0] for year in range(100)]
            self._years[century] = [self.model.token_text(token) for token in first]
        return self._years[century]

    def is_one(self, text: str) -> bool:
        """Whether a text is one token inside of a text, and one that the model knows."""
        if text not in self._one:
            ids = self.model.encode_inner(text)
            self._one[text] = len(ids) == 1 and ids[0] != getattr(self.model.tokenizer, "unk_token_id", None)
        return self._one[text]

    def _enough(self, found: Sequence[Word], of: str, fewest: int) -> list[Word]:
        if len(found) < fewest:
            raise BadCircuit(
                f"{len(found)} words of {of} are single tokens of {self.model.name}; expected at least {fewest}; this "
                "task cannot be asked of its tokenizer, choose another"
            )
        return list(found)
