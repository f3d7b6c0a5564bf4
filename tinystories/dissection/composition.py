"""Composition of heads of two layers: the scores of their weights, beside the causal effect of the paths between them.

The score is |W_V1 W_O1 W_Q2 W_K2^T| / (|W_V1 W_O1| |W_Q2 W_K2^T|) in Frobenius norms for queries, and likewise for keys
and values; weights of the norms are folded in, positions are not. The effect is what the logits see of the sender's
change through one channel of the receiver, straight through the stream between the layers.

Source: Elhage et al. 2021 (A Mathematical Framework for Transformer Circuits), composition scores.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.model.norms import Norm

from .flow import chunks, final_back, mlp_back
from .form import Attention, Form
from .readouts import Rows
from .stack import Stack

CHANNELS = ("q", "k", "v")
TENTH = 0.1
Pairs = Float[Tensor, "channel sender receiver"]


@dataclass(eq=False)
class Effects:
    """Sums over rows of the effects of all pairs."""

    absolute: NDArray[np.float64]
    signed: NDArray[np.float64]
    rows: int

    def __add__(self, other: "Effects") -> "Effects":
        return Effects(self.absolute + other.absolute, self.signed + other.signed, self.rows + other.rows)


def scores(form: Form) -> Pairs:
    """Composition scores of all pairs of heads of layers 0 and 1, by channel."""
    below, above = form.attention
    V1, O1 = _folded(below.norm, below.W_V), below.W_O
    Q2, K2, V2 = (_folded(above.norm, weight) for weight in _reads(above))
    writes = torch.einsum("sde,sdf->sef", V1, V1)
    found = []
    for read, other in ((Q2, K2), (K2, Q2), (V2, above.W_O.transpose(1, 2))):
        met = torch.einsum("sed,rdf->sref", O1, read)
        seen = torch.einsum("rde,rdf->ref", other, other)
        square = torch.einsum("sef,srfg,rgh,sreh->sr", writes, met, seen, met)
        size = _product(V1, O1)[:, None] * _product(read, other.transpose(1, 2))[None, :]
        found.append(square.clamp_min(0).sqrt() / torch.where(size > 0, size, 1.0))
    return torch.stack(found)


def _product(a: Float[Tensor, "head d_model d_head"], b: Float[Tensor, "head d_head d_model"]) -> Tensor:
    """The Frobenius norm of a b, head by head."""
    inner, outer = torch.einsum("hde,hdf->hef", a, a), torch.einsum("hed,hfd->hef", b, b)
    return torch.einsum("hef,hfe->h", inner, outer).clamp_min(0).sqrt()


def _folded(norm: Norm | None, weight: Float[Tensor, "head d_model d_head"]) -> Float[Tensor, "head d_model d_head"]:
    """A weight that reads the stream, with the weights of the norm before it."""
    if norm is None:
        return weight
    weight = weight * norm.weight[:, None]
    return weight - weight.mean(dim=1, keepdim=True) if norm.centred else weight


def effects(stack: Stack, rows: Rows) -> Effects:
    """What rows see of every pair of heads, by channel."""
    below, above = stack.heads
    wrote = torch.einsum("bihe,hed->bihd", below.Dz, below.own.W_O)
    b = torch.arange(len(wrote), device=wrote.device)
    parts = [above.norm.at(b).forward(wrote[:, :, head]) for head in range(wrote.shape[2])]
    read = torch.stack([torch.stack([torch.einsum("bid,hde->bihe", p, w) for p in parts]) for w in _reads(above.own)])
    shape = (len(CHANNELS), wrote.shape[2], len(above.own.W_O))
    found = Effects(np.zeros(shape), np.zeros(shape), 0)
    for piece in chunks(stack, len(rows.b), shape[2] * wrote.shape[1] ** 2 + wrote.shape[1] * wrote[0, 0].numel()):
        own, back = rows.b[piece], final_back(stack, rows, piece)
        if stack.mlps and not stack.form.model.parallel:
            back = back + mlp_back(stack, 1, back, own)[0]
        channels = above.channels(torch.einsum("rid,hed->rihe", back, above.own.W_O), own)
        for prompt in torch.unique(own).tolist():
            mine = own == prompt
            for n, channel in enumerate(channels):
                seen = torch.einsum("rihe,sihe->rsh", channel[mine], read[n][:, prompt])
                found.absolute[n] += seen.abs().sum(dim=0).cpu().numpy()
                found.signed[n] += seen.sum(dim=0).cpu().numpy()
        found.rows += len(own)
    return found


def _reads(own: Attention) -> tuple[Tensor, Tensor, Tensor]:
    return own.W_Q, own.W_K, own.W_V


def table(form: Form, found: Effects) -> pd.DataFrame:
    """Scores and effects of all pairs, and where they disagree."""
    score = scores(form).cpu().numpy()
    pieces = []
    for n, channel in enumerate(CHANNELS):
        sender, receiver = np.indices(score[n].shape).reshape(2, -1)
        own = pd.DataFrame(
            {
                "sender": [f"L0H{head}" for head in sender],
                "receiver": [f"L1H{head}" for head in receiver],
                "channel": channel,
                "score": score[n].reshape(-1),
                "effect": found.absolute[n].reshape(-1) / max(found.rows, 1),
                "signed": found.signed[n].reshape(-1) / max(found.rows, 1),
            }
        )
        for name in ("score", "effect"):
            own[f"{name}_rank"] = own[name].rank(ascending=False, method="first").astype(int)
        first, half = max(1, round(TENTH * len(own))), len(own) / 2
        low, high = own[["score_rank", "effect_rank"]].min(axis=1), own[["score_rank", "effect_rank"]].max(axis=1)
        pieces.append(own.assign(disagree=(low <= first) & (high > max(half, first))))  # one pair has one rank
    return pd.concat(pieces, ignore_index=True)
