"""A sweep's folder under stress: a kill at every step, two at once, no room, one flipped bit in any file."""

import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from flips import flips
from made_sweep import ABOUT

from steerscope.analysis import files
from steerscope.analysis.errors import CannotWrite, DamagedRun, DiskFull, OutputExists, SteerscopeError
from steerscope.analysis.sweeps.store import ADDITIONS, PROMPTS, Store

CONTENTS = {PROMPTS: b"prompts" * 500, ADDITIONS: b"additions" * 2000}
STEPS = ("open", "mkdir", "rename", "replace", "fsync", "unlink", "rmdir", "link")
KILLED, ENDED, REFUSED, WRONG = 9, 0, 2, 1

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed")


def create(folder: Path) -> None:
    Store(folder).create(ABOUT, CONTENTS)


def append(folder: Path, block: int = 0) -> None:
    start = 2 * block
    Store(folder).append(block, pa.table({"trial": list(range(start, min(start + 2, 5)))}))


def session(folder: Path) -> None:
    """What a session does with a folder: creates it, locks, sets aside, appends, notes."""
    create(folder)
    store = Store(folder)
    with store.lock():
        store.set_aside()
        for block in range(3):
            if block not in store.done():
                append(folder, block)
        store.log(ENTRY)


ENTRY: dict[str, Any] = {
    "ended": "now",
    "executor": "local",
    "trials": 5,
    **dict.fromkeys(("seconds", "forward", "metrics", "writing"), 1.0),
    "damaged": (),
    "check": None,
}


