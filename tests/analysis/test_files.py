"""The one writer: whole or not at all, never through a link, at every instant, with others at work beside it."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steerscope.analysis import files
from steerscope.analysis.errors import CannotWrite, DiskFull, OutputExists
from steerscope.analysis.files import append, renewed, settle, settle_all, storing, write

NEW = "0123456789abcdef.new"
OLD = "0123456789abcdef.old"


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """Whoever opens a pipe waits for ever; here he fails."""

    waited = []

    def late(*given: object) -> None:
        waited.append(given)
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert not waited  # whoever swallowed the error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path, content: str, more: tuple[str, ...] = ()) -> None:
    for name in ("manifest.json", "table.parquet", *more):
        write(folder / name, f"{name} {content}")


def read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


WHOLE = {
    content: {name: f"{name} {content}" for name in ("manifest.json", "table.parquet")} for content in ("old", "new")
}


def renew(folder: Path, content: str, ours: Callable[[str], bool] = lambda name: True, new: bool = False) -> None:
    with renewed(folder, ours, new) as fresh:
        fill(fresh, content)


# A file.


def test_a_file_is_written_with_the_folders_above_it_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "vector"
    assert write(path, "once") == path and path.read_text() == "once"
    write(path, b"again")
    assert path.read_bytes() == b"again" and names(path.parent) == ["vector"]


def test_what_fails_on_the_way_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "vector", "old")
    sync = os.fsync

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="no room left for .*vector.*stays good; make room and run the same again"):
        write(path, "new")
    monkeypatch.setattr(os, "fsync", sync)
    assert path.read_text() == "old" and names(tmp_path) == ["vector"]


def test_an_interruption_leaves_the_old_file_and_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "vector", "old")

    def stopped(one: Path, other: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        write(path, "new")
    assert path.read_text() == "old" and names(tmp_path) == ["vector"]


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    path = tmp_path / "report.html"
    path.symlink_to(secret)
    write(path, "ours")
    assert secret.read_text() == "mine" and not path.is_symlink() and path.read_text() == "ours"


def test_what_is_no_plain_file_is_not_replaced(tmp_path: Path) -> None:
    """A device node, say: root could rename a file over it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(CannotWrite, match="pipe"):
        write(pipe, "ours")
    assert stat.S_ISFIFO(pipe.lstat().st_mode) and names(tmp_path) == ["pipe"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(CannotWrite, match="folder.*a folder or a device stands there"):
        write(tmp_path / "folder", "ours")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a" * 256, "too long"),
        ("a\0b", "null"),
        ("\ud800", "surrogates"),
        ("file/below", "Not a directory|File exists"),
    ],
)
def test_names_that_no_file_can_have_are_one_sentence(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_text("mine")
    for attempt in (lambda: write(tmp_path / name, "x"), lambda: renew(tmp_path / name, "x")):
        with pytest.raises(CannotWrite, match=reason) as found:
            attempt()
        assert "\n" not in str(found.value)
    assert names(tmp_path) == ["file"]


def test_a_name_of_255_bytes_has_room_for_its_temporary(tmp_path: Path) -> None:
    name = "ö" * 127
    assert write(tmp_path / name, "x").read_text() == "x"
    (tmp_path / "other").mkdir()
    renew(tmp_path / "other" / name, "new")
    assert read(tmp_path / "other" / name) == WHOLE["new"]


def test_half_a_character_does_not_keep_a_text_from_being_written(tmp_path: Path) -> None:
    """A page, say; of what comes through the gate none has one."""
    assert write(tmp_path / "a", "half a character \ud83d").read_text() == "half a character ?"


def test_the_rights_of_a_file_are_those_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    mode = (tmp_path / "plain").stat().st_mode
    assert write(tmp_path / "ours", "x").stat().st_mode == mode
    renew(tmp_path / "made", "x")
    (tmp_path / "folder").mkdir()
    assert (tmp_path / "made").stat().st_mode == (tmp_path / "folder").stat().st_mode


def test_other_errors_of_the_body_are_not_taken_for_the_systems(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^column a holds null values$"), storing(tmp_path):
        raise ValueError("column a holds null values")


# Lines.


def test_lines_are_added(tmp_path: Path) -> None:
    for line in ("one", "two"):
        append(tmp_path / "log", line)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


def test_a_line_after_half_a_line_is_whole(tmp_path: Path) -> None:
    """The half one was left by a kill."""
    log = tmp_path / "log"
    log.write_text('{"a": 1}\n{"a"')
    append(log, '{"a": 2}')
    assert log.read_text().splitlines() == ['{"a": 1}', '{"a"', '{"a": 2}']


def test_lines_are_added_neither_through_a_link_nor_to_what_is_no_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    (tmp_path / "log").symlink_to(secret)
    os.mkfifo(tmp_path / "pipe")
    for name in ("log", "pipe"):
        with pytest.raises(CannotWrite):
            append(tmp_path / name, "ours")
    assert secret.read_text() == "mine"


# A folder.


@pytest.mark.parametrize("swap", [True, False], ids=["exchanged", "two renames"])
def test_a_folder_takes_its_place_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: bool) -> None:
    if not swap:
        monkeypatch.setattr(files, "_swap", lambda one, other: False)
    folder = tmp_path / "run"
    renew(folder, "old")
    assert read(folder) == WHOLE["old"]
    with pytest.raises(RuntimeError, match="half"), renewed(folder) as fresh:
        fill(fresh, "half")
        raise RuntimeError("half")
    assert read(folder) == WHOLE["old"]
    renew(folder, "new")
    assert read(folder) == WHOLE["new"] and names(tmp_path) == ["run"]


def test_an_empty_folder_and_one_through_a_link_are_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    renew(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and read(tmp_path / "empty") == WHOLE["new"]
    assert names(tmp_path) == ["empty", "link"]


def foreign(name: str) -> bool:
    """Which names of a folder are ours."""
    return name in ("manifest.json", "table.parquet", "gone.parquet")


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "copies"])
def test_what_others_put_into_a_folder_goes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    folder = tmp_path / "run"
    renew(folder, "old")
    write(folder / "gone.parquet", "of the old one")
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "thesis.txt").write_text("mine")
    (folder / "notes.txt").write_text("mine, too")
    (folder / "notes.txt").chmod(0o640)
    (folder / "away").symlink_to("/nowhere")
    before = (folder / "notes.txt").stat()
    if not links:

        def none(*given: object, **options: object) -> None:
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", none)
    renew(folder, "new", foreign)
    kept = {"notes.txt": "mine, too"}
    assert read(folder) == WHOLE["new"] | kept
    assert (folder / "deep" / "er" / "thesis.txt").read_text() == "mine"
    assert (folder / "away").readlink() == Path("/nowhere")
    after = (folder / "notes.txt").stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert (after.st_ino == before.st_ino) == links and names(tmp_path) == ["run"]


