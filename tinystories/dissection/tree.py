"""`grow`: the tree of paths from the logits back to the injection, as far as a share asks for.

A node is a sum of paths; its children are the paths that extend it, and add up to it exactly:

    the row -> last writers, final norm
    a head  -> channels (ov, k, q) -> sources -> writers into the stream there -> ...
    an MLP  -> its inputs at frozen scale (writers into the stream that it reads), and its scale, opened the same way

A child whose size is below the cut of its row is left closed, and counted into the `others` of its parent: closing
changes neither its parent nor its siblings. Nodes of all rows grow together, level by level.

Names: `L1M<-L1H3.ov<-4<-L0H2.k<-1` is read from the logits back: the last MLP, from head 3 of its layer, which moves
from position 4 what head 2 of layer 0 wrote there, since the key of position 1 changed.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from .heads import Values, by_head
from .readouts import Rows
from .stack import Stack

CHUNK = 2048
DIRECT, OTHERS, FINAL, SCALE, INJECTED = "direct", "others", "final norm", ".scale", "injected"
CHANNELS = (".ov", ".k", ".q")


@dataclass(frozen=True, eq=False)
class Stem:
    """Nodes that have not been opened: what reads the stream at a place, and the names of what it reads begin with.

    Attributes:
        node: the node whose children are the writers that it sees.
        at: position.
        r: what reads the stream.
        stage: of the stream.
        joint: what stands between the node's name and a writer's.
    """

    node: Int[Tensor, " stem"]
    row: Int[Tensor, " stem"]
    b: Int[Tensor, " stem"]
    at: Int[Tensor, " stem"]
    r: Float[Tensor, "stem d_model"]
    stage: int
    joint: str = "<-"

    def some(self, chosen: Tensor | slice) -> "Stem":
        return self.under(self.node[chosen], chosen)

    def under(self, node: Tensor, chosen: Tensor | slice) -> "Stem":
        """The same for other nodes, which see what some of these see."""
        return replace(self, node=node, row=self.row[chosen], b=self.b[chosen], at=self.at[chosen], r=self.r[chosen])


@dataclass(eq=False)
class Tree:
    """Nodes in the order in which they were found: a node stands after its parent.

    Attributes:
        cut: by row, what is smaller stays closed.
    """

    cut: Float[Tensor, " row"]
    rows: list[NDArray[np.int64]] = field(default_factory=list)
    parents: list[NDArray[np.int64]] = field(default_factory=list)
    changes: list[NDArray[np.float64]] = field(default_factory=list)
    tails: list[NDArray[np.object_]] = field(default_factory=list)
    count: int = 0

    def add(self, row: Tensor, parent: Tensor, change: Tensor, tails: NDArray[np.object_]) -> Int[Tensor, " node"]:
        """New nodes; their numbers."""
        self.rows.append(row.cpu().numpy())
        self.parents.append(parent.cpu().numpy())
        self.changes.append(change.cpu().numpy())
        self.tails.append(tails)
        found = torch.arange(self.count, self.count + len(row), device=row.device)
        self.count += len(row)
        return found

    def children(
        self, row: Tensor, parent: Tensor, change: Float[Tensor, "node child"], tails: list[str], joint: str
    ) -> tuple[Tensor, Tensor, Int[Tensor, " kept"]]:
        """Children of several nodes: which (node, child) are open, and their numbers; the others are added up.

        Args:
            tails: of each child, what its name adds to its parent's.
        """
        size = change.abs()
        open_ = (size >= self.cut[row][:, None]) & (size > 0)
        which, child = open_.nonzero(as_tuple=True)
        names = np.array(tails, dtype=object)[child.cpu().numpy()]
        found = self.add(row[which], parent[which], change[which, child], names)
        rest = (~open_ & (size > 0)).any(dim=1).nonzero(as_tuple=True)[0]
        left = torch.where(open_, 0.0, change)[rest].sum(dim=1)
        self.add(row[rest], parent[rest], left, np.full(len(rest), joint + OTHERS, dtype=object))
        return which, child, found

    def names(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.object_]]:
        """Row, parent (-1 for none), change and whole name of every node."""
        row, parent = np.concatenate(self.rows), np.concatenate(self.parents)
        tails, change = np.concatenate(self.tails), np.concatenate(self.changes)
        whole = np.empty(len(tails), dtype=object)
        for node, (above, tail) in enumerate(zip(parent.tolist(), tails.tolist(), strict=True)):
            whole[node] = tail if above < 0 else whole[above] + tail
        return row, parent, change, whole


def grow(stack: Stack, rows: Rows, cut: Float[Tensor, " row"]) -> Tree:
    """The tree of every row, down to its cut."""
    tree = Tree(cut)
    row = torch.arange(len(rows.b), device=rows.b.device)
    none = torch.full_like(row, -1)
    root = tree.add(row, none, rows.change, np.full(len(row), "", dtype=object))
    final = stack.final.at(rows.b, rows.i)
    scale = (final.scale(rows.reads) * stack.change[-1][rows.b, rows.i]).sum(dim=-1)
    there = scale.ne(0).nonzero(as_tuple=True)[0]
    tree.add(row[there], root[there], scale[there], np.full(len(there), FINAL, dtype=object))
    stems = [Stem(root, row, rows.b, rows.i, final.frozen(rows.reads), 2 * stack.layers, "")]
    while stems:
        stem = stems.pop()
        for start in range(0, len(stem.row), CHUNK):
            stems += _opened(stack, tree, stem.some(slice(start, start + CHUNK)))
    return tree


def _opened(stack: Stack, tree: Tree, stem: Stem) -> list[Stem]:
    """Adds the writers that stems see, and what opens of them; gives the stems that grow from there."""
    if not len(stem.row):
        return []
    found = stack.writers(stem.r, stem.b, stem.at, stem.stage)
    columns, names, nodes = [found.direct[:, None]], [DIRECT], [(-1, -1)]
    for layer, heads in enumerate(found.heads):
        columns.append(heads)
        names += [f"L{layer}H{head}" for head in range(heads.shape[1])]
        nodes += [(layer, head) for head in range(heads.shape[1])]
    for layer, mlp in enumerate(found.mlps):
        columns.append(mlp[:, None])
        names.append(f"L{layer}M")
        nodes.append((layer, -1))
    change = torch.cat(columns, dim=1)
    which, child, number = tree.children(stem.row, stem.node, change, [stem.joint + n for n in names], stem.joint)
    place = torch.tensor(nodes, device=child.device)[child]
    made: list[Stem] = []
    for layer in range(len(found.heads)):
        mine = (place[:, 0] == layer) & (place[:, 1] >= 0)
        if mine.any():
            own = replace(stem.under(number[mine], which[mine]), joint="<-")
            made += _head(stack, tree, own, layer, place[mine, 1])
    for layer in range(len(found.mlps)):
        mine = (place[:, 0] == layer) & (place[:, 1] < 0)
        if mine.any():
            own = replace(stem.under(number[mine], which[mine]), joint="<-")
            made += _mlp(stack, tree, own, layer)
    return made


def _mlp(stack: Stack, tree: Tree, stem: Stem, layer: int) -> list[Stem]:
    """An MLP's scale, and the stems of both."""
    own, stage = stack.mlps[layer], stack.mlp_stage(layer)
    frozen, scale = own.frozen(stem.r, stem.b, stem.at), own.scale(stem.r, stem.b, stem.at)
    change = (scale * stack.change[stage][stem.b, stem.at]).sum(dim=-1)
    there = change.ne(0).nonzero(as_tuple=True)[0]
    number = tree.add(stem.row[there], stem.node[there], change[there], np.full(len(there), SCALE, dtype=object))
    scaled = Stem(number, stem.row[there], stem.b[there], stem.at[there], scale[there], stage)
    large = change[there].abs() >= tree.cut[scaled.row]
    return [Stem(stem.node, stem.row, stem.b, stem.at, frozen, stage), scaled.some(large)]


