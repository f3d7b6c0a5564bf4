"""What a stopped question keeps: what was read of each vector, so that the same question goes on behind it.

1. A command opens a place (`keeping`): a hidden folder in the one that its result goes to.
2. A loop over vectors (`each`) says what is read of one. Where a place is open, that is written as it is done, and read
   from there when the same is asked again: after Ctrl-C, after a kill.
3. A file is named by the hash of all that determines its numbers: model, weights, prompts, metric, positions, the real
   vector, its own vector, the seed, what the loop was given, versions. Another question finds nothing that is its own.
4. When the result is saved, the folder goes (`forget`).

Arrays come back bit for bit, so the rows are those of a run that was not stopped. A part that was damaged or renamed is
read again. Elsewhere, in Python and in tests, no place is open and nothing is written.
What it cannot see: code that was changed under the same version, and what a method does outside of its loops.
"""

import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from steerscope.analysis.errors import CannotWrite, DamagedRun
from steerscope.analysis.files import write
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.seals import digest
from steerscope.analysis.tensors import read_tensors, tensor_bytes

FOLDER = ".unfinished"
SECONDS = 2.0  # of work that a kill may cost: what takes less is not worth a file for each vector
PACKAGES = ("steerscope", "torch", "transformers", "transformer-lens", "numpy")
Arrays = tuple[NDArray[Any], ...]


@dataclass(eq=False)
class _Place:
    """The open place.

    Attributes:
        waiting: by name of their file, what is done and not written yet.
        written: when something was, last.
        loop, done, vectors: the name of the loop that runs, and how far it is.
    """

    folder: Path
    waiting: dict[str, Arrays] = field(default_factory=dict)
    written: float = field(default_factory=time.monotonic)
    loop: str = ""
    done: int = 0
    vectors: int = 0

    def find(self, name: str) -> Arrays | None:
        """What is kept under a name, if it is whole and its own."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            tensors, about = read_tensors(path, DamagedRun, "part of a question")
        except DamagedRun:
            return None
        return tuple(tensors[key].numpy() for key in sorted(tensors)) if about.get("name") == name else None

    def keep(self, name: str, arrays: Arrays) -> None:
        self.waiting[name] = arrays
        if time.monotonic() - self.written > SECONDS:
            self.write()

    def write(self) -> None:
        """Writes what waits."""
        if self.waiting and self.folder.is_symlink():
            raise CannotWrite(f"{str(self.folder)!r} is a link; expected a folder of steerscope's own; remove it")
        for name, arrays in list(self.waiting.items()):
            tensors = {f"{i:04}": torch.from_numpy(np.array(array, order="C")) for i, array in enumerate(arrays)}
            write(self.folder / name, tensor_bytes(tensors, {"name": name, "loop": self.loop}))
            del self.waiting[name]
        self.written = time.monotonic()

    @property
    def said(self) -> str:
        """How far it was when it was stopped."""
        if not self.done:
            return ""
        loop = "" if self.loop == "vectors" else f" ({self.loop})"
        return f"stopped after {self.done} of {self.vectors} vectors{loop}, which are kept; the same command goes on"


_OPEN: ContextVar[_Place | None] = ContextVar("_OPEN", default=None)


@contextmanager
def keeping(out: Path) -> Iterator[None]:
    """What the loops in this block read is kept in the folder of the result.

    Raises:
        KeyboardInterrupt: it was stopped; its text says how far it was.
    """
    place = _Place(out / FOLDER)
    token = _OPEN.set(place)
    try:
        yield
    except KeyboardInterrupt:
        place.write()
        raise KeyboardInterrupt(place.said) from None
    finally:
        _OPEN.reset(token)


def forget(out: Path) -> None:
    """Removes what was kept: the result is there."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)


def each(
    experiment: Experiment,
    loop: str,
    read: Callable[[int], Arrays],
    *given: object,
    vectors: Sequence[int] | None = None,
) -> Iterator[Arrays]:
    """What `read` gives of every vector, under a bar; what is kept of an earlier run is not read again.

    Args:
        loop: its name, on the bar.
        read: of a vector (0 is the real one), some arrays.
        given: what else determines them (nodes, steps, ...), told apart by their `str`.
        vectors: all of the experiment by default.
    """
    place = _OPEN.get()
    chosen = experiment.vectors if vectors is None else vectors
    if place is None:
        yield from map(read, track(chosen, loop))
        return
    place.loop, place.done, place.vectors = loop, 0, len(chosen)
    about = _about(experiment, [loop, *given])
    for vector in track(chosen, loop):
        name = _name(about, experiment.steering[vector])
        found = place.find(name)
        if found is None:
            found = read(vector)
            place.keep(name, found)
        place.done += 1
        yield found


def _about(experiment: Experiment, given: Sequence[object]) -> dict[str, object]:
    """All that determines what a loop reads, but for the vector."""
    about = experiment.describe()
    del about["references"]  # the others say nothing of this one
    return about | {
        "given": given,
        "groups": experiment.prompts.by_group.tolist(),
        "positions": experiment.scored_positions.positions,
        "budget": experiment.budget,
        "versions": _versions(),
    }


def _name(about: Mapping[str, object], vector: Sequence[Injection]) -> str:
    """Of the file of a vector."""
    every = {**about, "vector": [injection.describe() for injection in vector]}
    return f"{digest(json.dumps(every, sort_keys=True, default=str).encode())[:40]}.safetensors"


@cache
def _versions() -> list[str]:
    return [platform.machine(), *map(version, PACKAGES)]