def test_a_file_that_somebody_holds_open_in_the_old_folder_is_the_same_file_in_the_new_one(tmp_path: Path) -> None:
    renew(tmp_path / "run", "old")
    with (tmp_path / "run" / "diary").open("w") as diary:
        renew(tmp_path / "run", "new", foreign)
        diary.write("written later")
    assert (tmp_path / "run" / "diary").read_text() == "written later"


@pytest.mark.parametrize("kind", ["current", "mount", "read-only parent"])
def test_a_folder_that_cannot_be_moved_is_filled_where_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = tmp_path / "run"
    renew(folder, "old")
    (folder / "notes.txt").write_text("mine")
    write(folder / "gone.parquet", "of the old one")
    inode = folder.stat().st_ino
    if kind == "current":
        monkeypatch.chdir(folder)
    elif kind == "mount":
        monkeypatch.setattr(Path, "is_mount", lambda path: path == folder)
    else:
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    renew(folder, "new", foreign)
    assert read(folder) == WHOLE["new"] | {"notes.txt": "mine"} and folder.stat().st_ino == inode
    assert names(folder) == ["manifest.json", "notes.txt", "table.parquet"] and names(tmp_path) == ["run"]


def test_where_only_the_exchange_shows_that_a_folder_cannot_be_moved_it_is_filled_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew(tmp_path / "run", "old")

    def busy(one: bytes, other: bytes) -> bool:
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(files, "_swap", busy)
    renew(tmp_path / "run", "new", foreign)
    assert read(tmp_path / "run") == WHOLE["new"] and names(tmp_path) == ["run"]


