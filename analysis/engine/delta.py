"""Delta precision: linear maps act on *changes* in bfloat16, and on the runs that these are changes of in float32.

Patching asks what an edit changes. bfloat16 on whole activations rounds away what is small beside them; on the change
alone it costs a fraction of the change, and nothing where nothing changes:

    y = y_base + bf16(x - x_base) bf16(W)        y_base = W x_base + b in float32

1. A variant's base is the run that its effect is measured against (`Variant.base`); one without a base is its own, and
   stays float32. Bases are rows of the batch; those that are missing join it, and are not read.
2. By layer, three maps from rows (or packed positions) to those of their bases: for queries, keys and values; for the
   heads' output matrix; for the MLP (`plan`).
3. During the pass the leaf linear maps of the blocks compute as above (`cheap`). Attention, norms, activations, the
   stream and the unembedding stay float32.

It has no gradients. What it cannot see: products that no leaf module makes (experts with bare parameters) stay float32.
A base that is far away helps little: then the edit itself is rounded. How exact it is and when it pays:
docs/precision.md.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from steerscope.analysis.model.models import Model

from .edits import Variant
from .sharing import Packing

PAYS = 2.5  # times as fast as a float32 product that one of bfloat16 must be: base rows and casts cost the rest
SHAPE = (512, 576, 1536)  # of the products that decide
SECONDS = 0.03  # that each of them is tried
COARSE = torch.bfloat16  # of changes, and of the weights that they meet
KINDS = ("looking", "output", "mlp")  # queries, keys, values; the heads' output matrix; the MLP


@dataclass(frozen=True)
class Bases:
    """Which rows (or packed positions) of an input are bases, and whose base each refers to.

    Attributes:
        packed: whether places are positions of one packed row, `[1, packed, ...]`, or rows, `[row, pos, ...]`.
        base: their places.
        of: for every place, where its base stands in `base`.
    """

    packed: bool
    base: Int[NDArray[np.int64], " base"]
    of: Int[NDArray[np.int64], " place"]

    @classmethod
    def made(cls, reference: NDArray[np.int64], packed: bool) -> "Bases":
        """From the place of each place's base; a place that anything refers to is a base itself."""
        reference = reference.copy()
        named = np.unique(reference)
        reference[named] = named
        base, of = np.unique(reference, return_inverse=True)
        return cls(packed, base, of)

    @property
    def saves(self) -> bool:
        return len(self.base) < len(self.of)

    def fits(self, x: Tensor) -> bool:
        return x.ndim == 3 and x.shape[int(self.packed)] == len(self.of) and (not self.packed or x.shape[0] == 1)


def with_bases(variants: Sequence[Variant]) -> tuple[list[Variant], list[int]]:
    """The variants, behind them the bases that they lack; and by row, which one its base is."""
    rows = list(variants)
    at: dict[tuple[int, tuple[int, ...]], int] = {}
    for row, variant in enumerate(rows):
        at.setdefault((variant.prompt, tuple(map(id, variant.edits))), row)
    of = []
    for row, variant in enumerate(variants):
        if variant.base is None:
            of.append(row)
            continue
        key = (variant.prompt, tuple(map(id, variant.base)))
        if key not in at:
            at[key] = len(rows)
            rows.append(Variant(variant.prompt, variant.base))
        of.append(at[key])
    # What is some row's base is its own, whatever it names.
    of += range(len(of), len(rows))
    for base in set(of):
        of[base] = base
    return rows, of


def plan(
    of: Sequence[int],
    slots: Sequence[Sequence[int]],
    packings: Sequence[tuple[Packing | None, Packing | None]],
    late: Sequence[bool],
    first: int,
) -> list[tuple[Bases, Bases, Bases]]:
    """By layer, the bases for each of `KINDS`.

    Args:
        of: by variant, the variant that is its base.
        slots: by layer, the row that each variant is in.
        packings: by layer, of the output matrix and of the MLP.
        late: whether a layer's rows split only behind its attention.
        first: rows before the first layer.
    """
    found = []
    before = np.arange(first)
    for slot, (heads, mlp), after in zip(slots, packings, late, strict=True):
        rows = _rows(of, slot)
        found.append((Bases.made(before if after else rows, False), _bases(rows, heads), _bases(rows, mlp)))
        before = rows
    return found


def _rows(of: Sequence[int], slot: Sequence[int]) -> NDArray[np.int64]:
    """By row, its base's; its own where any variant in it is a base."""
    found = np.full(max(slot) + 1, -1, dtype=np.int64)
    for row, base in enumerate(of):
        if found[slot[row]] < 0:
            found[slot[row]] = slot[base]
    for row, base in enumerate(of):
        if row == base:
            found[slot[row]] = slot[row]
    return found


