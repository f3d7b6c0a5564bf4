"""`Result`: what every analysis returns and every page is made from: tidy frames, their columns, and a manifest.

A result explains itself: the meaning, unit and role of every column travel with it, so that one that was saved by
another version, or by a question that is not in this one, can still be read and drawn.

A saved result is a folder: one parquet file a frame, and `manifest.json` with the checksum of each and of itself. It
takes its place in one step (`analysis.files`), with the page that was drawn from it, so a folder is old or new.
No torch in here: a result is read and drawn where no model is.
"""

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadArgument, DamagedRun, OutputExists
from steerscope.analysis.files import read_plain, renewed
from steerscope.analysis.gate import gated
from steerscope.analysis.seals import digest, read_json, sealed
from steerscope.questions import page_of

from .schema import Frames, from_json, to_json

FORMAT = 3  # of 2, the manifest has no checksum
MANIFEST, PAGE = "manifest.json", "report.html"
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
FEW, DENSEST = 10_000_000, 50  # cells, and cells a byte: a table that is made to fill the memory has more of both
PIECE = 4096  # bytes of a page that say whose it is
MARK = b"steerscope"  # in the metadata of our tables: whose they are, where no manifest says it


@gated
@dataclass(frozen=True, repr=False)
class Result:
    """Tidy frames, what their columns mean, and a manifest.

    Attributes:
        kind: which question; picks the page of the report.
        frames: tables by name.
        columns: of each frame, the meaning, unit and role of each column. A frame has these columns and no others,
            in this order.
        manifest: everything needed to understand and repeat the run (JSON types only): model and the
            hash of its weights, vector, prompts' hash, all arguments, seed, versions, device, time,
            and `checks`, a list of {name, value, limit, passed}.

    Raises:
        BadArgument: frames and columns do not agree.
    """

    kind: str
    frames: Mapping[str, pd.DataFrame]
    columns: Frames
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = {name: list(frame.columns) for name, frame in self.frames.items()}
        expected = {name: list(frame) for name, frame in self.columns.items()}
        wrong = [
            f"{name}: {sorted(set(own) ^ set(expected.get(name, ())))}"
            for name, own in found.items()
            if set(own) != set(expected.get(name, ())) or len(own) != len(set(own))
        ]
        wrong += [f"{name}: no such frame" for name in sorted(set(expected) - set(found))]
        wrong += [f"{name!r} is no name of a table" for name in found if not NAME.fullmatch(name)]
        if wrong:
            raise BadArgument(
                f"frames of a result of kind {self.kind!r} do not agree with its columns ({'; '.join(wrong)}); "
                "expected every frame and column to be described; add them to its COLUMNS"
            )
        ordered = {
            name: frame if found[name] == expected[name] else frame[expected[name]]
            for name, frame in self.frames.items()
        }
        object.__setattr__(self, "frames", ordered)

    def __repr__(self) -> str:
        rows = ", ".join(f"{name} {len(frame)}" for name, frame in self.frames.items())
        about = self.manifest.get("model")
        model = brief(str(about.get("name"))) if isinstance(about, Mapping) else "no model"
        return f"<Result {brief(self.kind)} of {model}: {rows} rows>"

    def summary(self) -> list[str]:
        """What was found, in the sentences that head its page."""
        found: list[str] = page_of(self.kind).headline(self)
        return found

    def _repr_html_(self) -> str:
        """For notebooks: the headline, a few numbers, one figure."""
        # By name: pictures are made above, and only when somebody looks.
        shown: str = import_module("steerscope.reports.notebook").html(self)
        return shown

    @gated
    def save(
        self, folder: str | Path, overwrite: bool = False, beside: Mapping[str, str | bytes] | None = None
    ) -> Path:
        """Writes the result to `folder`, which is the old one until the new one is whole.

        Args:
            overwrite: replace the result that is there, with its page. What others put there stays.
            beside: further files by name, such as the page; they come with the tables, in one step.

        Raises:
            OutputExists: the folder holds a result already and `overwrite` is false.
            BadArgument: a table or a manifest that no file can hold.
            DiskFull, CannotWrite: the system refuses; what was there stays.
        """
        folder, more = Path(folder), {name: _bytes(content) for name, content in (beside or {}).items()}
        wrong = sorted(name for name in more if Path(name).name != name or name.endswith(".parquet"))
        if wrong:
            raise BadArgument(f"beside={wrong}; expected plain names of files that are no tables; choose others")
        check_folder(folder, overwrite, self.frames, more)
        contents = {f"{name}.parquet": self._table(name) for name in self.frames}
        files = {name.removesuffix(".parquet"): digest(content) for name, content in contents.items()}
        about = {"format": FORMAT, "kind": self.kind, "files": files, "columns": to_json(self.columns)}
        about |= {"beside": {name: digest(content) for name, content in more.items() if name != PAGE}}
        try:
            contents[MANIFEST] = sealed({**about, **self.manifest})
        except (TypeError, ValueError, RecursionError) as error:
            raise BadArgument(
                f"the manifest of a {self.kind} cannot be written ({error}); expected finite numbers, texts, lists and "
                "dictionaries; mend it"
            ) from error
        old = _saved(folder) | {MANIFEST}
        with renewed(folder, old.__contains__) as fresh:
            for name, content in {**contents, **more}.items():
                (fresh / name).write_bytes(content)
        return folder

    def _table(self, name: str) -> bytes:
        """A frame as parquet."""
        try:
            table = pa.Table.from_pandas(self.frames[name], preserve_index=False)
            marked = table.replace_schema_metadata({**(table.schema.metadata or {}), MARK: name.encode()})
            buffer = io.BytesIO()
            pq.write_table(marked, buffer)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise BadArgument(
                f"the table {name!r} of a {self.kind} cannot be written ({str(error)[:200]}); expected one type a "
                "column, and texts that UTF-8 holds; mend the column"
            ) from error
        return buffer.getvalue()

    @classmethod
    @gated
    def load(cls, folder: str | Path) -> "Result":
        """Reads a saved result back whole.

        Raises:
            DamagedRun: the folder is missing, has no manifest, or a file's checksum is wrong.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise DamagedRun(
                f"no {MANIFEST} in {str(folder)!r}: expected a folder that steerscope saved; "
                "give the folder of a finished run"
            )
        manifest = read_json(path, DamagedRun, "manifest", needed=lambda found: found.get("format", FORMAT) != 2)
        try:
            kind, files = manifest.pop("kind"), manifest.pop("files")
            version = manifest.pop("format")
            columns = from_json(manifest.pop("columns"))
            beside = dict(manifest.pop("beside", {}))
            newer = version > FORMAT
            wrong = sorted(name for name in files if not NAME.fullmatch(name))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedRun(
                f"{str(path)!r} is not a manifest of a result ({type(error).__name__}: {error}); expected one that "
                "steerscope saved; give the folder of a finished run"
            ) from error
        if newer:
            raise DamagedRun(
                f"{str(path)!r} has format {version}, this steerscope reads up to {FORMAT}; update steerscope"
            )
        if wrong:
            raise DamagedRun(f"{str(path)!r} lists {wrong[:3]}; expected names of tables; run the analysis again")
        changed = sorted(name for name, expected in beside.items() if _sum(folder, name) != expected)
        if changed:
            raise DamagedRun(
                f"in {str(folder)!r} {', '.join(changed)} has changed since it was saved, or is gone; expected what "
                "the manifest lists; bring it back, or run it again"
            )
        frames = {name: _read(folder / f"{name}.parquet", expected) for name, expected in files.items()}
        try:
            return cls(kind, frames, columns, manifest)
        except BadArgument as error:
            raise DamagedRun(f"{str(folder)!r} is no whole result: {error}") from error


def check_folder(folder: str | Path, overwrite: bool, frames: Iterable[str] = (), beside: Iterable[str] = ()) -> None:
    """Refuses a folder that cannot be written to, before any work is done.

    With `overwrite` a result may be replaced; a file that is no part of one never is.

    Args:
        frames: names of the tables that will be written.
        beside: names of further files.

    Raises:
        OutputExists: there is a result and `overwrite` is false, or somebody else's file, or `folder` is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputExists(f"{str(folder)!r} is a file, expected a folder to write to; choose another name")
    saved = _saved(folder)
    if ((folder / MANIFEST).exists() or saved) and not overwrite:
        raise OutputExists(
            f"{str(folder)!r} holds a result already; expected a new folder; choose another, or pass --overwrite "
            "(overwrite=True)"
        )
    found = _manifest(folder)
    if "kind" in found and "columns" not in found:
        raise OutputExists(
            f"{str(folder)!r} holds a {found['kind']}, which no result may replace; expected another folder; choose one"
        )
    written = {f"{name}.parquet" for name in frames} | set(beside)
    foreign = sorted(name for name in written - saved if (folder / name).exists())
    if foreign:
        raise OutputExists(
            f"{str(folder)!r} holds {', '.join(foreign)}, which no saved result lists and this one would replace; "
            "expected a folder without it; choose another folder, or move the file away"
        )


