"""`Work`: a sweep as plain data that can be sent to another process; `Block`: the trials that one task runs.

The last token of a prompt is only predicted, never read: so every position that is scored has a true
token that follows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa

from steerscope.analysis.errors import BadPrompt
from steerscope.analysis.gate import MOST, Bytes, Within, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.positions import Positions

from .additions import Additions
from .design import MANY, Design

Place = Annotated[int, Within(0, MANY)]
Length = Annotated[int, Within(2, MOST)]


@gated
@dataclass(frozen=True)
class Block:
    """Trials `start` to `stop` (exclusive): whole visits, and the token ids of their prompts."""

    index: Place
    start: Place
    stop: Place
    prompts: Mapping[int, tuple[int, ...]]


@gated
@dataclass(frozen=True)
class Answer:
    """The rows of a block, and the seconds that went into forward passes and metrics."""

    block: Place
    table: pa.Table
    seconds: Mapping[str, float]


@gated
@dataclass(frozen=True, eq=False)
class Work:
    """A sweep without its folder and its prompts.

    Attributes:
        key: names this work; workers keep the model of a key.
        loader: loads the model where the work is done; None where it is there already.
        weights_hash: what the loaded model must have.
        metric: name and options, as in `metrics.METRICS`.
        scored: None for the positions from the injection on (where injected positions are few: after
            them), all, last, or indices.
    """

    key: str
    loader: Callable[[], Model] | None
    weights_hash: str
    design: Design
    additions: Additions
    mode: str
    place: Positions
    metric: tuple[str, Mapping[str, Any]]
    scored: str | tuple[int, ...] | None
    has_bos: bool
    budget: Bytes | None = None

    @gated
    def injected(self, length: Length) -> tuple[int, ...]:
        """Positions that a prompt of `length` tokens is injected at; its last token is only predicted."""
        return self.place.resolve(length - 1, self.additions.rows, self.has_bos)

    @gated
    def positions(self, length: Length) -> tuple[int, ...]:
        """Positions of a prompt of `length` tokens that are scored.

        Raises:
            BadPrompt: none is left.
        """
        injected = frozenset(self.injected(length))
        read = range(1 if self.has_bos and length > 2 else 0, length - 1)
        if isinstance(self.scored, str):
            return tuple(read) if self.scored == "all" else (length - 2,)
        if self.scored is not None:
            chosen = {i % length for i in self.scored if -length <= i < length}
            found = tuple(p for p in sorted(chosen) if p < length - 1)
        else:
            first = min(injected)
            after = tuple(p for p in read if p >= first)
            free = tuple(p for p in after if p not in injected)
            found = after if self.place.repeats else free or after[-1:]
        if not found:
            raise BadPrompt(
                f"a prompt of {length} tokens has no position left to score; expected a token that follows a scored "
                "one; use longer prompts"
            )
        return found