def test_a_new_folder_is_not_put_over_one_that_another_process_made(tmp_path: Path) -> None:
    with pytest.raises(OutputExists, match="another process has just written"), renewed(tmp_path / "run", new=True):
        renew(tmp_path / "run", "old")
    assert read(tmp_path / "run") == WHOLE["old"] and names(tmp_path) == ["run"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    write(tmp_path / "run", "mine")
    with pytest.raises(CannotWrite, match="File exists"):
        renew(tmp_path / "run", "new")
    assert (tmp_path / "run").read_text() == "mine" and names(tmp_path) == ["run"]


# What killed writers left.


def test_what_nobody_writes_to_any_more_is_removed_by_the_next_writer_of_the_name(tmp_path: Path) -> None:
    (tmp_path / f".run.{NEW}").mkdir()
    (tmp_path / f".run.{NEW}" / "half").write_text("half")
    (tmp_path / f".vector.{NEW}").write_text("half")
    (tmp_path / f".other.{NEW}").write_text("of another name")
    (tmp_path / ".run.backup.new").write_text("not one of ours: no 16 digits")
    renew(tmp_path / "run", "new")
    write(tmp_path / "vector", "new")
    assert names(tmp_path) == [f".other.{NEW}", ".run.backup.new", "run", "vector"]
    settle_all(tmp_path)
    assert names(tmp_path) == [".run.backup.new", "run", "vector"]


def test_a_folder_that_was_moved_away_is_put_back(tmp_path: Path) -> None:
    """Killed between the two renames of a system without an exchange."""
    fill(tmp_path / f".run.{OLD}", "old")
    fill(tmp_path / f".run.{NEW}", "new")
    settle(tmp_path / "run")
    assert read(tmp_path / "run") == WHOLE["old"] and names(tmp_path) == ["run"]
    fill(tmp_path / f".run.{OLD}", "older")
    settle(tmp_path / "run")
    assert read(tmp_path / "run") == WHOLE["old"] and names(tmp_path) == ["run"]


def test_neither_links_nor_pipes_with_a_temporarys_name_are_touched_or_waited_for(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    (tmp_path / f".run.{NEW}").symlink_to(tmp_path / "mine")
    os.mkfifo(tmp_path / f".run.{OLD}")
    renew(tmp_path / "run", "new")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"
    assert read(tmp_path / "run") == WHOLE["new"]


WRITER = """
import sys, time
from pathlib import Path
from steerscope.analysis.files import renewed, write
folder = Path(sys.argv[1])
with renewed(folder) as fresh:
    write(fresh / "manifest.json", "other")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_the_temporary_of_a_living_process_stays_and_that_of_a_killed_one_goes(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "ready\n"
        [living] = names(tmp_path)
        renew(tmp_path / "run", "new")
        settle_all(tmp_path)
        assert names(tmp_path) == [living, "run"] and read(tmp_path / "run") == WHOLE["new"]
        assert (tmp_path / living / "manifest.json").read_text() == "other"
        other.kill()
    settle(tmp_path / "run")
    assert names(tmp_path) == ["run"]


def test_many_writers_of_one_folder_and_one_file_leave_one_whole_thing_of_one_of_them(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from steerscope.analysis.files import renewed, write\n"
        "folder, word = Path(sys.argv[1]), sys.argv[2]\n"
        "for i in range(40):\n"
        "    with renewed(folder) as fresh:\n"
        "        for name in ('manifest.json', 'table.parquet'): (fresh / name).write_text(word + str(i))\n"
        "    write(folder.parent / 'file', word + str(i))\n"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run"), word], stderr=subprocess.PIPE, text=True)
        for word in ("a", "b")
    ]
    seen = 0
    while any(process.poll() is None for process in both):
        held = os.open(tmp_path / "run", os.O_RDONLY) if (tmp_path / "run").exists() else None
        if held is not None:  # one folder, whatever takes its place meanwhile
            try:
                found = {Path(f"/proc/self/fd/{held}/{name}").read_text() for name in WHOLE["old"]}
                assert len(found) == 1
                seen += 1
            except FileNotFoundError:
                pass  # the old one was removed while we read
            finally:
                os.close(held)
        time.sleep(0.001)
    assert [process.communicate()[1] for process in both] == ["", ""] and seen > 10
    assert len(set(read(tmp_path / "run").values())) == 1
    settle_all(tmp_path)
    assert names(tmp_path) == ["file", "run"]
