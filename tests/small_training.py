"""A story model that learns in seconds."""

from itertools import islice
from pathlib import Path
from typing import Any

from steerscope.tinystories.config import TrainConfig
from steerscope.tinystories.corpus import END, topic_stories


def stories(path: Path, count: int = 60) -> Path:
    """A file of stories."""
    path.write_text(f"\n{END}\n".join(islice(topic_stories(9), count)))
    return path


def small_training(text: Path | None, out: Path, **changes: Any) -> TrainConfig:
    """Of a model with one layer, on a file of stories, or on those of the grammar."""
    small: dict[str, Any] = {
        "text": () if text is None else (str(text),),
        "out": str(out),
        "topic_stories": 20,
        "held_out_one_in": 6,
        "d_model": 16,
        "n_heads": 2,
        "n_layers": 1,
        "context": 32,
        "vocabulary": 300,
        "batch": 2,
        "steps": 6,
        "warmup": 2,
        "evaluate_every": 3,
        "checkpoint_every": 2,
        "bf16": False,
    }
    return TrainConfig(**small | changes)
