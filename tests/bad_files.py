"""Files of texts that cannot be used, and what is said of each: for every door that reads such files."""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet


@dataclass(frozen=True)
class Bad:
    """A file, or something else at its place.

    Attributes:
        content: bytes, or what makes it at a path.
        words: of the message, as a regular expression.
        corpus: whether it is refused as a corpus, too, in which records may be blank and have no groups.
    """

    name: str
    content: bytes | Callable[[Path], object]
    words: str
    corpus: bool = True

    def put(self, folder: Path) -> Path:
        path = folder / self.name
        if callable(self.content):
            self.content(path)
        else:
            path.write_bytes(self.content)
        return path


def parquet(table: dict[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(table), file, **options)
    return file.getvalue()


def often(text: str, rows: int) -> bytes:
    """A file in which one text stands in every row: a few hundred bytes, whatever they stand for."""
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(rows, dtype=np.int32)), pyarrow.array([text]))
    return parquet({"prompt": column}, store_schema=False, compression="zstd", dictionary_pagesize_limit=1 << 28)


def swollen() -> bytes:
    """A gigabyte of one text, a row a page: packed into some kilobytes."""
    text = pyarrow.array(["a" * (1 << 20)])
    batches = [pyarrow.record_batch({"prompt": text})]
    table = pyarrow.Table.from_batches(batches * 1024)
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file, use_dictionary=False, compression="zstd", data_page_size=1)
    return file.getvalue()


def zeros(path: Path) -> None:
    """16 GB that take no place on the disk."""
    path.touch()
    os.truncate(path, 1 << 34)


def encrypted(path: Path) -> None:
    import pyarrow.parquet.encryption as encryption

    class Keys(encryption.KmsClient):  # type: ignore[misc]
        def wrap_key(self, key: bytes, name: str) -> bytes:
            return key.hex().encode()

        def unwrap_key(self, key: bytes, name: str) -> bytes:
            return bytes.fromhex(key.decode())

    factory = encryption.CryptoFactory(lambda config: Keys())
    config = encryption.EncryptionConfiguration(footer_key="key", column_keys={"key": ["prompt"]})
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), config)
    table = pyarrow.table({"prompt": ["Once"]})
    with pyarrow.parquet.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)


