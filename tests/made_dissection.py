"""Dissections that are made up from the ends of their paths, and hang together."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from made_up import MANIFEST

from steerscope.analysis.results.result import Result
from steerscope.tinystories.dissect import COLUMNS

Ends = Mapping[str, float]
PROMPT = ("<|endoftext|>", "Lily", " saw", " a")


def dissection(
    targets: Mapping[str, Ends],
    *,
    tokens: Sequence[str] = PROMPT,
    injected: Sequence[int] = (1,),
    prompts: int = 1,
    readout: str = "centred",
) -> Result:
    """A result of prompts that are all alike, read at their last position.

    Args:
        targets: by token, the ends of its paths: they add up to its change.
    """
    frames: dict[str, list[dict[str, Any]]] = {name: [] for name in COLUMNS}
    at = len(tokens) - 1
    for prompt in range(prompts):
        frames["texts"] += [
            {"prompt": prompt, "position": n, "token": token, "injected": n in injected}
            for n, token in enumerate(tokens)
        ]
        for number, (token, ends) in enumerate(targets.items()):
            row = {"prompt": prompt, "position": at, "token": token, "token_id": number}
            for name, rows in _rows(ends).items():
                frames[name] += [row | own for own in rows]
    made = {name: pd.DataFrame(rows, columns=list(COLUMNS[name])).astype(_types(name)) for name, rows in frames.items()}
    manifest = MANIFEST | {"readout": readout, "prompts": {"count": prompts}}
    return Result("dissect", made, COLUMNS, manifest)


def _types(name: str) -> dict[str, str]:
    about = {"change": "float", "ours": "float", "reference": "float", "distance": "float", "effect": "float"}
    return {column: kind for column, kind in about.items() if column in COLUMNS[name]}


def _rows(ends: Ends) -> dict[str, list[dict[str, Any]]]:
    """Of one token: the frames that its paths give."""
    changes: dict[str, float] = defaultdict(float)
    parents: dict[str, str] = {}
    for end, change in ends.items():
        for path in _above(end):
            changes[path] += change
        chain = _above(end)
        parents |= dict(zip(chain[1:], chain, strict=False))
    whole = changes.get("total", 0.0)
    writers = [changes[path] for path, parent in parents.items() if parent == "total"]
    mass = sum(map(abs, writers))
    total = {"change": whole, "clean": 1.0, "steered": 1.0 + whole, "chosen": "gains" if whole > 0 else "loses"}
    total |= {"at": " a", "mass": mass, "parts_mass": mass, "gap": 0.0}
    paths = [{"path": "total", "parent": "", "depth": 0, "change": whole, "share": 1.0}]
    paths += [
        {"path": path, "parent": parent, "depth": 1, "change": changes[path], "share": 0.1}
        for path, parent in parents.items()
    ]
    return {"totals": [total], "paths": paths}


def _above(end: str) -> list[str]:
    """The nodes from the whole down to an end of a path."""
    found = ["total"]
    parts = end.replace(".", "|.").replace("<-", "|<-").split("|")
    for n in range(1, len(parts) + 1):
        found.append("".join(parts[:n]))
    return found
