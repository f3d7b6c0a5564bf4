"""`Work`: a sweep as plain data that can be sent to another process; `Block`: the trials that one task runs.

The last token of a prompt is only predicted, never read: so every position that is scored has a true
token that follows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa

from steerscope.analysis.errors import BadPrompt
from steerscope.analysis.gate import Bytes, Within, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.positions import Layout, Positions

from .additions import Additions
from .design import MANY, Design

Place = Annotated[int, Within(0, MANY)]


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
        bos: the token id that counts as BOS where a prompt begins with it.
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
    bos: int | None
    budget: Bytes | None = None

    @gated
    def layout(self, read: Sequence[int]) -> Layout:
        """What the positions of a prompt are found by: the token ids that are read, without the last one."""
        return Layout(len(read), read[0] == self.bos)

    @gated
    def injected(self, prompt: Layout) -> tuple[int, ...]:
        """Positions that a prompt is injected at."""
        return self.place.resolve(prompt, self.additions.rows)

    @gated
    def positions(self, prompt: Layout) -> tuple[int, ...]:
        """Positions of a prompt that are scored.

        Raises:
            BadPrompt: none is left.
        """
        injected, length = frozenset(self.injected(prompt)), prompt.length + 1
        read = range(1 if prompt.has_bos and length > 2 else 0, length - 1)
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
