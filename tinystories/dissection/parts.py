"""`parts`: every number by its last writers and their channels: rows that add up to it, one level deep.

- `final norm`: the change of the final norm's scale, which is temperature and not steering;
- `direct`: what is injected at the position itself, straight to the unembedding;
- `L0H3.ov<-1`: what head 3 moves from position 1 differently, under the mean of both patterns;
- `L0H3.k<-1`, `L0H3.q`: how it looks elsewhere, since the key of position 1, or its query, changed;
- `L0M<-L0H3`: what the MLP writes differently, as far as head 3 changed what it reads, at frozen scale of its norm;
- `L0M.scale`: as far as that scale changed.

Sources below the cut of their row are added up as `L0H3.ov<-others`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from .heads import by_head
from .readouts import Rows
from .stack import Stack, Writers
from .tree import DIRECT, FINAL, OTHERS

CHUNK = 4096
NOWHERE = -1


@dataclass(eq=False)
class _Table:
    """Rows of the table, in blocks."""

    blocks: list[pd.DataFrame]

    def add(self, row: Tensor, change: Tensor, names: Any, kind: str, writer: Any, layer: int, **more: Any) -> None:
        """Rows; all but `row` and `change` may be one for all."""
        there = change.ne(0).cpu().numpy()
        own = {
            "row": row.cpu().numpy(),
            "part": names,
            "kind": kind,
            "writer": writer,
            "layer": layer,
            "sender": "",
            "source": NOWHERE,
            "change": change.cpu().numpy(),
            "interaction": np.nan,
        }
        own |= {name: value.cpu().numpy() if isinstance(value, Tensor) else value for name, value in more.items()}
        self.blocks.append(pd.DataFrame(own)[there])


def parts(stack: Stack, rows: Rows, cut: Float[Tensor, " row"]) -> pd.DataFrame:
    """The parts of every row; `row` counts within the batch, `interaction` is a head's, clean first."""
    table = _Table([])
    row = torch.arange(len(rows.b), device=rows.b.device)
    final = stack.final.at(rows.b, rows.i)
    scale = (final.scale(rows.reads) * stack.change[-1][rows.b, rows.i]).sum(dim=-1)
    table.add(row, scale, FINAL, FINAL, FINAL, stack.layers)
    r = final.frozen(rows.reads)
    seen = stack.writers(r, rows.b, rows.i, 2 * stack.layers)
    table.add(row, seen.direct, DIRECT, DIRECT, DIRECT, NOWHERE)
    for layer in range(stack.layers):
        _heads(stack, table, rows, r, cut, layer)
        if stack.mlps:
            _mlp(stack, table, rows, r, layer)
    return pd.concat(table.blocks, ignore_index=True)


def _mlp(stack: Stack, table: _Table, rows: Rows, r: Float[Tensor, "row d_model"], layer: int) -> None:
    own, stage, node = stack.mlps[layer], stack.mlp_stage(layer), f"L{layer}M"
    row = torch.arange(len(r), device=r.device)
    scale = (own.scale(r, rows.b, rows.i) * stack.change[stage][rows.b, rows.i]).sum(dim=-1)
    table.add(row, scale, f"{node}.scale", "scale", node, layer)
    seen = by_writer(stack.writers(own.frozen(r, rows.b, rows.i), rows.b, rows.i, stage))
    senders = np.repeat(np.array([sender for sender, _ in seen], dtype=object), len(r))
    change = torch.cat([change for _, change in seen])
    table.add(row.repeat(len(seen)), change, f"{node}<-" + senders, "input", node, layer, sender=senders)


def by_writer(seen: Writers) -> list[tuple[str, Float[Tensor, " row"]]]:
    """Writers by name."""
    found = [(DIRECT, seen.direct)]
    for layer, heads in enumerate(seen.heads):
        found += [(f"L{layer}H{head}", heads[:, head]) for head in range(heads.shape[1])]
    return found + [(f"L{layer}M", mlp) for layer, mlp in enumerate(seen.mlps)]


def _heads(
    stack: Stack, table: _Table, rows: Rows, r: Float[Tensor, "row d_model"], cut: Float[Tensor, " row"], layer: int
) -> None:
    own = stack.heads[layer]
    count = len(own.own.W_O)
    pair = torch.cartesian_prod(torch.arange(len(r)), torch.arange(count)).to(r.device)
    for start in range(0, len(pair), CHUNK):
        row, head = pair[start : start + CHUNK].T
        read = by_head(r[row], own.own.W_O.transpose(1, 2), head)
        seen = own.values(read, rows.b[row], rows.i[row], head)
        nodes = np.array([f"L{layer}H{h}" for h in range(count)], dtype=object)[head.cpu().numpy()]
        table.add(row, seen.q, nodes + ".q", "q", nodes, layer, interaction=seen.q_interaction)
        for kind, change, interaction in (("ov", seen.ov, seen.ov_interaction), ("k", seen.k, seen.k_interaction)):
            large = (change.abs() >= cut[row][:, None]) & change.ne(0)
            which, j = large.nonzero(as_tuple=True)
            at = which.cpu().numpy()
            names = (
                nodes[at] + np.array([f".{kind}<-{p}" for p in range(change.shape[1])], dtype=object)[j.cpu().numpy()]
            )
            more = {"source": j, "interaction": interaction[large]}
            table.add(row[which], change[large], names, kind, nodes[at], layer, **more)
            left, beside = (torch.where(large, 0.0, x).sum(dim=1) for x in (change, interaction))
            table.add(row, left, nodes + f".{kind}<-{OTHERS}", kind, nodes, layer, interaction=beside)
