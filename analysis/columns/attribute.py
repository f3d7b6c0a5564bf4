"""Columns of the tables of gradient attribution."""

from steerscope.analysis.results.schema import Column, Frames

from .localize import LOCALIZE

_EFFECTS = LOCALIZE["effects"]
_NODE = {name: _EFFECTS[name] for name in ("node", "layer", "head", "kind")}
_MEASURE = {
    "measure": Column(
        (
            "necessity: what would be lost without the node, from the steered run; sufficiency: what it would "
            "bring alone, from the clean one"
        ),
        role="measure",
    )
}

ATTRIBUTE: Frames = {
    "nodes": {
        **_NODE,
        **_MEASURE,
        "effect": Column("estimate: gradient times change; mean over prompts", "{metric}", "estimate"),
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
        "input": Column("q, k or v: what changes in the head, the softmax recomputed", role="label"),
        **_MEASURE,
        "effect": Column("estimate of what goes through this input; mean over prompts", "{metric}", "estimate"),
        "low": _EFFECTS["low"],
        "high": _EFFECTS["high"],
    },
    "positions": {
        "prompt": Column("index of the prompt"),
        "position": Column("position in the prompt", role="axis"),
        "token": Column("its token"),
        "node": Column("one of the nodes with the largest estimates", role="node"),
        **_MEASURE,
        "effect": Column("estimate of what the node does at this position", "{metric}", "estimate"),
    },
    "sample": {
        **_NODE,
        **_MEASURE,
        "estimate": Column("what the gradient says", "{metric}", "estimate"),
        "effect": Column("what exact patching says", "{metric}", "estimate"),
    },
    "calibration": {
        **_MEASURE,
        "nodes": Column("how many were drawn and patched exactly"),
        "pearson": Column("correlation of estimates with exact effects"),
        "kendall": Column("rank correlation of the same"),
        "worst_error": Column("largest difference", "{metric}"),
        "worst_share": Column("the same over the total effect"),
        "largest": Column("largest exact effect of the sample", "{metric}"),
    },
    "path": {
        "quantity": Column(
            "integrated gradients: what gradients at the injection add up to along the coefficient; effect: what they "
            "should; gap: the difference (empty for other methods than ig)",
            role="label",
        ),
        "value": Column("mean over prompts", "{metric}", "estimate"),
        "low": _EFFECTS["low"],
        "high": _EFFECTS["high"],
    },
}
