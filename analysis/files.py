"""The one writer: everything that steerscope puts on a disk goes through here.

1. A file is written as a sibling that was not there before (never through a link), synced, and renamed.
2. A folder is written whole beside its place and takes it in one rename, or in one exchange with the old one; what
   others put into the old one goes along.
3. Whatever the system refuses becomes one sentence: `DiskFull` or `CannotWrite`.

A temporary is locked while its writer lives. One that is not was left by a killed run: the next writer of the same name
removes it, or puts back what it had moved away.
"""

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .brief import quoted
from .errors import CannotWrite, DiskFull, OutputExists

try:
    import fcntl
except ImportError:  # no locks on folders on Windows: what a killed run left stays there
    fcntl = None  # type: ignore[assignment]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.(new|old)")
STAYS = (errno.EBUSY, errno.EACCES, errno.EPERM, errno.EXDEV, errno.EROFS)  # a folder that cannot be moved
AT_FDCWD, EXCHANGE = -100, 2
_NO_LINK, _NO_WAIT = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)  # 0 on Windows
ROUNDS = 50  # of making a temporary that others take for abandoned
LONGEST = 180  # bytes of a name that a temporary repeats; names of more than 255 are none


@contextmanager
def storing(place: str | Path) -> Iterator[None]:
    """What the system refuses while something is written to `place`, in one sentence.

    Raises:
        DiskFull: there is no room.
        CannotWrite: anything else: a read-only place, a name that is too long, a missing device.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in FULL:
            raise DiskFull(
                f"no room left for {quoted(place)} ({reason}); everything written before stays good; make room and "
                "run the same again"
            ) from error
        raise CannotWrite(
            f"{quoted(place)} cannot be written ({reason}); expected a place that can be written to; choose another or "
            "mend it and run the same again"
        ) from error
    except ValueError as error:
        if "embedded null" not in str(error) and not isinstance(error, UnicodeError):  # a name that no file can have
            raise
        raise CannotWrite(
            f"{quoted(place)} is no name of a file ({error}); expected a plain one; choose one"
        ) from error


def write(path: str | Path, content: bytes | str, tidy: bool = True) -> Path:
    """Writes a file, whole or not at all; what stood there before stays until it is replaced.

    Args:
        tidy: whether to look for what killed writers of the same name left; the caller does (`settle`) where a folder
            holds very many files.

    Raises:
        DiskFull, CannotWrite: see `storing`; nothing half written stays.
    """
    path = Path(path)
    with storing(path):
        data = content.encode(errors="replace") if isinstance(content, str) else content
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_symlink() and not path.is_file():  # a device would become a file
            raise OSError(errno.EISDIR, "a folder or a device stands there")
        if tidy:
            settle(path)
        temporary, handle = _fresh(path, _open)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(handle)
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)
    return path


def append(path: str | Path, line: str) -> None:
    """Adds a line to a file of lines, never through a link; half a line that a killed writer left is ended first.

    Raises:
        DiskFull, CannotWrite: see `storing`; nothing half written stays.
    """
    with storing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK | _NO_WAIT, 0o666)
        with os.fdopen(handle, "r+b", buffering=0) as file:
            _plain(handle)
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            ended = file.read(1) in (b"", b"\n")
            file.seek(end)
            try:
                file.write((b"" if ended else b"\n") + line.encode() + b"\n")
                os.fsync(handle)
            except BaseException:
                file.truncate(end)
                raise


def read_plain(path: str | Path) -> bytes:
    """The bytes of a plain file: a pipe or a device, which might never end, is none.

    Raises:
        OSError: it cannot be read, or is none.
    """
    handle = os.open(path, os.O_RDONLY | _NO_WAIT)
    with os.fdopen(handle, "rb") as file:
        _plain(handle)
        return file.read()


@contextmanager
def renewed(folder: str | Path, ours: Callable[[str], bool] = lambda name: True, new: bool = False) -> Iterator[Path]:
    """A fresh folder to fill; when the block ends it is `folder`, whole; when it fails, nothing has changed.

    A folder that cannot be moved (a mount, the current folder, one in a read-only place) is filled in place instead:
    its manifest goes first and comes last, so that a killed run leaves no result there rather than a mixed one.

    Args:
        ours: of a name in the old folder, whether it is replaced or goes; everything else is kept.
        new: refuse to replace what another process put there meanwhile.

    Raises:
        DiskFull, CannotWrite: see `storing`.
        OutputExists: `new`, and it is there.
    """
    target = Path(folder)
    with storing(target):
        target = Path(os.path.realpath(target))
        (target if target.exists() else target.parent).mkdir(parents=True, exist_ok=True)  # a file is no folder
        settle(target)
        inside = _stays(target)
        fresh, handle = _fresh(target / target.name if inside else target, _make)
        try:
            yield fresh
            _sync_tree(fresh)
            if inside:
                _move_in(fresh, target, ours)
            else:
                _take_place(fresh, target, ours, new)
        finally:  # what is there now is the old folder, or the unfinished new one
            shutil.rmtree(fresh, ignore_errors=True)
            _close(handle)


def settle(path: str | Path) -> None:
    """Removes what killed writers of `path` left beside it (or in it), and puts back a folder that was moved away."""
    path = Path(path)
    start = f".{_short(path.name)}."
    for place in (path.parent, path):
        for entry in _entries(place):
            if entry.name.startswith(start) and TEMPORARY.fullmatch(entry.name):
                _settle(Path(entry.path), path)


def settle_all(folder: Path) -> None:
    """The same for every file of a folder."""
    for entry in _entries(folder):
        if TEMPORARY.fullmatch(entry.name):
            _settle(Path(entry.path))


# Temporaries: siblings that did not exist, locked while their writer lives.


def _fresh(path: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    for last in [*[False] * ROUNDS, True]:
        temporary = path.parent / f".{_short(path.name)}.{secrets.token_hex(8)}.new"
        try:
            handle = make(temporary)
        except FileNotFoundError:  # taken between two steps of making it; or a place where nothing can be made
            if last:
                raise
            continue
        if _lock(handle) is not False and temporary.exists():  # nobody took it for abandoned meanwhile
            return temporary, handle
        _close(handle)
    raise OSError(errno.EAGAIN, "other processes take every temporary away")


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666)


def _make(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY) if fcntl else -1


def _close(handle: int) -> None:
    if handle >= 0:
        os.close(handle)


def _lock(handle: int) -> bool | None:
    """Whether it is ours now; None where the system has no locks."""
    if fcntl is None or handle < 0:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES) else None
    return True


def _plain(handle: int) -> None:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise OSError(errno.EINVAL, "it is no plain file")


def _settle(temporary: Path, path: Path | None = None) -> None:
    """Removes a temporary that nobody writes to any more, or puts it back as `path`; it is locked meanwhile."""
    try:
        handle = os.open(temporary, os.O_RDONLY | _NO_LINK | _NO_WAIT)
    except OSError:
        return
    try:
        if not _lock(handle):
            return
        if path is not None and temporary.suffix == ".old" and temporary.is_dir() and not path.exists():
            temporary.rename(path)  # killed between two renames
        else:
            _remove(temporary)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _short(name: str) -> str:
    """A name that a temporary's has room for."""
    data = name.encode(errors="surrogateescape")
    return name if len(data) <= LONGEST else hashlib.sha256(data).hexdigest()[:32]


