"""A process that is gone at any instant: what a reader sees is the old thing or the new one, and the same goes on.

1. Gone before every step on the disk (a write and its middle, a rename, an exchange, an fsync, a new or removed entry).
2. Killed at random instants.

Each time the state is one that the door allows, whatever is read is whole, page and tables agree; then the same runs
again and leaves the very files of a run that nobody disturbed.
"""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stress.children import report
from tests.stress.conftest import Stage
from tests.stress.doors import DOORS

QUICK = [name for name, door in DOORS.items() if door.quick and not door.command]
FIGURES = Path(__file__)
MINUTES = 3


def kill_at(stage: Stage, step: int) -> str:
    folder = stage.fresh()
    end = stage.run(folder, stop_at=step)
    assert end.killed, f"{stage.name} at {step}: {end.said[-3000:]}"
    seen = stage.good(folder)
    stage.again(folder)
    return seen


@pytest.mark.parametrize("name", QUICK)
def test_gone_at_some_steps(name: str, stage: Callable[[str], Stage]) -> None:
    """A sample of what the slow test does whole; of what takes long, one."""
    found = stage(name)
    dice, last = random.Random(name), found.end.steps - 1
    for step in [dice.randint(0, last)] if found.end.seconds > 0.4 else [0, *dice.sample(range(1, last), 2), last]:
        kill_at(found, step)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(DOORS))
def test_gone_at_every_step(name: str, stage: Callable[[str], Stage]) -> None:
    """Of a door that takes long, at every second or every n-th, so that it is done in a few minutes."""
    found = stage(name)
    long = 2.5 * found.end.seconds * found.end.steps  # it runs again after each
    steps = range(0, found.end.steps, 1 + min(int(long // MINUTES / 60), found.end.steps // 8))
    seen = [kill_at(found, step) for step in steps]
    report(FIGURES, door=name, kills=len(seen), seen={state: seen.count(state) for state in sorted(set(seen))})
    assert len(seen) >= min(6, found.end.steps)


@pytest.mark.slow
def test_killed_at_random_instants(stage: Callable[[str], Stage]) -> None:
    """200 kills over all commands; the last tenths of a second, where they write, are drawn more often."""
    dice = random.Random(0)
    commands = [name for name, door in DOORS.items() if door.command]
    killed: dict[str, int] = {}
    for number in range(10_000):
        if sum(killed.values()) >= 200:
            break
        found = stage(commands[number % len(commands)])
        if found.end.seconds > 6 and number >= len(commands):
            continue
        folder = found.fresh()
        late = dice.random() < 0.7
        end = found.run(folder, kill_after=found.end.seconds * (dice.uniform(0.8, 1.0) if late else dice.random()))
        killed[found.name] = killed.get(found.name, 0) + end.killed
        assert end.killed or end.status == 0, end.said[-3000:]
        found.good(folder)
        found.again(folder)
    report(FIGURES, random=killed)
    assert sum(killed.values()) >= 200
