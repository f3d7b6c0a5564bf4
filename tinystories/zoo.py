"""The story models that are shipped: where their folders are, and what their cards say.

Knows files only and imports neither torch nor transformers, so that listing the models is quick.
"""

import json
from dataclasses import dataclass
from pathlib import Path

ZOO = Path(__file__).parent / "zoo"
DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Shipped:
    """What the card of a shipped model says in numbers."""

    name: str
    layers: int
    heads: int
    d_model: int
    vocabulary: int
    context: int
    parameters: int
    loss: float
    """Held-out nats per token."""
    bits_per_character: float
    """On held-out real stories."""


def shipped() -> dict[str, Path]:
    """Names of the shipped models and their folders, sorted by name."""
    return {path.parent.name: path.parent for path in sorted(ZOO.glob("*/training.json"))}


def cards() -> dict[str, Shipped]:
    """The figures of each shipped model, read from its `training.json`."""
    return {name: _card(folder) for name, folder in shipped().items()}


def _card(folder: Path) -> Shipped:
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    held_out = training["held_out"]
    return Shipped(
        name=folder.name,
        layers=training["layers"],
        heads=training["heads"],
        d_model=training["d_model"],
        vocabulary=training["vocabulary"],
        context=training["context"],
        parameters=training["parameters"],
        loss=held_out["loss"],
        bits_per_character=held_out["bits_per_character"],
    )


def prompts(kind: str) -> list[str]:
    """The prepared prompts of the demo: `kind` is "on_topic" (weddings) or "off_topic" (neutral)."""
    text = (DATA / f"prompts_{kind}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip()]
