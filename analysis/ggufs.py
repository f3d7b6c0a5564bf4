"""GGUF files (llama.cpp's): what stands in them, read once, quickly, and only as far as the file really goes.

A header says of everything how much of it there is, and readers believe it. Here a count, a length or an offset that
the file has no room for is refused before memory is taken.

Source: github.com/ggml-org/ggml, docs/gguf.md (versions 2 and 3, little-endian).
"""

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .errors import SteerscopeError
from .opening import named, opened

MAGIC, VERSIONS = b"GGUF", (2, 3)
STRING, ARRAY = 8, 9
SCALARS = dict(
    zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
)  # types of the format, as struct's
KEYS, LISTED, LETTERS = 10_000, 1 << 22, 1 << 26  # entries of the header, of all its lists, and bytes of all texts
TENSORS, DIMENSIONS, ALIGNMENT = 100_000, 4, 1 << 20
PLAIN = ("F32", "F16", "BF16", "F64")  # kinds that hold every number by itself


@dataclass(frozen=True)
class Field:
    """One entry of the header, laid out as `gguf.GGUFReader` lays it out.

    Attributes:
        types: of the value; for a list 9 and the type of its entries.
        parts: texts as bytes, numbers as lists of one.
        data: which parts are values (all).
    """

    types: list[int]
    parts: list[Any]

    @property
    def data(self) -> range:
        return range(len(self.parts))

    @property
    def value(self) -> Any:
        """A text, a number, or a list of them."""
        values = [value_of(part) for part in self.parts]
        return values if self.types[0] == ARRAY else values[0]


def value_of(part: Any) -> Any:
    """What a part of a field says: a text or a number."""
    return part.decode() if isinstance(part, bytes) else part[0]


@dataclass(frozen=True, eq=False)
class Packed:
    """A tensor as the file holds it.

    Attributes:
        shape: outermost axis first.
        tensor_type: of `gguf.GGMLQuantizationType`; `kind` is its name ("Q4_1").
        data: what `gguf.dequantize` takes; it is read from the file when it is used.
    """

    name: str
    shape: tuple[int, ...]
    tensor_type: Any
    data: NDArray[Any]

    @property
    def kind(self) -> str:
        return str(self.tensor_type.name)


@dataclass(frozen=True, eq=False)
class Gguf:
    """A file's entries by name, and its tensors in order."""

    fields: dict[str, Field]
    tensors: list[Packed]

    def text(self, key: str) -> str | None:
        """An entry that is a text; None where it is none."""
        field = self.fields.get(key)
        return str(field.value) if field is not None and field.types == [STRING] else None

    @property
    def quantized(self) -> list[str]:
        """Kinds in which numbers share their scales, by how many numbers are held in each."""
        held: dict[str, int] = {}
        for tensor in self.tensors:
            if tensor.kind not in PLAIN:
                held[tensor.kind] = held.get(tensor.kind, 0) + prod(tensor.shape)
        return sorted(held, key=lambda kind: -held[kind])


def read_gguf(path: str | Path, error: type[SteerscopeError]) -> Gguf:
    """What a GGUF file holds.

    Args:
        error: what to raise.

    Raises:
        error: no such file, no GGUF, or one that says more than it holds.
    """
    with opened(path, error) as file:

        def refuse(reason: str) -> NoReturn:
            raise error(
                f"{named(path)} cannot be read as GGUF ({reason}); expected a whole file of llama.cpp's format, "
                "version 2 or 3; download or convert it again"
            )

        if file.read(4) != MAGIC:
            refuse("it does not begin with GGUF")
        whole = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
    try:
        return _Reader(whole, refuse).read()
    except UnicodeDecodeError as reason:
        raise error(
            f"{named(path)} cannot be read as GGUF (a name in it is no UTF-8); expected a whole file of llama.cpp's "
            "format; download or convert it again"
        ) from reason


