"""Executors: one question in this process and in worker processes, on the same cores; and what a chunk costs to send.

`exact` alone (no growing sets, no further tables), with the cores as threads of this process, and shared out among
workers. The first run of workers holds their start; the second does not. What is told of a chunk is measured beside, in
this process: packing and opening its rows and its answer.

    python -m benchmarks.executors [--model tinystories-2l] [--prompts 12] [--references 20] [--workers N] [--local]
"""

import argparse
import pickle
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from benchmarks.common import line, processor, quiet
from steerscope.analysis.carriers.exact import exact
from steerscope.analysis.engine.elsewhere import executor
from steerscope.analysis.executors.processes import cores
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.results.result import Result
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.loader import load
from steerscope.prompt_sets import prompts as shipped

COLUMNS = ["seconds", "chunks", "ratio", "difference"]  # of effects, from the first line's, over the largest


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="tinystories-2l")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--references", type=int, default=20)
    parser.add_argument("--workers", type=int, default=cores())
    options = parser.parse_args()
    quiet()
    torch.set_num_threads(cores())
    model = load(options.model, device="cpu")
    print(f"{model!r}; torch {torch.__version__}, {cores()} cores; {processor()}")
    line("", *COLUMNS, first=40)
    threads = f"1 process, {cores()} threads"
    first = told(threads, model, options, nullcontext())
    count = Counted()
    told("tasks packed, in this process", model, options, executor(count), first)
    workers = executor("processes", workers=options.workers)
    with workers:
        for turn in ("with their start", "again"):
            told(f"{options.workers} workers, {turn}", model, options, nullcontext(), first)
    count.line()


def asked(model: Model, options: Any) -> Experiment:
    vector = prompt_pair(model, " wedding", " ", layer=min(6, model.n_layers // 5))
    texts: Any = shipped("general")[: options.prompts]
    return Experiment(model, (Injection(vector, 3.0),), texts, references=f"isotropic:{options.references}")


def told(name: str, model: Model, options: Any, where: Any, first: Any = None) -> tuple[float, Result]:
    """Asks once, and prints a line."""
    start = time.perf_counter()
    with where:
        result = exact(asked(model, options), completions=0, writers=False, attention=False, growing=False)
    seconds = time.perf_counter() - start
    off = "" if first is None else f"{apart(result, first[1]):.0e}"
    ratio = "" if first is None else f"{first[0] / seconds:.2f}x"
    line(name, f"{seconds:.1f}", "", ratio, off, first=40)
    return seconds, result


def apart(found: Result, expected: Result) -> float:
    a, b = (result.frames["effects"]["effect"].to_numpy() for result in (found, expected))
    return float(np.abs(a - b).max() / np.abs(b).max())


class Counted:
    """An executor in this process, that takes the time of what tasks and answers go through."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []
        self.seconds: list[float] = []

    def __call__(self, work: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        for task in tasks:
            start = time.perf_counter()
            answer = work(pickle.loads(pickle.dumps(task)))
            self.seconds.append(time.perf_counter() - start)
            self.sizes.append((len(task.chunk), len(answer.data)))
            yield answer

    def line(self) -> None:
        there, back = (statistics.median(column) for column in zip(*self.sizes, strict=True))
        print(f"{len(self.sizes)} chunks, {there / 1e3:,.0f} kB there and {back / 1e3:,.1f} kB back (medians)")


if __name__ == "__main__":
    main()
