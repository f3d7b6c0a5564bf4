"""The numbers of a trial, means over its scored positions: effect, KL, loss of the true next token, entropy, and the
effect along the vector's own change of the logits, by which vectors are compared with random ones.

Where the effect needs no logits (the logit direction), they are never there whole: the vocabulary passes by
in pieces that stay in the processor's cache, and sums are kept of each (as in online softmax). With z, a, b
the sums of e^l, e^l l and e^l (l - r) over the vocabulary, l a trial's logits and r the clean run's:

    entropy = log z - a / z,    KL = b / z - (log z - log z of r)

Otherwise logits are made for a few positions at a time.
"""

import time

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerscope.analysis.engine.run import Readout
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.metrics import Metric, own_direction
from steerscope.analysis.question.outputs import Outputs
from steerscope.analysis.question.scored import Scored

ROWS = 1024  # scored positions that are worked on together
PIECE = {"cpu": 1024}  # of the vocabulary, by device; all of it elsewhere
CACHED = 2**19  # logits that are worked on at a time, where they are needed whole


class Numbers:
    """Effect, KL, loss, entropy and own effect of each row of a readout, against the clean run.

    Args:
        clean, steered: outputs of the clean and of the fully steered runs at the scored positions.
    """

    def __init__(self, model: Model, scored: Scored, metric: Metric, clean: Outputs, steered: Outputs) -> None:
        self.model, self.scored = model, scored
        self.effect = metric.prepare(scored, clean, steered)
        own = own_direction()
        self.own = self.effect if metric.name == own.name else own.prepare(scored, clean, steered)
        self.reference = clean.logits.float()
        self.normalizer = self.reference.double().logsumexp(dim=-1)
        self.following = scored.next_tokens
        self.weights = _unembedding(model, clean) if metric.reads == "hidden" else None
        self.seconds = 0.0

    def __call__(self, readout: Readout) -> Float[Tensor, "row number"]:
        start = time.perf_counter()
        parts = [self._rows(_part(readout, at, ROWS)) for at in range(0, len(readout.row), ROWS)]
        values = torch.stack([readout.mean(v.double()) for v in torch.cat(parts, dim=-1)], dim=-1)
        self.seconds += time.perf_counter() - start
        return values

    def _rows(self, readout: Readout) -> Float[Tensor, "number read"]:
        if self.weights is not None:
            return self._with_effects(readout, self._in_pieces(readout))
        if readout.logits is None:
            assert readout.hidden is not None
            logits = self.model.bridge.unembed(readout.hidden[None])[0].detach()
            readout = Readout(readout.variants, readout.row, readout.position, logits, readout.hidden)
        step = max(1, CACHED // self.model.d_vocab_out)
        found = []
        for at in range(0, len(readout.row), step):
            part = _part(readout, at, step)
            found.append(self._with_effects(part, self.of_logits(part)))
        return torch.cat(found, dim=-1)

    def _with_effects(self, readout: Readout, others: Float[Tensor, "number read"]) -> Float[Tensor, "number read"]:
        effect = self.effect(readout)[None].double()
        return torch.cat([effect, others, effect if self.own is self.effect else self.own(readout)[None].double()])

    def of_logits(self, readout: Readout) -> Float[Tensor, "number read"]:
        """KL, loss and entropy from whole logits."""
        assert readout.logits is not None
        places = self.scored.places(readout)
        own = readout.logits.float().log_softmax(dim=-1)
        p = own.exp()
        entropy = -torch.linalg.vecdot(p, own)
        loss = -own.gather(1, self.following[places][:, None])[:, 0]
        change = own - self.reference[places] + self.normalizer[places, None].float()
        kl = torch.linalg.vecdot(p, change).clamp_min(0.0)
        return torch.stack([kl, loss, entropy]).double()

    def _in_pieces(self, readout: Readout) -> Float[Tensor, "number read"]:
        """KL, loss and entropy, the vocabulary a piece at a time."""
        assert self.weights is not None and readout.hidden is not None
        places, hidden = self.scored.places(readout), readout.hidden
        top = hidden.new_full((len(hidden),), -torch.inf, dtype=torch.float32)
        z = a = b = torch.zeros(len(hidden), dtype=torch.float64, device=hidden.device)
        piece = PIECE.get(hidden.device.type, self.model.d_vocab_out)
        for start in range(0, self.model.d_vocab_out, piece):
            logits = self._logits(hidden, slice(start, start + piece))
            higher = torch.maximum(top, logits.amax(dim=-1))
            shrink, top = (top - higher).exp().double(), higher
            e = (logits - top[:, None]).exp_()
            z = z * shrink + e.sum(dim=-1)
            a = a * shrink + torch.linalg.vecdot(e, logits)
            logits -= self.reference[places, start : start + piece]
            b = b * shrink + torch.linalg.vecdot(e, logits)
        normalizer = top.double() + z.log()
        kl = (b / z - (normalizer - self.normalizer[places])).clamp_min(0.0)
        loss = normalizer - self._logit(hidden, self.following[places])
        return torch.stack([kl, loss, normalizer - a / z])

    def _logits(self, hidden: Tensor, piece: slice) -> Float[Tensor, "read piece"]:
        assert self.weights is not None
        matrix, bias = self.weights
        logits = (hidden @ matrix[:, piece]).float()
        return logits if bias is None else logits.add_(bias[piece])

    def _logit(self, hidden: Tensor, token: Int[Tensor, " read"]) -> Float[Tensor, " read"]:
        assert self.weights is not None
        matrix, bias = self.weights
        logit: Tensor = torch.linalg.vecdot(hidden, matrix[:, token].T.contiguous()).double()
        return logit if bias is None else logit + bias[token]


def _part(readout: Readout, at: int, count: int) -> Readout:
    some = slice(at, at + count)
    return Readout(
        readout.variants,
        readout.row[some],
        readout.position[some],
        None if readout.logits is None else readout.logits[some],
        None if readout.hidden is None else readout.hidden[some],
    )


def _unembedding(model: Model, clean: Outputs) -> tuple[Tensor, Tensor | None] | None:
    """Matrix and bias of the unembedding; None where the logits are not this function of the final stream."""
    if clean.hidden is None:
        return None
    matrix, bias = model.bridge.unembed.W_U, getattr(model.bridge.unembed, "b_U", None)
    few = clean.hidden[:8]
    logits = few @ matrix if bias is None else few @ matrix + bias
    size = clean.logits[:8].abs().max()
    return (matrix, bias) if bool((logits - clean.logits[:8]).abs().max() <= 1e-3 * size) else None
