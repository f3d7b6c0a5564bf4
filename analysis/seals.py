"""Seals: JSON that carries a checksum of itself, and folders that list the checksums of their files.

What explains the data (a manifest, a plan, a configuration) is as easily changed as the data: by hand, by one flipped
bit. What carries a seal and does not agree with it is refused, not believed. Tensors have theirs in `tensors`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .brief import quoted
from .errors import SteerscopeError
from .files import read_plain

CHECKSUM, CHECKSUMS = "checksum", "checksums.json"


def digest(content: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sealed(document: Mapping[str, Any]) -> bytes:
    """A JSON object as bytes, with a checksum of its own content."""
    return _json({**document, CHECKSUM: digest(_json(document))}) + b"\n"


def read_json(
    path: str | Path,
    error: type[SteerscopeError],
    what: str,
    needed: Callable[[dict[str, Any]], bool] = lambda found: True,
) -> dict[str, Any]:
    """A JSON object from a file, without its checksum.

    Args:
        error: what to raise.
        what: the file is, in words.
        needed: whether it must carry a checksum, by what it holds; one that is there is always checked.

    Raises:
        error: missing, not readable, no JSON object, or changed since it was written.
    """
    try:
        found = json.loads(read_plain(path).decode("utf-8"), parse_constant=_no_constant)
        json.dumps(found, ensure_ascii=False).encode()  # half a character, escaped, is a text that nothing can hold
        there = found.pop(CHECKSUM, None) if isinstance(found, dict) else None
        expected = digest(_json(found))
    except (OSError, ValueError, RecursionError) as reason:
        why = getattr(reason, "strerror", None) or f"{type(reason).__name__}: {reason}"
        raise error(
            f"{quoted(path)} is no {what} ({why[:200]}); expected one that steerscope wrote; check it"
        ) from reason
    if not isinstance(found, dict):
        raise error(f"{quoted(path)} is no {what} (it holds {type(found).__name__}); expected a JSON object; check it")
    if there != expected and (there is not None or needed(found)):
        raise error(
            f"{quoted(path)} has changed since it was written (its checksum differs); expected the {what} as it was; "
            "bring it back, or run it again"
        )
    return found


def seal_folder(folder: Path) -> None:
    """Writes `checksums.json` over all files right in a folder that is being made (see `files.renewed`)."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != CHECKSUMS)
    (folder / CHECKSUMS).write_bytes(sealed({"files": {name: digest(read_plain(folder / name)) for name in names}}))


def check_folder_seal(folder: str | Path, error: type[SteerscopeError], what: str) -> None:
    """Refuses a folder in which a file that `seal_folder` saw is missing or has changed; one without a seal passes.

    Raises:
        error: with the names.
    """
    folder = Path(folder)
    if not (folder / CHECKSUMS).exists():
        return
    files = read_json(folder / CHECKSUMS, error, "list of checksums").get("files")
    listed = files if isinstance(files, dict) else {CHECKSUMS: ""}
    changed = sorted(name for name, expected in listed.items() if _digest_of(folder / Path(name).name) != expected)
    if changed:
        names = ", ".join(changed[:5])
        raise error(
            f"in {quoted(folder)} {names} has changed since the {what} was written; expected its files as they were; "
            f"bring them back, or remove {CHECKSUMS} if you changed them yourself"
        )


def _digest_of(path: Path) -> str:
    try:
        return digest(read_plain(path))
    except OSError:
        return ""


def _json(document: Any) -> bytes:
    """As UTF-8; half a character, as in names of files that are no UTF-8, becomes a question mark."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode(errors="replace")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
