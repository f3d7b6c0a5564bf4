"""Columns of the tables of `self_repair`."""

from steerscope.analysis.results.schema import Column, Frames

from .localize import LOCALIZE
from .paths import NUMBERS

_EFFECTS = LOCALIZE["effects"]
_NODE = {name: _EFFECTS[name] for name in ("node", "layer", "head", "kind")}
_PART = Column(
    "direct: loss when only the carrier's own write is taken back from the final stream, later nodes and the "
    "final norm's scale "
    "held; nodes: what later nodes make up for (negative: they pass the loss on); norm: what the final norm "
    "makes up for by "
    "rescaling; remainder: what these do together beyond their sum (0 where the metric is linear in the "
    "logits); net: loss "
    "that is left, the carrier's necessity; direct_live: direct, with the final norm's scale live. direct = "
    "nodes + norm + "
    "remainder + net",
    role="measure",
)
_REST = {name: value for name, value in NUMBERS.items() if name not in Column("effect", "share")}

SELF_REPAIR: Frames = {
    "carriers": {
        **_NODE,
        "part": _PART,
        "effect": Column("mean over prompts", "{metric}", "estimate"),
        **_REST,
        "share": Column("over the total effect of the injection", role="share"),
        "of_direct": Column("over the carrier's direct loss; missing where that is below 5% of the total effect"),
        "of_direct_low": Column("lower end of its interval over prompts"),
        "of_direct_high": Column("upper end of its interval over prompts"),
        "own_share": Column("share of the vector's own change of logits"),
        "own_control": Column("the same of random vectors, each of its own change of logits; mean"),
        "own_control_low": Column("2.5th percentile over the random vectors"),
        "own_control_high": Column("97.5th percentile over the random vectors"),
    },
    "later": {
        "carrier": Column("the node that is removed"),
        **_NODE,
        "effect": Column(
            "effect of this node's own change, caused by the removal, on the metric, with everything else "
            "held; mean over "
            "prompts; positive repairs where the direct loss is positive",
            "{metric}",
            "estimate",
        ),
        **_REST,
        "share": Column("over the total effect of the injection", role="share"),
        "of_direct": Column("over the carrier's direct loss; missing where that is below 5% of the total effect"),
    },
    "per_prompt": {
        "prompt": Column("index of the prompt"),
        "node": Column("the carrier", role="node"),
        "part": _PART,
        "effect": Column("on this prompt", "{metric}", "estimate"),
    },
}
