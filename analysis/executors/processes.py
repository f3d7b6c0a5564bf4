"""`Processes`: workers on this machine. They start at the first task, and stay for the next ones while it is open."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, TypeVar

from steerscope.analysis.errors import BrokenInvariant
from steerscope.analysis.gate import Within, gated

from .post import Handle, Post

Task = TypeVar("Task")
Done = TypeVar("Done")
Workers = Annotated[int, Within(1, 1024)]
LOST = 5  # workers that may be lost before the run stops: something kills them all
ENDING = 30.0  # seconds in which a worker that is told to end does so, or is killed


@gated
@dataclass(frozen=True)
class Processes:
    """Worker processes on this machine, the cores shared out among them."""

    workers: Workers | None = None

    def __call__(self, work: Callable[[Task], Done], tasks: Iterable[Task]) -> Iterator[Done]:
        """Yields answers in the order in which they are done, from workers that end with it.

        Raises:
            BrokenInvariant: workers die again and again.
        """
        with self.opened() as pool:
            yield from pool(work, tasks)

    @contextmanager
    def opened(self) -> "Iterator[Pool]":
        """Workers that stay in this block; where it is left by an error or Ctrl-C, they end at once."""
        pool = Pool(self.workers or cores())
        try:
            yield pool
        except BaseException:
            pool.close(at_once=True)
            raise
        pool.close()


class Pool:
    """Open `Processes`.

    Attributes:
        workers: how many.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._own: list[Any] = []  # processes
        self._post: Post | None = None

    def __call__(self, work: Callable[[Task], Done], tasks: Iterable[Task]) -> Iterator[Done]:
        """Yields answers in the order in which they are done; the tasks of a lost worker run again.

        Raises:
            BrokenInvariant: workers die again and again.
        """
        rest, waiting = iter(tasks), list[Task]()
        for _ in range(LOST):
            pool, under_way = self._started(), dict[Future[Done], Task]()
            try:
                while True:
                    waiting += islice(rest, max(0, 2 * self.workers - len(under_way) - len(waiting)))
                    while waiting:
                        under_way[self._submitted(pool, work, waiting[0])] = waiting[0]
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
                if pool is self._pool:
                    self._end()
            finally:
                for future in under_way:
                    future.cancel()
        raise BrokenInvariant(
            f"workers died {LOST} times; expected them to live; look for what kills them (memory? a script that does "
            'its work outside of `if __name__ == "__main__":`?), or use fewer'
        )

    def sharing(self, name: str, data: bytes) -> AbstractContextManager[Handle]:
        """A parcel that tasks refer to in a block."""
        self._post = self._post or Post()
        return self._post.holding(name, data)

    def close(self, at_once: bool = False) -> None:
        """Ends the workers; `at_once`: whatever they are doing."""
        self._end(at_once)
        if self._post is not None:
            self._post.close()

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            threads = max(1, cores() // self.workers)
            self._pool = ProcessPoolExecutor(
                self.workers, multiprocessing.get_context("spawn"), initializer=_start, initargs=(threads,)
            )
            self._own = []
        return self._pool

    def _submitted(self, pool: ProcessPoolExecutor, work: Callable[[Task], Done], task: Task) -> Future[Done]:
        """A task under way; a worker may start for it, which is then known as ours."""
        if len(self._own) == self.workers:
            return pool.submit(work, task)
        with _uninterrupted():
            before = set(multiprocessing.active_children())
            future = pool.submit(work, task)
            self._own += [child for child in multiprocessing.active_children() if child not in before]
        return future

    def _end(self, at_once: bool = False) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        if at_once:
            for process in self._own:
                process.terminate()
        late = threading.Timer(ENDING, _kill, [self._own])
        late.daemon = True
        late.start()
        try:
            pool.shutdown(wait=True, cancel_futures=True)
        finally:
            late.cancel()


def _kill(processes: list[Any]) -> None:
    for process in processes:
        process.kill()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until this block is done; processes that start in it never hear of it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(threads: int) -> None:
    """A worker process: Ctrl-C is for the one that started it, and it ends when that one does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_threads(threads)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def set_threads(count: int) -> None:
    """Threads that torch may use in this process."""
    import torch

    torch.set_num_threads(count)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