def _saved(folder: Path) -> set[str]:
    """Names of the files in `folder` that are a result's: its manifest lists them, or they say so themselves."""
    tables = _manifest(folder).get("files")
    named = {f"{name}.parquet" for name in tables if NAME.fullmatch(name)} if isinstance(tables, dict) else set()
    return named | _beside(folder) | {path.name for path in folder.glob("*.parquet") if _marked(path)} | _page(folder)


def _beside(folder: Path) -> set[str]:
    """Further files that are a result's: its manifest lists them, and they are what it lists."""
    listed = _manifest(folder).get("beside")
    return {name for name, sum in listed.items() if _sum(folder, name) == sum} if isinstance(listed, dict) else set()


def _sum(folder: Path, name: str) -> str:
    """The digest of a plain file right in a folder; empty where there is none."""
    path = folder / name
    try:
        return digest(read_plain(path)) if path.name == name and not path.is_symlink() else ""
    except OSError:
        return ""


def _bytes(content: str | bytes) -> bytes:
    return content.encode(errors="replace") if isinstance(content, str) else content


def _marked(path: Path) -> bool:
    try:
        return path.is_file() and MARK in (pq.read_schema(path).metadata or {})
    except (OSError, ValueError, pa.ArrowException):
        return False


def _page(folder: Path) -> set[str]:
    """The page, if it is one of ours."""
    try:
        with (folder / PAGE).open("rb") as file:
            return {PAGE} if b'content="steerscope"' in file.read(PIECE) else set()
    except OSError:
        return set()


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest in `folder`, as it is; empty where there is none that can be read."""
    try:
        return read_json(folder / MANIFEST, DamagedRun, "manifest", needed=lambda found: False)
    except DamagedRun:
        return {}


def _read(path: Path, expected: str) -> pd.DataFrame:
    try:
        content = read_plain(path)
        if digest(content) == expected:
            about = pq.read_metadata(io.BytesIO(content))
            if about.num_rows * max(1, about.num_columns) > max(FEW, DENSEST * len(content)):
                raise ValueError(f"{about.num_rows:,} rows in {len(content):,} bytes")
            frame: pd.DataFrame = pq.read_table(io.BytesIO(content)).to_pandas()
            return frame
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DamagedRun(
            f"{str(path)!r} cannot be read ({getattr(error, 'strerror', None) or error}), and the manifest lists it; "
            "expected it as it was saved; run the analysis again"
        ) from error
    raise DamagedRun(
        f"{str(path)!r} has changed since it was saved (its checksum differs); expected it as it was; run the analysis "
        "again"
    )
