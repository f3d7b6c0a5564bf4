"""One small world for all stress tests, and stages on which a door is tried again and again."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steerscope.analysis.sweeps.store import LOG
from tests.stress.children import End, child
from tests.stress.doors import DOORS, FOREIGN
from tests.stress.world import NEW, World, forget_world, world


class Stage:
    """A door with what stands before it, and what it leaves when nothing disturbs it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.door, self.folder, self.count = name, DOORS[name], folder, 0
        self.template = folder / "template"
        self.template.mkdir(parents=True)
        end = child(lambda: self.door.prepare(world(), self.template), self.template)
        assert end.status == 0, end.said[-3000:]
        assert self.state(self.template) == self.door.before
        whole = self.fresh()
        self.end = self.run(whole)
        assert self.end.status == 0, self.end.said[-3000:]
        assert self.state(whole) == NEW
        self.tree = tree(whole)
        shutil.rmtree(whole)

    def fresh(self, at: Path | None = None) -> Path:
        """What stood there before, once more."""
        self.count += 1
        place = at or self.folder / f"{self.count}"
        shutil.copytree(self.template, place, symlinks=True, dirs_exist_ok=True)
        return place

    def run(self, folder: Path, **how: object) -> End:
        return child(lambda: self.door.run(world(), folder), folder, **how)  # type: ignore[arg-type]

    def state(self, folder: Path) -> str:
        return self.door.state(world(), folder)

    def good(self, folder: Path) -> str:
        """The state after a disturbance, which must be one of those that the door allows."""
        seen = self.state(folder)
        assert seen in self.door.states, f"{self.name}: {seen}, {tree(folder)}"
        for path in self.template.rglob(FOREIGN):
            assert (folder / path.relative_to(self.template)).read_text() == "mine"
        return seen

    def again(self, folder: Path) -> None:
        """The same once more: it succeeds, and nothing stays of what was disturbed."""
        end = self.run(folder)
        assert end.status == 0, f"{self.name}: {end.said[-3000:]}"
        assert self.good(folder) == NEW
        assert tree(folder) == self.tree, self.name
        shutil.rmtree(folder, ignore_errors=True)


def tree(folder: Path) -> list[str]:
    """All names below a folder, but for the log: a session that was killed notes nothing."""
    paths = [Path(at, name) for at, names, files in os.walk(folder) for name in (*names, *files)]
    return sorted(path.relative_to(folder).as_posix() for path in paths if path.name != LOG)


@pytest.fixture(scope="session")
def the_world() -> Iterator[World]:
    made = world()
    _ = made.model, made.windows, made.result, made.page, made.vector, made.lens  # children inherit them
    yield made
    forget_world()


@pytest.fixture(scope="session")
def stage(the_world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Stage]:
    """A stage by the door's name, each made once."""
    made: dict[str, Stage] = {}

    def by_name(name: str) -> Stage:
        if name not in made:
            made[name] = Stage(name, tmp_path_factory.mktemp("stage") / "s")
        return made[name]

    return by_name
