"""That no door is forgotten: every command, every function that writes, every function that reads."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import typer

from steerscope.cli import app
from tests.stress import sources
from tests.stress.children import child
from tests.stress.conftest import Stage
from tests.stress.doors import DOORS, MAY_BE_LOST, RAW, SILENT, WRITERS
from tests.stress.kinds import KINDS, READERS
from tests.stress.world import world


def commands(group: Any = None, before: str = "") -> set[str]:
    """Every command of the command line, in words."""
    group = group or typer.main.get_command(app)
    found: set[str] = set()
    for name, command in group.commands.items():
        found |= commands(command, f"{before}{name} ") if hasattr(command, "commands") else {before + name}
    return found


def test_every_command_is_a_door_or_writes_nothing() -> None:
    """A new command belongs into `DOORS` (or `SILENT`) of tests/stress/doors.py."""
    assert commands() == {door.command for door in DOORS.values() if door.command} | SILENT


def test_every_function_that_writes_is_reached_by_a_door() -> None:
    """A new one belongs into `WRITERS`, with a door that reaches it."""
    assert sources.writers() == set(WRITERS) | set(MAY_BE_LOST)
    assert set(WRITERS.values()) <= set(DOORS)


def test_nobody_else_changes_a_folder() -> None:
    """Whoever must belongs into `RAW`, with the reason."""
    assert sources.raw() == set(RAW)
    fresh = {where for where, why in RAW.items() if why == "into a fresh folder"}
    assert {where.split(":")[0] for where in fresh} <= {where.split(":")[0] for where in sources.writers()}


def test_every_function_that_reads_what_is_sealed_belongs_to_a_kind_of_folder() -> None:
    """A new one belongs into `READERS` of tests/stress/kinds.py, with the kind whose bits are flipped."""
    assert sources.readers() == set(READERS)
    assert set(READERS.values()) <= set(KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(WRITERS.values())))
def test_the_doors_reach_the_writers_that_they_are_named_for(
    name: str, stage: Callable[[str], Stage], tmp_path: Path
) -> None:
    found = stage(name)
    folder = found.fresh()

    def watched() -> None:
        reached = set()

        def note(frame: FrameType, event: str, _: object) -> None:
            if event == "call" and frame.f_code.co_filename.startswith(str(sources.ROOT)):
                reached.add((Path(frame.f_code.co_filename).resolve(), frame.f_code.co_name))

        sys.setprofile(note)
        found.door.run(world(), folder)
        sys.setprofile(None)
        names = [f"{path.relative_to(sources.ROOT).as_posix()}:{function}" for path, function in reached]
        (tmp_path / "reached").write_text("\n".join(names))

    end = child(watched, folder)
    assert end.status == 0, end.said[-3000:]
    reached = set((tmp_path / "reached").read_text().splitlines())
    assert {where for where, door in WRITERS.items() if door == name} <= reached
