"""What a page calls a model: by its name, and not by the folder that it happens to lie in."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NOTHING = re.compile(  # names of folders that say nothing of what is in them
    r"(hf|hugging_?face|transformers|model|models|pretrained|checkpoint|checkpoints|ckpt|weights|output|outputs|out"
    r"|final|last|latest|best|main|merged|saved|save|tmp|temp|data|files|snapshot|snapshots|v?[\d.]+"
    r"|((checkpoint|epoch|step|ckpt|run)[-_]?\d+)|[0-9a-f]{40})",
    re.IGNORECASE,
)
CACHED = re.compile(r"models--(.+)")  # a folder of the hub's cache
OURS = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def named(folder: Path, config: Mapping[str, Any]) -> str:
    """A name for the model of a folder.

    1. A folder's own name, where it says something.
    2. `checkpoint-500` and the like: with what its configuration says that it was made of (`_name_or_path`), or else
       with the folder that it lies in, or else with its kind of model. Both stand in the name, since a checkpoint of a
       model that was trained on is not that model.
    """
    for part in folder.parts:
        if (cached := CACHED.fullmatch(part)) is not None:
            return cached[1].replace("--", "/", 1)
    if folder.name and not NOTHING.fullmatch(folder.name):
        return folder.name
    made_of = str(config.get("_name_or_path") or "").rstrip("/")
    if not OURS.fullmatch(made_of):  # a path on somebody's disk
        made_of = Path(made_of).name
    for known in (made_of, folder.parent.name, str(config.get("model_type") or "")):
        if known and not NOTHING.fullmatch(known.split("/")[-1]):
            return f"{known} ({folder.name})" if folder.name else known
    return folder.name or "model"


def name_of(model: Any) -> str:
    """A name for a model of transformers in memory: where it came from, else its class."""
    source = str(getattr(model.config, "_name_or_path", "") or "")
    if not source:
        return type(model).__name__
    return source if OURS.fullmatch(source) else named(Path(source), {"model_type": model.config.model_type})
