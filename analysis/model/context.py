"""Tokens of a text that goes on after another one, as the tokenizer parts the two together.

1. Read what stands there as text, tokenize it with what follows; where the result begins with the ids that stand
   there, the rest is what follows.
2. Where it does not (a token would reach over the seam, or the ids are no parting of the tokenizer's own), the ids that
   stand there stay. What follows is then parted by itself, without the space that SentencePiece puts before a text.

A byte-level BPE puts no such space: there, both give what the text alone becomes, unless a token reaches over the seam.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Encode = Callable[[str], list[int]]
ANCHORS = ("\n", ".", '"', "a")  # a text in front of which no space is put any more


@dataclass(frozen=True)
class Following:
    """What follows some token ids.

    Attributes:
        ids: of the text that follows.
        seamless: both together are parted so by the tokenizer.
    """

    ids: tuple[int, ...]
    seamless: bool


def following(encode: Encode, spaced: bool, before: str, ids: Sequence[int], text: str) -> Following:
    """The token ids of `text` after `ids`.

    Args:
        encode: the token ids of a text, without BOS.
        spaced: the tokenizer puts a space before a text.
        before: `ids` as text.
        ids: what stands there, without BOS.
    """
    whole = encode(before + text)
    if whole[: len(ids)] == list(ids):
        return Following(tuple(whole[len(ids) :]), True)
    return Following(tuple(inner(encode, spaced, text)), False)


def inner(encode: Encode, spaced: bool, text: str) -> list[int]:
    """The token ids of a text inside of another one."""
    for anchor in ANCHORS if spaced and text else ():
        start, whole = encode(anchor), encode(anchor + text)
        if whole[: len(start)] == start and len(whole) > len(start):
            return whole[len(start) :]
    return encode(text)


def puts_space(encode: Encode) -> bool:
    """Whether a tokenizer puts a space before a text, as SentencePiece does."""
    return encode("a b") != encode("a") + encode(" b")
