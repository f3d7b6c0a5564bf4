"""Children: an act in a forked process, gone at its n-th step on the disk or at a random instant, or run to its end.

A step is whatever changes a folder: a file opened for writing, the middle of a write, a rename, an exchange, a removal,
a new folder, a link, an fsync. Python's audit hooks report most of them; the rest is wrapped. A child inherits the
loaded models, so that a kill costs what the act costs and no start of Python.
"""

import fcntl
import json
import os
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from steerscope.analysis import files
from steerscope.analysis.errors import SteerscopeError

KILLED, BROKEN = 99, 70
PATIENCE = 300  # seconds
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class End:
    """How a child ended.

    Attributes:
        status: 0, 2 (refused in one of our errors, or by the command line), `KILLED`, `BROKEN` (any other exception),
            or minus the signal.
        said: what it printed, both streams.
        steps: how many steps it took.
        seconds: of work (CPU): what others do on the machine changes nothing.
    """

    status: int
    said: str
    steps: int
    seconds: float

    @property
    def killed(self) -> bool:
        return self.status in (KILLED, -signal.SIGPROF)


def child(
    act: Callable[[], object],
    root: Path,
    *,
    stop_at: int | None = None,
    kill_after: float | None = None,
    largest: int | None = None,
) -> End:
    """Runs `act` in a forked process.

    Args:
        root: only steps below this folder count.
        stop_at: the step, counted from 0, before which the process is gone.
        kill_after: seconds of work until a signal that nothing handles.
        largest: bytes of the largest file that the process may write (RLIMIT_FSIZE).
    """
    steps, steps_in = os.pipe()
    said, said_in = os.pipe()  # no file: its size may be limited
    fcntl.fcntl(said_in, fcntl.F_SETPIPE_SZ, 1 << 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of forks beside threads
        pid = os.fork()
    if pid == 0:
        os.close(steps)
        os.close(said)
        _be_a_child(act, root, said_in, steps_in, stop_at, largest, kill_after)
    os.close(steps_in)
    os.close(said_in)
    _, how, used = os.wait4(pid, 0)
    with os.fdopen(steps, "rb") as one, os.fdopen(said, "rb") as other:
        taken, text = one.read(), other.read().decode(errors="replace")
    status = -os.WTERMSIG(how) if os.WIFSIGNALED(how) else os.WEXITSTATUS(how)
    return End(status, text, int(taken or b"-1"), used.ru_utime + used.ru_stime)


def _be_a_child(
    act: Callable[[], object],
    root: Path,
    said: int,
    steps_in: int,
    stop_at: int | None,
    largest: int | None,
    kill_after: float | None,
) -> NoReturn:
    status, counted = BROKEN, [0]
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(PATIENCE)
        os.dup2(said, 1)
        os.dup2(said, 2)
        torch.set_num_threads(torch.get_num_threads())  # torch makes its pool anew, before loaders' threads ask for it
        sys.stdout, sys.stderr = (os.fdopen(os.dup(n), "w", buffering=1, encoding="utf-8") for n in (1, 2))
        if largest is not None:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
        _count_steps(root, counted, stop_at)
        if kill_after is not None:
            signal.setitimer(signal.ITIMER_PROF, max(kill_after, 1e-3))
        act()
        status = 0
    except SteerscopeError as error:
        status = 2
        _say(f"steerscope: {error}")
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        _say(traceback.format_exc())
    finally:
        os.write(steps_in, str(counted[0]).encode())
        os._exit(status)


def _say(text: str) -> None:
    os.write(2, text.encode(errors="backslashreplace") + b"\n")


def _count_steps(root: Path, counted: list[int], stop_at: int | None) -> None:
    """Counts steps below `root` from now on; the process is gone at the one of that number."""
    above = os.path.realpath(root)
    busy = [False]

    def step() -> None:
        if counted[0] == stop_at:
            os._exit(KILLED)
        counted[0] += 1

    def below(name: Any) -> bool:
        if isinstance(name, int) or name is None:
            return False
        path = os.path.join(os.getcwd(), os.fsdecode(name))  # noqa: PTH109, PTH118  (links are not followed)
        return os.path.normpath(path).startswith(above + os.sep)

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if busy[0] or not (event in CHANGES or event == "open"):
            return
        busy[0] = True
        try:
            if event == "open":
                if (
                    not isinstance(given[0], int)
                    and isinstance(given[2], int)
                    and given[2] & WRITES
                    and below(given[0])
                ):
                    step()
            elif given[-1] not in (-1, None) and isinstance(given[-1], int) and event in ("os.remove", "os.rmdir"):
                step()  # relative to a folder that shutil.rmtree holds open
            elif any(below(name) for name in given if isinstance(name, str | bytes | os.PathLike)):
                step()
        finally:
            busy[0] = False

    def around(owner: Any, name: str) -> None:
        whole: Any = getattr(owner, name)

        def wrapped(*given: Any, **options: Any) -> Any:
            step()
            found = whole(*given, **options)
            step()
            return found

        setattr(owner, name, wrapped)

    def halved(owner: Any, name: str) -> None:
        whole: Any = getattr(owner, name)

        def wrapped(path: Path, content: Any, *given: Any, **options: Any) -> Any:
            if below(path) and len(content):
                whole(path, content[: len(content) // 2], *given, **options)
                step()
            return whole(path, content, *given, **options)

        setattr(owner, name, wrapped)

    around(os, "fsync")
    around(files, "_swap")
    halved(Path, "write_bytes")
    halved(Path, "write_text")
    opened = os.fdopen
    os.fdopen = lambda *given, **options: _Slow(opened(*given, **options), step)  # type: ignore[assignment]
    sys.addaudithook(hook)


class _Slow:
    """A file whose every write has a middle."""

    def __init__(self, file: Any, step: Callable[[], None]) -> None:
        self._file, self._step = file, step

    def write(self, content: Any) -> int:
        half = len(content) // 2
        done = self._file.write(content[:half])
        self._file.flush()
        self._step()
        return int(done + self._file.write(content[half:]))

    def __enter__(self) -> "_Slow":
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def sentence(end: End) -> str:
    """The one sentence in which a child was refused.

    Raises:
        AssertionError: it was not refused, or not in one sentence.
    """
    assert end.status == 2, f"status {end.status}: {end.said[-3000:]}"
    assert "Traceback" not in end.said, end.said[-3000:]
    found = [line for line in end.said.splitlines() if line.startswith("steerscope: ")]
    assert len(found) == 1, end.said[-3000:]
    return found[0]


def report(path: Path, **figures: Any) -> None:
    """Adds figures of a slow test to a file, where the environment names one."""
    if to := os.environ.get("STRESS_FIGURES"):
        with Path(to).open("a") as file:
            file.write(json.dumps({"test": path.stem, **figures}) + "\n")
