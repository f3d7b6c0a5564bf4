"""`Store`: the folder of a run. Four verbs: which blocks are done, append one, read them, and the manifest.

    manifest.json             what is run, with a checksum of itself; never written again
    prompts.parquet           the prompts, as token ids and texts
    additions.safetensors     what is injected
    log.jsonl                 a line for each session that was not killed, each with a checksum
    trials/part-000012-3f9a01c2b4d5e6f7.parquet

The folder comes into being whole, in one rename. A part holds the key of its sweep (a hash of all that its rows depend
on), the number of its block and the range of its trials, and its name the start of the SHA-256 of its bytes: one that
changed, was renamed or belongs to another sweep is found. One process at a time writes (a lock that the system
releases when its holder dies); reading takes no lock.
"""

import io
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from steerscope.analysis import files
from steerscope.analysis.errors import BadArgument, BrokenInvariant, CannotWrite, DamagedRun, OutputExists
from steerscope.analysis.gate import Bytes, Count, Refused, Within, check_of, gated
from steerscope.analysis.results.result import DENSEST, FEW, MANIFEST
from steerscope.analysis.seals import CHECKSUM, digest, read_json, sealed

from .design import BATCH, MANY, Amount

ADDITIONS, PROMPTS, LOG, LOCK = "additions.safetensors", "prompts.parquet", "log.jsonl", ".lock"
TRIALS, DAMAGED, SUMMARY = "trials", "damaged", "summary"
MADE = (MANIFEST, PROMPTS, ADDITIONS, TRIALS)  # what a creation puts into the folder
HALF = re.compile(r"\..+\.tmp")  # of a version that wrote its files one by one
PART = re.compile(r"part-(\d{6,12})-([0-9a-f]{16})\.parquet")
KIND = "sweep run"
FORMAT = 3  # of 1, controls were read along the real vector's change; of 2, parts did not say which sweep they are of
WAIT = 1.0  # seconds for the lock: who only looks whether it is held has it for a moment
ABOUT = b"steerscope"  # of a part, beside its columns
FIXED = (
    "model",
    "mode",
    "nodes",
    "vectors",
    "additions",
    "positions",
    "design",
    "prompts",
    "metric",
    "seed",
    "block",
    "sources",
)
NEEDED: Mapping[str, Any] = {
    "model.name": str,
    "model.weights_hash": str,
    **dict.fromkeys(("model.source", "model.device", "model.dtype"), str | None),
    "mode": str,
    "nodes": Sequence[str],
    "left_out": Sequence[str],
    "vectors": Sequence[Mapping[str, Any]],
    "coefficients": Sequence[float],
    "positions": str,
    "design": Mapping[str, Any],
    "design.trials": Amount,
    "design.spacing": str,
    "prompts.count": Count,
    "prompts.source": str,
    "metric.name": str,
    "metric.unit": str,
    "metric.options": Mapping[str, Any],
    "metric.scored_as": str | Sequence[int] | None,
    "budget": Bytes | None,
    "sources": Mapping[str, str],
    "paths": Mapping[str, str],
    "block": Annotated[int, Within(1, BATCH)],
    "files": Mapping[str, str],
}
LOGGED: Mapping[str, Any] = {
    "ended": str,
    "executor": str,
    "trials": int,
    **dict.fromkeys(("seconds", "forward", "metrics", "writing"), float),
    "damaged": Sequence[str],
    "check": Mapping[str, Any] | None,
}


@gated
def key_of(about: Mapping[str, Any]) -> str:
    """A hash of everything that the rows of a sweep depend on."""
    return digest(json.dumps([FORMAT, {name: about.get(name) for name in FIXED}]).encode())


