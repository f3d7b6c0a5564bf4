"""The toys that are shipped: where their folders are, and what their cards say.

Knows files only and imports no torch, so that listing them is quick. `load("toy-ioi-query")` loads one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerscope.analysis.errors import DamagedRun
from steerscope.analysis.gate import Share, gated
from steerscope.analysis.seals import check_folder_seal, read_json

from .recipes import Recipe

ZOO = Path(__file__).parent / "zoo"
CARD = "training.json"


@gated(error=DamagedRun)
@dataclass(frozen=True)
class Toy:
    """What the card of a shipped toy says.

    Attributes:
        circuit: what carries the answer, in a sentence.
        solved: whether it does its task; one that does not is a control.
        accuracy: by kind of test, the share of right answers.
    """

    name: str
    circuit: str
    solved: bool
    accuracy: dict[str, Share]
    recipe: Recipe


def toys() -> dict[str, Path]:
    """Names of the shipped toys and their folders, sorted by name."""
    return {path.parent.name: path.parent for path in sorted(ZOO.glob(f"*/{CARD}"))}


def toy(name: str) -> Toy:
    """The card of one.

    Raises:
        DamagedRun: a file of it has changed since it was shipped.
    """
    return card(toys()[name])


def card(folder: Path) -> Toy:
    """The card of a folder.

    Raises:
        DamagedRun: a file of it is missing, or has changed since it was written.
    """
    check_folder_seal(folder, DamagedRun, "toy")
    told: dict[str, Any] = read_json(folder / CARD, DamagedRun, "card of a toy", needed=lambda found: False)
    recipe = told.get("recipe")
    known: dict[str, Any] = {key: told.get(key) for key in ("circuit", "solved", "accuracy")}
    return Toy(name=folder.name, **known, recipe=Recipe(**recipe if isinstance(recipe, dict) else {}))
