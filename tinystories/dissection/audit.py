"""Audits of single nodes: how an MLP, a query or keys are split among those who changed them, against Shapley values.

A game lets the change of some senders come in and holds back the others', and computes the node anew: of an MLP the
norm before it and all neurons, of a query (or the keys at all sources together) the softmax of the head, under both
runs of the other factor.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerscope.analysis.model.norms import Norm

from .activations import SoLU
from .form import MLP, hidden
from .mlps import MLPSecants
from .readouts import Rows
from .secants import softmax_back
from .shapley import distance, shapley
from .stack import Stack

AT_ONCE = 4096  # coalitions


@dataclass(frozen=True, eq=False)
class Audit:
    """One node at one position, for several numbers that are explained.

    Attributes:
        rows: of these numbers.
    """

    what: str
    node: str
    rows: Tensor
    players: list[str]
    ours: Float[Tensor, "player number"]
    reference: Float[Tensor, "player number"]
    method: str

    @property
    def distance(self) -> Float[Tensor, " number"]:
        """Of the split from Shapley values."""
        return distance(self.ours, self.reference)


@dataclass(frozen=True, eq=False)
class _Place:
    """Where audits look: a position of a prompt.

    Attributes:
        rows: of the numbers that are explained there.
        reads: what reads the stream before the final norm, of each.
    """

    b: int
    i: int
    rows: Tensor
    reads: Float[Tensor, "number d_model"]
    seed: int


def audits(stack: Stack, rows: Rows, b: int, i: int, seed: int = 0) -> Iterator[Audit]:
    """All nodes that have several inputs, at a position of a prompt, as last writers."""
    mine = ((rows.b == b) & (rows.i == i)).nonzero(as_tuple=True)[0]
    reads = stack.final.at(rows.b[mine], rows.i[mine]).frozen(rows.reads[mine])
    place = _Place(b, i, mine, reads, seed)
    for layer, own in enumerate(stack.mlps):
        players, changes = senders(stack, stack.mlp_stage(layer), b)
        players, here = _alive(players, changes[:, i])
        if len(players) > 1:
            yield _mlp(stack, own, layer, players, here, place)
    for layer in range(1, stack.layers):
        players, changes = _alive(*senders(stack, 2 * layer, b))
        if len(players) > 1:
            yield from _heads(stack, layer, players, changes, place)


def senders(stack: Stack, stage: int, b: int) -> tuple[list[str], Float[Tensor, "player pos d_model"]]:
    """Who has changed the stream of a prompt up to a stage, and how."""
    found = [("direct", stack.direct[stage][b])]
    for layer in range(stack.layers):
        if 2 * layer + 1 <= stage:
            wrote = torch.einsum("ihe,hed->hid", stack.heads[layer].Dz[b], stack.form.attention[layer].W_O)
            found += [(f"L{layer}H{head}", own) for head, own in enumerate(wrote)]
        if 2 * layer + 2 <= stage and stack.mlps:
            found.append((f"L{layer}M", stack.mlps[layer].change[b]))
    return [name for name, _ in found], torch.stack([own for _, own in found])


def _alive(players: list[str], changes: Tensor) -> tuple[list[str], Tensor]:
    """Without those that change nothing."""
    there = changes.flatten(1).abs().amax(dim=1) > 0
    return [name for name, alive in zip(players, there.tolist(), strict=True) if alive], changes[there]


def _mlp(
    stack: Stack,
    own: MLPSecants,
    layer: int,
    players: list[str],
    changes: Float[Tensor, "player d_model"],
    place: _Place,
) -> Audit:
    b, i, reads = place.b, place.i, place.reads
    kept = stack.runs.kept
    clean = kept["resid_pre", layer][0, b, i]
    clean = clean if stack.form.model.parallel else clean + kept["attn_out", layer][0, b, i]
    at, position = torch.full_like(place.rows, b), torch.full_like(place.rows, i)
    seen = own.frozen(reads, at, position) + own.scale(reads, at, position)
    ours = changes @ seen.T
    single, above = _single(own.own), (own.own.W_out @ reads.T).float()
    start, steps = clean.float(), changes.float()

    def game(members: Bool[Tensor, "coalition player"]) -> Float[Tensor, "coalition number"]:
        found = []
        for piece in torch.split(members.to(steps.device), AT_ONCE):
            stream = start + piece.to(steps) @ steps
            found.append(hidden(single, stream if single.norm is None else single.norm(stream)) @ above)
        return torch.cat(found).double()

    reference, method = shapley(game, len(players), place.seed)
    return Audit("mlp", f"L{layer}M", place.rows, players, ours, reference, method)


def _single(own: MLP) -> MLP:
    """An MLP in single precision: an audit needs no more."""

    def narrow(norm: Norm | None) -> Norm | None:
        return None if norm is None else replace(norm, weight=norm.weight.float(), bias=norm.bias.float())

    act = SoLU(narrow(own.act.norm)) if isinstance(own.act, SoLU) else own.act
    gate = None if own.W_gate is None else own.W_gate.float()
    return MLP(narrow(own.norm), own.W_in.float(), own.b_in.float(), gate, own.b_gate.float(), own.W_out.float(), act)


def _heads(
    stack: Stack, layer: int, players: list[str], changes: Float[Tensor, "player pos d_model"], place: _Place
) -> Iterator[Audit]:
    """Queries and keys of all heads of a layer."""
    b, i = place.b, place.i
    own = stack.heads[layer]
    normal = own.norm.at(torch.tensor(b)).forward(changes)
    dq, dk = own.projected(normal, torch.tensor(b))
    for head in range(len(own.own.W_O)):
        values = own.Mv[b, :, head] @ own.own.W_O[head] @ place.reads.T  # [source, number]
        moved = {
            "q": [own.own.scale * dq[:, i, head] @ own.k[n][b, :, head].T for n in (0, 1)],
            "k": [own.own.scale * (dk[:, :, head] @ own.q[n][b, i, head]) for n in (0, 1)],
        }
        for what, steps in moved.items():
            start = own.scores(what, b, i, head)
            weights = own.by_query if what == "q" else own.by_key
            back = [s @ softmax_back(w[b, head, i], values.T).T for s, w in zip(steps, weights, strict=True)]
            ours = (back[0] + back[1]) / 2

            def game(
                members: Tensor, start: list[Tensor] = start, steps: list[Tensor] = steps, values: Tensor = values
            ) -> Tensor:
                inside = members.to(values)
                found = [(s + inside @ step).softmax(dim=-1) @ values for s, step in zip(start, steps, strict=True)]
                return (found[0] + found[1]) / 2

            reference, method = shapley(game, len(players), place.seed)
            yield Audit(what, f"L{layer}H{head}", place.rows, players, ours, reference, method)
