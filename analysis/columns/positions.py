"""Columns of the tables of `by_position`."""

from dataclasses import replace

from steerscope.analysis.results.schema import Column, Frames

from .localize import LOCALIZE
from .paths import NUMBERS

_EFFECTS = LOCALIZE["effects"]
_NODE = {name: _EFFECTS[name] for name in ("node", "layer", "head", "kind")}
_WHERE = Column(
    "place in the prompt: bos; injected i (i-th position that the vector is added to; + for those after the "
    "sixth); after +i "
    "(i positions later); last and last -i; between (everything else that can be reached, together); all "
    "(every position)",
    role="label",
)
_PROMPTS = Column("how many prompts have this place; means are over them")
_CHANGE = {name: replace(c, unit="") for name, c in NUMBERS.items() if name not in ("effect", "share")}

POSITIONS: Frames = {
    "positions": {
        **_NODE,
        "where": _WHERE,
        "measure": Column(
            "necessity: effect lost when the node is set to its clean value at this place in the steered run; "
            "sufficiency: effect that appears when only this node is set to its steered value there in the clean run",
            role="measure",
        ),
        "prompts": _PROMPTS,
        **NUMBERS,
    },
    "reads": {
        **_NODE,
        "where": _WHERE,
        "quantity": Column(
            "attention: share of the head's attention that goes from this place to the injected positions; "
            "value: share of its "
            "z that comes from there (projection of the part mixed from their values on the whole)",
            role="label",
        ),
        "prompts": _PROMPTS,
        "clean": Column("mean over prompts, clean run"),
        "steered": Column("mean over prompts, steered run"),
        "effect": Column("steered minus clean, mean over prompts", role="estimate"),
        **_CHANGE,
    },
    "per_prompt": {
        "prompt": Column("index of the prompt"),
        "position": Column("a position that the injection reaches, patched alone", role="axis"),
        "token": Column("its token"),
        "where": Column("its place", role="label"),
        "node": Column("one of the strongest carriers", role="node"),
        "measure": Column("necessity or sufficiency", role="measure"),
        "effect": Column("effect of the node at this position", "{metric}", "estimate"),
    },
    "prompts": {
        "prompt": Column("index of the prompt"),
        "text": Column("the prompt, as given"),
        "effect": Column("steered minus clean, of the whole injection", "{metric}", "estimate"),
        "injected": Column("positions that the vector is added to, rows of zeros left out"),
    },
}
