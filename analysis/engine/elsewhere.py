"""The engine's chunks, here or elsewhere: in worker processes, or on Ray.

1. A *job* is what the chunks of one call have in common, as plain data: the model, the prompts, what is read, and the
   function that makes numbers of it. It is called with the rows of a chunk.
2. `executor` opens workers for all that runs in its block. A job with several chunks then goes there: the model once,
   the job once, each chunk's rows with its task.
3. Answers come back in the order of the chunks, and an error is that of the first chunk that fails, as if all ran here.

Chunks are cut before it is decided where they run, so a worker multiplies the very same batches: its numbers are those
of this process bit for bit, where both have as many threads. What needs gradients of what it gets back runs here.
"""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol
from uuid import uuid4

from steerscope.analysis.errors import BadArgument, BrokenInvariant, SteerscopeError
from steerscope.analysis.executors.executors import Executor, Opened, Workers, local, named, opened
from steerscope.analysis.executors.executors import executor as executor_of
from steerscope.analysis.executors.parcels import pack, unpack
from steerscope.analysis.executors.post import Handle, Shelf
from steerscope.analysis.gate import gated, shown
from steerscope.analysis.model.models import Model
from steerscope.analysis.progress import track

MODELS, JOBS = Shelf(2), Shelf(2)  # what a worker keeps


class Job(Protocol):
    """What the chunks of one call have in common, as plain data; called with what one chunk is of."""

    @property
    def model(self) -> Model: ...

    def __call__(self, chunk: Any) -> Any: ...


@gated
def executor(
    how: str | Executor[Any, Any] = "processes", workers: Workers | None = None, address: str | None = None
) -> AbstractContextManager[None]:
    """All questions that are asked in this block run their passes in worker processes, or on Ray.

    Workers start at the first question that has work for several, and stay until the block is left.

    Args:
        how: processes, ray, or local (in this process); or a function (work, tasks) -> answers.
        workers: of processes or ray; one a core (or a GPU) by default.
        address: of a Ray cluster, such as auto; by default Ray starts here.

    Raises:
        BadArgument: an unknown executor, Ray is not there, or its cluster is not.
    """
    return _open(executor_of(how, workers, address))


@contextmanager
def _open(wanted: Executor[Any, Any]) -> Iterator[None]:
    with ExitStack() as stack:
        found = None
        if wanted is not local:
            found = stack.enter_context(closing(_Elsewhere(stack.enter_context(opened(wanted)), named(wanted))))
        token = _OPEN.set(found)
        try:
            yield
        finally:
            _OPEN.reset(token)


def where() -> str:
    """Which executor is open, in words, for the manifest."""
    found = _OPEN.get()
    return "local" if found is None else found.name


def sharers() -> int:
    """How many processes share this machine's memory."""
    found = _OPEN.get()
    return 1 if found is None else found.where.workers


def answers(job: Job, chunks: Sequence[Any], what: str | None = None, here: bool = False) -> Iterator[Any]:
    """What a job makes of each chunk, in order, wherever it runs.

    Args:
        what: name for a progress bar; none by default.
        here: whether it must run in this process.
    """
    place = _OPEN.get()
    alone = here or place is None or len(chunks) < 2
    found = map(job, chunks) if alone or place is None else place.answers(job, chunks)
    return iter(track(found, what, len(chunks)) if what else found)


@dataclass(frozen=True)
class Task:
    """A chunk, and where its job and its model are."""

    number: int
    model: Handle
    job: Handle
    chunk: bytes


@dataclass(frozen=True)
class Answer:
    """What a job made of a chunk, packed."""

    number: int
    data: bytes


@dataclass(frozen=True)
class Failed:
    """The error that a chunk ended with."""

    error: Exception