class Store:
    """A run's folder.

    Raises:
        DamagedRun: it holds no run, or one whose manifest, prompts or additions changed.
    """

    @gated
    def __init__(self, folder: str | Path) -> None:
        if folder == "":
            raise BadArgument("the folder of a sweep is ''; expected a name; give one (. is the current folder)")
        self.folder = Path(folder)
        self.trials = self.folder / TRIALS

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run of a sweep, whole or not."""
        try:
            return dict(json.loads(files.read_plain(self.folder / MANIFEST))).get("kind") == KIND
        except (OSError, ValueError, TypeError, RecursionError):
            return False

    @property
    def taken(self) -> bool:
        """Whether the folder has a manifest, of whatever it may be."""
        return os.path.lexists(self.folder / MANIFEST)

    @gated
    def create(self, manifest: Mapping[str, Any], contents: Mapping[str, bytes]) -> None:
        """Makes the folder, whole or not at all, unless a manifest is there already.

        Args:
            contents: prompts and additions, by the file's name.

        Raises:
            OutputExists: the folder holds something else, or another process writes to it.
            DiskFull, CannotWrite: nothing has changed.
        """
        sums = {name: digest(content) for name, content in contents.items()}
        document = sealed({"format": FORMAT, "kind": KIND, "files": sums, **manifest})
        with files.storing(self.folder):
            self._refuse_foreign()
            self.folder.mkdir(parents=True, exist_ok=True)
        with self.lock():
            if self.taken:  # another process was faster
                return
            with files.storing(self.folder):
                self._refuse_foreign()
                self._remove_half()
            with files.renewed(self.folder, ours=lambda name: name in MADE) as fresh:
                (fresh / TRIALS).mkdir()
                for name, content in contents.items():
                    (fresh / name).write_bytes(content)
                (fresh / MANIFEST).write_bytes(document)

    def manifest(self) -> dict[str, Any]:
        """What is run.

        Raises:
            DamagedRun: it changed since it was written, or the prompts or additions did.
        """
        manifest = self._manifest()
        for name, expected in manifest["files"].items():
            self._content(name, expected)
        return manifest

    def prompts(self) -> pa.Table:
        """The prompts of the run: prompt, text, ids, group."""
        about = self._manifest()
        content = self._content(PROMPTS, about["files"].get(PROMPTS, ""))
        return self._table(self.folder / PROMPTS, content, about["prompts"]["count"])

    def done(self) -> dict[int, Path]:
        """The part of every block that is there, whole; damaged ones are left out (see `damaged`)."""
        return {block: path for block, path, content in self._parts() if content is not None}

    def damaged(self) -> list[Path]:
        """Parts whose bytes are not those that were written, or that say of themselves that they belong elsewhere."""
        return [path for _, path, content in self._parts() if content is None]

    def set_aside(self) -> list[Path]:
        """Moves damaged parts to `damaged/`, removes what a killed run left half written; the new paths."""
        files.settle(os.path.realpath(self.folder))
        files.settle_all(self.trials)
        found, aside = self.damaged(), self.folder / DAMAGED
        moved = []
        with files.storing(aside):
            if found:
                aside.mkdir(exist_ok=True)
            for path in found:
                target, number = aside / path.name, 1
                while os.path.lexists(target):  # of an earlier time
                    target, number = aside / f"{path.name}.{number}", number + 1
                path.rename(target)
                moved.append(target)
        return moved

    @gated
    def append(self, block: Annotated[int, Within(0, MANY)], table: pa.Table) -> None:
        """Adds a block's rows.

        Raises:
            DiskFull, CannotWrite: nothing half written stays.
            BrokenInvariant: these are not as many rows as the block has trials.
        """
        about = _part(self._manifest(), block)
        if table.num_rows != about["stop"] - about["start"]:
            raise BrokenInvariant(
                f"block {block} came back with {table.num_rows} rows; expected {about['stop'] - about['start']}; "
                "please report this"
            )
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({ABOUT: json.dumps(about)}), buffer, compression="zstd")
        content = buffer.getvalue()
        files.write(self.trials / f"part-{block:06d}-{digest(content)[:16]}.parquet", content, tidy=False)

    def read(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows of every block that is there, in order of the trials, a part at a time."""
        about = self._manifest()
        for block, path, content in self._parts():
            if content is not None:
                part = _part(about, block)
                yield self._table(path, content, part["stop"] - part["start"], columns)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for one writer.

        Raises:
            OutputExists: another process writes to it.
            CannotWrite: there is no writing here, or a link leads out of the folder.
        """
        self.refuse_links()
        lock = filelock.FileLock(self.folder / LOCK, timeout=WAIT)
        with files.storing(self.folder):
            try:
                lock.acquire()
            except filelock.Timeout as error:
                raise OutputExists(
                    f"another process is writing to {str(self.folder)!r}; expected one at a time; wait for it, or stop "
                    "it"
                ) from error
        try:
            yield
        finally:
            lock.release()

    def refuse_links(self) -> None:
        """Refuses to write where a link leads out of the folder.

        Raises:
            CannotWrite: with the name.
        """
        for name in (LOCK, LOG, TRIALS, DAMAGED, SUMMARY):
            path, file = self.folder / name, name in (LOCK, LOG)
            if os.path.lexists(path) and not (stat.S_ISREG if file else stat.S_ISDIR)(path.lstat().st_mode):
                raise CannotWrite(
                    f"{str(path)!r} is no {'plain file' if file else 'folder'}; expected one: nothing may lead out of "
                    "a run's folder; move it away"
                )

    def busy(self) -> bool:
        """Whether a process is seen writing; False where that cannot be told. Leaves nothing behind."""
        if not os.path.lexists(self.folder / LOCK):
            return False
        lock = filelock.FileLock(self.folder / LOCK, timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            return True
        except OSError:  # a folder that others may only read
            return False
        lock.release()
        return False

    @gated
    def log(self, entry: Mapping[str, Any]) -> None:
        """Notes what a session did."""
        files.append(self.folder / LOG, json.dumps(json.loads(sealed(entry))))

    def sessions(self) -> list[dict[str, Any]]:
        """What the sessions noted; one that was killed noted nothing, and a line that changed is left out."""
        try:
            lines = files.read_plain(self.folder / LOG).splitlines()
        except OSError:
            return []
        return [entry for entry in map(_entry, lines) if entry is not None]

    # What is there, and whether it is what was written.

    def _manifest(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        if not self.taken:
            raise DamagedRun(
                f"no run of a sweep in {str(self.folder)!r} (no {MANIFEST}); expected a folder that "
                "`steerscope sweep run` made; check the path"
            )
        found = read_json(path, DamagedRun, "manifest of a sweep", needed=lambda found: found.get("format") == FORMAT)
        kind, version = found.get("kind"), found.get("format")
        if kind != KIND or version != FORMAT:
            raise DamagedRun(
                f"no run of a sweep in {str(self.folder)!r}: its {MANIFEST} is of kind {kind!r}, format {version!r}; "
                f"expected {KIND!r} of format {FORMAT}; give the folder of a sweep, run an older one again, or update "
                "steerscope"
            )
        wrong = _missing(found, NEEDED)
        wrong += [f"files: {name}" for name in sorted(set(found.get("files", ())) - {ADDITIONS, PROMPTS})]
        if wrong:
            raise DamagedRun(
                f"{str(path)!r} is no manifest of a sweep ({'; '.join(wrong[:3])}); expected one that steerscope "
                "wrote; check it"
            )
        return found

    def _content(self, name: str, expected: str) -> bytes:
        """A file of the run, as it was written."""
        try:
            content = files.read_plain(self.folder / name)
        except OSError:
            content = b""
        if digest(content) != expected:
            raise self._damaged(name)
        return content

    def _table(self, path: Path, content: bytes, rows: int, columns: Sequence[str] | None = None) -> pa.Table:
        """A table from its bytes, which were checked."""
        try:
            file = pq.ParquetFile(io.BytesIO(content))
            if file.metadata.num_rows == rows and not _is_made_to_fill(file, len(content)):
                return file.read(None if columns is None else list(columns)).replace_schema_metadata(None)
        except (OSError, pa.ArrowException):
            pass
        raise self._damaged(str(path.relative_to(self.folder)))

    def _damaged(self, name: str) -> DamagedRun:
        return DamagedRun(
            f"{str(self.folder / name)!r} is missing or has changed since the run began; expected the file as it was "
            "written; bring it back, or begin another run"
        )

    def _parts(self) -> Iterator[tuple[int, Path, bytes | None]]:
        """Block, path and bytes of every part, in order; None where it is damaged."""
        about, seen = self._manifest(), set()
        found = [(PART.fullmatch(path.name), path) for path in self.trials.glob("part-*.parquet")]
        for block, path in sorted((int(match[1]) if match else -1, path) for match, path in found):
            content = _whole(path, _part(about, block)) if block >= 0 and block not in seen else None
            if content is not None:
                seen.add(block)
            yield block, path, content

    # What a killed creation left, and what is somebody else's.

    def _refuse_foreign(self) -> None:
        if self.taken or not os.path.lexists(self.folder):
            return
        there = list(self.folder.iterdir()) if self.folder.is_dir() else [self.folder]
        half = self._half()
        if not all(_left(path, half) for path in there) and not self.taken:  # nor has it just come
            raise OutputExists(
                f"{str(self.folder)!r} is there and is no sweep; expected a new or empty folder, or one of a sweep to "
                "go on with; choose another --out"
            )

    def _half(self) -> bool:
        """Whether a creation was killed that had to fill the folder where it stands (see `files.renewed`)."""
        return any(files.TEMPORARY.fullmatch(path.name) and path.is_dir() for path in self.folder.glob(".*"))

    def _remove_half(self) -> None:
        """What such a creation put in place goes before its temporary, by which we know it."""
        if self._half():
            for name in (ADDITIONS, PROMPTS):
                (self.folder / name).unlink(missing_ok=True)


def _left(path: Path, half: bool) -> bool:
    """Whether an entry of a folder without a manifest was left by a killed creation."""
    if path.is_symlink():
        return False
    if path.name == TRIALS and path.is_dir():
        return all(files.TEMPORARY.fullmatch(inner.name) for inner in path.iterdir())
    if path.name in (ADDITIONS, PROMPTS):
        return half
    temporary = HALF.fullmatch(path.name) or files.TEMPORARY.fullmatch(path.name)
    return bool(temporary) or (path.name == LOCK and path.is_file())


def _part(about: Mapping[str, Any], block: int) -> dict[str, Any]:
    """What a part says of itself: its sweep, its number, its trials."""
    size = about["block"]
    stop = min((block + 1) * size, about["design"]["trials"])
    return {"sweep": key_of(about), "block": block, "start": block * size, "stop": stop}


def _whole(path: Path, about: Mapping[str, Any]) -> bytes | None:
    """The bytes of a part, if they are those that its name and the sweep say."""
    try:
        content = files.read_plain(path)
        if not path.name.endswith(f"-{digest(content)[:16]}.parquet"):
            return None
        file = pq.ParquetFile(io.BytesIO(content))
        said = json.loads((file.schema_arrow.metadata or {})[ABOUT])
    except (OSError, ValueError, KeyError, RecursionError, pa.ArrowException):
        return None
    return content if said == about and file.metadata.num_rows == about["stop"] - about["start"] else None


def _is_made_to_fill(file: pq.ParquetFile, size: int) -> bool:
    """Whether a table has so many numbers a byte that only the memory of who reads it can be meant."""
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    numbers = sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
    return bool(numbers > max(FEW, DENSEST * size))


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        there = entry.pop(CHECKSUM)
        whole = json.loads(sealed(entry))[CHECKSUM] == there
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return entry if whole and not _missing(entry, LOGGED) else None


def _missing(found: Mapping[str, Any], needed: Mapping[str, Any]) -> list[str]:
    """What a document lacks or has of another kind, by name."""
    wrong = []
    for name, kind in needed.items():
        value: Any = found
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        try:
            check_of(kind)(value)
        except Refused as expected:
            wrong.append(f"{name}: expected {expected}")
    return wrong
