"""Columns of the tables of `localize`."""

from steerscope.analysis.results.schema import Frames

from .attention import ATTENTION
from .writers import WRITERS

LOCALIZE: Frames = {
    "effects": {
        "node": ("head (L5H3) or MLP (L5M)", ""),
        "layer": ("layer of the node", ""),
        "head": ("head within the layer; missing for an MLP", ""),
        "kind": ("head or mlp", ""),
        "measure": (
            "necessity: effect lost when the node is set to its clean value in the steered run; "
            "sufficiency: effect that appears when only this node is set to its steered value in the clean run",
            "",
        ),
        "effect": ("mean over prompts, signed; negative works against the total effect", "{metric}"),
        "low": ("lower end of the interval over prompts", "{metric}"),
        "high": ("upper end of the interval over prompts", "{metric}"),
        "share": ("effect over the total effect; shares of different layers do not add up", ""),
        "control": ("mean of the same measure for random vectors of equal norm, along the same metric", "{metric}"),
        "control_low": ("lower end of the band of the controls (2.5th percentile over vectors)", "{metric}"),
        "control_high": ("upper end of the band of the controls (97.5th percentile over vectors)", "{metric}"),
        "p": (
            "sign-flip tests over prompts: the effect differs from zero and goes beyond the mean control in the "
            "same direction (the larger of the two p-values, two-sided)",
            "",
        ),
        "p_adjusted": ("p after Benjamini-Hochberg over nodes", ""),
        "p_holm": ("p after Holm over nodes, for claims in words", ""),
        "own_share": ("share of the vector's own logit change that the node carries", ""),
        "own_control": ("the same share for random vectors, each along its own logit change; mean", ""),
        "own_control_low": ("2.5th percentile of that share over the random vectors", ""),
        "own_control_high": ("97.5th percentile of that share over the random vectors", ""),
        "p_own": ("sign-flip test over prompts of own share minus the controls' mean own share", ""),
        "p_own_adjusted": ("p_own after Benjamini-Hochberg over nodes", ""),
        "significant": ("p_adjusted below the manifest's alpha", ""),
        "reach": (
            "specific: carries this vector more than it carries random ones; "
            "general: carries whatever is put there; none: not significant",
            "",
        ),
        "wrong_way": ("share of prompts whose effect has the opposite sign of the mean", ""),
        "stability": ("share of bootstrap resamples of the prompts in which the node is significant", ""),
    },
    "per_prompt": {
        "prompt": ("index of the prompt", ""),
        "node": ("head or MLP", ""),
        "measure": ("necessity or sufficiency", ""),
        "effect": ("effect of the node on this prompt", "{metric}"),
        "control": ("mean over the random vectors", "{metric}"),
    },
    "totals": {
        "quantity": (
            "total: steered minus clean; kl: disturbance of the steered run; "
            "carriers_necessity / carriers_sufficiency: all significant carriers patched at once; "
            "all_necessity / all_sufficiency: every node patched at once",
            "",
        ),
        "value": ("mean over prompts", "{unit}"),
        "low": ("lower end of the interval over prompts", "{unit}"),
        "high": ("upper end of the interval over prompts", "{unit}"),
        "unit": ("unit of value, low and high", ""),
        "share": ("value over the total effect (missing for total and kl)", ""),
        "share_low": ("lower end of the interval of the share", ""),
        "share_high": ("upper end of the interval of the share", ""),
        "control": ("mean of the same quantity over the random vectors", "{unit}"),
        "control_low": ("2.5th percentile over the random vectors", "{unit}"),
        "control_high": ("97.5th percentile over the random vectors", "{unit}"),
        "p": ("sign-flip test over prompts of value minus mean control", ""),
        "wrong_way": ("share of prompts with the opposite sign of the mean", ""),
    },
    "vectors": {
        "vector": ("steering for the real one, control 0, control 1, ... for random ones", ""),
        "norm": ("root of the summed squares of coefficient times vector", "stream units"),
        "coefficient": ("multiplies the vector", ""),
        "effect": ("mean effect over prompts along the metric", "{metric}"),
        "low": ("lower end of the interval over prompts", "{metric}"),
        "high": ("upper end of the interval over prompts", "{metric}"),
        "own_effect": ("mean size of the vector's own logit change", "logits"),
        "kl": ("disturbance: KL(steered || clean), mean over scored positions and prompts", "nats"),
        "kl_low": ("lower end of the interval over prompts", "nats"),
        "kl_high": ("upper end of the interval over prompts", "nats"),
    },
    "prompts": {
        "prompt": ("index of the prompt", ""),
        "text": ("the prompt, as given (token ids where there is no tokenizer)", ""),
        "tokens": ("number of tokens, BOS included", ""),
        "injected": ("positions that the injection edits", ""),
        "scored": ("positions that the metric reads", ""),
        "clean": ("metric of the clean run", "{metric}"),
        "steered": ("metric of the steered run", "{metric}"),
        "effect": ("steered minus clean", "{metric}"),
        "kl": ("KL(steered || clean), mean over the scored positions", "nats"),
    },
    "positions": {
        "prompt": ("index of the prompt", ""),
        "position": ("scored position", ""),
        "token": ("token at that position", ""),
        "clean": ("metric of the clean run at this position", "{metric}"),
        "steered": ("metric of the steered run at this position", "{metric}"),
        "effect": ("steered minus clean", "{metric}"),
        "kl": ("KL(steered || clean) at this position", "nats"),
    },
    "tokens": {
        "token": ("next token, as text", ""),
        "id": ("token id", ""),
        "clean": ("probability in the clean run after the whole prompt, mean over prompts", ""),
        "steered": ("probability in the steered run, mean over prompts", ""),
        "change": ("mean of log steered minus log clean", "nats"),
        "kl": ("contribution to KL(steered || clean), mean over prompts", "nats"),
        "side": ("gain or loss", ""),
    },
    "completions": {
        "prompt": ("index of the prompt", ""),
        "text": ("the prompt", ""),
        "clean": ("completion without the injection", ""),
        "steered": ("completion with the injection, same seed", ""),
        "clean_surprise": ("loss of the clean completion under the clean model", "nats per token"),
        "steered_surprise": (
            "loss of the steered completion under the clean model: high where it is not fluent",
            "nats per token",
        ),
    },
    "writers": WRITERS["writers"],
    "attention": ATTENTION["attention"],
}
