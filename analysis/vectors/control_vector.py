"""GGUF control vectors: one direction a layer, as llama.cpp, repeng and EasySteer read and write them.

A file holds one-dimensional tensors `direction.N`, and says what it is under `controlvector.*`. **N is the number of a
block, from 0, and the direction is added to the stream behind that block**: `direction.N` is our `L{N+1}.resid_pre`.

- llama.cpp: `common_control_vector_load_one` (common/common.cpp) puts `direction.N` at offset `n_embd * (N - 1)` of a
  buffer, from which `llama_adapter_cvec::apply` (src/llama-adapter.cpp) takes block `il`'s at `n_embd * (il - 1)`; it
  is added by `build_cvec` behind the block's last addition. N = 0 is refused, metadata is not read, all are float32.
- repeng: `ControlVector.export_gguf` names a direction by its layer, recorded at `hidden_states[layer + 1]`, which is
  what block `layer` gives; `ControlModule` adds it there. It needs `controlvector.model_hint`.
- EasySteer (its vLLM): the same names, blocks counted from 0, 0 allowed.

Source of the format: docs/gguf.md of the ggml project.
"""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.brief import brief
from steerscope.analysis.ggufs import Gguf, Packed

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
ARCHITECTURE = "controlvector"
UINT32, STRING, FLOAT32 = 4, 8, 0
MOST = 4096  # directions
WIDEST = 2**27  # numbers in all of them
KINDS = ("F32", "F16", "BF16", "F64")  # others share scales

Directions = dict[int, Float[Tensor, " width"]]


class Faulty(ValueError):
    """Bytes that are no control vector; the message is what is wrong with them."""


def control_bytes(directions: Mapping[int, Tensor], about: Mapping[str, str | int]) -> bytes:
    """A GGUF file of directions by block.

    Args:
        about: what it says of itself, by key.
    """
    told = {"general.architecture": ARCHITECTURE, **about}
    head = [MAGIC, struct.pack("<IQQ", VERSION, len(directions), len(told))]
    for key, value in told.items():
        kind = STRING if isinstance(value, str) else UINT32
        head += [_string(key), struct.pack("<I", kind), _string(value) if isinstance(value, str) else _u32(value)]
    bodies: list[bytes] = []
    size = 0
    for number, direction in sorted(directions.items()):
        body = direction.detach().cpu().float().contiguous().numpy().astype("<f4").tobytes()
        head += [_string(f"direction.{number}"), struct.pack("<IQIQ", 1, len(direction), FLOAT32, size)]
        bodies.append(body + b"\0" * (-len(body) % ALIGNMENT))
        size += len(bodies[-1])
    start = b"".join(head)
    return start + b"\0" * (-len(start) % ALIGNMENT) + b"".join(bodies)


def control_of(file: Gguf) -> tuple[Directions, dict[str, Any]]:
    """Directions by block, and the metadata, of a GGUF file.

    Raises:
        Faulty: it holds other things than directions.
    """
    if len(file.tensors) > MOST or sum(tensor.data.size for tensor in file.tensors) > WIDEST:
        raise Faulty(f"it has {len(file.tensors):,} tensors, more than {MOST:,} directions: a model is none")
    blocks = [_block(tensor) for tensor in file.tensors]
    if len({tensor.shape for tensor in file.tensors}) != 1:
        raise Faulty("its directions are not all of one width" if file.tensors else "it holds no directions")
    about = {name: field.value for name, field in file.fields.items()}
    return dict(zip(blocks, map(_values, file.tensors), strict=True)), about


def _block(tensor: Packed) -> int:
    """The block that a tensor is added behind."""
    start, _, number = tensor.name.partition(".")
    if (
        start != "direction"
        or not number.isascii()
        or not number.isdigit()
        or len(number) > 6
        or len(tensor.shape) != 1
    ):
        raise Faulty(
            f"it holds {brief(tensor.name)} of shape {list(tensor.shape)}; expected one-dimensional tensors named "
            "direction.1, direction.2 and so on: a model is no control vector"
        )
    if number != str(int(number)):
        raise Faulty(f"it holds {brief(tensor.name)}; expected direction.{int(number)}")
    return int(number)


def _values(tensor: Packed) -> Tensor:
    if tensor.kind not in KINDS:
        raise Faulty(f"its {brief(tensor.name)} is of the type {tensor.kind}; expected F32, as llama.cpp does")
    if tensor.kind == "BF16":
        return torch.from_numpy(tensor.data.view(np.int16).copy()).view(torch.bfloat16).float()
    return torch.from_numpy(tensor.data.astype(np.float64 if tensor.kind == "F64" else np.float32))


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _u32(number: int) -> bytes:
    return struct.pack("<I", number)
