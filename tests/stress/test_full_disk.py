"""A disk with no room, a place that is read-only, names that no file can have, links that somebody planted.

Every door ends in one sentence of ours (exit status 2 from the command line); what was there stays good, and once there
is room the same works and leaves nothing of the failed attempts. Disks are small tmpfs mounts where the system lets us
mount; files may not grow beyond a size (RLIMIT_FSIZE) where it does not, and everywhere else, too.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steerscope.analysis.errors import CannotWrite
from steerscope.analysis.files import append, renewed, write
from tests.stress.children import End, child, report, sentence
from tests.stress.conftest import Stage
from tests.stress.doors import DOORS
from tests.stress.world import NEW, RESUMABLE, World, world

FIGURES = Path(__file__)
QUICK = [name for name, door in DOORS.items() if door.quick and not door.command and name != "train"]
SIZES = 20
PAGES = 4096


def mounted(*words: object) -> None:
    found = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"nothing can be mounted here: {found.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mounted("-t", "tmpfs", "-o", "size=64m", "tmpfs", place)
    (place / "ballast").write_bytes(b"x")  # a size of 0 would be none
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def used(place: Path) -> int:
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def resized(place: Path, room: int) -> None:
    """Leaves so many bytes free."""
    size = -(-(used(place) + room) // PAGES) * PAGES
    subprocess.run(["mount", "-o", f"remount,size={max(size, PAGES)}", place], check=True)


def refused(found: Stage, end: End) -> None:
    said = sentence(end)
    assert "expected" in said or "make room" in said, said


def need(found: Stage, disk: Path) -> int:
    """Bytes that the door has on the disk at once, at most, by trying: a power of two that is enough."""
    room = PAGES
    while room < 1 << 26:
        folder = found.fresh(disk / "need")
        resized(disk, room)
        end = found.run(folder)
        resized(disk, 1 << 26)
        shutil.rmtree(folder)
        if end.status == 0:
            return room
        room *= 2
    raise AssertionError(f"{found.name} never fits")


def fill(found: Stage, disk: Path, sizes: int) -> tuple[int, int]:
    """Tries a door at so many sizes below what it needs: how often it was refused, and how often it fitted."""
    enough, outcomes = need(found, disk), [0, 0]
    for number in range(sizes):
        folder = found.fresh(disk / f"{number}")
        resized(disk, enough * number // sizes)
        end = found.run(folder)
        if end.status != 0:
            refused(found, end)
        seen = found.good(folder)
        assert end.status != 0 or seen == NEW
        outcomes[end.status == 0] += 1
        resized(disk, 1 << 26)
        found.again(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return outcomes[0], outcomes[1]


@pytest.mark.parametrize("name", ["Result.save over another", "SteeringVector.save", "Lens.save over another"])
def test_a_full_disk_at_two_sizes(name: str, stage: Callable[[str], Stage], disk: Path) -> None:
    refusals, _ = fill(stage(name), disk, 2)
    assert refusals


@pytest.mark.slow
@pytest.mark.parametrize("name", list(DOORS))
def test_a_full_disk_at_many_sizes(name: str, stage: Callable[[str], Stage], disk: Path) -> None:
    found = stage(name)
    sizes = SIZES if found.end.seconds < 10 else 4
    refusals, fitted = fill(found, disk, sizes)
    report(FIGURES, door=name, sizes=sizes, refused=refusals, fitted=fitted)
    assert refusals


def grow(found: Stage, sizes: list[int]) -> int:
    """Files that may not grow beyond a size; how often that was too small."""
    count = 0
    for size in sizes:
        folder = found.fresh()
        end = found.run(folder, largest=size)
        if end.status != 0:
            refused(found, end)
            count += 1
        found.good(folder)
        found.again(folder)
    return count


@pytest.mark.parametrize("name", QUICK)
def test_files_that_may_not_grow(name: str, stage: Callable[[str], Stage]) -> None:
    found = stage(name)
    assert grow(found, [0] if found.end.seconds > 0.4 else [0, 700]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", list(DOORS))
def test_files_that_may_not_grow_at_many_sizes(name: str, stage: Callable[[str], Stage]) -> None:
    found = stage(name)
    sizes = [0] if found.end.seconds > 10 else [0, 1, 100, 1000, 4000, 10_000, 40_000, 200_000]
    count = grow(found, sizes)
    report(FIGURES, door=name, limits=len(sizes), refused=count)
    assert count


def read_only(found: Stage, place: Path) -> None:
    """The same folder, mounted once more and read-only; readers and `sweep status` work there."""
    folder = found.fresh()
    place.mkdir()
    mounted("--bind", folder, place)
    try:
        mounted("-o", "remount,bind,ro", place)
        refused(found, found.run(place))
        assert found.state(place) == found.door.before
        if found.door.before == RESUMABLE and (place / "run" / "trials").exists():
            end = child(lambda: _status(place / "run"), place)
            assert end.status == 0, end.said[-2000:]
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
    found.again(folder)


def _status(folder: Path) -> None:
    from tests.stress.doors import command

    command("sweep", "status", folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("name", ["Result.save", "report", "SteeringVector.save over another", "Lens.save"])
def test_a_read_only_place(name: str, stage: Callable[[str], Stage], tmp_path: Path) -> None:
    read_only(stage(name), tmp_path / "mounted")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("name", list(DOORS))
def test_every_door_in_a_read_only_place(name: str, stage: Callable[[str], Stage], tmp_path: Path) -> None:
    found = stage(name)
    read_only(found, tmp_path / "mounted")
    report(FIGURES, door=name, read_only=1)


# Names and links.


def _into(found: Stage, place: Path) -> End:
    """Runs a door whose `run` is somewhere else: below a place that cannot be."""
    return child(lambda: found.door.run(world(), place), place)


PLACES: dict[str, Callable[[Path], Path]] = {
    "a name of 300 bytes": lambda folder: folder / ("a" * 300),
    "a path of 5,000 bytes": lambda folder: folder.joinpath(*["a" * 200] * 25),
    "below a file": lambda folder: folder / "file",
    "in /proc": lambda folder: Path("/proc/steerscope"),
    "a loop of links": lambda folder: folder / "loop",
}


def odd_places(found: Stage, folder: Path, names: list[str]) -> None:
    folder.mkdir()
    (folder / "file").write_text("mine")
    (folder / "loop").symlink_to(folder / "loop")
    for name in names:
        end = _into(found, PLACES[name](folder))
        sentence(end)
        assert sorted(path.name for path in folder.iterdir()) == ["file", "loop"], name
    assert (folder / "file").read_text() == "mine"


@pytest.mark.parametrize("name", [name for name in QUICK if DOORS[name].before == "nothing"])
def test_places_that_cannot_be(name: str, stage: Callable[[str], Stage], tmp_path: Path) -> None:
    names = list(PLACES)
    found = stage(name)
    odd_places(found, tmp_path / "odd", names[:2] if found.end.seconds > 0.4 else names)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, door in DOORS.items() if door.before == "nothing"])
def test_places_that_cannot_be_for_all(name: str, stage: Callable[[str], Stage], tmp_path: Path) -> None:
    odd_places(stage(name), tmp_path / "odd", list(PLACES))
    report(FIGURES, door=name, odd_places=len(PLACES))


def plant(found: Stage, folder: Path) -> int:
    """Puts a link to a secret under the name of every file that the door leaves, and under old temporaries' names.

    The door may replace a link, follow none, or refuse in a sentence; the secret stays what it was.
    """
    count = 0
    for at, name in enumerate(found.tree):
        place = found.fresh(folder / f"{at}")
        secret = folder / f"secret {at}"
        secret.write_text("mine")
        target = place / name
        if target.is_dir() or any(parent.is_symlink() for parent in target.parents):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        for link in (target, target.with_name(target.name + ".part"), target.with_name(f".{target.name}.tmp")):
            link.unlink(missing_ok=True)
            link.symlink_to(secret)
        end = found.run(place)
        assert secret.read_text() == "mine", f"{found.name} wrote through {name}"
        if end.status != 0:
            sentence(end)
        count += 1
        shutil.rmtree(place)
    return count


@pytest.mark.parametrize("name", ["Result.save", "report", "SteeringVector.save", "Lens.save"])
def test_nothing_is_written_through_a_link(name: str, stage: Callable[[str], Stage], tmp_path: Path) -> None:
    assert plant(stage(name), tmp_path) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", list(DOORS))
def test_no_door_writes_through_a_link(name: str, stage: Callable[[str], Stage], tmp_path: Path) -> None:
    found = stage(name)
    if found.end.seconds > 12:
        pytest.skip("its files are those of the other questions, and it takes long")
    report(FIGURES, door=name, links=plant(found, tmp_path))


def test_a_device_that_is_full_is_a_full_disk(tmp_path: Path, the_world: World) -> None:
    """A copy of /dev/full: it is refused, and neither written to nor replaced."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a device")
    full = tmp_path / "full"
    os.mknod(full, 0o600 | 0o020000, os.makedev(1, 7))
    before = full.stat()

    def in_it(place: Path) -> None:
        with renewed(place) as fresh:
            write(fresh / "a", "x")

    for attempt in (
        lambda: write(full, "x"),
        lambda: append(full, "x"),
        lambda: in_it(full),
        lambda: in_it(full / "a"),
    ):
        with pytest.raises(CannotWrite):
            attempt()
    with pytest.raises(CannotWrite):
        the_world.vector[NEW].save(full)
    assert (full.stat().st_rdev, full.stat().st_mode) == (before.st_rdev, before.st_mode)
