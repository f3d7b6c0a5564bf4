"""Texts of a parquet file, unpacked in parts that fit into memory, however small the file is that they come from."""

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from .brief import brief
from .opening import GROUP, LARGEST, LONGEST, MOST, Record, Source, column, group_of

SWOLLEN = 100  # times its size on the disk that a file may have unpacked
UNPACKED = 1 << 26  # bytes that are unpacked at once
BUFFER = 1 << 20  # bytes of a column that are read at once
MOST_ROWS = 4096
TEXTS = ("is_string", "is_large_string")
NUMBERS = ("is_boolean", "is_integer", "is_floating")


def parquet(file: BinaryIO, source: Source) -> Iterator[Record]:
    """The records of a parquet file whose column of texts is the first of the fields.

    Raises:
        the source's error: it cannot be used.
    """
    import pyarrow
    import pyarrow.parquet
    from pyarrow import types

    row = 0
    try:
        with pyarrow.parquet.ParquetFile(file, buffer_size=BUFFER, page_checksum_verification=True) as table:
            names = table.schema_arrow.names
            name = column(source, names)
            wanted = [name, *([column(source, names, GROUP)] if GROUP in names and source.whole else [])]
            for field, kinds in zip(wanted, (TEXTS, (*TEXTS, *NUMBERS)), strict=False):
                kind = table.schema_arrow.field(field).type
                inner = kind.value_type if types.is_dictionary(kind) else kind
                if not any(getattr(types, known)(inner) for known in kinds):
                    source.refuse(f"holds {brief(str(kind))} in its column {field}", "text; write it as text")
            for batch in table.iter_batches(batch_size=_rows(file, table.metadata, wanted, source), columns=wanted):
                for text, *group in zip(*(batch.column(field).to_pylist() for field in wanted), strict=True):
                    row += 1
                    place = f"row {row}"
                    if text is None:
                        source.refuse(f"{place} has no text under {name}", "one in every row; add it")
                    if len(text) > LONGEST:
                        source.refuse(f"{place} has more than {LONGEST:,} characters", "shorter ones; part it")
                    yield Record(text, group_of(group[0], place, source) if group else None, place)
    except UnicodeDecodeError as reason:
        source.refuse(f"is not UTF-8 behind row {row}", "UTF-8 text; write it again", reason)
    except (pyarrow.ArrowException, OSError) as reason:
        source.refuse(f"is not a parquet file ({brief(str(reason), 120)})", "parquet; write it again", reason)


def _rows(file: BinaryIO, about: Any, fields: Sequence[str], source: Source) -> int:
    """How many rows may be unpacked at once, so that `UNPACKED` bytes are held.

    A few hundred bytes can stand for gigabytes: a text stands once in a dictionary, and any number of rows refer to it.
    """
    size = os.fstat(file.fileno()).st_size
    if source.whole and about.num_rows > MOST:
        source.refuse(f"holds {about.num_rows:,} prompts", f"at most {MOST:,}; make it smaller")
    chunks = [about.row_group(i).column(j) for i in range(about.num_row_groups) for j in range(about.num_columns)]
    chunks = [chunk for chunk in chunks if chunk.path_in_schema in fields]
    unpacked = about.num_rows + sum(chunk.total_uncompressed_size for chunk in chunks)
    if unpacked > LARGEST and unpacked > SWOLLEN * size:
        source.refuse(f"has {size:,} bytes and stands for {unpacked:,}", "texts that are different; write it again")
    largest = [_dictionary(file, chunk.dictionary_page_offset) for chunk in chunks if chunk.has_dictionary_page]
    return max(1, min(MOST_ROWS, UNPACKED // max([1, *largest])))


def _dictionary(file: BinaryIO, offset: int) -> int:
    """Bytes of a dictionary: in its header (Thrift's compact protocol) the second number is the size unpacked."""
    file.seek(offset)
    numbers = re.match(rb"\x15[\x80-\xff]*[\0-\x7f]\x15([\x80-\xff]{0,4}[\0-\x7f])", file.read(16))
    if numbers is None:
        return UNPACKED
    coded: bytes = numbers[1]
    return sum((byte & 127) << 7 * i for i, byte in enumerate(coded)) >> 1  # zigzag of a positive number