def forked(work: Callable[[], object]) -> int:
    """How a process ended that did the work."""
    child = os.fork()
    if not child:
        status = WRONG
        try:
            signal.alarm(60)
            work()
            status = ENDED
        except (OutputExists, DiskFull, CannotWrite):
            status = REFUSED
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(number: int, work: Callable[[], object]) -> None:
    """Dies at a step: before it (odd numbers are after it) and, where a file is written, with half of it there."""
    seen = 0

    def step() -> None:
        nonlocal seen
        if seen == number:
            os._exit(KILLED)
        seen += 1

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*args: Any, **options: Any) -> Any:
            step()
            found = function(*args, **options)
            step()
            return found

        return stepping

    def write(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            step()
            return file.write(content[len(content) // 2 :])

    for name in STEPS:
        setattr(os, name, around(getattr(os, name)))
    files._swap = around(files._swap)
    Path.write_bytes = write  # type: ignore[method-assign, assignment]
    work()


def settled(folder: Path) -> None:
    """After a session that nothing happened to, everything is there and nothing is left over."""
    store = Store(folder)
    assert sorted(store.done()) == [0, 1, 2] and not store.damaged()
    assert [t["trial"].to_pylist() for t in store.read()] == [[0, 1], [2, 3], [4]]
    assert store.manifest()["files"].keys() == CONTENTS.keys()
    assert {p.name for p in store.folder.iterdir()} == {"manifest.json", ".lock", "trials", "log.jsonl", *CONTENTS}
    assert not [p for p in store.trials.iterdir() if p.name.startswith(".")]


@contextmanager
def inside(folder: Path) -> Iterator[Path]:
    """The folder as the current one, which cannot be moved."""
    folder.mkdir()
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield Path()
    finally:
        os.chdir(before)


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    yield folder


@contextmanager
def begun(folder: Path) -> Iterator[Path]:
    (folder / "trials").mkdir(parents=True)
    yield folder


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), pytest.param(11, id="some")])
@pytest.mark.parametrize("place", [beside, begun, inside])
@pytest.mark.parametrize("exchange", [True, False])
def test_a_session_killed_at_any_step_goes_on_and_loses_nothing(
    place: Callable[[Path], Any], exchange: bool, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every open, mkdir, rename, fsync, unlink and link, before and after, and every half-written file."""
    if not exchange:
        monkeypatch.setattr(files, "_swap", lambda one, other: False)
    kills, number = 0, 0
    while True:
        with place(tmp_path / f"run{number}") as folder:
            ended = forked(lambda folder=folder, number=number: killed_at(number, lambda: session(folder)))  # type: ignore[misc]
            assert ended in (KILLED, ENDED)
            kept = {p.name for p in (folder / "trials").glob("part-*")} if Store(folder).taken else set()
            if Store(folder).taken:
                Store(folder).manifest()
            session(folder)
            settled(folder)
            assert kept <= {p.name for p in (folder / "trials").iterdir()}
        assert not list(tmp_path.glob(".*"))
        if ended == ENDED:
            break
        kills, number = kills + 1, number + every
    assert kills > 80 // every


def test_a_session_killed_twice_goes_on(tmp_path: Path) -> None:
    for number in range(0, 90, 11):
        with inside(tmp_path / f"run{number}") as folder:
            for again in (number, number // 2, number // 3):
                assert forked(lambda again=again: killed_at(again, lambda: session(folder))) in (KILLED, ENDED)  # type: ignore[misc]
            session(folder)
            settled(folder)


@pytest.mark.parametrize(
    "left", ["trials/", ".lock", ".x.tmp", ".prompts.parquet.tmp", "trials/.p.0123456789abcdef.new"]
)
def test_what_a_killed_creation_left_is_run_into(left: str, tmp_path: Path) -> None:
    (tmp_path / "run" / "trials").mkdir(parents=True)
    if not left.endswith("/"):
        (tmp_path / "run" / left).write_bytes(b"half")
    create(tmp_path / "run")
    assert Store(tmp_path / "run").manifest()


@pytest.mark.parametrize("own", ["thesis.txt", "prompts.parquet", "trials/part-000000-0123456789abcdef.parquet", "x/"])
def test_what_somebody_put_there_is_left_alone(own: str, tmp_path: Path) -> None:
    path = tmp_path / "run" / own
    path.parent.mkdir(parents=True)
    path.mkdir() if own.endswith("/") else path.write_bytes(b"mine")
    with pytest.raises(OutputExists, match="is there and is no sweep"):
        create(tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == [own.split("/")[0]]


def test_of_two_that_begin_at_once_one_creates_and_the_other_goes_on_or_is_told(tmp_path: Path) -> None:
    for number in range(12):
        folder = tmp_path / f"run{number}"
        if number % 2:
            (folder / "trials").mkdir(parents=True)
        children = []
        for who in range(3):
            child = os.fork()
            if not child:
                status = WRONG
                try:
                    signal.alarm(60)
                    Store(folder).create({**ABOUT, "command": str(who)}, CONTENTS)
                    Store(folder).manifest()
                    status = ENDED
                except OutputExists as error:
                    status = REFUSED if "another process is writing" in str(error) else WRONG
                finally:
                    os._exit(status)
            children.append(child)
        ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert set(ended) <= {ENDED, REFUSED} and ENDED in ended
        session(folder)
        settled(folder)


def test_who_comes_while_another_creates_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    with store.lock(), pytest.raises(OutputExists, match="another process is writing"):
        create(store.folder)
    assert store.busy() is False
    with store.lock():
        assert store.busy()


def test_without_room_one_sentence_nothing_is_stuck_and_it_goes_on_after(tmp_path: Path) -> None:
    """No file may grow beyond so many bytes: the system itself refuses."""

    def small(folder: Path, size: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        session(folder)

    ended = []
    for size in (0, 1, 100, 700, 1000, 2000, 3000, 3500, 4000, 10_000, 18_000, 10**6):
        folder = tmp_path / f"run{size}"
        ended.append(forked(lambda folder=folder, size=size: small(folder, size)))  # type: ignore[misc]
        session(folder)
        settled(folder)
        assert not list(tmp_path.glob(".*"))
    assert ended[0] == REFUSED and ended[-1] == ENDED and set(ended) == {REFUSED, ENDED}


def test_one_flipped_bit_in_any_file_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    session(folder)
    rows, notes = [t.to_pydict() for t in Store(folder).read()], Store(folder).sessions()
    tried = 0
    for path in [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"]:
        for _ in flips(path, 80):
            tried += 1
            store = Store(folder)
            if path.parent.name == "trials":
                assert store.damaged() == [path]
                assert [t.to_pydict() for t in store.read()] == [r for r in rows if r != rows[int(path.name[5:11])]]
            elif path.name == "log.jsonl":
                assert store.sessions() in ([], notes)
            else:
                with pytest.raises(DamagedRun):
                    store.manifest()
    assert tried > 400
    settled(folder)


@pytest.mark.parametrize("change", ["block", "trials", "mode", "control_every"])
def test_a_manifest_that_was_edited_together_with_its_checksum_takes_no_rows_of_another(
    change: str, tmp_path: Path
) -> None:
    from steerscope.analysis.seals import read_json, sealed

    folder = tmp_path / "run"
    session(folder)
    path = folder / "manifest.json"
    found = read_json(path, DamagedRun, "manifest")
    new: dict[str, Any] = {"block": {"block": 3}, "mode": {"mode": "through"}}
    found |= new.get(change, {"design": found["design"] | {change: 6}})
    path.write_bytes(sealed(found))
    assert not Store(folder).done() and len(Store(folder).damaged()) == 3


def test_a_renamed_part_is_damaged(tmp_path: Path) -> None:
    session(tmp_path / "run")
    store = Store(tmp_path / "run")
    first, second = store.done()[0], store.done()[1]
    moved = first.with_name(first.name.replace("000000", "000001"))
    second.unlink()
    first.rename(moved)
    assert list(store.done()) == [2] and store.damaged() == [moved]
    assert [p.name for p in store.set_aside()] == [moved.name]
    for block in (0, 1):
        append(store.folder, block)
    settled_names = {p.name for p in store.folder.iterdir()}
    assert "damaged" in settled_names and sorted(store.done()) == [0, 1, 2]


def test_damaged_parts_of_one_name_are_all_kept_and_no_link_is_followed(tmp_path: Path) -> None:
    session(tmp_path / "run")
    store = Store(tmp_path / "run")
    part = store.done()[0]
    whole = part.read_bytes()
    for number in range(3):
        part.write_bytes(whole[:-1] + bytes([number]))
        store.set_aside()
        assert not part.exists()
    assert len(list((store.folder / "damaged").iterdir())) == 3
    shutil.rmtree(store.folder / "damaged")
    (tmp_path / "elsewhere").mkdir()
    for name in ("damaged", "summary"):
        (store.folder / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(CannotWrite, match="is no folder; expected one"), store.lock():
            pass
        (store.folder / name).unlink()
    (tmp_path / "secret").write_text("mine")
    for name in (".lock", "log.jsonl"):
        (store.folder / name).unlink()
        (store.folder / name).symlink_to(tmp_path / "secret")
        with pytest.raises(CannotWrite, match="is no plain file"), store.lock():
            pass
        (store.folder / name).unlink()
    assert (tmp_path / "secret").read_text() == "mine"


def test_who_may_only_read_sees_everything_and_is_told_that_nothing_is_written() -> None:
    folder = Path(tempfile.mkdtemp(prefix="steerscope-"))
    try:
        session(folder / "run")
        (folder / "run" / ".lock").unlink()
        for path in (folder / "run" / "trials", folder / "run", folder):
            path.chmod(0o555)

        def look() -> None:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            store = Store(folder / "run")
            assert len(store.done()) == 3 and len(store.sessions()) == 1 and not store.busy() and store.manifest()
            with store.lock():
                raise AssertionError

        before = sorted(p.name for p in (folder / "run").iterdir())
        assert forked(look) == REFUSED
        assert sorted(p.name for p in (folder / "run").iterdir()) == before
    finally:
        for path in (folder, folder / "run", folder / "run" / "trials"):
            path.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["x" * 300, "\0", "a/" * 3000 + "b", "/proc/x", "/dev/null/x"])
def test_a_name_that_none_can_have_is_said(name: str, tmp_path: Path) -> None:
    folder = Path(name) if name.startswith("/") else tmp_path / name
    for door in (create, lambda f: Store(f).manifest(), lambda f: Store(f).done(), lambda f: list(Store(f).read())):
        with pytest.raises(SteerscopeError, match="expected"):
            door(folder)
