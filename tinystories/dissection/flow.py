"""Flow: the sum of all paths that go through a node, the scales of norms shared out.

It needs no enumeration: what reads the logits is taken back through the secants, all at once, to what reads the stream
at every stage and position; a node's flow is what that sees of what the node writes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .readouts import Rows
from .stack import Stack

CELLS = 30_000_000  # of the largest array that is made at once
Back = Float[Tensor, "row pos d_model"]


@dataclass(frozen=True, eq=False)
class Flow:
    """Of rows, the flow through every node.

    Attributes:
        heads: by layer.
        mlps: by layer.
        direct: what is injected and reaches the final norm past all nodes.
        neurons: by layer, of every neuron of the MLP.
        total: through the injection, all of it.
    """

    heads: list[Float[Tensor, "row head"]]
    mlps: list[Float[Tensor, " row"]]
    direct: Float[Tensor, " row"]
    neurons: list[Float[Tensor, "row neuron"]]
    total: Float[Tensor, " row"]


def chunks(stack: Stack, rows: int, width: int) -> list[slice]:
    """Rows in pieces whose arrays of `width` cells each fit."""
    step = max(1, CELLS // max(1, width))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def flow(stack: Stack, rows: Rows, neurons: bool = False) -> Flow:
    """The flow through every node, row by row.

    Args:
        neurons: keep that of every neuron, too.
    """
    length = stack.runs.ids.shape[1]
    widest = max(len(own.W_Q) * length**2 for own in stack.form.attention)
    widest = max([widest, *(length * mlp.W_in.shape[1] for mlp in stack.form.mlps)])
    pieces = [_flow(stack, rows, piece, neurons) for piece in chunks(stack, len(rows.b), widest)]
    layers = range(stack.layers)
    inner = range(len(stack.mlps))
    return Flow(
        [torch.cat([p.heads[layer] for p in pieces]) for layer in layers],
        [torch.cat([p.mlps[layer] for p in pieces]) for layer in inner],
        torch.cat([p.direct for p in pieces]),
        [torch.cat([p.neurons[layer] for p in pieces]) for layer in inner] if neurons else [],
        torch.cat([p.total for p in pieces]),
    )


def final_back(stack: Stack, rows: Rows, piece: slice) -> Back:
    """What reads the stream before the final norm at every position: that of the row alone."""
    b, i = rows.b[piece], rows.i[piece]
    r = stack.final.at(b, i).back(rows.reads[piece])
    back = r.new_zeros(len(r), stack.runs.ids.shape[1], r.shape[-1])
    back[torch.arange(len(r), device=r.device), i] = r
    return back


def mlp_back(stack: Stack, layer: int, back: Back, b: Int[Tensor, " row"]) -> tuple[Back, Tensor]:
    """What reads the stream before an MLP, from what reads what it writes; and what each neuron sees there.

    Positions where nothing is read, or nothing changes, are left out.
    """
    own = stack.mlps[layer]
    alive = back.abs().amax(dim=-1).gt(0) & stack.change[stack.mlp_stage(layer)][b].abs().amax(dim=-1).gt(0)
    row, at = alive.nonzero(as_tuple=True)
    found = torch.zeros_like(back)
    r = back[row, at]
    found[row, at] = own.frozen(r, b[row], at) + own.scale(r, b[row], at)
    seen = torch.zeros(len(b), own.own.W_in.shape[1], dtype=back.dtype, device=back.device)
    seen.index_add_(0, row, (r @ own.own.W_out.T) * own.Dg[b[row], at])
    return found, seen


def _flow(stack: Stack, rows: Rows, piece: slice, keep: bool) -> Flow:
    b = rows.b[piece]
    back = final_back(stack, rows, piece)
    direct = (back * stack.direct[-1][b]).sum(dim=(1, 2))
    heads: list[Tensor] = []
    mlps: list[Tensor] = []
    neurons: list[Tensor] = []
    total = torch.zeros_like(direct)
    below = stack.direct[-1]
    for layer in reversed(range(stack.layers)):
        # What is injected at a stage, and not below it.
        total = total + (back * (below - stack.direct[2 * layer + 1])[b]).sum(dim=(1, 2))
        through = torch.zeros_like(back)
        if stack.mlps:
            through, seen = mlp_back(stack, layer, back, b)
            mlps.insert(0, seen.sum(dim=-1))
            neurons.insert(0, seen if keep else seen[:, :0])
        middle = back if stack.form.model.parallel else back + through
        read = torch.einsum("rid,hed->rihe", middle, stack.form.attention[layer].W_O)
        heads.insert(0, torch.einsum("rihe,rihe->rh", read, stack.heads[layer].Dz[b]))
        total = total + (middle * (stack.direct[2 * layer + 1] - stack.direct[2 * layer])[b]).sum(dim=(1, 2))
        back = middle + stack.heads[layer].back(middle, b)
        back = back + through if stack.form.model.parallel else back
        below = stack.direct[2 * layer]
    total = total + (back * below[b]).sum(dim=(1, 2))
    return Flow(heads, mlps, direct, neurons, total)
