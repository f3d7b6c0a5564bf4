"""Executors: one question in this process and in worker processes, on the same cores; and what a chunk costs to send.

`exact` alone (no growing sets, no further tables), with the cores as threads of this process, and shared out among
workers. The first run of workers holds their start; the second does not. What packing and opening take is measured in
this process, in seconds of the processor: of the chunks, of their answers, of what they share (jobs) and of the model.

    python -m benchmarks.executors [--model tinystories-2l] [--prompts 12] [--references 20] [--workers N] [--packing]
"""

import argparse
import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from benchmarks.common import line, processor, quiet
from steerscope.analysis.carriers.exact import exact
from steerscope.analysis.engine import elsewhere
from steerscope.analysis.engine.elsewhere import executor
from steerscope.analysis.executors.processes import cores
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.results.result import Result
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.loader import load
from steerscope.prompt_sets import prompts as shipped

COLUMNS = ["seconds", "ratio", "difference"]  # of effects, from the first line's, over the largest


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="tinystories-2l")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--references", type=int, default=20)
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--packing", action="store_true", help="only what packing takes, with one thread")
    options = parser.parse_args()
    quiet()
    torch.set_num_threads(1 if options.packing else cores())
    model = load(options.model, device="cpu")
    print(f"{model!r}; torch {torch.__version__}, {cores()} cores; {processor()}")
    line("", *COLUMNS, first=40)
    first = told(f"1 process, {torch.get_num_threads()} threads", model, options, nullcontext())
    counted = Counted()
    told("through parcels, in this process", model, options, counted.open(), first)
    if not options.packing:
        with executor("processes", workers=options.workers):
            for turn in ("with their start", "again"):
                told(f"{options.workers} workers, {turn}", model, options, nullcontext(), first)
    counted.tell()


def asked(model: Model, options: Any) -> Experiment:
    vector = prompt_pair(model, " wedding", " ", layer=model.n_layers // 5)
    texts: Any = shipped("general")[: options.prompts]
    return Experiment(model, (Injection(vector, 3.0),), texts, references=options.references)


def told(
    name: str, model: Model, options: Any, where: AbstractContextManager[Any], first: tuple[float, Result] | None = None
) -> tuple[float, Result]:
    """Asks once, and prints a line."""
    start = time.perf_counter()
    with where:
        result = exact(asked(model, options), completions=0, writers=False, attention=False, growing=False)
    seconds = time.perf_counter() - start
    off = "" if first is None else f"{apart(result, first[1]):.0e}"
    ratio = "" if first is None else f"{first[0] / seconds:.2f}x"
    line(name, f"{seconds:.1f}", ratio, off, first=40)
    return seconds, result


def apart(found: Result, expected: Result) -> float:
    a, b = (result.frames["effects"]["effect"].to_numpy() for result in (found, expected))
    return float(np.abs(a - b).max() / np.abs(b).max())


class Counted:
    """An executor in this process that counts what its tasks and answers weigh, and what packing takes."""

    def __init__(self) -> None:
        self.tasks, self.sent, self.back, self.working = 0, 0, 0, 0.0
        self.packing: dict[str, float] = {}
        self.model = 0  # bytes of its parcel

    def open(self) -> AbstractContextManager[None]:
        for name in ("pack", "unpack"):
            vars(elsewhere)[name] = self._timed(name, vars(elsewhere)[name])
        return executor(self)

    def __call__(self, work: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        for task in tasks:
            start = time.process_time()
            answer = work(pickle.loads(pickle.dumps(task)))
            self.working += time.process_time() - start
            self.tasks, self.sent, self.back = self.tasks + 1, self.sent + len(task.chunk), self.back + len(answer.data)
            yield answer

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any) -> Any:
            start = time.process_time()
            found = function(*given)
            if isinstance(given[0], Model):
                self.model = len(found)
            model = isinstance(given[0], Model) or (isinstance(given[0], bytes) and len(given[0]) == self.model)
            what = "the model" if model else "chunks, answers and jobs"
            self.packing[what] = self.packing.get(what, 0.0) + time.process_time() - start
            return found

        return timed

    def tell(self) -> None:
        per = 1e3 / max(1, self.tasks)
        print(
            f"{self.tasks} chunks of {self.sent / 1e3 / max(1, self.tasks):,.0f} kB, answers of "
            f"{self.back / 1e3 / max(1, self.tasks):,.1f} kB; {self.working * per:,.1f} ms of work a chunk, "
            f"{self.packing.get('chunks, answers and jobs', 0.0) * per:,.2f} ms of packing and opening a chunk (jobs "
            f"included); {self.packing.get('the model', 0.0):.2f} s of the model, {self.model / 1e6:,.0f} MB, in all"
        )


if __name__ == "__main__":
    main()
