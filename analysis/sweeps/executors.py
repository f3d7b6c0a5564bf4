"""Executors: run a function on blocks, here, in processes, or on Ray, and yield the answers as they come.

All give the same answers: a block says by itself what is in it. Few blocks are under way at a time, so
memory does not grow with their number. The blocks of a lost worker run again.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, TypeVar

from steerscope.analysis.errors import BadArgument, BrokenInvariant
from steerscope.analysis.gate import Within, gated, shown

Task = TypeVar("Task")
Done = TypeVar("Done")
Executor = Callable[[Callable[[Task], Done], Iterable[Task]], Iterator[Done]]
Workers = Annotated[int, Within(1, 1024)]
LOST = 5  # workers that may be lost before the run stops: something kills them all


def local(work: Callable[[Task], Done], tasks: Iterable[Task]) -> Iterator[Done]:
    """One after another, in this process."""
    return map(work, tasks)


@gated
@dataclass(frozen=True)
class Processes:
    """Worker processes on this machine, the cores shared out among them."""

    workers: Workers | None = None

    def __call__(self, work: Callable[[Task], Done], tasks: Iterable[Task]) -> Iterator[Done]:
        """Yields answers in the order in which they are done.

        Raises:
            BrokenInvariant: workers die again and again.
        """
        count, rest = self.workers or cores(), iter(tasks)
        waiting: list[Task] = []
        for _ in range(LOST):
            pool = ProcessPoolExecutor(
                count, multiprocessing.get_context("spawn"), initializer=_start, initargs=(max(1, cores() // count),)
            )
            under_way: dict[Future[Done], Task] = {}
            try:
                while True:
                    waiting += islice(rest, 2 * count - len(under_way) - len(waiting))
                    while waiting:
                        under_way[pool.submit(work, waiting[0])] = waiting[0]
                        waiting.pop(0)
                    if not under_way:
                        return
                    finished, _ = wait(under_way, return_when=FIRST_COMPLETED)
                    for future in finished:
                        answer = future.result()
                        del under_way[future]
                        yield answer
            except BrokenProcessPool:
                waiting = [*under_way.values(), *waiting]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        raise BrokenInvariant(
            f"workers died {LOST} times; expected them to live; look for what kills them (memory?), or use fewer"
        )


@gated
@dataclass(frozen=True)
class Ray:
    """Tasks on Ray: a cluster at `address`, or worker processes of this machine.

    Attributes:
        address: of a cluster, such as auto or ray://host:10001; None starts Ray here.
        workers: tasks at a time; by default as many as the cluster has GPUs, or else cores.
    """

    address: str | None = None
    workers: Workers | None = None

    def __call__(self, work: Callable[[Task], Done], tasks: Iterable[Task]) -> Iterator[Done]:
        """Yields answers in the order in which they are done; Ray runs the tasks of a lost worker again.

        Raises:
            BadArgument: Ray is not installed, or there is no cluster at the address.
        """
        ray, ours = _ray(self.address, self.workers)
        try:
            yield from self._answers(ray, work, iter(tasks))
        finally:
            if ours:
                ray.shutdown()

    def _answers(self, ray: Any, work: Callable[[Task], Done], rest: Iterator[Task]) -> Iterator[Done]:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        count = self.workers or gpus or int(resources.get("CPU", 1))
        what = ray.put(work)
        task = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=LOST)(_on_ray)
        under_way = [task.remote(what, item) for item in islice(rest, 2 * count)]
        while under_way:
            finished, under_way = ray.wait(under_way, num_returns=1)
            try:
                answer = ray.get(finished[0])
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            under_way += [task.remote(what, item) for item in islice(rest, 1)]
            yield answer


def _on_ray(work: Callable[[Task], Done], task: Task) -> Done:
    _threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return work(task)


def _ray(address: str | None, workers: int | None) -> tuple[Any, bool]:
    """Ray, connected, and whether we connected it. It tells nobody that it is used."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise BadArgument(
            "the executor ray needs the package ray, which is not installed; expected it; install steerscope[ray], "
            "or use --executor processes"
        ) from error
    if ray.is_initialized():
        return ray, False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            ray.init(num_cpus=workers, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BadArgument(
            f"no Ray cluster at {address!r} ({str(error).splitlines()[0][:120]}); expected a running one; "
            "start it with `ray start --head`, or leave the address out"
        ) from error
    return ray, True


def _start(threads: int) -> None:
    """A worker process: Ctrl-C is for the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _threads(threads)


def _threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


EXECUTORS: dict[str, Callable[..., Executor[Any, Any]]] = {
    "local": lambda workers=None, address=None: local,
    "processes": lambda workers=None, address=None: Processes(workers),
    "ray": lambda workers=None, address=None: Ray(address, workers),
}


@gated
def executor(name: str, workers: Workers | None = None, address: str | None = None) -> Executor[Any, Any]:
    """An executor by name.

    Raises:
        BadArgument: an unknown name, or an address without Ray.
    """
    if name not in EXECUTORS:
        raise BadArgument(f"unknown executor {shown(name)}; expected one of {', '.join(EXECUTORS)}; choose one")
    if (address is not None and name != "ray") or (workers is not None and name == "local"):
        raise BadArgument(
            f"the executor {name} takes no {'address' if address else 'workers'}; expected "
            f"{'ray' if address else 'processes or ray'} with it; add --executor"
        )
    return EXECUTORS[name](workers=workers, address=address)
