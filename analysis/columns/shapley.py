"""Columns of the tables of Shapley values."""

from steerscope.analysis.results.schema import Frames

from .localize import LOCALIZE
from .paths import NUMBERS

_EFFECTS = LOCALIZE["effects"]
_SAMPLING = ("standard error of the mean over prompts that comes from running some coalitions only", "{metric}")

SHAPLEY: Frames = {
    "values": {
        **{name: _EFFECTS[name] for name in ("node", "layer", "head", "kind")},
        **(
            NUMBERS
            | {
                "effect": (
                    "Shapley value: mean contribution over all orders of letting nodes go; mean over prompts",
                    "{metric}",
                ),
                "share": ("value over the total effect; with the direct way they add up to 1", ""),
            }
        ),
        "sampling_error": _SAMPLING,
    },
    "interactions": {
        "node_a": ("one node", ""),
        "node_b": ("another", ""),
        "effect": (
            "Shapley interaction: negative where they stand in for each other, positive where one needs the "
            "other; mean over "
            "prompts",
            "{metric}",
        ),
        "low": _EFFECTS["low"],
        "high": _EFFECTS["high"],
        "sampling_error": _SAMPLING,
        "p": ("sign-flip test over prompts: the interaction differs from zero", ""),
        "p_adjusted": ("p after Benjamini-Hochberg over pairs", ""),
        "significant": ("p_adjusted below the manifest's alpha, and more than two sampling errors from zero", ""),
    },
    "totals": {
        "quantity": (
            "effect: steered minus clean; direct: what goes past all nodes that play; nodes: sum of the values",
            "",
        ),
        "value": ("mean over prompts", "{metric}"),
        "low": _EFFECTS["low"],
        "high": _EFFECTS["high"],
    },
}
