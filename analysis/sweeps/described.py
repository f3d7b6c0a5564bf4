"""What differs between two descriptions of a sweep."""

import json
from collections.abc import Mapping
from typing import Any

from .store import FIXED


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two descriptions of a sweep, each as a phrase."""
    old, new = _flat(there), _flat(now)
    names = [n for n in dict.fromkeys([*old, *new]) if n.split(".")[0] in FIXED and not _incidental(n)]
    return [
        (
            f"{name} was {json.dumps(old.get(name), ensure_ascii=False)} and is "
            f"{json.dumps(new.get(name), ensure_ascii=False)}"
        )
        for name in names
        if old.get(name) != new.get(name)
    ]


def _incidental(name: str) -> bool:
    """What a model is called and where it lies may change; what it is may not."""
    return name.startswith("model.") and name not in ("model.weights_hash", "model.dtype", "model.bos")


def _flat(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{above}{key}.") if isinstance(inner, Mapping) else {f"{above}{key}": inner}
    return found