def _bases(rows: NDArray[np.int64], packing: Packing | None) -> Bases:
    if packing is None:
        return Bases.made(rows, False)
    put = packing.put.reshape(packing.rows, -1)
    row, position = np.divmod(packing.take, put.shape[1])
    return Bases.made(put[rows[row], position], True)


@contextmanager
def cheap(model: Model, planned: Sequence[tuple[Bases, Bases, Bases]]) -> Iterator[None]:
    """The leaf linear maps of the blocks compute by bases and changes; behind it they are as they were."""
    changed: list[nn.Module] = []
    try:
        for layer, bases in enumerate(planned):
            kinds = [_Shared(own) for own in bases]
            for kind, leaf in leaves(model, layer):
                vars(leaf)["forward"] = _forward(leaf, kinds[kind])
                changed.append(leaf)
        yield
    finally:
        for leaf in changed:
            vars(leaf).pop("forward", None)


def leaves(model: Model, layer: int) -> list[tuple[int, nn.Module]]:
    """The linear maps of a block, each with the place of its kind in `KINDS`."""
    block: Any = model.bridge.blocks[layer]
    mlp = set(block.mlp.modules()) if model.has_mlp else set()
    output = set(block.attn.o.modules())
    return [
        (2 if module in mlp else 1 if module in output else 0, module)
        for module in block.modules()
        if isinstance(module, nn.Linear) or transposed(module)
    ]


def transposed(module: nn.Module) -> bool:
    """Whether it is a linear map of GPT-2's kind, told by its name: importing its class imports all of transformers."""
    return type(module).__name__ == "Conv1D"


class _Shared:
    """What maps of the same input have in common: its base rows, and its changes in bfloat16."""

    def __init__(self, bases: Bases) -> None:
        self.bases = bases
        self._index: tuple[Tensor, Tensor] | None = None
        self._split: tuple[Any, Tensor, Tensor, Tensor] | None = None

    def index(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._index is None or self._index[0].device != x.device:
            base, of = (torch.from_numpy(own).to(x.device) for own in (self.bases.base, self.bases.of))
            self._index = base, of
        return self._index

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Base rows of an input, and the change of every row from its own base."""
        key = (x.data_ptr(), x.shape, x.stride(), x._version)  # its memory is held: nothing else can stand there
        if self._split is None or self._split[0] != key:
            base, of = self.index(x)
            own = x.index_select(0, base)
            self._split = key, x, own, (x - own.index_select(0, of)).to(COARSE)
        return self._split[2], self._split[3]


def _forward(leaf: nn.Module, shared: _Shared) -> Callable[[Tensor], Tensor]:
    plain: Callable[[Tensor], Tensor] = type(leaf).forward.__get__(leaf)
    bases = shared.bases

    def forward(x: Tensor) -> Tensor:
        if not bases.saves or not bases.fits(x):
            return plain(x)
        flat = x[0] if bases.packed else x
        base, change = shared.split(flat)
        y = plain(base).index_select(0, shared.index(x)[1])
        y += change @ coarse(leaf)
        return y[None] if bases.packed else y

    return forward


_CAST: WeakKeyDictionary[nn.Module, tuple[Any, Tensor, Tensor]] = WeakKeyDictionary()


def coarse(leaf: nn.Module) -> Float[Tensor, "input output"]:
    """The weights of a linear map in bfloat16, as `[input, output]`: made once, and anew when they change."""
    weight: Tensor = leaf.weight  # type: ignore[assignment]
    key = (weight.data_ptr(), weight.shape, weight.stride(), weight.device, weight._version, COARSE)
    found = _CAST.get(leaf)
    if found is None or found[0] != key or found[1] is not weight:
        cast = weight.detach().to(COARSE)
        found = _CAST[leaf] = (key, weight, cast if transposed(leaf) else cast.t())
    return found[2]


@cache
def gain(device: torch.device) -> float:
    """How many times as fast a product in bfloat16 is as one in float32 here."""
    rows, width, wide = SHAPE
    x, w = torch.randn(rows, width, device=device), torch.randn(width, wide, device=device)
    return _seconds(x, w) / _seconds(x.to(COARSE), w.to(COARSE))


def _seconds(x: Tensor, w: Tensor) -> float:
    """The shortest of some products: what else runs on the machine only makes them longer."""
    best, until = float("inf"), time.perf_counter() + SECONDS
    while best == float("inf") or time.perf_counter() < until:
        start = time.perf_counter()
        product = x @ w
        if product.device.type == "cuda":
            torch.cuda.synchronize(product.device)
        best = min(best, time.perf_counter() - start)
    return best
