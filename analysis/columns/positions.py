"""Columns of the tables of `by_position`."""

from steerscope.analysis.results.schema import Frames

from .localize import LOCALIZE
from .paths import NUMBERS

_EFFECTS = LOCALIZE["effects"]
_NODE = {name: _EFFECTS[name] for name in ("node", "layer", "head", "kind")}
_WHERE = (
    "place in the prompt: bos; injected i (i-th position that the vector is added to; + for those after the "
    "sixth); after +i "
    "(i positions later); last and last -i; between (everything else that can be reached, together); all "
    "(every position)",
    "",
)
_PROMPTS = ("how many prompts have this place; means are over them", "")
_CHANGE = {name: (meaning, "") for name, (meaning, _) in NUMBERS.items() if name not in ("effect", "share")}

POSITIONS: Frames = {
    "positions": {
        **_NODE,
        "where": _WHERE,
        "measure": (
            "necessity: effect lost when the node is set to its clean value at this place in the steered run; "
            "sufficiency: effect that appears when only this node is set to its steered value there in the clean run",
            "",
        ),
        "prompts": _PROMPTS,
        **NUMBERS,
    },
    "reads": {
        **_NODE,
        "where": _WHERE,
        "quantity": (
            "attention: share of the head's attention that goes from this place to the injected positions; "
            "value: share of its "
            "z that comes from there (projection of the part mixed from their values on the whole)",
            "",
        ),
        "prompts": _PROMPTS,
        "clean": ("mean over prompts, clean run", ""),
        "steered": ("mean over prompts, steered run", ""),
        "effect": ("steered minus clean, mean over prompts", ""),
        **_CHANGE,
    },
    "per_prompt": {
        "prompt": ("index of the prompt", ""),
        "position": ("a position that the injection reaches, patched alone", ""),
        "token": ("its token", ""),
        "where": ("its place", ""),
        "node": ("one of the strongest carriers", ""),
        "measure": ("necessity or sufficiency", ""),
        "effect": ("effect of the node at this position", "{metric}"),
    },
    "prompts": {
        "prompt": ("index of the prompt", ""),
        "text": ("the prompt, as given", ""),
        "effect": ("steered minus clean, of the whole injection", "{metric}"),
        "injected": ("positions that the vector is added to, rows of zeros left out", ""),
    },
}
