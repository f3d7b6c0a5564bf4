"""`Outputs`: final states of one run of all prompts at the scored positions; logits are made of them, in pieces.

Logits of a large vocabulary are the largest thing that an analysis holds: 400 positions of 128,000 tokens are 200 MB.
Where they are linear in the final state they are made when they are asked for, and kept only where they are small.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.brief import counted
from steerscope.analysis.engine.run import Readout

KEPT = 2**25  # bytes of logits that a run keeps
PIECE = 2**22  # bytes of logits that are worked on at a time
ROWS = 16  # at least, where a run is scored: each piece reads the whole unembedding, and a score holds several of it
Unembed = Callable[[Tensor], Tensor]


class Outputs:
    """Final states of one run of all prompts at the scored positions.

    Attributes:
        hidden: what the unembedding reads, `[scored, d_model]`; None where the logits are no linear function of it.
        shape: of the logits.
    """

    def __init__(
        self,
        hidden: Float[Tensor, "scored d_model"] | None,
        logits: Float[Tensor, "scored vocab"] | None = None,
        unembed: Unembed | None = None,
        vocab: int = 0,
    ) -> None:
        """Args:
        logits: as the model gives them; without them `unembed` makes them of `hidden`, as many as `vocab`.
        """
        self.hidden, self._logits, self._unembed = hidden, logits, unembed
        self.shape = (len(self.states), vocab if logits is None else logits.shape[1])

    def __repr__(self) -> str:
        return f"<Outputs: logits of {self.shape[1]} tokens at {counted(self.shape[0], 'position')}>"

    def __getstate__(self) -> dict[str, object]:
        """For another process: logits that can be made again are."""
        return self.__dict__ | ({"_logits": None} if self._unembed is not None else {})

    @property
    def states(self) -> Float[Tensor, "scored width"]:
        """What determines the run's logits: the final states, or they themselves."""
        states = self._logits if self.hidden is None else self.hidden
        assert states is not None
        return states

    @property
    def kept(self) -> bool:
        """Whether the logits are kept."""
        return self._logits is not None or self._size(self.shape[0]) <= KEPT

    @property
    def logits(self) -> Float[Tensor, "scored vocab"]:
        """All of them, as the model gives them."""
        if self._logits is not None:
            return self._logits
        found = self._made(slice(None))
        if self.kept:
            self._logits = found
        return found

    def rows(self, places: slice | Tensor) -> Float[Tensor, "place vocab"]:
        """Logits at some of the scored positions."""
        return self.logits[places] if self.kept else self._made(places)

    @property
    def pieces(self) -> Iterator[slice]:
        """Of the positions, so many at a time that their logits are a small piece of memory."""
        step = max(1, PIECE // self._size(1))
        return (slice(at, at + step) for at in range(0, self.shape[0], step))

    def _made(self, places: slice | Tensor) -> Tensor:
        assert self.hidden is not None and self._unembed is not None
        return self._unembed(self.hidden[places][None])[0].detach()

    def _size(self, count: int) -> int:
        return count * self.shape[1] * self.states.element_size()


def pieced(work: Callable[..., Tensor], *outputs: Outputs) -> Tensor:
    """What `work` makes of the logits of several runs, position by position, without holding all of them."""
    return torch.cat([work(*(one.rows(piece) for one in outputs)) for piece in outputs[0].pieces])


def apart(one: Outputs, other: Outputs) -> Float[Tensor, " scored"]:
    """By scored position, the largest difference in log-probability."""
    return pieced(lambda a, b: (a.log_softmax(-1) - b.log_softmax(-1)).abs().amax(-1), one, other)


def with_logits(readout: Readout, unembed: Unembed, vocab: int) -> Iterator[Readout]:
    """A readout of the final stream, in pieces that have logits, too."""
    hidden = readout.hidden
    assert hidden is not None
    step = max(ROWS, PIECE // (vocab * hidden.element_size()))
    for at in range(0, len(hidden), step):
        part = slice(at, at + step)
        logits = unembed(hidden[part][None])[0].detach()
        yield Readout(readout.variants, readout.row[part], readout.position[part], logits, hidden[part])
