"""What a seal covers: every bit of JSON, every file of a folder; what it cannot read is refused in a sentence."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from flips import flips

from steerscope.analysis.errors import BadLens, DamagedRun
from steerscope.analysis.files import renewed, write
from steerscope.analysis.seals import CHECKSUMS, check_folder_seal, digest, read_json, seal_folder, sealed

DOCUMENT: dict[str, Any] = {
    "k": [1, 4],
    "mode": "own",
    "share": 0.1,
    "text": "Zoë's \u2028 \U0001f600",
    "none": None,
    "deep": {"a": [True]},
}


def test_what_was_sealed_is_read_back(tmp_path: Path) -> None:
    path = write(tmp_path / "manifest.json", sealed(DOCUMENT))
    assert read_json(path, DamagedRun, "manifest") == DOCUMENT
    assert set(json.loads(path.read_text())) == {*DOCUMENT, "checksum"}


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "manifest.json", sealed(DOCUMENT))
    accepted = 0
    for where in flips(path):
        try:
            found = read_json(path, DamagedRun, "manifest")
        except DamagedRun:
            continue
        assert found == DOCUMENT, where
        accepted += 1
    assert accepted < 0.02 * path.stat().st_size  # a space that became a tab, say


@pytest.mark.parametrize("change", [{"mode": "through"}, {"more": 1}, {"k": [4, 1]}, {"share": 0.2}])
def test_a_value_that_was_changed_by_hand_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    document = json.loads(sealed(DOCUMENT)) | change
    path = write(tmp_path / "manifest.json", json.dumps(document))
    with pytest.raises(DamagedRun, match="has changed since it was written .*; expected the manifest as it was; bring"):
        read_json(path, DamagedRun, "manifest")


def test_a_document_without_a_seal_is_read_only_where_none_is_needed(tmp_path: Path) -> None:
    path = write(tmp_path / "manifest.json", json.dumps(DOCUMENT))
    with pytest.raises(DamagedRun, match="checksum differs"):
        read_json(path, DamagedRun, "manifest")
    assert read_json(path, DamagedRun, "manifest", needed=lambda found: found["mode"] != "own") == DOCUMENT
    wrong = write(tmp_path / "other.json", json.dumps(DOCUMENT | {"checksum": "0" * 64}))
    with pytest.raises(DamagedRun, match="checksum differs"):
        read_json(wrong, DamagedRun, "manifest", needed=lambda found: False)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"1",
        b'"text"',
        b"{",
        b"[" * 100_000,
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"\xff\xfe",
        b'{"a": "\\ud800"}',
        b'{"checksum": 3}',
        b'{"checksum": null, "a": 1}',
    ],
    ids=repr,
)
def test_whatever_stands_in_the_file_the_answer_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(BadLens) as found:
        read_json(path, BadLens, "lens")
    assert "expected" in str(found.value) and "\n" not in str(found.value) and len(str(found.value)) < 600


def test_what_is_no_plain_file_is_neither_waited_for_nor_read_without_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "missing", "a" * 300, "a\0b", "\ud800", "."):
        with pytest.raises(BadLens, match="is no lens .*; expected one that steerscope wrote; check it"):
            read_json(tmp_path / name, BadLens, "lens")


# A folder.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with renewed(tmp_path / "model") as fresh:
        for name in ("weights", "config.json"):
            write(fresh / name, name * 5)
        seal_folder(fresh)
    return tmp_path / "model"


def test_a_folder_as_it_was_written_passes_and_so_do_files_that_were_added(folder: Path) -> None:
    check_folder_seal(folder, BadLens, "model")
    (folder / "notes.txt").write_text("mine")
    os.mkfifo(folder / "pipe")
    check_folder_seal(folder, BadLens, "model")


def test_a_changed_and_a_missing_file_are_named(folder: Path) -> None:
    (folder / "weights").write_bytes(b"other")
    with pytest.raises(BadLens, match="'.*model' weights has changed since the model was written; expected its files"):
        check_folder_seal(folder, BadLens, "model")
    (folder / "config.json").unlink()
    with pytest.raises(BadLens, match="config.json, weights has changed|config.json, weights have changed"):
        check_folder_seal(folder, BadLens, "model")


@pytest.mark.parametrize(
    "files", [None, [], {}, {"weights": 3}, {"../secret": "0"}, {"weights": None, "\ud800": ""}], ids=repr
)
def test_a_seal_that_was_written_by_somebody_else_is_refused(folder: Path, files: Any) -> None:
    (folder / CHECKSUMS).write_text(json.dumps({"files": files}))
    with pytest.raises(BadLens):
        check_folder_seal(folder, BadLens, "model")


def test_every_flipped_bit_of_a_seal_is_refused_or_changes_nothing(folder: Path) -> None:
    content = json.loads((folder / CHECKSUMS).read_bytes())
    for where in flips(folder / CHECKSUMS):
        try:
            check_folder_seal(folder, BadLens, "model")
        except BadLens:
            continue
        assert json.loads((folder / CHECKSUMS).read_bytes()) == content, where


def test_a_folder_without_a_seal_passes(tmp_path: Path) -> None:
    """One of Hugging Face, or of an older version."""
    (tmp_path / "weights").write_text("x")
    check_folder_seal(tmp_path, BadLens, "model")
    check_folder_seal(tmp_path / "weights", BadLens, "model")


def test_a_digest_is_that_of_sha256() -> None:
    assert digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
