"""The numbers of a trial: effect, KL, loss of the true next token, entropy; means over its scored positions.

Logits are made a few positions at a time, so that those of all rows never exist at once.
"""

import time

import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.engine import Readout
from steerscope.analysis.metrics import Outputs, Score, Scored
from steerscope.analysis.models import Model

SLICE = 256  # scored positions whose logits are held at a time
CACHED = 2**19  # logits that are worked on at a time: they stay in the processor's cache


class Numbers:
    """Effect, KL, loss of the true next token and entropy of each row, means over its scored positions."""

    def __init__(self, model: Model, scored: Scored, effect: Score, clean: Outputs) -> None:
        self.model, self.scored, self.effect = model, scored, effect
        self.reference = clean.logits.log_softmax(dim=-1)
        self.following = scored.next_tokens
        self.seconds = 0.0

    def __call__(self, readout: Readout) -> Float[Tensor, "row number"]:
        start = time.perf_counter()
        parts = [self._slice(readout, at) for at in range(0, len(readout.row), SLICE)]
        values = torch.stack([readout.mean(v.double()) for v in torch.cat(parts, dim=-1)], dim=-1)
        self.seconds += time.perf_counter() - start
        return values

    def _slice(self, readout: Readout, at: int) -> Float[Tensor, "number read"]:
        """The numbers at a few positions: their logits are made here, so that all of them never exist at once."""
        hidden = None if readout.hidden is None else readout.hidden[at : at + SLICE]
        if readout.logits is not None:
            logits = readout.logits[at : at + SLICE]
        else:
            assert hidden is not None
            logits = self.model.bridge.unembed(hidden[None])[0].detach()
        row, position = readout.row[at : at + SLICE], readout.position[at : at + SLICE]
        found = []
        step = max(1, CACHED // logits.shape[-1])
        for start in range(0, len(logits), step):
            few = slice(start, start + step)
            part = Readout(
                readout.variants, row[few], position[few], logits[few], None if hidden is None else hidden[few]
            )  # fmt: skip
            found.append(torch.cat([self.effect(part)[None], self._distribution(part)]))
        return torch.cat(found, dim=-1)

    def of_logits(self, readout: Readout) -> Float[Tensor, " number"]:
        """KL, loss and entropy of one row whose logits were read."""
        return self._distribution(readout).double().mean(dim=-1)

    def _distribution(self, readout: Readout) -> Float[Tensor, "number read"]:
        assert readout.logits is not None
        places = self.scored.places(readout)
        own = readout.logits.log_softmax(dim=-1)
        p = own.exp()
        entropy = -torch.linalg.vecdot(p, own)
        loss = -own.gather(1, self.following[places][:, None])[:, 0]
        kl = torch.linalg.vecdot(p, own.sub_(self.reference[places])).clamp_min(0.0)
        return torch.stack([kl, loss, entropy])
