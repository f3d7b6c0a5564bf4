"""Texts of a parquet file, unpacked in parts that fit into memory, however small the file is that they come from."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from .brief import brief
from .opening import GROUP, LARGEST, LONGEST, MOST, Record, Source, cell_of, column, group_of

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

    row = 0
    try:
        with pyarrow.parquet.ParquetFile(file, buffer_size=BUFFER, page_checksum_verification=True) as table:
            wanted = _columns(table.schema_arrow, source)
            _check_size(table.metadata, os.fstat(file.fileno()).st_size, source)
            packed = pyarrow.parquet.ParquetFile(file, metadata=table.metadata, read_dictionary=wanted)
            for part in range(table.num_row_groups):
                rows = _rows(packed, part, wanted)
                for batch in table.iter_batches(rows, [part], wanted):
                    for text, *rest in zip(*(batch.column(name).to_pylist() for name in wanted), strict=True):
                        row += 1
                        place = f"row {row}"
                        if text is None:
                            source.refuse(f"{place} has no text under {wanted[0]}", "one in every row; add it")
                        if len(text) > LONGEST:
                            source.refuse(f"{place} has more than {LONGEST:,} characters", "shorter ones; part it")
                        named = dict(zip(wanted[1:], rest, strict=True))
                        group = group_of(named.get(GROUP), place, source) if source.whole else None
                        cells = tuple(cell_of(named[name], name, place, source) for name in source.columns)
                        yield Record(text, group, place, cells)
    except UnicodeDecodeError as reason:
        source.refuse(f"is not UTF-8 behind row {row}", "UTF-8 text; write it again", reason)
    except (pyarrow.ArrowException, OSError) as reason:
        source.refuse(f"is not a parquet file ({brief(str(reason), 120)})", "parquet; write it again", reason)


def _columns(schema: Any, source: Source) -> list[str]:
    """The column with the texts, that with the groups, where prompts have one, and others that are asked for."""
    from pyarrow import types

    wanted = [column(source, schema.names)]
    if GROUP in schema.names and source.whole:
        wanted.append(column(source, schema.names, GROUP))
    wanted += [column(source, schema.names, name) for name in source.columns if name not in wanted]
    for name in wanted:
        kinds = TEXTS if name == wanted[0] else (*TEXTS, *NUMBERS)
        kind = schema.field(name).type
        inner = kind.value_type if types.is_dictionary(kind) else kind
        if not any(getattr(types, known)(inner) for known in kinds):
            source.refuse(f"holds {brief(str(kind))} in its column {name}", "text; write it as text")
    return wanted


def _check_size(about: Any, size: int, source: Source) -> None:
    """Refuses more prompts than can be held, and what was packed more tightly than any text can be."""
    if source.whole and about.num_rows > MOST:
        source.refuse(f"holds {about.num_rows:,} prompts", f"at most {MOST:,}; make it smaller")
    # No `column` is asked for: where its numbers are damaged, that ends the whole process.
    unpacked = about.num_rows + sum(about.row_group(part).total_byte_size for part in range(about.num_row_groups))
    if unpacked > LARGEST and unpacked > SWOLLEN * size or about.num_rows > max(MOST, size):
        source.refuse(f"has {size:,} bytes and stands for {unpacked:,}", "texts that are different; write it again")


def _rows(packed: Any, part: int, wanted: Sequence[str]) -> int:
    """How many rows of a part may be unpacked at once, so that `UNPACKED` bytes are held.

    A text stands once in a dictionary, and any number of rows refer to it: so the dictionaries are looked at first.
    """
    first = next(packed.iter_batches(1, [part], wanted), None)
    columns = first.columns if first is not None else []
    largest = max((c.dictionary.nbytes for c in columns if hasattr(c, "dictionary")), default=1)
    return max(1, min(MOST_ROWS, UNPACKED // max(1, largest)))
