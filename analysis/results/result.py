"""`Result`: what every analysis returns and every page is made from: tidy frames, their columns, and a manifest.

A result explains itself: the meaning, unit and role of every column travel with it, so that one that was saved by
another version, or by a question that is not in this one, can still be read and drawn.

A saved result is a folder: one parquet file a frame, `manifest.json` with the checksum of each.
Files are written beside and renamed, the manifest last, so a folder with a manifest is whole.
No torch in here: a result is read and drawn where no model is.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from steerscope.analysis.errors import BadArgument, DamagedRun, OutputExists
from steerscope.questions import page_of

from .schema import Frames, from_json, to_json

FORMAT = 2
MANIFEST = "manifest.json"


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
        model = self.manifest.get("model", {}).get("name", "no model")
        return f"<Result {self.kind} of {model}: {rows} rows>"

    def summary(self) -> list[str]:
        """What was found, in the sentences that head its page."""
        found: list[str] = page_of(self.kind).headline(self)
        return found

    def _repr_html_(self) -> str:
        """For notebooks: the headline, a few numbers, one figure."""
        # By name: pictures are made above, and only when somebody looks.
        shown: str = import_module("steerscope.reports.notebook").html(self)
        return shown

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Writes the result to `folder`.

        Raises:
            OutputExists: the folder holds a result already and `overwrite` is false.
        """
        folder = Path(folder)
        check_folder(folder, overwrite, self.frames)
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        files = {}
        for name, frame in self.frames.items():
            path = folder / f"{name}.parquet"
            _write(path, lambda temporary, frame=frame: frame.to_parquet(temporary, index=False))
            files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        columns = to_json(self.columns)
        document = {"format": FORMAT, "kind": self.kind, "files": files, "columns": columns, **self.manifest}
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        _write(folder / MANIFEST, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))
        return folder

    @classmethod
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
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            kind, files = manifest.pop("kind"), manifest.pop("files")
            version = manifest.pop("format")
            columns = from_json(manifest.pop("columns"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedRun(
                f"{str(path)!r} is not a manifest of steerscope ({error}); run the analysis again"
            ) from error
        if version > FORMAT:
            raise DamagedRun(
                f"{str(path)!r} has format {version}, this steerscope reads up to {FORMAT}; update steerscope"
            )
        frames = {name: _read(folder / f"{name}.parquet", digest) for name, digest in files.items()}
        return cls(kind, frames, columns, manifest)


def check_folder(folder: str | Path, overwrite: bool, frames: Iterable[str] = ()) -> None:
    """Refuses a folder that cannot be written to, before any work is done.

    With `overwrite` a result may be replaced; a file that is no part of one never is.

    Args:
        frames: names of the tables that will be written.

    Raises:
        OutputExists: there is a result and `overwrite` is false, or somebody else's file, or `folder` is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputExists(f"{str(folder)!r} is a file, expected a folder to write to; choose another name")
    if (folder / MANIFEST).exists() and not overwrite:
        raise OutputExists(
            f"{str(folder)!r} holds a result already; choose another folder, or pass --overwrite (overwrite=True)"
        )
    found = _manifest(folder)
    if "kind" in found and "columns" not in found:
        raise OutputExists(
            f"{str(folder)!r} holds a {found['kind']}, which no result may replace; choose another folder"
        )
    ours = {f"{name}.parquet" for name in frames}
    foreign = sorted(name for name in ours - _saved(folder) if (folder / name).exists())
    if foreign:
        raise OutputExists(
            f"{str(folder)!r} holds {', '.join(foreign)}, which no saved result lists and this one would replace; "
            "choose another folder, or move the file away"
        )


def _saved(folder: Path) -> set[str]:
    """Names of the tables that the result in `folder` lists as its own."""
    files = _manifest(folder).get("files")
    return {f"{name}.parquet" for name in files} if isinstance(files, dict) else set()


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest in `folder`, empty where there is none that can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _clear(folder: Path) -> None:
    """Removes an old result and nothing else; its manifest first, so that a crash leaves none over mixed files."""
    old = _saved(folder)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in old:
        (folder / name).unlink(missing_ok=True)


def _write(path: Path, write: Any) -> None:
    temporary = path.with_name(path.name + ".part")
    write(temporary)
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    shutil.move(temporary, path)


def _read(path: Path, digest: str) -> pd.DataFrame:
    if not path.is_file():
        raise DamagedRun(f"{str(path)!r} is missing, the manifest lists it; run the analysis again")
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise DamagedRun(f"{str(path)!r} has changed since it was saved (checksum differs); run the analysis again")
    return pd.read_parquet(path)
