"""Columns of the tables of edges."""

from steerscope.analysis.results.schema import Column, Frames

from .paths import NUMBERS

_ENDS = {
    "sender": Column("node that writes, or injection", role="label"),
    "receiver": Column(
        "input that reads: L1H5.q, .k, .v (k and v count key-value heads), L1M, or logits", role="label"
    ),
}

EDGES: Frames = {
    "edges": {
        **_ENDS,
        "sender_layer": Column("layer of the sender; of the injection, its own"),
        "receiver_layer": Column("layer of the receiver; of the logits, the number of layers"),
        **(
            NUMBERS
            | {
                "effect": Column("score by integrated gradients, mean over prompts", "{metric}", "estimate"),
                "share": Column(
                    "score over the total effect; edges that leave the injection add up to 1", role="share"
                ),
            }
        ),
    },
    "verified": {
        **_ENDS,
        "verified": Column("top: among the strongest; sample: drawn at random from the others", role="label"),
        "estimate": Column("score by integrated gradients", "{metric}", "estimate"),
        "necessity": Column("exact: effect lost when this path alone is set back to clean", "{metric}"),
        "sufficiency": Column("exact: effect that appears when this path alone is steered", "{metric}"),
    },
    "calibration": {
        "measure": Column("exact measure that the estimates are compared with", role="measure"),
        "verified": Column("which edges: top, sample or both", role="label"),
        "edges": Column("how many"),
        "pearson": Column("correlation of estimates with exact effects"),
        "kendall": Column("rank correlation of the same"),
        "worst_error": Column("largest difference", "{metric}"),
        "worst_share": Column("the same over the total effect"),
    },
}
