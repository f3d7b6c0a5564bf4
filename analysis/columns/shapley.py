"""Columns of the tables of Shapley values."""

from steerscope.analysis.results.schema import Column, Frames

from .localize import LOCALIZE
from .paths import NUMBERS

_EFFECTS = LOCALIZE["effects"]
_SAMPLING = Column("standard error of the mean over prompts that comes from running some coalitions only", "{metric}")

SHAPLEY: Frames = {
    "values": {
        **{name: _EFFECTS[name] for name in ("node", "layer", "head", "kind")},
        **(
            NUMBERS
            | {
                "effect": Column(
                    "Shapley value: mean contribution over all orders of letting nodes go; mean over prompts",
                    "{metric}",
                    "estimate",
                ),
                "share": Column("value over the total effect; with the direct way they add up to 1", role="share"),
            }
        ),
        "sampling_error": _SAMPLING,
    },
    "interactions": {
        "node_a": Column("one node", role="label"),
        "node_b": Column("another", role="label"),
        "effect": Column(
            "Shapley interaction: negative where they stand in for each other, positive where one needs the "
            "other; mean over "
            "prompts",
            "{metric}",
            "estimate",
        ),
        "low": _EFFECTS["low"],
        "high": _EFFECTS["high"],
        "sampling_error": _SAMPLING,
        "p": Column("sign-flip test over prompts: the interaction differs from zero"),
        "p_adjusted": Column("p after Benjamini-Hochberg over pairs"),
        "significant": Column(
            "p_adjusted below the manifest's alpha, and more than two sampling errors from zero", role="verdict"
        ),
    },
    "totals": {
        "quantity": Column(
            "effect: steered minus clean; direct: what goes past all nodes that play; nodes: sum of the values",
            role="label",
        ),
        "value": Column("mean over prompts", "{metric}", "estimate"),
        "low": _EFFECTS["low"],
        "high": _EFFECTS["high"],
    },
}