@gated
def answer(task: Task) -> Answer:
    """Runs a task: what executors do, wherever they are."""
    try:
        model: Model = MODELS.take(task.model, unpack)
        there = parts(model)
        job: Job = JOBS.take(task.job, lambda data: unpack(data, there))
        names = {id(part): name for name, part in there.items()}
        return Answer(task.number, pack(job(unpack(task.chunk, there)), names))
    except Exception as error:
        return Answer(task.number, _failed(error))


def _failed(error: Exception) -> bytes:
    if not isinstance(error, SteerscopeError):
        error.add_note(f"In a worker process:\n{traceback.format_exc()}")
    try:
        return pack(Failed(error))
    except BadArgument as reason:
        return pack(Failed(RuntimeError(f"{type(error).__name__}: {error} ({reason})")))


def parts(model: Model) -> dict[str, Any]:
    """By name, what of a model both sides have."""
    modules = {f"module {name}": module for name, module in model.bridge.named_modules()}
    return {**modules, "bridge": model.bridge, "model": model}


class _Elsewhere:
    """An open executor, and the models that its workers have been given."""

    def __init__(self, where: Opened, name: str) -> None:
        self.where, self.name = where, name
        self._models: dict[int, _Given] = {}
        self._names = (f"{uuid4().hex}-{number}" for number in count())  # of parcels; no two anywhere are the same

    def close(self) -> None:
        for given in self._models.values():
            given.held.close()

    def answers(self, job: Job, chunks: Sequence[Any]) -> Iterator[Any]:
        model = self._given(job.model)
        with self.where.sharing(next(self._names), pack(job, model.names)) as handle:
            tasks = (
                Task(number, model.handle, handle, pack(chunk, model.names)) for number, chunk in enumerate(chunks)
            )
            ahead: dict[int, bytes] = {}
            number = 0
            with closing(_generated(self.where(answer, tasks))) as found:
                for one in found:
                    if not isinstance(one, Answer):
                        raise BadArgument(
                            f"the executor gave {shown(one)}; expected what the function it was given returns, for "
                            "every task; mend the executor"
                        )
                    ahead[one.number] = one.data
                    while number in ahead:
                        made = unpack(ahead.pop(number), model.parts)
                        if isinstance(made, Failed):
                            raise made.error
                        yield made
                        number += 1
            if number < len(chunks):
                raise BrokenInvariant(
                    f"the executor gave answers to {number} of {len(chunks)} tasks; expected all; mend the executor"
                )

    def _given(self, model: Model) -> "_Given":
        """A model that workers have, as it is now."""
        state, there = _state(model), self._models.get(id(model))
        if there is not None and there.state == state:
            return there
        while there is not None or len(self._models) >= 2:
            self._models.pop(id(model) if there is not None else next(iter(self._models))).held.close()
            there = None
        held = ExitStack()
        handle = held.enter_context(self.where.sharing(next(self._names), pack(model)))
        own = parts(model)
        names = {id(part): name for name, part in own.items()}
        self._models[id(model)] = _Given(model, state, own, names, handle, held)
        return self._models[id(model)]


@dataclass(frozen=True, eq=False)
class _Given:
    """A model as workers have it.

    Attributes:
        state: of its weights and hooks, then.
        parts, names: what both sides have, by name; and the names by `id`.
        held: what keeps its parcel.
    """

    model: Model
    state: object
    parts: Mapping[str, Any]
    names: Mapping[int, str]
    handle: Handle
    held: ExitStack


def _state(model: Model) -> object:
    """What changes when a model's weights are changed in place or hooks come and go."""
    weights = [(x.data_ptr(), x._version) for x in (*model.bridge.parameters(), *model.bridge.buffers())]
    hooks = [(id(m), *m._forward_hooks, *m._forward_pre_hooks) for m in model.bridge.modules() if m._forward_hooks]
    return weights, hooks


def _generated(found: Iterator[Any]) -> Any:
    """An iterator as a generator, which can be closed."""
    yield from found


_OPEN: ContextVar[_Elsewhere | None] = ContextVar("_OPEN", default=None)
