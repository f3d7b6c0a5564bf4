"""Addresses of paths, such as `L1M<-L1H3.ov<-4<-L0H2.k<-1`, read and said in words.

An address is read from the logits back: a last writer, then what it reads, down to the injection. A number is the
position that a head moves from; `.ov` is what it moves, `.k` and `.q` how it looks elsewhere, `.scale` the scale of an
MLP's norm; `others` are what was too small to open.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steerscope.reports.theme import visible

DIRECT, FINAL, OTHERS = "direct", "final norm", "others"
READ = {"scale": "the scale of {}'s norm", "q": "{}'s query"}  # by whom something is read
PART = re.compile(r"L(\d+)(?:H(\d+)|M)(\.ov|\.k|\.q|\.scale)?")


@dataclass(frozen=True)
class Step:
    """One part of an address.

    Attributes:
        node: a head or MLP, or `direct`, `final norm`, `others`, `injected`.
        channel: ov, k, q or scale; empty where none is named.
        source: position that a head moves from; -1 where none is named.
    """

    node: str
    layer: int = -1
    channel: str = ""
    source: int = -1


def steps(address: str) -> list[Step]:
    """An address in steps, from the logits back; the source of a head is its own."""
    found: list[Step] = []
    for part in address.split("<-") if address else ():
        if part.isdigit() and found:
            found[-1] = Step(found[-1].node, found[-1].layer, found[-1].channel, int(part))
            continue
        match = PART.fullmatch(part)
        node = part if match is None else part.split(".")[0]
        found.append(Step(node, -1 if match is None else int(match[1]), "" if match is None else (match[3] or "")[1:]))
    return found


def last_move(address: str) -> int:
    """The position from which the path is moved last, before it is read at the logits; -1 where that is not known."""
    return next((step.source for step in steps(address) if step.source >= 0), -1)


def cut(address: str) -> str:
    """An address down to its last move."""
    parts = address.split("<-")
    ends = next((n for n, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return "<-".join(parts[: ends + 1])


@dataclass(frozen=True)
class Place:
    """A prompt as its addresses are said in: its tokens, and what is injected where.

    Attributes:
        vector: positions where the vector itself is what a head of that layer reads, by layer.
    """

    tokens: Sequence[str]
    vector: Mapping[int, frozenset[int]]

    def at(self, position: int) -> str:
        """`position 1 (“␣wedding”)`."""
        if not 0 <= position < len(self.tokens):
            return f"position {position}"
        return f"position {position} (“{visible(self.tokens[position])}”)"

    def said(self, address: str) -> str:
        """A path in words, in the order in which it goes."""
        if address == FINAL:
            return "the scale of the final norm"
        if address == DIRECT:
            return "what is injected there, straight to the logits"
        along = steps(cut(address))
        first = along[-1]
        readers = [READ.get(step.channel, "{}").format(step.node) for step in along[:-1]]
        into = f", read by {', then by '.join(reversed(readers))}" if readers else ""
        return f"{self._first(first, bool(readers))}{into}"

    def _first(self, step: Step, read: bool) -> str:
        if step.channel == "scale":
            return f"the changed scale of {step.node}'s norm"
        if step.node == OTHERS:
            return "smaller paths" if not read else "smaller parts"
        if step.node in (DIRECT, "injected"):
            return "what is injected"
        if step.channel == "ov" and step.source >= 0:
            own = step.source in self.vector.get(step.layer, frozenset())
            return f"{step.node} moving {'the vector from' if own else 'what changes at'} {self.at(step.source)}"
        if step.channel == "k" and step.source >= 0:
            return f"{step.node} looking elsewhere because of the key of {self.at(step.source)}"
        if step.channel == "ov":
            return f"{step.node} moving what changes at other positions"
        if step.channel in ("q", "k"):
            return f"{step.node} looking elsewhere because of its {'query' if step.channel == 'q' else 'keys'}"
        return f"{step.node}"


def named(address: str, place: Place) -> str:
    """What the last part of an address adds to its parent, for a row of a tree below that parent."""
    if "<-" not in address and "." not in address:
        return {FINAL: "final norm's scale", DIRECT: "direct: what is injected here"}.get(address, address)
    tail = re.split(r"<-|(?=\.(?:ov|k|q|scale|others)$)", address)[-1]
    if tail.isdigit():
        return f"from {place.at(int(tail))}"
    return {
        ".ov": "value: what it moves",
        ".k": "key: looks elsewhere, as keys change",
        ".q": "query: looks elsewhere, as its query changes",
        ".scale": "scale of its norm",
        DIRECT: "what is injected",
        "injected": "put in there",
        OTHERS: "smaller ones",
        ".others": "smaller ones",
    }.get(tail, f"what {tail} wrote")
