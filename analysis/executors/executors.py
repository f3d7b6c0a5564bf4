"""Executors: run a function on tasks, here, in processes, or on Ray, and yield the answers as they come.

All give the same answers: a task says by itself what is in it. Few tasks are under way at a time, so memory does not
grow with their number. The tasks of a lost worker run again.

An executor is a function (work, tasks) -> answers. One whose workers can stay for further tasks has `opened`, a context
that gives such a function (`Opened`).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import Any, Protocol, TypeVar

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.gate import gated, shown

from .on_ray import Ray
from .post import Handle, Inside
from .processes import Processes, Workers

__all__ = ["EXECUTORS", "Executor", "Opened", "Processes", "Ray", "Workers", "executor", "local", "named", "opened"]

Task = TypeVar("Task")
Done = TypeVar("Done")
Executor = Callable[[Callable[[Task], Done], Iterable[Task]], Iterator[Done]]


class Opened(Protocol):
    """An executor whose workers stay.

    Attributes:
        workers: among how many this machine's memory is shared out.
    """

    workers: int

    def __call__(self, work: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        """Yields answers in the order in which they are done."""

    def sharing(self, name: str, data: bytes) -> AbstractContextManager[Handle]:
        """A parcel that tasks refer to in a block."""


def local(work: Callable[[Task], Done], tasks: Iterable[Task]) -> Iterator[Done]:
    """One after another, in this process."""
    return map(work, tasks)


class _Each:
    """An executor of the user's own, opened: what is shared goes with every task."""

    def __init__(self, how: Executor[Any, Any]) -> None:
        self.workers, self._how = 1, how

    def __call__(self, work: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        return iter(self._how(work, tasks))

    def sharing(self, name: str, data: bytes) -> AbstractContextManager[Handle]:
        return nullcontext(Inside(name, data))


@contextmanager
def opened(how: Executor[Any, Any]) -> Iterator[Opened]:
    """An executor whose workers stay in this block."""
    if isinstance(how, Processes | Ray):
        with how.opened() as found:
            yield found
    else:
        yield _Each(how)


EXECUTORS: dict[str, Callable[..., Executor[Any, Any]]] = {
    "local": lambda workers=None, address=None: local,
    "processes": lambda workers=None, address=None: Processes(workers),
    "ray": lambda workers=None, address=None: Ray(address, workers),
}


@gated
def executor(
    how: str | Executor[Any, Any], workers: Workers | None = None, address: str | None = None
) -> Executor[Any, Any]:
    """An executor by name; one that is there already stays.

    Raises:
        BadArgument: an unknown name, an address without Ray, or no function of a function and tasks.
    """
    if not isinstance(how, str):
        try:
            signature(how).bind(len, ())
        except (TypeError, ValueError) as error:
            raise BadArgument(
                f"executor={shown(how)} takes no function and tasks ({error}); expected local, processes, ray, or a "
                "function like them; choose one"
            ) from error
        if workers is not None or address is not None:
            raise BadArgument(
                f"executor={shown(how)} beside {'workers' if address is None else 'an address'}; expected these of an "
                "executor by name; leave them out"
            )
        return how
    if how not in EXECUTORS:
        raise BadArgument(f"unknown executor {shown(how)}; expected one of {', '.join(EXECUTORS)}; choose one")
    if (address is not None and how != "ray") or (workers is not None and how == "local"):
        raise BadArgument(
            f"the executor {how} takes no {'address' if address else 'workers'}; expected "
            f"{'ray' if address else 'processes or ray'} with it; add --executor"
        )
    return EXECUTORS[how](workers=workers, address=address)


def named(how: Any) -> str:
    """An executor in words, for logs and manifests."""
    if isinstance(how, Processes | Ray):
        return f"{type(how).__name__.lower()}" + (f", {how.workers} workers" if how.workers else "")
    return str(getattr(how, "__name__", how))
