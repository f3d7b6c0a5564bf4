"""One bit of any file of any kind of folder: the reader refuses in a sentence, or has exactly what it had.

Excepted are the files that only explain or draw (`only_explains` in kinds.py: a page, a log): they may change, but no
number may for it. Files that are cut, emptied, missing or exchanged are tried in the same way.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flips import flips

from steerscope.analysis.errors import SteerscopeError
from tests.stress.children import child, report
from tests.stress.doors import save
from tests.stress.kinds import KINDS, Kind
from tests.stress.world import NEW, OLD, World

Made = tuple[Kind, Path, str]
SAME, REFUSED = "same", "refused"


@pytest.fixture(scope="session")
def made(the_world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """A kind, a folder with one of it, and what a reader has of that."""
    found: dict[str, Made] = {}

    def by_name(name: str) -> Made:
        if name not in found:
            kind, folder = KINDS[name], tmp_path_factory.mktemp("kind")
            end = child(lambda: kind.make(the_world, folder), folder)
            assert end.status == 0, end.said[-3000:]
            found[name] = kind, folder, kind.read(the_world, folder)
        return found[name]

    return by_name


def files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    assert found
    return found


def explains(kind: Kind, path: Path) -> bool:
    return any(path.match(pattern) for pattern in kind.only_explains)


def outcome(kind: Kind, world: World, folder: Path, before: str, what: str) -> str:
    """Whether a reader refuses or has the same; anything else fails."""
    try:
        found = kind.read(world, folder)
    except SteerscopeError as error:
        said = str(error)
        assert said and "\n" not in said and len(said) < 1500, f"{what}: {said[:2000]}"
        return REFUSED
    assert found == before, f"other content, silently: {what}"
    return SAME


def flip(made: Made, world: World, each: int) -> dict[str, tuple[int, int]]:
    """Flips bits of every file, one at a time; refused and same by file."""
    kind, folder, before = made
    counts = {}
    for path in files(folder):
        seen = []
        for where in flips(path, each):
            seen.append(outcome(kind, world, folder, before, where))
            assert not explains(kind, path) or seen[-1] == SAME, f"{path.name} only explains, and was not read over"
        counts[path.name] = seen.count(REFUSED), seen.count(SAME)
    assert kind.read(world, folder) == before
    return counts


@pytest.mark.parametrize("name", list(KINDS))
def test_some_flipped_bits(name: str, made: Callable[[str], Made], the_world: World) -> None:
    found = flip(made(name), the_world, {"model": 3, "sweep": 5}.get(name, 12))
    assert sum(refused for refused, _ in found.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", list(KINDS))
def test_flipped_bits(name: str, made: Callable[[str], Made], the_world: World) -> None:
    """All bits of small files, thousands of the others."""
    kind, folder, _ = made(name)
    found = flip(made(name), the_world, kind.flips)
    refused, same = (sum(counts[i] for counts in found.values()) for i in (0, 1))
    report(Path(__file__), kind=name, files=len(found), flips=refused + same, refused=refused, same=same)
    sealed = {path.name for path in files(folder) if not explains(kind, path) and path.stat().st_size}
    for path in sealed:  # what is not refused is a space that became a tab, say
        assert found[path][1] <= 0.1 * sum(found[path]), (path, found[path])


@pytest.mark.parametrize("name", list(KINDS))
def test_files_that_are_cut_emptied_missing_exchanged_or_something_else(
    name: str, made: Callable[[str], Made], the_world: World
) -> None:
    kind, folder, before = made(name)
    for path in files(folder):
        content = path.read_bytes()
        for what, change in _changes(path, content):
            path.unlink()
            change()
            seen = outcome(kind, the_world, folder, before, f"{path.name} {what}")
            assert not explains(kind, path) or seen == SAME, f"{path.name} only explains, {what}"
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            path.write_bytes(content)
    assert kind.read(the_world, folder) == before


def _changes(path: Path, content: bytes) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "missing", lambda: None
    yield "empty", lambda: path.write_bytes(b"")
    yield "cut", lambda: path.write_bytes(content[: len(content) // 2])
    yield "longer by a byte", lambda: path.write_bytes(content + b"x")
    yield "a folder", path.mkdir
    yield "brackets", lambda: path.write_bytes(b"[" * 5000)
    yield "a list", lambda: path.write_bytes(b"[]")


def test_files_of_two_results_do_not_go_together(the_world: World, tmp_path: Path) -> None:
    for word in (OLD, NEW):
        save(word, the_world, tmp_path / word)
    kind, folder = KINDS["result"], tmp_path / NEW
    before, refused = kind.read(the_world, folder), 0
    for path in files(folder):
        other = tmp_path / OLD / path.relative_to(folder)
        if other.exists() and not explains(kind, path):
            content = path.read_bytes()
            path.write_bytes(other.read_bytes())
            refused += outcome(kind, the_world, folder, before, path.name) == REFUSED
            path.write_bytes(content)
    assert refused == 2  # the table that both have, and the manifest


def test_a_part_under_another_blocks_number_is_damaged(made: Callable[[str], Made], the_world: World) -> None:
    kind, folder, before = made("sweep")
    trials = folder / "run" / "trials"
    first, second = (next(trials.glob(f"part-00000{number}-*")) for number in (0, 1))
    moved = trials / second.name.replace("part-000001", "part-000007")
    second.rename(moved)
    assert outcome(kind, the_world, folder, before, "a renamed part") == REFUSED
    moved.rename(second)
    swapped = [path.read_bytes() for path in (first, second)]
    for path, content in zip((second, first), swapped, strict=True):
        path.write_bytes(content)
    assert outcome(kind, the_world, folder, before, "two exchanged parts") == REFUSED
    for path, content in zip((first, second), swapped, strict=True):
        path.write_bytes(content)
    assert kind.read(the_world, folder) == before
