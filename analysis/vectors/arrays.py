"""Arrays in other people's files (`.pt`, `.npy`, `.safetensors`): by name, their values as float32 or float64.

Nothing in a file is run, and nothing is held before its size is known: `torch.load` with `weights_only` on an archive
whose parts are counted first, numpy's own format without objects, safetensors.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steerscope.analysis.brief import brief, quoted
from steerscope.analysis.errors import BadVector
from steerscope.analysis.opening import named, opened
from steerscope.analysis.tensors import read_tensors

MOST = 2**27  # numbers in all arrays of a file
LARGEST = 8 * MOST  # bytes of a file
ALONE = ""  # the name of an array that has none
ENTRIES = 10_000  # of a file
DEEPEST = 4  # dimensions
NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Arrays = Mapping[str, Tensor]


def content_of(path: str | Path) -> bytes:
    """The bytes of a plain file that may be a vector's.

    Raises:
        BadVector: it cannot be read, or is too large.
    """
    with opened(path, BadVector) as file:
        found = file.read(LARGEST + 1) if _size(path) <= LARGEST else b""
        if not found or len(found) > LARGEST:
            why = f"holds over {LARGEST:,} bytes" if _size(path) > LARGEST else "is empty"
            raise BadVector(f"{named(path)} {why}; expected a steering vector; check it")
    return found


def _size(path: str | Path) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0  # standard input


def torch_arrays(path: str | Path) -> Arrays:
    """Of a file that `torch.save` wrote: a tensor, or a list or dictionary of tensors.

    Raises:
        BadVector: it holds anything else, is damaged, or of torch's format before 1.6.
    """
    content = content_of(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = archive.infolist()
            if len(parts) > ENTRIES or sum(part.file_size for part in parts) > LARGEST:
                raise zipfile.BadZipFile("it stands for more than a steering vector holds")
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                raise zipfile.BadZipFile("its parts are compressed, which torch.save does not do")
        stream = io.BytesIO(content)
        found = torch.load(stream, map_location="cpu", weights_only=True)
    except zipfile.BadZipFile as error:
        raise BadVector(
            f"{named(path)} is no file of torch.save ({error}); expected a tensor, or a dictionary of tensors, "
            "saved by torch 1.6 or newer; check it, or save it again"
        ) from error
    except Exception as error:  # torch raises all kinds
        why = brief(str(error).split("\n")[0].split(" In PyTorch 2.6")[0], 150)
        raise BadVector(
            f"{named(path)} cannot be read without running what it holds ({why}); expected a tensor, or a dictionary "
            "of tensors; save these alone"
        ) from error
    if isinstance(found, Mapping):
        return _checked(path, {str(name): value for name, value in found.items()})
    if isinstance(found, Sequence) and not isinstance(found, str):
        return _checked(path, {str(number): value for number, value in enumerate(found)})
    return _checked(path, {ALONE: found})


def numpy_array(path: str | Path) -> Arrays:
    """Of a file that `numpy.save` wrote.

    Raises:
        BadVector: it holds objects or texts, is damaged, or is none.
    """
    content = content_of(path)
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in header:
            raise ValueError(f"format version {version}")
        shape, by_column, dtype = header[version](file)
        if dtype.hasobject or dtype.kind not in "fiu":
            raise ValueError(f"it holds {dtype}, not numbers")
        if prod(shape) * dtype.itemsize != len(content) - file.tell():
            raise ValueError(f"its shape {list(shape)} does not fit its {len(content):,} bytes")
        array = np.frombuffer(content, dtype, offset=file.tell()).reshape(shape, order="F" if by_column else "C")
        found = torch.from_numpy(array.astype("f8" if dtype.itemsize == 8 or dtype.kind != "f" else "f4", order="C"))
    except (ValueError, TypeError, OverflowError, SyntaxError, RecursionError) as error:
        raise BadVector(
            f"{named(path)} is no array of numpy ({brief(str(error), 150)}); expected what numpy.save wrote of real "
            "numbers; check it, or save it again"
        ) from error
    return _checked(path, {ALONE: found})


def safe_tensors(path: str | Path) -> tuple[Arrays, Mapping[str, str]]:
    """Of a safetensors file, ours or not, and what it says of itself.

    Raises:
        BadVector: it is none, or too large.
    """
    if _size(path) > LARGEST:
        raise BadVector(f"{quoted(path)} holds over {LARGEST:,} bytes; expected a steering vector; check it")
    tensors, about = read_tensors(path, BadVector, "steering vector", needed=False)
    return _checked(path, tensors), about


def _checked(path: str | Path, arrays: Mapping[str, Any]) -> Arrays:
    """Tensors of real numbers alone, not more than can be held."""
    if not arrays or len(arrays) > ENTRIES:
        raise BadVector(f"{named(path)} holds {len(arrays):,} arrays; expected 1 to {ENTRIES:,}; check it")
    count = 0
    found = {}
    for name, value in arrays.items():
        what = f" under {brief(name)!r}" if name else ""
        kind = type(value).__name__
        if isinstance(value, Tensor):
            kind = f"a tensor of {str(value.dtype).removeprefix('torch.')}"
            if value.layout is torch.strided and not value.is_meta and not value.is_quantized:
                count += value.numel()
                whole = not value.dtype.is_floating_point and not value.is_complex() and value.dtype != torch.bool
                if (whole or value.dtype in NUMBERS) and value.ndim <= DEEPEST and count <= MOST:
                    found[name] = value.detach()
                    continue
            kind += f", of shape {brief(str(list(value.shape)))}"
        raise BadVector(
            f"{named(path)} holds {kind}{what}; expected tensors of real numbers, dense, of at most {DEEPEST} "
            f"dimensions and {MOST:,} numbers; save these alone"
        )
    return found
