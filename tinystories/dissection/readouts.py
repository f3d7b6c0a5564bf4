"""`Rows`: which numbers are explained: a prompt, a position, a token, and the vector that reads it off the stream.

The explained number is u . D logits at the position, with

- raw:      u = e_t, the logit itself, a shift that all logits share included;
- centred:  u = e_t - 1/V, the logit above the mean of all;
- log_prob: u = e_t - l, with l the logarithmic means of both runs' probabilities, scaled to sum 1: then u . D logits is
            exactly the change of log p_t.

Capped logits are read through the divided difference of the cap.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .form import Form
from .runs import Runs
from .secants import divided_difference, logarithmic_mean

Readout = Literal["centred", "raw", "log_prob"]


@dataclass(frozen=True, eq=False)
class Rows:
    """What is explained, of a batch of prompts.

    Attributes:
        b: the prompt in its batch.
        i: the position.
        token: the token that is read; -1 for a direction of many.
        reads: what reads the normalized final stream.
        change: measured, of two plain passes.
        clean, steered: the number in both runs.
    """

    b: Int[Tensor, " row"]
    i: Int[Tensor, " row"]
    token: Int[Tensor, " row"]
    reads: Float[Tensor, "row d_model"]
    change: Float[Tensor, " row"]
    clean: Float[Tensor, " row"]
    steered: Float[Tensor, " row"]


def values(logits: Float[Tensor, "*rows vocab"], readout: Readout) -> Float[Tensor, "*rows vocab"]:
    """All logits of a run as a readout gives them."""
    if readout == "log_prob":
        return logits.log_softmax(dim=-1)
    return logits - logits.mean(dim=-1, keepdim=True) if readout == "centred" else logits


def movers(change: Float[Tensor, " vocab"], most: int) -> list[int]:
    """The tokens that gain most, then those that lose most."""
    order = change.argsort(descending=True, stable=True).tolist()
    most = max(1, min(most, len(order) // 2))
    return list(dict.fromkeys([*order[:most], *order[-most:]]))


def rows(form: Form, runs: Runs, asked: Sequence[tuple[int, int, int]], readout: Readout) -> Rows:
    """The rows for (prompt of the batch, position, token)."""
    device = runs.ids.device
    b, i, token = (torch.tensor(column, device=device) for column in zip(*asked, strict=True))
    logits = runs.logits[:, b, i]
    clean, steered = (values(own, readout).gather(-1, token[:, None])[:, 0] for own in logits)
    places, which = torch.unique(torch.stack([b, i]), dim=1, return_inverse=True)
    raw = runs.logits[:, places[0], places[1]]
    mean = torch.zeros_like(raw[0])
    if readout == "centred":
        mean = torch.full_like(raw[0], 1 / raw.shape[-1])
    elif readout == "log_prob":
        mean = logarithmic_mean(*raw.softmax(dim=-1))
        mean = mean / mean.sum(dim=-1, keepdim=True)
    slope = _slope(form, raw[0], raw[1])
    common = (mean * slope) @ form.W_U.T
    own = form.W_U.T[token] * slope[which].gather(-1, token[:, None])
    return Rows(b, i, token, own - common[which], steered - clean, clean, steered)


def _slope(form: Form, clean: Tensor, steered: Tensor) -> Tensor:
    """By logit, of the cap between the two runs."""
    if form.cap is None:
        return torch.ones_like(clean)
    cap = form.cap
    before = [cap * torch.atanh((x / cap).clamp(-1 + 1e-15, 1 - 1e-15)) for x in (clean, steered)]
    return divided_difference(lambda x: cap * torch.tanh(x / cap), before[0], before[1])
