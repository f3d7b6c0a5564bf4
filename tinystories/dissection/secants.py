"""Exact secants: linear maps, built from both runs, that take the change of an input to the change of the output.

With D y = y_s - y_c (steered minus clean) and M y their mean:

- product:    D(ab) = Da Mb + Ma Db, the Shapley value of two players.
- softmax:    DA_j = L_j (Ds_j - sum_k L_k Ds_k / sum_k L_k), with L the logarithmic mean of both patterns.
- function:   Dg = (Dg / Dh) Dh, the divided difference.
- norm:       Dn = w (DX M(1/sigma) + MX D(1/sigma)), and D(1/sigma) is linear in DX, too.

For small changes all of them are the Jacobian. Swapped runs give the same map.

Source: Shapley 1953 for products; the logarithmic mean is that of index decompositions without a residual (Ang 2004,
LMDI); the rest are divided differences.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.model.norms import Norm

NEAR = 0.01  # of a logarithm of a ratio: a series below it
SMALL = 1e-5  # of a change: the slope half way below it
ROUNDED = 1e-12  # how far that slope may be off

Pointwise = Callable[[Tensor], Tensor]


def logarithmic_mean(a: Float[Tensor, "*rows"], b: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """(b - a) / ln(b / a); a where both are equal, 0 where one of them is 0."""
    alive = (a > 0) & (b > 0)
    a, b = torch.where(alive, a, 1.0), torch.where(alive, b, 1.0)
    t = b.log() - a.log()
    far = t.abs() > NEAR
    series = (a.sqrt() * b.sqrt()) * (1 + t**2 / 24 + t**4 / 1920)
    return torch.where(alive, torch.where(far, (b - a) / torch.where(far, t, 1.0), series), 0.0)


def softmax_back(weight: Float[Tensor, "*rows key"], above: Float[Tensor, "*rows key"]) -> Float[Tensor, "*rows key"]:
    """What reads the scores, from what reads the pattern: `weight` is the logarithmic mean of both patterns."""
    total = weight.sum(dim=-1, keepdim=True)
    mean = (weight * above).sum(dim=-1, keepdim=True) / torch.where(total > 0, total, 1.0)
    return weight * (above - mean)


def divided_difference(function: Pointwise, a: Float[Tensor, "*rows"], b: Float[Tensor, "*rows"]) -> Tensor:
    """(f(b) - f(a)) / (b - a); the slope half way where b - a is too small to divide by."""
    change, found = b - a, function(b) - function(a)
    with torch.enable_grad():
        middle = ((a + b) / 2).detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(middle).sum(), middle)
    near = (change.abs() < SMALL) & ((slope * change - found).abs() <= ROUNDED)
    near |= change == 0
    return torch.where(near, slope, found / torch.where(near, 1.0, change))


@dataclass(frozen=True, eq=False)
class NormSecant:
    """The secant of a norm at every position: what passes at frozen scale, and what the scale's change does.

    Attributes:
        norm: in double precision; None where the model has none: everything passes.
        inverse: mean of 1 / sigma over both runs.
        middle: mean of the centred streams.
        turn: D(1 / sigma) is `turn` times (middle . DX).
    """

    norm: Norm | None
    inverse: Float[Tensor, "*rows"]
    middle: Float[Tensor, "*rows d_model"]
    turn: Float[Tensor, "*rows"]

    @classmethod
    def of(
        cls, norm: Norm | None, clean: Float[Tensor, "*rows d_model"], steered: Float[Tensor, "*rows d_model"]
    ) -> "NormSecant":
        if norm is None:
            one = torch.ones_like(clean[..., 0])
            return cls(None, one, (clean + steered) / 2, 0 * one)
        c, s = norm.scale(clean), norm.scale(steered)
        middle = (norm.centre(clean) + norm.centre(steered)) / 2
        return cls(norm, (1 / c + 1 / s) / 2, middle, -2 / clean.shape[-1] / (c * s * (c + s)))

    def at(self, *index: Tensor) -> "NormSecant":
        return NormSecant(self.norm, self.inverse[index], self.middle[index], self.turn[index])

    def frozen(self, r: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What reads the stream at frozen scale, from what reads the normalized stream."""
        if self.norm is None:
            return r
        return self.norm.centre(self.norm.weight * r * self.inverse[..., None])

    def scale(self, r: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What reads the stream through the change of the scale."""
        if self.norm is None:
            return torch.zeros_like(r)
        along = (self.norm.weight * r * self.middle).sum(dim=-1) * self.turn
        return self.norm.centre(along[..., None] * self.middle)

    def back(self, r: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """Both together."""
        return self.frozen(r) + self.scale(r)

    def forward(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What a part of the stream's change becomes in the normalized stream, the scale's change shared out."""
        if self.norm is None:
            return x
        x = self.norm.centre(x)
        turned = (self.turn * (self.middle * x).sum(dim=-1))[..., None] * self.middle
        return self.norm.weight * (x * self.inverse[..., None] + turned)
