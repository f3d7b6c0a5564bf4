"""Files of texts: what can be used is read alike in every format, what cannot is refused at every door."""

import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from bad_files import FILES, Bad, often, parquet
from hypothesis import given, settings
from hypothesis import strategies as st

from steerscope.analysis.errors import BadCorpus, BadPrompt, SteerscopeError
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.corpora import documents, file_hash, windows
from steerscope.analysis.question.prompt_files import read_groups, read_prompts, read_table
from steerscope.analysis.reading import FORMATS
from steerscope.prompt_sets import prompts_file

Door = Callable[[Model, Any], object]
PROMPTS: dict[str, Door] = {
    "read_prompts": lambda model, path: read_prompts(path),
    "read_groups": lambda model, path: read_groups(path),
    "read_table": lambda model, path: read_table(path),
    "a set or a file": lambda model, path: read_prompts(prompts_file(str(path))),
}


def grouped(path: Path | str) -> tuple[list[str], list[str] | None]:
    found = read_table(path)
    return found.prompts, found.groups


CORPORA: dict[str, Door] = {
    "windows": lambda model, path: windows(model, path, tokens=4),
    "documents": lambda model, path: list(documents(path)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad")


@pytest.mark.parametrize("door", [*PROMPTS, *CORPORA])
@pytest.mark.parametrize("bad", FILES, ids=[bad.name for bad in FILES])
def test_a_file_that_cannot_be_used_is_refused_at_every_door(bad: Bad, door: str, folder: Path, tiny: Model) -> None:
    if door in CORPORA and not bad.corpus:
        pytest.skip("as a corpus it can be used")
    path = folder / bad.name
    if not os.path.lexists(path):
        bad.put(folder)
    start = time.process_time()
    with pytest.raises((BadPrompt, BadCorpus), match=bad.words) as refused:
        (PROMPTS | CORPORA)[door](tiny, path)
    assert time.process_time() - start < 20
    message = str(refused.value)
    assert message.startswith(("'", "no ")) and "; expected " in message
    assert message.isprintable() and len(message) < 800


def test_every_format_has_its_bad_files() -> None:
    assert set(FORMATS) | {".txt"} <= {Path(bad.name).suffix for bad in FILES}


TEXTS = ["Once upon", 'a "quoted", text', "Größe \u2028\x85 船 \U0001f600"]
GROUPS = ["a", "b", "a"]
USED: dict[str, bytes] = {
    "lines.txt": "\ufeffOnce upon\n\n".encode() + "\r\n".join(TEXTS[1:]).encode(),
    "old.txt": "\r".join(TEXTS).encode(),
    "lines.jsonl": b'{"prompt": "Once upon", "n": 1e400}\n\n"a \\"quoted\\", text"\r\n'
    b'{"text": "Gr\xc3\xb6\xc3\x9fe \\u2028\xc2\x85 \xe8\x88\xb9 \\ud83d\\ude00", "n": null}',
    "mark.jsonl": b"\xef\xbb\xbf"
    + "\n".join(f'"{text}"' for text in (TEXTS[0], r"a \"quoted\", text", TEXTS[2])).encode(),
    "array.json": f'\n[ "Once upon" , {{"prompt":\n"a \\"quoted\\", text"}},"{TEXTS[2]}"\n]\n'.encode(),
    "array.JSONL": f'["Once upon","a \\"quoted\\", text","{TEXTS[2]}"]'.encode(),
    "table.csv": f'\ufeffn,prompt\r\n1,Once upon\r\n\r\n2,"a ""quoted"", text"\r\n3,{TEXTS[2]}\r\n'.encode(),
    "old.csv": f'prompt\rOnce upon\r"a ""quoted"", text"\r{TEXTS[2]}\r'.encode(),
    "table.parquet": parquet({"n": [1, 2, 3], "text": TEXTS}),
    "parts.parquet": parquet({"prompt": TEXTS}, row_group_size=1, use_dictionary=False, write_page_checksum=True),
}


@pytest.mark.parametrize("name", USED)
def test_every_format_gives_the_same_texts(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(USED[name])
    assert read_prompts(path) == read_prompts(str(path)) == TEXTS
    assert read_groups(path) is None


def test_dictionaries_and_long_strings_are_texts(tmp_path: Path) -> None:
    import pyarrow

    for number, column in enumerate((pyarrow.array(TEXTS).dictionary_encode(), pyarrow.array(TEXTS, "large_string"))):
        (tmp_path / f"{number}.parquet").write_bytes(parquet({"prompt": column, "group": [True, False, True]}))
        assert grouped(tmp_path / f"{number}.parquet") == (TEXTS, ["True", "False", "True"])


@pytest.mark.parametrize("piece", [1, 7, 30])
def test_an_array_is_the_same_in_whatever_pieces_it_is_read(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerscope.analysis.reading.PIECE", piece)
    (tmp_path / "a.json").write_bytes(USED["array.json"])
    assert read_prompts(tmp_path / "a.json") == TEXTS


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_texts_and_groups_come_from_one_reading(suffix: str, tmp_path: Path) -> None:
    import pandas as pd

    path = tmp_path / f"p{suffix}"
    table = pd.DataFrame({"prompt": TEXTS[:2], "group": GROUPS[:2]})
    if suffix == ".csv":
        table.to_csv(path, index=False)
    elif suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_json(path, orient="records", lines=suffix == ".jsonl")
    assert grouped(path) == (TEXTS[:2], GROUPS[:2]) == (read_prompts(path), read_groups(path))


@pytest.mark.parametrize("path", ["", "a\0b", "a" * 300, "/nowhere/at/all", "~nobody/x.txt", "\ud800.txt"])
def test_names_that_no_file_has_are_refused(path: str, tiny: Model) -> None:
    for door in (*PROMPTS.values(), CORPORA["windows"], CORPORA["documents"]):
        with pytest.raises(SteerscopeError, match="; expected "):
            door(tiny, path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, tiny: Model) -> None:
    (tmp_path / "p.txt").write_text("Once\n")
    (tmp_path / "p.txt").chmod(0)
    for door in (PROMPTS | CORPORA).values():
        with pytest.raises(BadPrompt, match="cannot be read"):
            door(tiny, tmp_path / "p.txt")


def test_a_disk_that_fails_while_it_is_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            raise OSError(5, "Input/output error")

    (tmp_path / "p.txt").write_text("Once\n")
    monkeypatch.setattr(os, "fdopen", lambda *_: io.BufferedReader(Failing()))
    for door in (read_prompts, file_hash):
        with pytest.raises(SteerscopeError, match="cannot be read .Input/output error"):
            door(tmp_path / "p.txt")


def test_a_name_that_is_no_text_can_be_read(tmp_path: Path, tiny: Model) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")
    Path(name).write_text("Once upon a time there was a ship\n")
    assert read_prompts(name) == read_prompts(Path(name))
    assert windows(tiny, name, tokens=4).source.endswith("caf\\udce9.txt")


# Bounds.


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("bound", ["MOST", "LARGEST"])
def test_more_prompts_than_can_be_held_are_refused(
    bound: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("reading", "parquet"):
        monkeypatch.setattr(f"steerscope.analysis.{module}.{bound}", 100)
    texts = ["abc"] * 101
    content = {
        ".txt": "abc\n" * 101,
        ".jsonl": '"abc"\n' * 101,
        ".json": json.dumps(texts),
        ".csv": "prompt\n" + "abc\n" * 101,
        ".parquet": "",
    }[suffix].encode()
    (tmp_path / f"p{suffix}").write_bytes(content or parquet({"prompt": texts}))
    for door in PROMPTS.values():
        with pytest.raises(BadPrompt, match=r"prompts.*; expected (fewer|at most 100); make it smaller"):
            door(cast(Model, None), tmp_path / f"p{suffix}")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"text": "' + "a" * 200 + '"}', "line 1 has more than 100 characters"),
        ("a.json", '["' + "a" * 200 + '"]', r"entry 1 \(line 1\) has more than 100 characters"),
        ("a.json", '["' + "a" * 200, r"entry 1 \(line 1\) is not JSON"),
        ("a.csv", "text\n" + '"\n",' * 50, "line 27 ends a row of more than 100 characters"),
        ("a.csv", "text\n" + "a" * 200, "line 2 has more than 100 characters"),
        ("a.parquet", "", "row 1 has more than 100 characters"),
    ],
)
def test_a_record_that_is_too_long_is_refused(
    name: str, content: str, words: str, tmp_path: Path, tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("reading", "parquet"):
        monkeypatch.setattr(f"steerscope.analysis.{module}.LONGEST", 100)
    (tmp_path / name).write_bytes(content.encode() or parquet({"text": ["a" * 200]}))
    for door in (PROMPTS | CORPORA).values():
        with pytest.raises(BadPrompt, match=words):
            door(tiny, tmp_path / name)


def test_a_file_of_some_hundred_bytes_takes_no_gigabytes(tmp_path: Path) -> None:
    """In a process of its own, whose memory is limited: 200 texts of 16 MB, one million of one letter."""
    code = """
import resource, sys
from steerscope.analysis.errors import BadPrompt
from steerscope.analysis.reading import held
from pyarrow import parquet
resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
try:
    print(len(held(sys.argv[1])))
except BadPrompt as error:
    print(error)
"""
    for text, rows, words in (("a" * (16 << 20), 200, "row 1 has more than"), ("a", 1_000_000, "1000000")):
        path = tmp_path / "p.parquet"
        path.write_bytes(often(text, rows))
        assert path.stat().st_size < 3000
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=100)
        assert words in done.stdout, done.stderr


def test_what_is_not_held_is_not_in_memory(tmp_path: Path) -> None:
    """A corpus is read as a stream, whatever its format."""
    for kind, lines in ((".jsonl", '{"text": "%s"}\n'), (".csv", "%s\n"), (".json", '"%s",\n')):
        path = tmp_path / f"d{kind}"
        with path.open("w") as file:
            file.write({".csv": "text\n", ".json": "["}.get(kind, ""))
            for _ in range(100):
                file.write((lines % ("word " * 100)) * 1000)
            file.write('"end"]' if kind == ".json" else "")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert sum(1 for _ in documents(path)) >= 100_000
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # of 50 MB


# Standard input.


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], None]]:
    def pipe(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    yield pipe


@pytest.mark.parametrize(
    "content",
    [
        b'["Once upon",\n"Twice"]',
        b"Once upon\n\nTwice\n",
        b'\n{"prompt": "Once upon"}\n{"text": "Twice"}\n',
        b"\xef\xbb\xbfOnce upon\rTwice",
    ],
)
def test_standard_input_can_be_read_as_often_as_a_file(content: bytes, piped: Callable[[bytes], None]) -> None:
    piped(content)
    assert read_prompts("-") == ["Once upon", "Twice"] == read_prompts(Path("-"))
    assert read_groups("-") is None
    assert read_prompts(prompts_file("-")) == ["Once upon", "Twice"]
    piped(b"Thrice")  # another one is not taken for it
    assert read_prompts("-") == ["Thrice"]


def test_standard_input_names_groups_and_is_a_corpus(piped: Callable[[bytes], None], tiny: Model) -> None:
    piped(b'{"prompt": "Once upon a time there was a ship", "group": 7}')
    assert grouped("-") == (["Once upon a time there was a ship"], ["7"])
    assert windows(tiny, "-", tokens=4).source == "-"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "standard input holds no"),
        (b"caf\xe9", r"standard input is not UTF-8 \(byte 3\)"),
        (b'{"prompt": 5}', "standard input line 1 has no text"),
        (b"a\0", "standard input line 1 holds a NUL"),
    ],
)
def test_standard_input_that_cannot_be_used_is_refused(
    content: bytes, words: str, piped: Callable[[bytes], None]
) -> None:
    piped(content)
    for door in (read_prompts, read_groups):
        with pytest.raises(BadPrompt, match=words):
            door("-")


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (None, "there is no standard input"),
        (SimpleNamespace(closed=True), "there is no standard input"),
        (SimpleNamespace(closed=False, isatty=lambda: True), "is a terminal; expected texts"),
    ],
)
def test_where_nothing_is_piped_it_is_said_what_is_expected(
    stream: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", stream)
    with pytest.raises(BadPrompt, match=words):
        read_prompts("-")


def test_endless_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/zero").open() as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        with pytest.raises(BadPrompt, match=r"standard input has more than 268,435,456 bytes; expected fewer"):
            read_prompts("-")


def test_a_file_of_the_name_of_standard_input_is_read_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("./-").write_text("Once\n")
    assert read_prompts("./-") == read_prompts(prompts_file("./-")) == ["Once"]


# Whatever the bytes are.

PARTS = st.sampled_from(
    [
        b"\0",
        b"\xff",
        b'"',
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b"\n",
        b"\r",
        b":",
        b"prompt",
        b'"prompt"',
        b'"a"',
        b"NaN",
        b"9",
    ]
    + [
        b"\\ud800",
        b"1e999",
        b"[" * 6000,
        b"9" * 5000,
        b"\xe2\x80\xa8",
        b"\xef\xbb\xbf",
        b"null",
        b" ",
        b'{"text": "b"}\n',
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PARTS, max_size=12).map(b"".join), st.sampled_from([".txt", ".json", ".jsonl", ".csv"]))
def test_any_bytes_are_texts_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    try:
        texts = read_prompts(path)
    except BadPrompt as error:
        assert "; expected " in str(error) and str(error).isprintable()
    else:
        assert texts and all(text.strip() and "\0" not in text and text.encode() for text in texts)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_changed_bit_of_a_parquet_file_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(USED["parts.parquet"])
    for place in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=3)):
        content[place // 8] ^= 1 << place % 8
    path = tmp_path_factory.getbasetemp() / "flipped.parquet"
    path.write_bytes(content)
    try:
        read_prompts(path)
    except BadPrompt as error:
        assert "; expected " in str(error) and str(error).isprintable()
