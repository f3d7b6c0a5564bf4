"""How vectors of ours are kept, by suffix: one of them, or several by layer.

- `.safetensors` (or no suffix): one tensor `values`, or one a layer, `L5.resid_pre`; site and source beside it, sealed.
- `.gguf`: a control vector (see `control_vector`), for llama.cpp, repeng and EasySteer; site, sources and a seal
  stand under `steerscope.*`, where these skip them. A direction is one row, added to the stream behind a block: vectors
  are of `resid_pre` from layer 2 on (llama.cpp has no place before), or of `mlp_out`, which adds up to the same.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from steerscope.analysis.brief import brief, quoted
from steerscope.analysis.errors import BadNode, BadVector
from steerscope.analysis.ggufs import Gguf
from steerscope.analysis.model.nodes import Site, parse_site
from steerscope.analysis.tensors import checksum, tensor_bytes

from .control_vector import ARCHITECTURE, Faulty, control_bytes, control_of

FORMAT = "2"  # of the file; 1 had no checksum
SINGLE, SEVERAL = {"steerscope", "site", "source"}, {"steerscope", "bundle", "sources"}
HINT, COUNT = f"{ARCHITECTURE}.model_hint", f"{ARCHITECTURE}.layer_count"
PLACE, SOURCES, BUNDLE, SUM = "steerscope.site", "steerscope.sources", "steerscope.bundle", "steerscope.checksum"
BEHIND = {"resid_pre": 1, "mlp_out": 0}  # how far its layer is from the block that a direction is added behind


@dataclass(frozen=True)
class Entry:
    """A vector: where it was recorded, its rows, and where it came from."""

    site: Site
    values: Tensor
    source: Mapping[str, Any]


@dataclass(frozen=True)
class Stored:
    """What a file holds: one vector, or (with a source of their own) several."""

    entries: tuple[Entry, ...]
    bundle: Mapping[str, Any] | None = None


def bytes_of(path: str | Path, held: Stored) -> bytes:
    """The content of a file of vectors, by its suffix.

    Raises:
        BadVector: another suffix, or vectors that the format has no place for.
    """
    return WRITERS[check_suffix(path)](path, held)


def check_suffix(path: str | Path) -> str:
    """The suffix of a file that vectors can be written to.

    Raises:
        BadVector: it is another.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise BadVector(
            f"{quoted(path)} has the suffix {brief(suffix)!r}; expected {', '.join(filter(None, WRITERS))}; choose one"
        )
    return suffix


def _safetensors(path: str | Path, held: Stored) -> bytes:
    if held.bundle is None:
        [one] = held.entries
        about = {"steerscope": FORMAT, "site": str(one.site), "source": json.dumps(dict(one.source))}
        return tensor_bytes({"values": one.values}, about)
    sources = {str(one.site): dict(one.source) for one in held.entries}
    about = {"steerscope": FORMAT, "bundle": json.dumps(dict(held.bundle)), "sources": json.dumps(sources)}
    return tensor_bytes({str(one.site): one.values for one in held.entries}, about)


def _control(path: str | Path, held: Stored) -> bytes:
    directions = {_direction(path, one): one.values[0] for one in held.entries}
    sources = {str(number): dict(one.source) for number, one in zip(directions, held.entries, strict=True)}
    hint = str(next((one.source["model"] for one in held.entries if "model" in one.source), "unknown"))
    about: dict[str, str | int] = {HINT: hint, COUNT: len(directions), PLACE: held.entries[0].site.name}
    about |= {SOURCES: json.dumps(sources)} | ({} if held.bundle is None else {BUNDLE: json.dumps(dict(held.bundle))})
    return control_bytes(directions, about | {SUM: _sum(directions, about)})


def _direction(path: str | Path, one: Entry) -> int:
    """The block that a vector is added behind."""
    if len(one.values) > 1:
        raise BadVector(
            f"{quoted(path)} takes one direction a layer, and the vector at {one.site} has {len(one.values)} rows; "
            "expected one; save vector.row(-1) or vector.mean(), or write a .safetensors file"
        )
    found = one.site.layer - BEHIND.get(one.site.name, 0)
    if one.site.name not in BEHIND or found < 1:
        raise BadVector(
            f"{quoted(path)} has no place for a vector at {one.site}: a control vector is added to the stream behind "
            "the second block or a later one; expected resid_pre from layer 2 on, or mlp_out from layer 1 on; record "
            "it there, or write a .safetensors file"
        )
    return found


WRITERS: Mapping[str, Callable[[str | Path, Stored], bytes]] = {
    "": _safetensors,
    ".safetensors": _safetensors,
    ".gguf": _control,
}


def held_of(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> Stored | None:
    """What a safetensors file of ours holds; None for another's.

    Raises:
        ValueError, KeyError, BadNode: it has changed, or is none.
    """
    if about.keys() == SEVERAL:
        sources, bundle = _object(about["sources"]), _object(about["bundle"])
        if sources.keys() != tensors.keys():
            raise ValueError("its sources are not those of its vectors")
        return Stored(tuple(Entry(parse_site(n), tensors[n], _checked(sources[n])) for n in sources), bundle)
    if "steerscope" not in about and "site" not in about:
        return None
    if about.get("steerscope", "1") != "1" and about.keys() != SINGLE:
        raise ValueError("it has changed since it was written: its checksum is not there")
    return Stored((Entry(parse_site(about["site"]), tensors["values"], _object(about["source"])),))


def control_held(file: Gguf, name: str | None) -> tuple[Stored, bool]:
    """What a control vector holds, and whether it is one of ours.

    Args:
        name: the site that others' are read at; `resid_pre` of the next block by default.

    Raises:
        ValueError, KeyError: it is none, or has changed.
    """
    directions, about = control_of(file)
    told = {key: value for key, value in about.items() if key.startswith("steerscope")}
    ours = bool(told)
    if ours:
        summed = {key: value for key, value in about.items() if key not in (SUM, "general.architecture")}
        if not {PLACE, SOURCES, SUM} <= told.keys() <= {PLACE, SOURCES, BUNDLE, SUM}:
            raise Faulty("it has changed since it was written: what steerscope wrote beside it is not all there")
        if about.get("general.architecture") != ARCHITECTURE or told[SUM] != _sum(directions, summed):
            raise Faulty("it has changed since it was written: its checksum differs")
        name = told[PLACE]
    sources = _object(told.get(SOURCES, "{}"))
    entries = []
    for number, values in sorted(directions.items()):
        site = Site(name or "resid_pre", number + BEHIND[name or "resid_pre"])
        entries.append(Entry(site, values[None], _checked(sources.get(str(number), {}))))
    bundle = _object(told[BUNDLE]) if BUNDLE in told else None if ours or len(entries) == 1 else {}
    return Stored(tuple(entries), bundle), ours


def _sum(directions: Mapping[int, Tensor], about: Mapping[str, Any]) -> str:
    return checksum({str(n): x for n, x in directions.items()}, {key: str(value) for key, value in about.items()})


def _object(text: str) -> dict[str, Any]:
    return _checked(json.loads(text))


def _checked(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ValueError("its source is no object")
    return found


FAULTS = (ValueError, KeyError, RecursionError, TypeError, BadNode, BadVector)  # of a file that is none of these
