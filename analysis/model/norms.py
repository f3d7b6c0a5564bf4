"""Norms and angles of the injected part on its way through every norm of the model.

1. Run every prompt clean and steered; keep the stream that each norm reads.
2. The steered stream is exactly: the clean stream (rest) + coefficient x vector (vector) + what the nodes
   wrote differently because of it (response).
3. A norm is linear once its scale is given: N(x) = weight * (x - mean) / scale + bias. So the normalized
   stream is split the same way. The share of a part is its projection on the normalized stream (without
   its bias) over that stream's square: shares add up to 1, and the run checks that parts do.
4. The same for random vectors of equal norm.

Source: Turner et al. 2023 (arXiv 2308.10248) for norms relative to the stream; arXiv 2606.06735 for angle and stretch.
What it cannot see: what any of this does to the output.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .models import Model


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm of the model as an equation: `weight * (x - mean) / scale + bias`.

    Attributes:
        centred: LayerNorm subtracts the mean, RMSNorm does not.
        eps: stands under the root of the scale.
    """

    weight: Float[Tensor, " d_model"] = field(repr=False)
    bias: Float[Tensor, " d_model"] = field(repr=False)
    centred: bool
    eps: float

    def centre(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        return x - x.mean(dim=-1, keepdim=True) if self.centred else x

    def scale(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows"]:
        """What it divides by: the standard deviation, or the root mean square."""
        return (self.centre(x).square().mean(dim=-1) + self.eps).sqrt()

    def part(self, x: Float[Tensor, "*rows d_model"], scale: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows d_model"]:
        """What a part of a stream becomes, given the whole stream's scale; parts add up, the bias apart."""
        return self.weight * self.centre(x) / scale[..., None]

    def __call__(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        return self.part(x, self.scale(x)) + self.bias


def norm_of(model: Model, module: Any) -> Norm | None:
    """The equation of a norm module; None where the model has none there.

    Weights are read off what the module does to two vectors, since architectures keep them differently
    (Gemma adds 1).
    """
    if model.norm == "none" or module is None:
        return None
    centred = "LN" in model.norm.upper()
    eps = float(model.bridge.cfg.eps)
    device, dtype = model.device, model.dtype
    probe = torch.linspace(1, 2, model.d_model, device=device, dtype=dtype)
    probe[::2] *= -1  # far from its own mean
    with torch.no_grad():
        bias = module(torch.zeros_like(probe)[None, None])[0, 0]
        out = module(probe[None, None])[0, 0] - bias
    plain = Norm(torch.ones_like(probe), torch.zeros_like(probe), centred, eps)
    return Norm((out / plain(probe)).detach(), bias.detach(), centred, eps)


@dataclass(frozen=True)
class Reader:
    """A norm, and the stream that it reads: of attention, of the MLP, or the final one (layer = n_layers)."""

    layer: int
    name: str
    norm: Norm


def readers(model: Model) -> list[Reader]:
    """All norms between the stream and what reads it, in order."""
    found = []
    for layer, block in enumerate(model.bridge.blocks):
        names = [("attention", "ln1"), ("mlp", "ln2")] if model.has_mlp else [("attention", "ln1")]
        for name, attribute in names:
            norm = norm_of(model, getattr(block, attribute, None))
            if norm is not None:
                found.append(Reader(layer, name, norm))
    final = norm_of(model, getattr(model.bridge, "ln_final", None))
    return [*found, Reader(model.n_layers, "final", final)] if final is not None else found


def sites(model: Model) -> list[tuple[str, int]]:
    """What must be kept of a run so that `stream` can say what each norm read."""
    kept = [(name, layer) for layer in range(model.n_layers) for name in ("resid_pre", "attn_out")]
    return [*kept, ("resid_post", model.n_layers - 1)]


def stream(model: Model, reader: Reader, kept: dict[tuple[str, int], Tensor]) -> Float[Tensor, "pos d_model"]:
    """What a norm reads in a run of which `sites` were kept."""
    if reader.name == "final":
        return kept["resid_post", model.n_layers - 1]
    before = kept["resid_pre", reader.layer]
    if reader.name == "attention" or model.parallel:
        return before
    return before + kept["attn_out", reader.layer]


def angle(a: Float[Tensor, "*rows width"], b: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows"]:
    """In degrees; from both vectors' difference and sum, exact for small angles as well."""
    a, b = (x / x.norm(dim=-1, keepdim=True).clamp_min(1e-30) for x in (a, b))
    return torch.rad2deg(2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1)))