ONCE = '{"prompt": "Once"}\n'
GOOD = parquet({"prompt": ["Once", "Twice"]})
FILES = [
    # Text
    Bad("empty.txt", b"", "holds no"),
    Bad("blank.txt", b"\n \r\n\t\n\xe2\x80\xa8\n", "holds no"),
    Bad("mark.txt", b"\xef\xbb\xbf", "holds no"),
    Bad("latin.txt", b"Once\ncaf\xe9\n", r"not UTF-8 \(byte 8\)"),
    Bad("utf16.txt", "Once upon".encode("utf-16"), r"not UTF-8 \(byte 0\)"),
    Bad("utf16le.txt", "Once upon".encode("utf-16-le"), "line 1 holds a NUL"),
    Bad("surrogate.txt", b"Once\n\xed\xa0\x80\n", r"not UTF-8 \(byte 5\)"),
    Bad("nul.txt", b"Once\nup\0on\n", "line 2 holds a NUL"),
    Bad("zeros.txt", zeros, "line 1 (holds a NUL|has more than)"),
    Bad("long.txt", b"a " * (1 << 20), "line 1 has more than 1,048,576 characters", corpus=False),
    Bad("packed.txt", b"\x1f\x8b\x08\x00\x00\x00", r"not UTF-8 \(byte 1\)"),
    Bad("table.txt", GOOD, "NUL|not UTF-8"),
    # JSON
    Bad("empty.jsonl", b"\n", "holds no"),
    Bad("half.jsonl", (ONCE + '{"prompt"').encode(), r"line 2 is not JSON .*; expected for example"),
    Bad("surrogate.jsonl", (ONCE + '{"prompt": "a\\ud800b"}').encode(), "line 2 holds a lone surrogate"),
    Bad("deep.jsonl", b"[" * 5000, r"entry 1 \(line 1\) is not JSON \(too many brackets"),
    Bad("deeper.jsonl", (ONCE + "[" * 5000).encode(), r"line 2 is not JSON \(too many brackets"),
    Bad("nested.jsonl", (ONCE + '{"a":' * 5000).encode(), r"line 2 is not JSON \(too many brackets"),
    Bad("nan.jsonl", b'{"prompt": "Once", "n": NaN}', r"line 1 is not JSON \(NaN is no number"),
    Bad("inf.jsonl", b'{"prompt": "Once", "n": -Infinity}', r"line 1 is not JSON \(-Infinity is no number"),
    Bad("digits.jsonl", b'{"prompt": "Once", "n": ' + b"9" * 5000 + b"}", "line 1 is not JSON"),
    Bad("twice.jsonl", b'{"prompt": "Once", "prompt": "Twice"}', "the name 'prompt' stands there twice"),
    Bad("none.jsonl", b'{"other": "a"}', "line 1 has no text under prompt or text"),
    Bad("null.jsonl", (ONCE + '{"prompt": null}').encode(), "line 2 has no text"),
    Bad("number.jsonl", (ONCE + '{"prompt": 5}').encode(), "line 2 has no text"),
    Bad("ids.jsonl", b'{"prompt": [1, 2]}', "line 1 has no text"),
    *(
        Bad(f"p{suffix}", b"One day", f"has the suffix {suffix}")
        for suffix in (".xlsx", ".docx", ".yaml", ".gz", ".tsv")
    ),
    Bad("array.txt", b'["One", "Two"]', "begins as JSON does", corpus=False),
    Bad("array", b'[\n  "One",\n  "Two"\n]', "begins as JSON does", corpus=False),
    Bad("lines.txt", ONCE.encode(), "begins as JSON does", corpus=False),
    Bad("chat.jsonl", b'{"messages": [{"role": "user"}]}', "line 1 (holds|has no text)"),
    Bad("blank.jsonl", (ONCE + '{"prompt": " "}').encode(), "line 2 is empty or blank", corpus=False),
    Bad("some.jsonl", (ONCE + '{"prompt": "a", "group": 1}').encode(), "prompt 1 has no group", corpus=False),
    Bad("group.jsonl", b'{"prompt": "a", "group": {"a": 1}}', "line 1 has the group", corpus=False),
    Bad("infinite.jsonl", b'{"prompt": "a", "group": 1e999}', "line 1 has the group inf", corpus=False),
    Bad("half group.jsonl", b'{"prompt": "a", "group": "\\udfff"}', "line 1 holds a lone surrogate", corpus=False),
    Bad("nul.jsonl", b'{"prompt": "a"}\0', "line 1 holds a NUL"),
    Bad("table.jsonl", GOOD, "not UTF-8|NUL|not JSON"),
    Bad("long.jsonl", b'{"prompt": "' + b"a" * (1 << 23) + b'"}', "line 1 has more than 8,388,608"),
    # An array
    Bad("empty.json", b" []", "holds no"),
    Bad("open.json", b'["Once", "Twice"', r"is not JSON after entry 2 \(line 1\)"),
    Bad("commas.json", b'["Once",\n,"Twice"]', r"entry 2 \(line 2\) is not JSON"),
    Bad("more.json", b'["Once"]\n"Twice"', "goes on behind its array"),
    Bad("number.json", b'["Once",\n 5]', r"entry 2 \(line 2\) has no text"),
    Bad("array.jsonl", b'[["Once"]]', r"entry 1 \(line 1\) has no text"),
    Bad("object.json", b'{\n "prompt": "Once"\n}', "line 1 is not JSON"),
    Bad("long.json", b'["' + b"a" * (9 << 20), r"entry 1 \(line 1\) is not JSON"),
    # CSV
    Bad("empty.csv", b"", "holds no"),
    Bad("head.csv", b"prompt\n", "holds no"),
    Bad("other.csv", b"a,b\n1,2\n", "has the columns a, b; expected one named prompt or text"),
    Bad("twice.csv", b"prompt,prompt\na,b\n", "several columns named prompt"),
    Bad("ragged.csv", b"prompt,n\na,1\nb\n", "line 3 has 1 cells under 2 columns"),
    Bad("wide.csv", b"prompt\na\nb,1\n", "line 3 has 2 cells under 1 columns"),
    Bad("open.csv", b'prompt\na\n"b\n', "is not CSV"),
    Bad("quotes.csv", b'prompt\n"a"b\n', "line 2 is not CSV"),
    Bad("field.csv", b"prompt\n" + b"a" * 140_000, "line 2 is not CSV"),
    Bad("blank.csv", b"prompt,n\na,1\n,2\n", "line 3 is empty or blank", corpus=False),
    Bad("some.csv", b"prompt,group\na,1\nb,\n", "prompt 2 has no group", corpus=False),
    Bad("nul.csv", b"prompt\na\0\n", "line 2 holds a NUL"),
    Bad("latin.csv", b"prompt\ncaf\xe9\n", r"not UTF-8 \(byte 10\)"),
    # Parquet
    Bad("text.parquet", b"Once\n", "is not a parquet file"),
    Bad("empty.parquet", b"", "is not a parquet file"),
    Bad("half.parquet", GOOD[: len(GOOD) // 2], "is not a parquet file"),
    Bad("tail.parquet", GOOD[:-1], "is not a parquet file"),
    Bad("rows.parquet", parquet({"prompt": pyarrow.array([], "string")}), "holds no"),
    Bad("other.parquet", parquet({"a": ["b"]}), "has the columns a; expected one named prompt or text"),
    Bad("null.parquet", parquet({"prompt": ["Once", None]}), "row 2 has no text"),
    Bad("nulls.parquet", parquet({"prompt": pyarrow.array([None], pyarrow.null())}), "holds null in its column prompt"),
    Bad("number.parquet", parquet({"prompt": [1, 2]}), "holds int64 in its column prompt"),
    Bad("binary.parquet", parquet({"prompt": [b"Once"]}), "holds binary in its column prompt"),
    Bad("list.parquet", parquet({"prompt": [["Once"]]}), "holds list.* in its column prompt"),
    Bad("struct.parquet", parquet({"prompt": [{"a": "Once"}]}), "holds struct.* in its column prompt"),
    Bad("blank.parquet", parquet({"prompt": ["Once", " "]}), "row 2 is empty or blank", corpus=False),
    Bad("group.parquet", parquet({"prompt": ["a"], "group": [[1]]}), "holds list.* in its column group", corpus=False),
    Bad(
        "utf.parquet",
        parquet({"prompt": pyarrow.array([b"caf\xe9"]).view(pyarrow.string())}),
        "not UTF-8|not a parquet file",
    ),
    Bad("many.parquet", often("a", 5_000_000), "holds 5,000,000 prompts; expected at most 1,000,000", corpus=False),
    Bad("endless.parquet", often("Once", 20_000_000), "20,000,000 prompts|bytes and stands for 2"),
    Bad("fat.parquet", often("a" * (16 << 20), 3000), "row 1 has more than 8,388,608 characters"),
    Bad("swollen.parquet", swollen(), "bytes and stands for 1,"),
    Bad("locked.parquet", encrypted, "is not a parquet file"),
    # What is no file
    Bad("folder.txt", Path.mkdir, "is a folder|Is a directory", corpus=False),
    Bad("pipe.txt", os.mkfifo, "is a pipe"),
    Bad("pipe.parquet", os.mkfifo, "is a pipe"),
    Bad("device.jsonl", lambda path: path.symlink_to("/dev/zero"), "is a device"),
    Bad("memory.txt", lambda path: path.symlink_to("/proc/self/mem"), "cannot be read"),
    Bad("circle.txt", lambda path: path.symlink_to(path), "cannot be read .*symbolic links"),
    Bad("gone.txt", lambda path: path.symlink_to(path.parent / "nowhere"), "cannot be read"),
]
