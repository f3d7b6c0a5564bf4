"""Operations that read the activation which they change: what a direction does to it, at one place.

With x the activation at a position, v the row of the value there, r = v / |v| its direction and a the amount:

    norm_add   x + v, scaled back to |x|
    project    the component along r is set to a v: x + (a |v| - x.r) r
    clamp      the same where the component is larger than that; what is smaller stays
    stretch    the component along r, times a: x + (a - 1) (x.r) r; with a = 0 the direction is ablated
    rotate     x turned towards r by a degrees, in the plane of both; its norm stays

A row of zeros has no direction: it changes nothing, nor does a rotation where x is parallel to r or zero, nor a
norm_add whose sum is zero. Half precision is computed in float32.

Source: Arditi et al. 2024 (arXiv 2406.11717) for directional ablation; arXiv 2602.01716 for rotations in the plane of
stream and direction. Rotations in one plane that is fixed beforehand (arXiv 2601.19375) are two reflections, which
are stretches by -1 (`question.bundles.rotation`).
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.errors import BrokenInvariant

Directed = Literal["norm_add", "project", "clamp", "stretch", "rotate"]
DIRECTED: tuple[str, ...] = get_args(Directed)
SMALLEST = 1e-30  # a norm: no direction below it
PARALLEL = 1e-6  # what is left across r, of 1, is rounding

Rows = Float[Tensor, "*rows width"]


def changed(operation: str, x: Rows, value: Rows, amount: Tensor | float, share: Tensor | float = 1.0) -> Rows:
    """Activations after an operation.

    Args:
        value: a direction for each row, or one for all.
        amount: a number, or `[rows, 1]`.
        share: how far it goes from x to there: a number, or `[rows, 1]`.

    Raises:
        BrokenInvariant: no such operation.
    """
    if operation not in DIRECTED:
        raise BrokenInvariant(f"the operation {operation!r} reads no activation; expected one of {', '.join(DIRECTED)}")
    wide = torch.promote_types(x.dtype, torch.float32)
    before, v = x.to(wide), value.to(x.device, wide)
    amount = amount.to(before) if isinstance(amount, Tensor) else amount
    share = share.to(before) if isinstance(share, Tensor) else share
    return (before + share * _change(operation, before, v, amount)).to(x.dtype)


def _change(operation: str, x: Rows, v: Rows, a: Tensor | float) -> Rows:
    if operation == "norm_add":
        y = x + v
        scaled = y * (_norm(x) / _norm(y).clamp_min(SMALLEST))
        return torch.where(_norm(y) > SMALLEST, scaled - x, torch.zeros_like(x))
    size = _norm(v)
    r = v / size.clamp_min(SMALLEST)
    along = (x * r).sum(dim=-1, keepdim=True)
    if operation == "stretch":
        return (a - 1) * along * r
    if operation in ("project", "clamp"):
        step = a * size - along
        return (step.clamp_max(0) if operation == "clamp" else step) * r
    length = _norm(x)
    across = r - along / length.clamp_min(SMALLEST) * (x / length.clamp_min(SMALLEST))
    turn = torch.deg2rad(torch.as_tensor(a, dtype=x.dtype, device=x.device))
    turned = turn.cos() * x + turn.sin() * length * across / _norm(across).clamp_min(SMALLEST)
    moves = (_norm(across) > PARALLEL) & (length > SMALLEST)
    return torch.where(moves, turned - x, torch.zeros_like(x))


def _norm(x: Rows) -> Float[Tensor, "*rows 1"]:
    found: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return found
