"""Columns of the table of path patching."""

from steerscope.analysis.results.schema import Column, Frames

from .localize import LOCALIZE

_EFFECTS = LOCALIZE["effects"]
NUMBERS = {
    name: _EFFECTS[name]
    for name in (
        "effect",
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
}

PATHS: Frames = {
    "paths": {
        "sender": Column("node whose write is changed, or injection", role="label"),
        "receiver": Column(
            "input that sees the change, and it alone: L1H5.q, .k, .v, L1H5 for all three, L1M, or logits", role="label"
        ),
        "measure": Column(
            "necessity: effect lost when this path alone is set back to clean in the steered run; sufficiency: "
            "effect that "
            "appears when it alone carries the steered value in the clean run",
            role="measure",
        ),
        **NUMBERS,
    }
}
