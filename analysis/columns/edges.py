"""Columns of the tables of edges."""

from steerscope.analysis.results.schema import Frames

from .paths import NUMBERS

_ENDS = {
    "sender": ("node that writes, or injection", ""),
    "receiver": ("input that reads: L1H5.q, .k, .v (k and v count key-value heads), L1M, or logits", ""),
}

EDGES: Frames = {
    "edges": {
        **_ENDS,
        "sender_layer": ("layer of the sender; of the injection, its own", ""),
        "receiver_layer": ("layer of the receiver; of the logits, the number of layers", ""),
        **(
            NUMBERS
            | {
                "effect": ("score by integrated gradients, mean over prompts", "{metric}"),
                "share": ("score over the total effect; edges that leave the injection add up to 1", ""),
            }
        ),
    },
    "verified": {
        **_ENDS,
        "verified": ("top: among the strongest; sample: drawn at random from the others", ""),
        "estimate": ("score by integrated gradients", "{metric}"),
        "necessity": ("exact: effect lost when this path alone is set back to clean", "{metric}"),
        "sufficiency": ("exact: effect that appears when this path alone is steered", "{metric}"),
    },
    "calibration": {
        "measure": ("exact measure that the estimates are compared with", ""),
        "verified": ("which edges: top, sample or both", ""),
        "edges": ("how many", ""),
        "pearson": ("correlation of estimates with exact effects", ""),
        "kendall": ("rank correlation of the same", ""),
        "worst_error": ("largest difference", "{metric}"),
        "worst_share": ("the same over the total effect", ""),
    },
}
