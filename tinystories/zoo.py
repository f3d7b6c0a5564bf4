"""The story models that are shipped: where their folders are, and what their cards say.

Knows files only and imports neither torch nor transformers, so that listing the models is quick.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from steerscope.analysis.errors import DamagedRun
from steerscope.analysis.gate import Count, Within, gated
from steerscope.analysis.seals import check_folder_seal, read_json

ZOO = Path(__file__).parent / "zoo"
CARD = "training.json"
DATA = Path(__file__).parent / "data"


@gated(error=DamagedRun)
@dataclass(frozen=True)
class Shipped:
    """What the card of a shipped model says in numbers."""

    name: str
    layers: Count
    heads: Count
    d_model: Count
    vocabulary: Count
    context: Count
    parameters: Annotated[int, Within(1)]
    loss: Annotated[float, Within(0)]
    """Held-out nats per token."""
    bits_per_character: Annotated[float, Within(0)]
    """On held-out real stories."""


def shipped() -> dict[str, Path]:
    """Names of the shipped models and their folders, sorted by name."""
    return {path.parent.name: path.parent for path in sorted(ZOO.glob(f"*/{CARD}"))}


def cards() -> dict[str, Shipped]:
    """The figures of each shipped model, read from its `training.json`.

    Raises:
        DamagedRun: a file of it has changed since it was shipped.
    """
    return {name: _card(folder) for name, folder in shipped().items()}


def _card(folder: Path) -> Shipped:
    check_folder_seal(folder, DamagedRun, "shipped model")
    training: dict[str, Any] = read_json(folder / CARD, DamagedRun, "card of a model", needed=lambda found: False)
    held_out = training.get("held_out")
    figures = {**training, **(held_out if isinstance(held_out, dict) else {}), "name": folder.name}
    known: dict[str, Any] = {name: figures.get(name) for name in Shipped.__dataclass_fields__}
    return Shipped(**known)


@gated
def prompts(kind: Literal["on_topic", "off_topic"]) -> list[str]:
    """The prepared prompts of the demo: about weddings, or neutral."""
    text = (DATA / f"prompts_{kind}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip()]
