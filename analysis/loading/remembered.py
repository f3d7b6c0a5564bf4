"""Self-checks that were passed, remembered in the user's cache: the same weights, run by the same code, pass again.

Only checkpoints that were read from files are remembered: a model in memory may have been changed in ways that its
weights do not show. An entry that is damaged, or says something else, is as good as none; so is a cache that cannot be
written.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from steerscope.analysis.errors import SteerscopeError
from steerscope.analysis.files import write
from steerscope.analysis.model.models import Model
from steerscope.analysis.seals import digest, read_json, sealed

LIBRARIES = ("torch", "transformers", "transformer-lens")
ROOMS = ("engine", "loading", "model")  # whose code a self-check runs


class _None(SteerscopeError):
    """There is no such entry."""


def passed(model: Model, config: Mapping[str, Any]) -> bool:
    """Whether a self-check of the very same is remembered.

    Args:
        config: of the checkpoint.
    """
    about = _about(model, config)
    try:
        return read_json(_place(about), _None, "remembered self-check", needed=lambda found: True) == {"passed": about}
    except (_None, OSError):
        return False


def remember(model: Model, config: Mapping[str, Any]) -> None:
    """Keeps that the self-check was passed, where that can be kept."""
    about = _about(model, config)
    with suppress(SteerscopeError, OSError):
        write(_place(about), sealed({"passed": about}))


def folder() -> Path:
    """Where entries lie: below `XDG_CACHE_HOME`, or the cache of the user's home."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path("~/.cache").expanduser()) / "steerscope" / "selfchecks"


def _place(about: Mapping[str, Any]) -> Path:
    return folder() / f"{digest(json.dumps(about, sort_keys=True).encode())[:32]}.json"


def _about(model: Model, config: Mapping[str, Any]) -> dict[str, str]:
    """All that a self-check depends on."""
    kind = model.device.type
    return {
        "weights": model.weights_hash,
        "config": digest(json.dumps(config, sort_keys=True, default=str).encode()),
        "architecture": model.architecture,
        "dtype": str(model.dtype),
        "device": torch.cuda.get_device_name(model.device) if kind == "cuda" else kind,
        "code": _code(),
        **{name: version(name) for name in LIBRARIES},
    }


@cache
def _code() -> str:
    """The state of the code that is checked, and of the check."""
    content = hashlib.sha256()
    for path in sorted(file for room in ROOMS for file in (Path(__file__).parents[1] / room).glob("*.py")):
        content.update(path.read_bytes())
    return content.hexdigest()
