"""An executor in this process that does to tasks and answers what a trip to another process does, last task first; and
what workers are sent by tests, in a module that they can import.
"""

import os
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from steerscope.analysis.engine.run import Readout


def posted(work: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
    for task in reversed(list(tasks)):
        yield pickle.loads(pickle.dumps(work(pickle.loads(pickle.dumps(task)))))


def first_alone(readout: Readout) -> Tensor:
    assert readout.logits is not None
    return readout.mean(readout.logits[:, 0].double())


def failing(readout: Readout) -> Tensor:
    raise KeyError("a bug")


@dataclass(frozen=True)
class Deadly:
    """A score that kills the first worker that computes it."""

    mark: Path

    def __call__(self, readout: Readout) -> Tensor:
        try:
            self.mark.touch(exist_ok=False)
        except FileExistsError:
            return first_alone(readout)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def killed(task: Any) -> Any:
    os._exit(1)
