"""`Store`: the folder of a run. Four verbs: which blocks are done, append one, read them, and the manifest.

    manifest.json             what is run; written once, before the first trial
    prompts.parquet           the prompts, as token ids and texts
    additions.safetensors     what is injected
    log.jsonl                 a line for each session that was not killed
    trials/part-000012-3f9a01c2b4d5e6f7.parquet

A part is written to a temporary name, synced and renamed, and its name holds the start of the SHA-256
of its bytes: so a part is there whole or not at all, and one that changed later is found. One
process at a time writes (a lock that the system releases when its holder dies).
"""

import errno
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from steerscope.analysis.errors import DamagedRun, DiskFull, OutputExists
from steerscope.analysis.results.result import MANIFEST

ADDITIONS, PROMPTS, LOG = "additions.safetensors", "prompts.parquet", "log.jsonl"
PART = re.compile(r"part-(\d{6,})-([0-9a-f]{16})\.parquet")
KIND = "sweep run"
FORMAT = 2  # of 1, controls were read along the real vector's change, and there were no groups of prompts
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Store:
    """A run's folder.

    Raises:
        DamagedRun: it holds no run, or a manifest that cannot be read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.trials = self.folder / "trials"

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run of a sweep."""
        try:
            return bool(self.manifest())
        except DamagedRun:
            return False

    def create(self, manifest: dict[str, Any], files: dict[str, Callable[[Path], Any]]) -> None:
        """Makes the folder: `files` by name, each written by its function; the manifest last."""
        with self._room():
            self.trials.mkdir(parents=True, exist_ok=True)
            digests = {}
            for name, write in files.items():
                temporary = self.folder / f".{name}.tmp"
                write(temporary)
                _rename(temporary, self.folder / name)
                digests[name] = _digest((self.folder / name).read_bytes())
            document = {"format": FORMAT, "kind": KIND, "files": digests, **manifest}
            text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            self._write(self.folder / MANIFEST, text.encode())

    def manifest(self) -> dict[str, Any]:
        """What is run."""
        path = self.folder / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            kind, version = manifest["kind"], manifest["format"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedRun(
                f"no run of a sweep in {str(self.folder)!r} ({type(error).__name__}); expected a folder that "
                "`steerscope sweep run` made; check the path"
            ) from error
        if kind != KIND or version != FORMAT:
            raise DamagedRun(
                f"{str(path)!r} is of kind {kind!r}, format {version}; expected {KIND!r} of format {FORMAT}; "
                "give the folder of a sweep, run an older one again, or update steerscope"
            )
        return dict(manifest)

    def check_files(self) -> None:
        """Refuses a run whose prompts or additions changed since it began.

        Raises:
            DamagedRun: a file is missing or its checksum differs.
        """
        for name, digest in self.manifest()["files"].items():
            path = self.folder / name
            if not path.is_file() or _digest(path.read_bytes()) != digest:
                raise DamagedRun(
                    f"{str(path)!r} is missing or has changed since the run began; expected the file as it was "
                    "written; bring it back, or begin another run"
                )

    def done(self) -> dict[int, Path]:
        """The part of every block that is there, whole; damaged ones are left out (see `damaged`)."""
        return {block: path for block, path, good in self._parts() if good}

    def damaged(self) -> list[Path]:
        """Parts whose bytes are not those that were written."""
        return [path for _, path, good in self._parts() if not good]

    def set_aside(self) -> list[Path]:
        """Moves damaged parts to `damaged/`, removes what a killed run left half written; the new paths."""
        for temporary in self.trials.glob(".*.tmp"):
            temporary.unlink()
        moved = []
        for path in self.damaged():
            target = self.folder / "damaged" / path.name
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
            moved.append(target)
        return moved

    def append(self, block: int, table: pa.Table) -> None:
        """Adds a block's rows.

        Raises:
            DiskFull: there is no room; nothing half written stays.
        """
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        content = buffer.getvalue()
        with self._room():
            name = f"part-{block:06d}-{_digest(content)[:16]}.parquet"
            self._write(self.trials / name, content)

    def read(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows of every block that is there, in order of the trials, a part at a time."""
        for _, path in sorted(self.done().items()):
            yield pq.read_table(path, columns=None if columns is None else list(columns))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for one writer.

        Raises:
            OutputExists: another process writes to it.
        """
        lock = filelock.FileLock(self.folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise OutputExists(
                f"another process is writing to {str(self.folder)!r}; expected one at a time; wait for it, or stop it"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def prompts(self) -> pa.Table:
        """The prompts of the run: prompt, text, ids, group."""
        return pq.read_table(self.folder / PROMPTS)

    def log(self, entry: dict[str, Any]) -> None:
        """Notes what a session did."""
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def sessions(self) -> list[dict[str, Any]]:
        """What the sessions noted; one that was killed noted nothing."""
        path, found = self.folder / LOG, []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                found.append(json.loads(line))
            except ValueError:  # half a line: killed while it was written
                continue
        return found

    def _parts(self) -> Iterator[tuple[int, Path, bool]]:
        seen: set[int] = set()
        for path in sorted(self.trials.glob("part-*.parquet")):
            match = PART.fullmatch(path.name)
            good = match is not None and _digest(path.read_bytes()).startswith(match[2])
            block = int(match[1]) if match else -1
            yield block, path, good and block not in seen
            seen |= {block} if good else set()

    def _write(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            temporary.write_bytes(content)
            _rename(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise DiskFull(
                f"no room left in {str(self.folder)!r} ({error.strerror}); everything written before stays good; "
                f"make room and go on with `steerscope sweep resume {self.folder}`"
            ) from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _rename(temporary: Path, path: Path) -> None:
    """Makes sure that the bytes are on the disk before the name is, and the name before we go on."""
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