def _head(stack: Stack, tree: Tree, stem: Stem, layer: int, head: Tensor) -> list[Stem]:
    """A head's channels and sources, and the stems at these."""
    own, stage = stack.heads[layer], 2 * layer
    r = by_head(stem.r, own.own.W_O.transpose(1, 2), head)
    seen: Values = own.values(r, stem.b, stem.at, head)
    channels = torch.stack([seen.ov.sum(dim=1), seen.k.sum(dim=1), seen.q], dim=1)
    which, channel, number = tree.children(stem.row, stem.node, channels, list(CHANNELS), ".")
    made = []
    positions = [f"<-{j}" for j in range(seen.ov.shape[1])]
    for kind, by_source, through in ((0, seen.ov, own.through_value), (1, seen.k, own.through_key)):
        mine = (channel == kind).nonzero(as_tuple=True)[0]
        above = which[mine]
        node, j, leaf = tree.children(stem.row[above], number[mine], by_source[above], positions, "<-")
        pick = above[node]
        back = through(r[pick], stem.b[pick], stem.at[pick], head[pick], j)
        made.append(Stem(leaf, stem.row[pick], stem.b[pick], j, back, stage))
    mine = (channel == 2).nonzero(as_tuple=True)[0]
    pick = which[mine]
    back = own.through_query(r[pick], stem.b[pick], stem.at[pick], head[pick])
    made.append(Stem(number[mine], stem.row[pick], stem.b[pick], stem.at[pick], back, stage))
    if own.injected:
        for grown, change in zip(made, _inside(tree, made), strict=True):
            _injected(stack, tree, grown, change)
    return made if layer > 0 or own.injected else []


def _inside(tree: Tree, stems: list[Stem]) -> list[Tensor]:
    """How large the nodes of stems are."""
    every = torch.from_numpy(np.concatenate(tree.changes))
    return [every.to(stem.r.device)[stem.node] for stem in stems]


def _injected(stack: Stack, tree: Tree, stem: Stem, change: Float[Tensor, " stem"]) -> None:
    """What was put into queries, keys or values themselves: a leaf beside what comes from the stream."""
    rest = change - (stem.r * stack.change[stem.stage][stem.b, stem.at]).sum(dim=-1)
    tree.add(stem.row, stem.node, rest, np.full(len(rest), "<-" + INJECTED, dtype=object))
