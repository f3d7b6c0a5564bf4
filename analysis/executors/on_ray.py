"""`Ray`: tasks on Ray, on this machine or on a cluster."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.gate import gated

from .post import Handle
from .processes import LOST, Workers, set_threads

Task = TypeVar("Task")
Done = TypeVar("Done")


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
        with self.opened() as cluster:
            yield from cluster(work, tasks)

    @contextmanager
    def opened(self) -> "Iterator[Cluster]":
        """Ray, connected in this block.

        Raises:
            BadArgument: Ray is not installed, or there is no cluster at the address.
        """
        ray, ours = _ray(self.address, self.workers)
        try:
            yield Cluster(ray, self.workers, self.address is None)
        finally:
            if ours:
                ray.shutdown()


class Cluster:
    """Open `Ray`.

    Attributes:
        workers: how many of them share this machine's memory, as far as is known.
    """

    def __init__(self, ray: Any, workers: int | None, here: bool) -> None:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        self._ray = ray
        self._count = workers or gpus or int(resources.get("CPU", 1))
        self._task = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=LOST)(_on_ray)
        self.workers = self._count if here else 1

    def __call__(self, work: Callable[[Task], Done], tasks: Iterable[Task]) -> Iterator[Done]:
        """Yields answers in the order in which they are done."""
        ray, what, rest = self._ray, self._ray.put(work), iter(tasks)
        under_way = [self._task.remote(what, item) for item in islice(rest, 2 * self._count)]
        try:
            while under_way:
                finished, under_way = ray.wait(under_way, num_returns=1)
                try:
                    answer = ray.get(finished[0])
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                under_way += [self._task.remote(what, item) for item in islice(rest, 1)]
                yield answer
        finally:
            for task in under_way:
                ray.cancel(task)

    def sharing(self, name: str, data: bytes) -> AbstractContextManager[Handle]:
        """A parcel that tasks refer to in a block; it is kept once on each machine."""
        return nullcontext(Put(name, self._ray.put(data)))


@dataclass(frozen=True)
class Put:
    """A parcel in Ray's store."""

    name: str
    reference: Any

    def get(self) -> bytes:
        import ray

        found: bytes = ray.get(self.reference)
        return found


def _on_ray(work: Callable[[Task], Done], task: Task) -> Done:
    set_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
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
