"""Columns of the tables of the screen."""

from steerscope.analysis.results.schema import Frames

from .localize import LOCALIZE

SCREEN: Frames = {
    "effects": LOCALIZE["effects"],
    "estimates": {
        "node": ("head (L5H3) or MLP (L5M)", ""),
        "layer": ("layer of the node", ""),
        "head": ("head within the layer; missing for an MLP", ""),
        "kind": ("head or mlp", ""),
        "measure": ("necessity or sufficiency", ""),
        "estimate": ("what gradients say the effect is; mean over prompts", "{metric}"),
        "verified": (
            "top: patched exactly, since its estimate is large; sample: patched exactly, drawn at random from the "
            "others; unverified: the estimate is all there is",
            "",
        ),
        "effect": ("exact effect, where it was verified", "{metric}"),
    },
    "missed": {
        "measure": ("necessity or sufficiency", ""),
        "unverified": ("nodes that were not patched one by one", ""),
        "sampled": ("nodes that were drawn at random from those ranked low, and patched", ""),
        "together": ("exact effect of all unverified nodes patched at once; mean over prompts", "{metric}"),
        "together_share": ("the same over the total effect", ""),
        "largest_estimate": ("largest estimate, in size, among the unverified nodes", "{metric}"),
        "worst_error": ("largest difference between estimate and exact effect on the random sample", "{metric}"),
        "bound": ("largest estimate plus worst error: an upper bound on what an unverified node carries", "{metric}"),
        "covers": ("share of the unverified nodes for which the bound holds with the confidence of the intervals", ""),
    },
    "totals": LOCALIZE["totals"],
    "cost": {
        "what": ("part of the screen, or the exact analysis of all nodes", ""),
        "passes": ("forward-equivalents: layers that were run over layers of the model", "passes"),
        "ratio": ("passes of the exact analysis over these", ""),
    },
}