# A folder takes its place.


def _stays(folder: Path) -> bool:
    """Whether a folder cannot be moved, so that it must be filled where it stands."""
    if not folder.exists():
        return False
    here = Path.cwd()
    return folder.is_mount() or folder in (here, *here.parents) or not os.access(folder.parent, os.W_OK | os.X_OK)


def _take_place(fresh: Path, target: Path, ours: Callable[[str], bool], new: bool) -> None:
    if new or not target.exists():
        try:
            fresh.rename(target)  # an empty folder is replaced
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if new:
                raise OutputExists(
                    f"another process has just written {quoted(target)}; expected one at a time; choose another folder"
                ) from error
        else:
            return _sync(target.parent)
    _carry(target, fresh, ours)
    try:
        _exchange(fresh, target)
    except OSError as error:
        if error.errno not in STAYS:
            raise
        inside = target / fresh.name
        shutil.copytree(fresh, inside, symlinks=True)
        _move_in(inside, target, ours)
        inside.rmdir()
    _sync(target.parent)


def _carry(old: Path, fresh: Path, ours: Callable[[str], bool]) -> None:
    """What others put into the old folder goes along, as the same files."""
    for entry in _entries(old):
        if not ours(entry.name) and not TEMPORARY.fullmatch(entry.name) and not (fresh / entry.name).exists():
            _link(Path(entry.path), fresh / entry.name)


def _link(old: Path, new: Path) -> None:
    if old.is_dir() and not old.is_symlink():
        new.mkdir()
        for entry in _entries(old):
            _link(Path(entry.path), new / entry.name)
        shutil.copystat(old, new)
        return
    try:
        os.link(old, new, follow_symlinks=False)
    except OSError:  # no hard links here
        shutil.copy2(old, new, follow_symlinks=False)


def _exchange(fresh: Path, target: Path) -> None:
    """Two folders change places in one step; where the system cannot, in two that `settle` can undo."""
    shutil.copystat(target, fresh)
    if _swap(os.fsencode(fresh), os.fsencode(target)):
        return
    old = fresh.with_suffix(".old")
    target.rename(old)
    try:
        fresh.rename(target)
    except BaseException:
        old.rename(target)
        raise
    old.rename(fresh)


def _swap(one: bytes, other: bytes) -> bool:
    """Whether the system exchanged two names."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            done = libc.renamex_np(one, other, EXCHANGE)
        else:
            done = libc.renameat2(AT_FDCWD, one, AT_FDCWD, other, EXCHANGE)
    except (OSError, AttributeError, TypeError):
        return False
    number = ctypes.get_errno()
    if done == 0:
        return True
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), os.fsdecode(other))


def _move_in(fresh: Path, target: Path, ours: Callable[[str], bool]) -> None:
    """Fills a folder where it stands: the manifest goes first and comes last."""
    last = sorted(_entries(fresh), key=lambda entry: entry.name == "manifest.json")
    old = [entry for entry in _entries(target) if ours(entry.name) and not TEMPORARY.fullmatch(entry.name)]
    for entry in sorted(old, key=lambda entry: entry.name != "manifest.json"):
        _remove(Path(entry.path))
    for entry in last:
        Path(entry.path).replace(target / entry.name)
    _sync(target)


# On the disk, not only in the cache.


def _sync_tree(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if not path.is_symlink():
                _sync(path)
        _sync(Path(place))


def _sync(path: Path) -> None:
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot sync folders
            raise
    finally:
        os.close(handle)
