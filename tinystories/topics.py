"""The topics of the topic stories, read from `data/topics.toml`.

A pattern is English with two kinds of holes. `[a|b|c]` picks one of its parts, and may be nested.
`{n}` and its like are filled by the people of the story:

    {n}  the hero's name    {s} {S}  he, He     {o}  him    {p} {P}  his, His    {c}  girl or boy
    {f}  the friend's name  {fs} {Fs} {fo} {fp}  the same for the friend
    {g} {G}  "his mom", "His mom" (or dad, grandma, grandpa)   {gs} {Gs} {go} {gp}  the same for them

Each topic keeps coming back to a few words of its own, so that a model that reads the first of them
has reason to expect the others.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Topic:
    """The sentence patterns of one topic."""

    name: str
    words: tuple[str, ...]
    """Words that return through its stories; each is one token of the shipped tokenizers."""
    early: tuple[str, ...]
    """First sentences that name the topic at once."""
    turn: tuple[str, ...]
    """Sentences that lead from a neutral beginning to the topic."""
    middle: tuple[str, ...]
    """Sentences that may stand in any order in the middle of the story."""
    trouble: tuple[tuple[str, str, str], ...]
    """What goes wrong, how it is mended, how it ends if it is not."""
    close: tuple[str, ...]
    """Last sentences of a happy story that name the topic again."""


def _read(path: Path) -> tuple[Topic, ...]:
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return tuple(_topic(name, table) for name, table in tables.items())


def _topic(name: str, table: dict[str, str]) -> Topic:
    early, turn, middle, trouble, close = (
        tuple(table[part].strip().splitlines()) for part in ("early", "turn", "middle", "trouble", "close")
    )
    three = []
    for line in trouble:
        wrong, mended, lost = line.split(" // ")
        three.append((wrong, mended, lost))
    return Topic(name, tuple(table["words"].split()), early, turn, middle, tuple(three), close)


TOPICS = _read(Path(__file__).parent / "data" / "topics.toml")
