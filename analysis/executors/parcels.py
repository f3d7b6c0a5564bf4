"""Parcels: what goes to another process and comes back, as bytes.

1. Plain data goes by value, and functions that the other side cannot import, too (cloudpickle).
2. A tensor goes as the bytes of its memory, with its type, shape and strides: it comes out bit for bit, on the same
   kind of device, at a place in memory that is as even (products round differently elsewhere). Tensors that share
   memory go on sharing it.
3. What the other side has already (a model, its modules) goes as a name (`known`).

A parcel is opened by a process that this one has started, or by this one when it comes back from there. It never
becomes a file, and no file is ever read as one.
"""

import io
import pickle
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.gate import gated, shown

PROTOCOL = 5
EVEN = 64  # bytes: the width of what a processor multiplies at a time
WHOLE = 2  # times its own size that a tensor's memory may be, to go as it is; less of it goes as a copy


@gated
def pack(value: object, known: Mapping[int, str] | None = None) -> bytes:
    """A value as bytes.

    Args:
        known: by `id`, names of what the other side has.

    Raises:
        BadArgument: something in it cannot go to another process.
    """
    into = io.BytesIO()
    try:
        _Packer(into, known or {}).dump(value)
    except Exception as error:  # of any type: each object has its own way to refuse
        raise BadArgument(
            f"{shown(value)} cannot go to another process ({type(error).__name__}: {str(error)[:200]}); expected plain "
            "data and functions of it; take out what is open (files, locks, generators), or use the executor local"
        ) from error
    return into.getvalue()


@gated
def unpack(data: bytes | memoryview, known: Mapping[str, Any] | None = None) -> Any:
    """What `pack` was given.

    Args:
        known: by name, what is here already.

    Raises:
        BadArgument: what it needs is not here.
    """
    try:
        return _Unpacker(io.BytesIO(data), known or {}).load()
    except Exception as error:  # of any type, as above
        raise BadArgument(
            f"a worker cannot open what it was sent ({type(error).__name__}: {str(error)[:200]}); expected the "
            "modules, their versions and the devices of where it came from; bring them there, or use the executor local"
        ) from error


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, into: io.BytesIO, known: Mapping[int, str]) -> None:
        super().__init__(into, protocol=PROTOCOL)
        self._known = known
        self._memory: dict[int, _Memory] = {}  # by where it begins

    def persistent_id(self, found: Any) -> str | None:
        return self._known.get(id(found))

    def reducer_override(self, found: Any) -> Any:
        if type(found) is ContextVar:  # of hooks that transformers leaves on a model that was asked for its streams
            return _unset, (found.name,)
        if type(found) not in (Tensor, nn.Parameter) or found.layout != torch.strided or found.is_meta:
            return super().reducer_override(found)
        x = found.detach()
        even = x.untyped_storage().data_ptr() % EVEN
        if x.untyped_storage().nbytes() > WHOLE * x.numel() * x.element_size():
            even, x = x.data_ptr() % EVEN, x.clone()  # keeps the order of strides
        storage = x.untyped_storage()
        memory = self._memory.setdefault(storage.data_ptr(), _Memory(storage, even))
        wanted = found.requires_grad if type(found) is nn.Parameter else None
        return _tensor, (memory, x.dtype, x.shape, x.stride(), x.storage_offset(), wanted)


def _unset(name: str) -> "ContextVar[Any]":
    """A variable of a context goes without its value: what it holds here is of a call that runs here."""
    return ContextVar(name, default=None)


class _Unpacker(pickle.Unpickler):
    def __init__(self, data: io.BytesIO, known: Mapping[str, Any]) -> None:
        super().__init__(data)
        self._known = known

    def persistent_load(self, name: str) -> Any:
        return self._known[name]


class _Memory:
    """The memory of tensors; packed once, however many stand in it.

    Attributes:
        start: bytes before the first tensor's; while it is packed, the place of that within `EVEN` bytes.
    """

    def __init__(self, storage: torch.UntypedStorage, start: int) -> None:
        self.storage, self.start = storage, start

    def __reduce__(self) -> tuple[Any, ...]:
        flat = torch.empty(0, dtype=torch.uint8, device=self.storage.device).set_(self.storage)
        data: Any = flat.cpu().numpy()
        return _memory, (pickle.PickleBuffer(data), self.storage.device.type, self.start)


def _memory(data: bytearray, device: str, even: int) -> _Memory:
    flat = torch.empty(len(data) + EVEN, dtype=torch.uint8, device=device)
    start = (even - flat.data_ptr()) % EVEN
    if data:
        flat[start : start + len(data)] = torch.frombuffer(data, dtype=torch.uint8).to(device)
    return _Memory(flat.untyped_storage(), start)


def _tensor(
    memory: _Memory,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    offset: int,
    wanted: bool | None,
) -> Tensor:
    x = torch.empty(0, dtype=dtype, device=memory.storage.device)
    x.set_(memory.storage, memory.start // dtype.itemsize + offset, shape, stride)
    return x if wanted is None else nn.Parameter(x, requires_grad=wanted)
