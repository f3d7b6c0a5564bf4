import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from scipy.stats import chi2

from steerscope.analysis import reading
from steerscope.analysis.errors import BadCorpus, BadPrompt, SteerscopeError
from steerscope.analysis.model.models import Model
from steerscope.analysis.question import corpora
from steerscope.analysis.question.corpora import SHIPPED, documents, file_hash, reservoir, windows

TEXTS = ["Once upon a time there was a wedding.", 'Tom, "the dragon", saw\na ship.', "Größe \u2028 café 船"]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def story(words: int, seed: int = 0) -> str:
    dice = np.random.default_rng(seed)
    return " ".join(dice.choice("Tom Lily saw a big red ship and the ball".split(), words))


def hub(monkeypatch: pytest.MonkeyPatch, rows: Any) -> list[tuple[Any, ...]]:
    """Puts a library in the place of `datasets`, which gives `rows` or raises them; returns its calls."""
    calls: list[tuple[Any, ...]] = []

    def load_dataset(path: str, name: str | None, *, split: str, streaming: bool) -> Iterator[Any]:
        calls.append((path, name, split, streaming))
        if isinstance(rows, Exception):
            raise rows
        return iter(rows)

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset, __version__="5.2.0"))
    monkeypatch.setattr(corpora, "unreachable", lambda: "")
    return calls


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever connects, or imports `datasets`, fails."""

    def connect(*_: object) -> None:
        raise AssertionError("this must not need a network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setitem(sys.modules, "datasets", None)


def test_every_format_gives_the_same_documents(alone: None, tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": text}, ensure_ascii=False) for text in TEXTS]
    write(tmp_path / "d.txt", "\ufeff\n" + "\r\n\n\n".join(TEXTS) + "\n\n")
    write(tmp_path / "d.jsonl", "\n\n".join(rows))
    pd.DataFrame({"n": 1, "text": [*TEXTS, None]}).to_csv(tmp_path / "d.csv", index=False)
    pd.DataFrame({"text": [" ", *TEXTS]}).to_parquet(tmp_path / "d.parquet")
    found = {name: list(documents(tmp_path / name)) for name in sorted(_names(tmp_path))}
    assert found == dict.fromkeys(["d.csv", "d.jsonl", "d.parquet", "d.txt"], TEXTS)
    assert list(documents(str(tmp_path))) == TEXTS * 4


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_text_file_without_blank_lines_holds_a_document_a_line(tmp_path: Path) -> None:
    assert list(documents(write(tmp_path / "d.txt", "\n one\ntwo \n\n"))) == ["one", "two"]
    assert list(documents(write(tmp_path / "d.txt", "one\ntwo\n \nthree"))) == ["one\ntwo", "three"]


def test_a_long_paragraph_is_given_in_parts_of_which_one_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PIECE", 100)
    lines = [story(10, seed) for seed in range(40)]
    path = write(tmp_path / "d.txt", "a\n\n" + "\n".join(lines) + "\n" + "x" * 1000)
    first, *parts = documents(path)
    assert first == "a" and max(map(len, parts)) <= 200
    assert "".join(parts).replace("\n", "") == "".join(lines) + "x" * 1000


def test_the_column_can_be_named(tmp_path: Path) -> None:
    table = pd.DataFrame({"text": ["no"], "story": ["yes"]})
    table.to_csv(tmp_path / "d.csv", index=False)
    table.to_parquet(tmp_path / "d.parquet")
    table.to_json(tmp_path / "d.jsonl", orient="records", lines=True)
    for name in _names(tmp_path):
        assert list(documents(tmp_path / name)) == ["no"]
        assert list(documents(tmp_path / name, field="story")) == ["yes"]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "parquet"])
def test_no_more_of_a_file_is_read_than_is_asked_for(tiny: Model, tmp_path: Path, kind: str) -> None:
    texts = [f"{n} {story(50, n)}" for n in range(12_000)]
    path = tmp_path / f"d.{kind}"
    if kind == "parquet":
        table = pyarrow.table({"text": texts})
        pyarrow.parquet.write_table(table, path, row_group_size=1000, use_dictionary=False)
        content = path.read_bytes()
        start = pyarrow.parquet.read_metadata(path).row_group(11).column(0).data_page_offset
        write(path, content[:start] + b"\xff" * 64 + content[start + 64 :])
    else:
        head = {"txt": "", "jsonl": "", "csv": "text\n"}[kind]
        rows = [json.dumps(text) if kind == "jsonl" else text for text in texts]
        write(path, (head + ("\n\n" if kind == "txt" else "\n").join(rows)).encode() + b"\xff\n")
    found = windows(tiny, path, count=5, shuffle=False)
    assert found.texts[0].startswith("0 ")
    assert len(windows(tiny, path, count=5, read=3)) == 3
    with pytest.raises(BadPrompt, match="not UTF-8|not a parquet file"):  # the end is not reached
        list(documents(path))


def test_a_file_is_never_in_memory_whole(tmp_path: Path) -> None:
    path = tmp_path / "d.txt"
    with path.open("w") as file:
        for n in range(50):
            file.write((f"{n} " + "word " * 40 + "\n\n") * 5000)
    assert path.stat().st_size > 50e6
    tracemalloc.start()
    try:
        stream = documents(path)
        assert next(stream).startswith("0 word")
        for _ in range(20_000):
            next(stream)
        stream.close()  # type: ignore[attr-defined]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8e6


def test_a_reservoir_holds_every_item_with_the_same_chance_in_any_order() -> None:
    size, count, seeds = 12, 4, 2000
    drawn = np.array([reservoir(range(size), count, np.random.default_rng(s)) for s in range(seeds)])
    assert all(len(set(row)) == count for row in drawn)

    def misfit(values: Any) -> float:
        expected = values.size / size
        return float(((np.bincount(values.ravel(), minlength=size) - expected) ** 2).sum() / expected)

    limit = chi2.ppf(0.999, size - 1)
    assert misfit(drawn) * (size - 1) / (size - count) < limit  # drawn without replacement
    for place in range(count):
        assert misfit(drawn[:, place]) < limit


def test_a_reservoir_that_is_not_filled_holds_all() -> None:
    assert sorted(reservoir(iter("abc"), 5, np.random.default_rng(0))) == ["a", "b", "c"]


def test_the_seed_alone_says_which_windows(tiny: Model) -> None:
    first, again, other = (windows(tiny, "shipped", count=20, seed=seed) for seed in (0, 0, 1))
    assert first == again and first.hash != other.hash
    assert len(set(first.ids) & set(other.ids)) < 20


def test_windows_are_consecutive_tokens_of_the_documents(tiny: Model, tmp_path: Path) -> None:
    texts = [story(words, words) for words in (150, 3, 80)]
    path = write(tmp_path / "d.txt", "\n".join(texts))
    found = windows(tiny, path, tokens=16, count=1000, shuffle=False)
    assert tiny.bos is not None
    expected: list[tuple[int, ...]] = []
    for ids in map(tiny.encode, texts):
        expected += [(tiny.bos, *ids[i : i + 15]) for i in range(0, len(ids) - 14, 15)]
    assert list(found.ids) == expected and len(expected) > 10
    assert found.texts == tuple(tiny.text(row[1:]) for row in expected)
    assert found.source == str(path)
    assert sorted(windows(tiny, path, tokens=16, count=1000).ids) == sorted(expected)


def test_where_there_is_no_bos_a_window_is_text_only(tiny: Model, tmp_path: Path) -> None:
    path = write(tmp_path / "d.txt", story(100))
    found = windows(replace(tiny, bos=None), path, tokens=16, shuffle=False)
    assert found.ids[0] == tuple(tiny.encode(story(100))[:16])


def test_bos_stands_first_and_nowhere_else(tiny: Model, tmp_path: Path) -> None:
    end = "<|endoftext|>"
    path = write(tmp_path / "d.txt", end + story(30, 1) + end + end + story(40, 2) + end)
    found = windows(tiny, path, tokens=8, shuffle=False)
    assert all(row[0] == tiny.bos and tiny.bos not in row[1:] for row in found.ids)
    parts = [windows(tiny, write(path, story(30 + 10 * i, i + 1)), tokens=8, shuffle=False) for i in (0, 1)]
    assert found.ids == parts[0].ids + parts[1].ids


@pytest.mark.parametrize("size", [40, 777])
def test_a_document_that_is_encoded_in_pieces_gives_the_same_tokens(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = write(tmp_path / "d.jsonl", json.dumps("  " + story(900) + "\n\n" + story(900, 1)))
    whole = windows(tiny, path, count=1000, shuffle=False)
    monkeypatch.setattr(corpora, "ENCODED", size)
    assert windows(tiny, path, count=1000, shuffle=False) == whole


def test_trained_tokenizers_read_pieces_as_the_whole(
    real_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "d.jsonl", json.dumps(" He said\n\n" + story(900)))
    whole = windows(real_model, path, count=1000, shuffle=False)
    monkeypatch.setattr(corpora, "ENCODED", 100)
    assert windows(real_model, path, count=1000, shuffle=False) == whole


def test_text_without_spaces_is_cut_all_the_same(tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "ENCODED", 50)
    found = windows(tiny, write(tmp_path / "d.txt", "x" * 1001), count=1000, shuffle=False)
    assert len(found) == len(tiny.encode("x" * 1001)) // 31


def test_a_long_document_brings_no_warning(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tiny.tokenizer, "model_max_length", 64)
    monkeypatch.setattr(tiny.tokenizer, "deprecation_warnings", {})
    windows(tiny, write(tmp_path / "d.txt", story(5000)))
    assert tiny.tokenizer.deprecation_warnings == {} and capsys.readouterr().err == ""
    tiny.encode(story(5000))
    assert tiny.tokenizer.deprecation_warnings  # what would have come


def test_fewer_windows_than_asked_for_are_simply_fewer(tiny: Model, tmp_path: Path) -> None:
    path = write(tmp_path / "d.txt", story(100))
    expected = len(tiny.encode(story(100))) // 31
    assert 0 < len(windows(tiny, path, count=500)) == expected < 500


def test_a_hub_data_set_is_streamed_by_name_and_only_so_far(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ({"meta": 1, "text": story(30, n)} for n in range(50))
    calls = hub(monkeypatch, rows)
    monkeypatch.setattr(corpora, "HUB_READ", 5)
    found = windows(tiny, "someone/tales.v2:small", tokens=8, count=9999, split="test")
    assert calls == [("someone/tales.v2", "small", "test", True)]
    assert next(rows)["text"] == story(30, 5)  # five were taken, and no more
    assert found.source == "someone/tales.v2:small" and len(found) > 5
    hub(monkeypatch, [{"text": None}, {"text": "one"}])
    assert list(documents("tales")) == ["one"]


def test_a_file_or_folder_wins_over_a_data_set_of_that_name(
    alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "tales" / "deep").mkdir(parents=True)
    write(tmp_path / "someone" / "tales" / "deep" / "a.txt", "first")
    write(tmp_path / "someone" / "tales" / "e.jsonl", '"second"')
    write(tmp_path / "someone" / "tales" / "readme.md", "not read")
    write(tmp_path / "stories", "third")
    assert list(documents("someone/tales")) == ["first", "second"]
    assert list(documents("stories")) == ["third"]


@pytest.mark.parametrize("reason", [ConnectionError("no route\nto host"), ValueError("no route"), OSError("no route")])
def test_a_data_set_that_cannot_be_streamed_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, reason: Exception
) -> None:
    hub(monkeypatch, reason)
    with pytest.raises(
        BadCorpus,
        match=r"'a/b' is no file or folder here, and its split 'train' cannot be streamed .*"
        r"\(no route\); expected .*; check them",
    ):
        list(documents("a/b"))


def test_without_the_library_the_sentence_names_it(alone: None) -> None:
    with pytest.raises(BadCorpus, match="datasets.*; expected .* the library datasets; check"):
        list(documents("a/b"))


def test_a_data_set_without_such_a_column_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, [{"a": 1, "b": 2}])
    with pytest.raises(BadPrompt, match="'a/b' has the columns a, b; expected one named story"):
        list(documents("a/b", field="story"))


def test_a_library_that_would_run_code_of_a_data_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = hub(monkeypatch, [{"text": "one"}])
    monkeypatch.setattr(sys.modules["datasets"], "__version__", "3.6.0", raising=False)
    with pytest.raises(BadCorpus, match=r"datasets 3.6.0 runs code of data sets; install 4 or newer"):
        list(documents("a/b"))
    assert not calls


def test_where_the_hub_does_not_answer_nothing_else_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = hub(monkeypatch, [{"text": "one"}])
    monkeypatch.setattr(corpora, "unreachable", lambda: "no answer within 1 seconds")
    with pytest.raises(BadCorpus, match=r"no answer within 1 seconds.*; expected owner/name"):
        list(documents("a/b"))
    assert not calls


def test_a_data_set_that_is_not_there_is_refused_within_a_second_or_two(tiny: Model) -> None:
    """By the real library, without a network."""
    code = """
