"""`Sharing`: which positions of a pass's rows differ from one another, layer by layer; the others are computed once.

In a causal model a position depends on those up to it. So a position of a row, none of which up to it
was edited, is the same in all rows of a prompt. Attention needs whole rows; what treats positions one by
one (a head's output matrix, the MLP) is given each different position once, and what comes out is
spread over the rows again. In the last layer only positions that are read matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .edits import Edit, changed_at

Mask = NDArray[np.bool_]
WORTH = 0.85  # share of the positions above which packing costs more than it saves


@dataclass(frozen=True)
class Packing:
    """Positions `[row, pos]` packed into one row, and spread out again.

    Attributes:
        take: places of those that are computed, in the flattened rows.
        put: for each place, where its value stands in the packed row.
    """

    take: NDArray[np.int64]
    put: NDArray[np.int64]
    rows: int

    def pack(self, x: Tensor) -> Tensor:
        """`[row, pos, ...]` -> `[1, packed, ...]`"""
        return x.flatten(0, 1)[torch.from_numpy(self.take).to(x.device)][None]

    def spread(self, x: Tensor) -> Tensor:
        """`[1, packed, ...]` -> `[row, pos, ...]`"""
        spread = x[0][torch.from_numpy(self.put).to(x.device)]
        return spread.view(self.rows, -1, *x.shape[2:])


@dataclass(frozen=True)
class Layer:
    """What a layer of a pass does.

    Attributes:
        parents: the row of the layer before that each row continues; None where they are the same.
        prompts: of each row.
        edits: with their rows.
        whole: whether all positions are wanted, since activations are kept.
    """

    parents: Sequence[int] | None
    prompts: Sequence[int]
    edits: Sequence[tuple[int, Edit]]
    whole: bool


def share(
    lengths: Sequence[int], layers: Sequence[Layer], read: Sequence[set[int]]
) -> list[tuple[Packing | None, Packing | None]]:
    """By layer: the packing for the heads' output matrices, and for the MLP; None where it does not pay.

    Args:
        lengths: tokens of each prompt.
        read: by row of the last layer, the positions that are read.
    """
    longest = max(lengths[prompt] for layer in layers for prompt in layer.prompts)
    changed = np.zeros((len(layers[0].prompts), longest), bool)
    found = []
    for number, layer in enumerate(layers):
        if number == 0:
            changed = np.zeros((len(layer.prompts), longest), bool)
        elif layer.parents is not None:
            changed = changed[list(layer.parents)]
        wanted = np.arange(longest) < np.array([lengths[p] for p in layer.prompts])[:, None]
        if number == len(layers) - 1 and not layer.whole:
            wanted = np.zeros_like(wanted)
            for row, positions in enumerate(read):
                wanted[row, list(positions)] = True
        _mark(changed, layer, ("resid_pre", "ln1_scale", "q", "k", "v"))
        changed = np.logical_or.accumulate(changed, axis=1)  # attention carries it to all that follow
        _mark(changed, layer, ("z", "pattern"))
        heads = _packing(changed, wanted, layer.prompts)
        _mark(changed, layer, ("attn_out", "ln2_scale"))
        mlp = _packing(changed, wanted, layer.prompts)
        _mark(changed, layer, ("mlp_out",))
        found.append((heads, mlp))
    return found


def _mark(changed: Mask, layer: Layer, sites: tuple[str, ...]) -> None:
    for row, edit in layer.edits:
        if edit.site.name in sites:
            positions = changed_at(edit)
            changed[row, slice(None) if positions is None else list(positions)] = True


def _packing(changed: Mask, wanted: Mask, prompts: Sequence[int]) -> Packing | None:
    rows, longest = changed.shape
    alone = changed & wanted
    same = wanted & ~changed
    _, prompt = np.unique(prompts, return_inverse=True)
    # Of each prompt and position that some row shares with the clean run, the first such row stands for all.
    first = np.full((prompt.max() + 1, longest), rows)
    shared_rows, shared_at = np.nonzero(same)
    np.minimum.at(first, (prompt[shared_rows], shared_at), shared_rows)
    stands = alone.copy()
    of_prompt, at = np.nonzero(first < rows)
    stands[first[of_prompt, at], at] = True
    count = int(stands.sum())
    if count == 0:
        stands[0, 0], count = True, 1
    if count > WORTH * changed.size:
        return None
    number = np.zeros(changed.shape, np.int64)
    number[stands] = np.arange(count)
    put = number.copy()
    put[same] = number[first[prompt[shared_rows], shared_at], shared_at]
    return Packing(np.flatnonzero(stands), put.ravel(), rows)
