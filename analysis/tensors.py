"""Tensors on a disk: safetensors with a checksum over names, shapes, values and what the file says of itself."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .brief import quoted
from .errors import SteerscopeError
from .seals import CHECKSUM


def tensor_bytes(tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file, for `files.write`.

    Args:
        about: what the file says of itself, all of it text.
    """
    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}  # some share memory
    told = dict(about or {})
    return save(kept, {**told, CHECKSUM: checksum(kept, told)})


def read_tensors(
    path: str | Path, error: type[SteerscopeError], what: str, needed: bool = True, device: str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, and what it says of itself.

    Args:
        error: what to raise.
        what: the file is, in words.
        needed: whether it must carry a checksum; one that is there is always checked.

    Raises:
        error: missing, not readable, or changed since it was written.
    """
    try:
        if not Path(path).is_file():
            raise FileNotFoundError("there is no such plain file")
        with safe_open(str(path), framework="pt") as file:
            about = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, ValueError, RuntimeError, SafetensorError) as reason:
        raise error(
            f"{quoted(path)} is no {what} ({str(reason)[:200]}); expected a safetensors file that can be read; check it"
        ) from reason
    there = about.pop(CHECKSUM, None)
    if (needed or there is not None) and there != checksum(tensors, about):
        raise error(
            f"{quoted(path)} has changed since it was written (its checksum differs); expected the {what} as it was; "
            "bring it back, or make it again"
        )
    return {name: tensor.to(device) for name, tensor in tensors.items()}, about


def checksum(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Over names, types, shapes, values, and what is said of them."""
    found = hashlib.sha256(json.dumps(sorted(about.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        if tensor.numel():
            found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