import sys, time
from steerscope.analysis.errors import BadCorpus
from steerscope.analysis.question.corpora import documents
import datasets
start = time.monotonic()
try:
    list(documents("someone/nothing-of-this-name"))
except BadCorpus as error:
    print(error)
print(time.monotonic() - start)
"""
    pytest.importorskip("datasets")
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment["HF_ENDPOINT"] = "http://10.255.255.1"  # where nobody answers
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)
    message, seconds = done.stdout.splitlines()
    assert "cannot be streamed from Hugging Face" in message and float(seconds) < 5


@pytest.mark.parametrize("row", [{"text": 5}, {"text": ["a"]}, {"text": "a\ud800"}])
def test_a_row_of_a_data_set_that_is_no_text_is_refused(row: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, [{"text": "one"}, row])
    with pytest.raises(BadPrompt, match="'a/b' row 2 (has no text|holds a lone surrogate)"):
        list(documents("a/b"))


@pytest.mark.parametrize(
    "name", ["nowhere.txt", "./nowhere", "/nowhere/at/all", "a/b/c", "~/nowhere-at-all", "", "a b"]
)
def test_a_missing_file_is_not_looked_up_on_the_hub(
    alone: None, monkeypatch: pytest.MonkeyPatch, name: str, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadCorpus, match="; expected a file or folder; check"):
        documents(name) if name else documents(Path("nowhere"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.txt", "\n  \n", "holds no text; expected documents"),
        ("d.csv", "text\n", "holds no text; expected documents"),
        ("d.txt", b"a" * 100_000 + b"caf\xe9 ", r"is not UTF-8 \(byte 100003\); expected UTF-8"),
        ("d.txt", b"\xef\xbb\xbfa\n\xff", r"is not UTF-8 \(byte 5\)"),
        ("d.txt", b"a\xc3", r"is not UTF-8 \(byte 1\)"),
        ("d.jsonl", b'"a"\n"\xe9"', r"is not UTF-8 \(byte 5\)"),
        ("d.jsonl", '"a"\n\n{"text"', "line 3 is not JSON .*; expected for example .*; mend"),
        ("d.jsonl", '{"other": "a"}', "line 1 has no text under prompt or text .*; add one"),
        ("d.csv", "a,b\n1,2\n", "has the columns a, b; expected one named prompt or text; rename"),
        ("d.csv", "text\nok\n" + "x" * 140_000, "line 3 is not CSV .*; expected .*; mend"),
        ("d.parquet", b"nothing", "is not a parquet file .*; expected parquet; write"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: str | bytes, words: str
) -> None:
    with pytest.raises(BadPrompt, match=words):
        list(documents(write(tmp_path / name, content)))


def test_a_folder_without_texts_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "readme.md", "words")
    with pytest.raises(BadPrompt, match=r"holds no text; expected .* \.txt, \.jsonl"):
        list(documents(tmp_path))


def test_a_folder_of_anything_is_not_searched_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "ENTRIES", 20)
    for number in range(21):
        (tmp_path / f"{number}").mkdir()
    with pytest.raises(BadCorpus, match="holds more than 20 files; expected a folder of texts; name one in it"):
        documents(tmp_path)


def test_a_file_in_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "one")
    os.mkfifo(tmp_path / "b.txt")
    with pytest.raises(BadPrompt, match=r"b.txt' is a pipe; expected a plain file"):
        list(documents(tmp_path))


def test_where_no_window_is_full_the_longest_is_told(tiny: Model, tmp_path: Path) -> None:
    path = write(tmp_path / "d.txt", "Once\nOnce upon a time\nTom")
    longest = 1 + len(tiny.encode("Once upon a time"))
    for shuffle in (True, False):
        with pytest.raises(BadPrompt, match=rf"no window of 60 tokens in .*, the longest has {longest}; expected"):
            windows(tiny, path, tokens=60, shuffle=shuffle)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"tokens": 3}, "got tokens=3; expected an integer of at least 4"),
        ({"tokens": 65}, "windows of 65 tokens; expected 4 to 64; choose"),
        ({"count": 0}, "got count=0; expected an integer from 1 to"),
        ({"read": 0}, "got read=0; expected an integer from 1 to"),
        ({"count": 2**70}, "got count=1180591620717411303424; expected an integer from 1 to"),
        ({"count": 1.5}, "got count=1.5; expected an integer"),
        ({"count": True}, "got count=True; expected an integer"),
        ({"tokens": float("nan")}, "got tokens=nan; expected an integer"),
        ({"seed": "a"}, "got seed='a'; expected an integer"),
        ({"read": float("inf")}, "got read=inf; expected"),
        ({"split": 5}, "got split=5; expected a text"),
        ({"field": ["text"]}, "got field=.*; expected a text or None"),
        ({"shuffle": "no"}, "got shuffle='no'; expected True or False"),
        ({"stride": 2}, "stride"),
        ({"seed": -1}, "got seed=-1; expected an integer from 0 to"),
    ],
)
def test_numbers_out_of_their_range_are_refused(tiny: Model, wish: dict[str, Any], words: str) -> None:
    with pytest.raises(BadPrompt, match=words):
        windows(tiny, "shipped", **wish)


def test_numbers_of_other_libraries_are_numbers(tiny: Model) -> None:
    given: dict[str, Any] = {"count": np.int64(3), "tokens": np.uint8(8), "seed": np.int32(1)}
    assert windows(tiny, "shipped", **given) == windows(tiny, "shipped", count=3, tokens=8, seed=1)


@pytest.mark.parametrize("source", [None, 5, b"a", ["a.txt"], "\0", "", float("nan")])
def test_a_source_that_is_none_is_refused(source: Any, tiny: Model, alone: None) -> None:
    with pytest.raises((BadPrompt, BadCorpus), match="; expected "):
        windows(tiny, source)


def test_a_model_without_a_tokenizer_is_refused(tiny: Model) -> None:
    with pytest.raises(BadPrompt, match="tiny has no tokenizer"):
        windows(replace(tiny, tokenizer=None), "shipped")


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    content = b"\x00\r\n\xff" * 500_000
    assert file_hash(write(tmp_path / "d", content)) == hashlib.sha256(content).hexdigest()
    with pytest.raises(SteerscopeError, match="is a folder; expected a plain file|Is a directory"):
        file_hash(tmp_path)


def test_the_shipped_text_is_plain_and_long_and_does_not_repeat_itself(alone: None) -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    assert text.isascii() and text.isprintable() is False and len(text) >= 45_000
    assert set(re.findall(r"[^ -~]", text)) == {"\n"} and text[0].isalpha()
    found = list(documents("shipped"))
    assert len(found) >= 100 and all(250 <= len(document) <= 600 for document in found)
    sentences = [s for d in found for s in re.split(r'(?<=[.!?"])\s+', d) if s.count(" ") > 2]
    assert len(sentences) > 500 and len(set(sentences)) == len(sentences)
    words = text.split()
    runs = [tuple(words[i : i + 6]) for i in range(len(words) - 5)]
    assert len(set(runs)) == len(runs)


def test_the_shipped_text_gives_prompts_enough(alone: None, tiny: Model) -> None:
    assert len(windows(tiny, "shipped")) == 200


def test_the_shipped_text_gives_trained_models_prompts_enough(real_model: Model) -> None:
    assert len(set(windows(real_model, "shipped").ids)) == 200
