"""`Post`: hands parcels out to the worker processes that this process has started, each when it asks for one.

So what all tasks share (a model, a score) reaches a worker once, and one that was started late, too. Workers know the
key of this process (`multiprocessing` hands it on); nobody else is served.
"""

import multiprocessing
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Client, Listener
from threading import Thread
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Handle(Protocol):
    """Stands for a parcel, and is small: it goes with every task."""

    @property
    def name(self) -> str: ...

    def get(self) -> bytes | memoryview:
        """The parcel, wherever this is asked."""


@dataclass(frozen=True)
class Inside:
    """A parcel that goes with every task."""

    name: str
    data: bytes

    def get(self) -> bytes:
        return self.data


@dataclass(frozen=True)
class Letter:
    """A parcel that is asked for at the address of a `Post`."""

    name: str
    address: Any

    def get(self) -> bytes:
        with Client(self.address, authkey=multiprocessing.current_process().authkey) as post:
            post.send_bytes(self.name.encode())
            return post.recv_bytes()


class Post:
    """Serves in a thread of its own until it is closed."""

    def __init__(self) -> None:
        self._parcels: dict[str, bytes] = {}
        self._listener = Listener(backlog=128, authkey=multiprocessing.current_process().authkey)
        self._open = True
        self._thread = Thread(target=self._serve, daemon=True, name="steerscope post")
        self._thread.start()

    @contextmanager
    def holding(self, name: str, data: bytes) -> Iterator[Letter]:
        """A parcel that can be asked for in this block."""
        self._parcels[name] = data
        try:
            yield Letter(name, self._listener.address)
        finally:
            self._parcels.pop(name, None)

    def close(self) -> None:
        self._open = False
        with suppress(OSError):
            Client(self._listener.address).close()  # wakes the thread, and waits for no answer: it may have ended
        self._thread.join(5)
        self._listener.close()

    def _serve(self) -> None:
        while self._open:
            # Who goes away in between, knows no key, or talks nonsense, is not served: the next one is.
            with suppress(Exception), self._listener.accept() as asked:
                if self._open:
                    asked.send_bytes(self._parcels[asked.recv_bytes().decode()])


class Shelf:
    """What a process keeps of the parcels that it has opened: the last few."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[str, Any] = OrderedDict()

    def take(self, handle: Handle, opened: Callable[[bytes | memoryview], T]) -> T:
        """What `opened` makes of a parcel, once."""
        if handle.name not in self._held:
            while len(self._held) >= self._most:
                self._held.popitem(last=False)
            self._held[handle.name] = opened(handle.get())
        self._held.move_to_end(handle.name)
        found: T = self._held[handle.name]
        return found
