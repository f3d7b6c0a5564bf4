"""Columns of the tables of the screen."""

from steerscope.analysis.results.schema import Column, Frames

from .localize import LOCALIZE

SCREEN: Frames = {
    "effects": LOCALIZE["effects"],
    "estimates": {
        "node": Column("head (L5H3) or MLP (L5M)", role="node"),
        "layer": Column("layer of the node", role="layer"),
        "head": Column("head within the layer; missing for an MLP", role="head"),
        "kind": Column("head or mlp"),
        "measure": Column("necessity or sufficiency", role="measure"),
        "estimate": Column("what gradients say the effect is; mean over prompts", "{metric}", "estimate"),
        "verified": Column(
            "top: patched exactly, since its estimate is large; sample: patched exactly, drawn at random from the "
            "others; unverified: the estimate is all there is",
            role="label",
        ),
        "effect": Column("exact effect, where it was verified", "{metric}", "estimate"),
    },
    "missed": {
        "measure": Column("necessity or sufficiency", role="measure"),
        "unverified": Column("nodes that were not patched one by one"),
        "sampled": Column("nodes that were drawn at random from those ranked low, and patched"),
        "together": Column("exact effect of all unverified nodes patched at once; mean over prompts", "{metric}"),
        "together_share": Column("the same over the total effect"),
        "largest_estimate": Column("largest estimate, in size, among the unverified nodes", "{metric}"),
        "worst_error": Column("largest difference between estimate and exact effect on the random sample", "{metric}"),
        "bound": Column(
            "largest estimate plus worst error: an upper bound on what an unverified node carries", "{metric}"
        ),
        "covers": Column(
            "share of the unverified nodes for which the bound holds with the confidence of the intervals"
        ),
    },
    "totals": LOCALIZE["totals"],
    "cost": {
        "what": Column("part of the screen, or the exact analysis of all nodes"),
        "passes": Column("forward-equivalents: layers that were run over layers of the model", "passes"),
        "ratio": Column("passes of the exact analysis over these"),
    },
}
