"""Columns of the tables of gradient attribution."""

from steerscope.analysis.results.schema import Frames

from .localize import LOCALIZE

_EFFECTS = LOCALIZE["effects"]
_NODE = {name: _EFFECTS[name] for name in ("node", "layer", "head", "kind")}
_MEASURE = {
    "measure": (
        (
            "necessity: what would be lost without the node, from the steered run; sufficiency: what it would "
            "bring alone, from the clean one"
        ),
        "",
    )
}

ATTRIBUTE: Frames = {
    "nodes": {
        **_NODE,
        **_MEASURE,
        "effect": ("estimate: gradient times change; mean over prompts", "{metric}"),
        **{
            name: _EFFECTS[name]
            for name in (
                "low",
                "high",
                "control",
                "control_low",
                "control_high",
                "p",
                "p_adjusted",
                "p_holm",
                "significant",
                "wrong_way",
                "share",
            )
        },
    },
    "inputs": {
        **{name: _EFFECTS[name] for name in ("node", "layer", "head")},
        "input": ("q, k or v: what changes in the head, the softmax recomputed", ""),
        **_MEASURE,
        "effect": ("estimate of what goes through this input; mean over prompts", "{metric}"),
        "low": _EFFECTS["low"],
        "high": _EFFECTS["high"],
    },
    "positions": {
        "prompt": ("index of the prompt", ""),
        "position": ("position in the prompt", ""),
        "token": ("its token", ""),
        "node": ("one of the nodes with the largest estimates", ""),
        **_MEASURE,
        "effect": ("estimate of what the node does at this position", "{metric}"),
    },
    "sample": {
        **_NODE,
        **_MEASURE,
        "estimate": ("what the gradient says", "{metric}"),
        "effect": ("what exact patching says", "{metric}"),
    },
    "calibration": {
        **_MEASURE,
        "nodes": ("how many were drawn and patched exactly", ""),
        "pearson": ("correlation of estimates with exact effects", ""),
        "kendall": ("rank correlation of the same", ""),
        "worst_error": ("largest difference", "{metric}"),
        "worst_share": ("the same over the total effect", ""),
        "largest": ("largest exact effect of the sample", "{metric}"),
    },
    "path": {
        "quantity": (
            "integrated gradients: what gradients at the injection add up to along the coefficient; effect: what they "
            "should; gap: the difference (empty for other methods than ig)",
            "",
        ),
        "value": ("mean over prompts", "{metric}"),
        "low": _EFFECTS["low"],
        "high": _EFFECTS["high"],
    },
}