class _Reader:
    """A place in the file, and how much may still be taken from it."""

    def __init__(self, whole: NDArray[np.uint8], refuse: Callable[[str], NoReturn]) -> None:
        self.whole, self.refuse = whole, refuse
        self.bytes = whole.data
        self.at, self.listed, self.letters = 4, 0, 0

    def read(self) -> Gguf:
        version, tensors, entries = self.numbers("IQQ")
        if version not in VERSIONS:
            self.refuse(f"version {version:,}")
        if entries > KEYS or tensors > TENSORS:
            self.refuse(f"{entries:,} entries and {tensors:,} tensors, expected at most {KEYS:,} and {TENSORS:,}")
        fields: dict[str, Field] = {}
        for _ in range(entries):
            name = self.name()
            if name in fields:
                self.refuse(f"{name!r} stands there twice")
            fields[name] = self.field()
        listed = [self.tensor() for _ in range(tensors)]
        return Gguf(fields, self.packed(listed, self.alignment(fields)))

    def numbers(self, form: str) -> tuple[Any, ...]:
        found = struct.Struct("<" + form)
        start = self.skip(found.size)
        return found.unpack_from(self.bytes, start)

    def skip(self, size: int) -> int:
        """Where `size` bytes begin, that are there."""
        if size > len(self.whole) - self.at:
            self.refuse(f"it ends after {len(self.whole):,} bytes, and goes on by its own account")
        self.at += size
        return self.at - size

    def string(self) -> bytes:
        (length,) = self.numbers("Q")
        self.letters += length
        if self.letters > LETTERS:
            self.refuse(f"texts of more than {LETTERS:,} bytes")
        start = self.skip(length)
        return bytes(self.bytes[start : self.at])

    def name(self) -> str:
        return self.string().decode()

    def field(self) -> Field:
        (kind,) = self.numbers("I")
        if kind != ARRAY:
            return Field([kind], [self.one(kind)])
        kind, count = self.numbers("IQ")
        self.listed += count
        if self.listed > LISTED:
            self.refuse(f"lists of more than {LISTED:,} entries")
        if kind in SCALARS:
            return Field([ARRAY, kind], [[value] for value in self.numbers(f"{count}{SCALARS[kind]}")])
        return Field([ARRAY, kind], [self.one(kind) for _ in range(count)])

    def one(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind not in SCALARS:
            self.refuse(f"a value of type {kind}, expected a number, a text, or a list of them")
        return list(self.numbers(SCALARS[kind]))

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.name()
        (axes,) = self.numbers("I")
        if axes > DIMENSIONS:
            self.refuse(f"{name!r} has {axes:,} axes, expected at most {DIMENSIONS}")
        shape = self.numbers(f"{axes}Q")[::-1]
        kind, offset = self.numbers("IQ")
        return name, shape, kind, offset

    def alignment(self, fields: dict[str, Field]) -> int:
        field = fields.get("general.alignment")
        size = 32 if field is None else field.value if field.types == [4] else 0
        if not 0 < size <= ALIGNMENT or size & (size - 1):
            self.refuse(f"general.alignment is {str(size)[:30]}, expected a power of two up to {ALIGNMENT:,}")
        return int(size)

    def packed(self, listed: list[tuple[str, tuple[int, ...], int, int]], alignment: int) -> list[Packed]:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        plain = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I8": np.int8, "I16": np.int16}
        plain |= {"I32": np.int32, "I64": np.int64}
        start = -(-self.at // alignment) * alignment
        tensors: dict[str, Packed] = {}
        for name, shape, number, offset in listed:
            if name in tensors:
                self.refuse(f"the tensor {name!r} stands there twice")
            if number not in set(GGMLQuantizationType):
                self.refuse(f"{name!r} is of type {number}, which the gguf package does not know")
            kind = GGMLQuantizationType(number)
            block, width = GGML_QUANT_SIZES[kind]
            row = shape[-1] if shape else 1
            size = prod(shape) // block * width
            if row % block or offset % alignment or offset > len(self.whole) or size > len(self.whole) - start - offset:
                self.refuse(f"{name!r} of {' x '.join(map(str, shape))} numbers in {kind.name} is not whole in it")
            data = self.whole[start + offset : start + offset + size]
            if kind.name in plain:
                data = data.view(plain[kind.name]).reshape(shape)
            else:
                data = data.reshape(*shape[:-1], row // block * width)
            tensors[name] = Packed(name, shape, kind, data)
        return list(tensors.values())
