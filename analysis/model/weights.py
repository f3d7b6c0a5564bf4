"""What was done to a model's weights before it came here, as far as they show it.

TransformerLens folds norms into what reads them, and centres what is written to the stream and the unembedding
(`enable_compatibility_mode`): the function stays the same, but streams, norms and logits are others.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

RAW = "raw (nothing folded or centred)"


@torch.no_grad()
def processing(bridge: Any) -> str:
    """In words: which of the three the weights show; `RAW` where they show none."""
    found = []
    norms = list(_norms(bridge)) if bridge.cfg.normalization_type else []
    if norms and all(_is_plain(norm, int(bridge.cfg.d_model)) for norm in norms):
        found.append("norms have no weights of their own (folded, or all 1)")
    written = list(_written(bridge))
    if written and all(_centred(weight) for weight in written):
        found.append("what is written to the stream is centred")
    unembedding = getattr(bridge.unembed, "W_U", None)
    if isinstance(unembedding, Tensor) and _centred(unembedding):
        found.append("the unembedding is centred")
    return "; ".join(found) or RAW


def _norms(bridge: Any) -> Iterator[Any]:
    for place in (*bridge.blocks, bridge):
        for name in ("ln1", "ln2", "ln1_post", "ln2_post", "ln_final"):
            norm = getattr(place, name, None)
            if norm is not None:
                yield norm


def _is_plain(norm: Any, width: int) -> bool:
    """Whether a norm does to every dimension the same: told by what it does to two vectors."""
    weight = next((p for p in norm.parameters()), None)
    place = {} if weight is None else {"device": weight.device, "dtype": weight.dtype}
    probe = torch.ones(width, **place)
    probe[::2] = -1
    probe[width - width % 2 :] = 0  # the mean is 0, and a LayerNorm subtracts nothing
    bias = norm(torch.zeros_like(probe)[None, None])[0, 0]
    gain = (norm(probe[None, None])[0, 0] - bias)[: width - width % 2] * probe[: width - width % 2]
    return bool((gain - gain[0]).abs().max() <= 1e-3 * gain[0].abs() and bias.abs().max() <= 1e-6)


def _written(bridge: Any) -> Iterator[Float[Tensor, "row d_model"]]:
    for block in bridge.blocks:
        yield block.attn.W_O.flatten(0, 1)
        out = getattr(getattr(block, "mlp", None), "W_out", None)
        if isinstance(out, Tensor) and out.ndim == 2:
            yield out


def _centred(weight: Float[Tensor, "row column"]) -> bool:
    """Whether the mean of each row is zero: of random ones it is about 1 / sqrt(columns) of their size."""
    weight = weight.float()
    size = weight.square().mean().sqrt()
    return bool(size > 0 and weight.mean(-1).square().mean().sqrt() <= 0.1 * size * weight.shape[-1] ** -0.5)
