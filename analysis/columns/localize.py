"""Columns of the tables of `localize`."""

from steerscope.analysis.results.schema import Column, Frames

from .attention import ATTENTION
from .writers import WRITERS

LOCALIZE: Frames = {
    "effects": {
        "node": Column("head (L5H3) or MLP (L5M)", role="node"),
        "layer": Column("layer of the node", role="layer"),
        "head": Column("head within the layer; missing for an MLP", role="head"),
        "kind": Column("head or mlp"),
        "measure": Column(
            "necessity: effect lost when the node is set to its clean value in the steered run; "
            "sufficiency: effect that appears when only this node is set to its steered value in the clean run",
            role="measure",
        ),
        "effect": Column("mean over prompts, signed; negative works against the total effect", "{metric}", "estimate"),
        "low": Column("lower end of the interval over prompts", "{metric}", "low"),
        "high": Column("upper end of the interval over prompts", "{metric}", "high"),
        "share": Column("effect over the total effect; shares of different layers do not add up", role="share"),
        "control": Column(
            "mean of the same measure for random vectors of equal norm, along the same metric", "{metric}", "reference"
        ),
        "control_low": Column(
            "lower end of the band of the controls (2.5th percentile over vectors)", "{metric}", "reference_low"
        ),
        "control_high": Column(
            "upper end of the band of the controls (97.5th percentile over vectors)", "{metric}", "reference_high"
        ),
        "p": Column(
            "sign-flip tests over prompts: the effect differs from zero and goes beyond the mean control in the "
            "same direction (the larger of the two p-values, two-sided)"
        ),
        "p_adjusted": Column("p after Benjamini-Hochberg over nodes"),
        "p_holm": Column("p after Holm over nodes, for claims in words"),
        "own_share": Column("share of the vector's own logit change that the node carries"),
        "own_control": Column("the same share for random vectors, each along its own logit change; mean"),
        "own_control_low": Column("2.5th percentile of that share over the random vectors"),
        "own_control_high": Column("97.5th percentile of that share over the random vectors"),
        "p_own": Column("sign-flip test over prompts of own share minus the controls' mean own share"),
        "p_own_adjusted": Column("p_own after Benjamini-Hochberg over nodes"),
        "significant": Column("p_adjusted below the manifest's alpha", role="verdict"),
        "reach": Column(
            "specific: carries this vector more than it carries random ones; "
            "general: carries whatever is put there; none: not significant",
            role="verdict",
        ),
        "wrong_way": Column("share of prompts whose effect has the opposite sign of the mean"),
        "stability": Column("share of bootstrap resamples of the prompts in which the node is significant"),
    },
    "per_prompt": {
        "prompt": Column("index of the prompt"),
        "node": Column("head or MLP", role="node"),
        "measure": Column("necessity or sufficiency", role="measure"),
        "effect": Column("effect of the node on this prompt", "{metric}", "estimate"),
        "control": Column("mean over the random vectors", "{metric}", "reference"),
    },
    "totals": {
        "quantity": Column(
            "total: steered minus clean; kl: disturbance of the steered run; "
            "carriers_necessity / carriers_sufficiency: all significant carriers patched at once; "
            "all_necessity / all_sufficiency: every node patched at once",
            role="label",
        ),
        "value": Column("mean over prompts", "{unit}", "estimate"),
        "low": Column("lower end of the interval over prompts", "{unit}", "low"),
        "high": Column("upper end of the interval over prompts", "{unit}", "high"),
        "unit": Column("unit of value, low and high"),
        "share": Column("value over the total effect (missing for total and kl)", role="share"),
        "share_low": Column("lower end of the interval of the share"),
        "share_high": Column("upper end of the interval of the share"),
        "control": Column("mean of the same quantity over the random vectors", "{unit}", "reference"),
        "control_low": Column("2.5th percentile over the random vectors", "{unit}", "reference_low"),
        "control_high": Column("97.5th percentile over the random vectors", "{unit}", "reference_high"),
        "p": Column("sign-flip test over prompts of value minus mean control"),
        "wrong_way": Column("share of prompts with the opposite sign of the mean"),
    },
    "vectors": {
        "vector": Column("steering for the real one, control 0, control 1, ... for random ones"),
        "norm": Column("root of the summed squares of coefficient times vector", "stream units"),
        "coefficient": Column("multiplies the vector", role="axis"),
        "effect": Column("mean effect over prompts along the metric", "{metric}", "estimate"),
        "low": Column("lower end of the interval over prompts", "{metric}", "low"),
        "high": Column("upper end of the interval over prompts", "{metric}", "high"),
        "own_effect": Column("mean size of the vector's own logit change", "logits"),
        "kl": Column("disturbance: KL(steered || clean), mean over scored positions and prompts", "nats"),
        "kl_low": Column("lower end of the interval over prompts", "nats"),
        "kl_high": Column("upper end of the interval over prompts", "nats"),
    },
    "prompts": {
        "prompt": Column("index of the prompt"),
        "text": Column("the prompt, as given (token ids where there is no tokenizer)"),
        "tokens": Column("number of tokens, BOS included"),
        "injected": Column("positions that the injection edits"),
        "scored": Column("positions that the metric reads"),
        "clean": Column("metric of the clean run", "{metric}"),
        "steered": Column("metric of the steered run", "{metric}"),
        "effect": Column("steered minus clean", "{metric}", "estimate"),
        "kl": Column("KL(steered || clean), mean over the scored positions", "nats"),
    },
    "positions": {
        "prompt": Column("index of the prompt"),
        "position": Column("scored position", role="axis"),
        "token": Column("token at that position"),
        "clean": Column("metric of the clean run at this position", "{metric}"),
        "steered": Column("metric of the steered run at this position", "{metric}"),
        "effect": Column("steered minus clean", "{metric}", "estimate"),
        "kl": Column("KL(steered || clean) at this position", "nats"),
    },
    "tokens": {
        "token": Column("next token, as text"),
        "id": Column("token id"),
        "clean": Column("probability in the clean run after the whole prompt, mean over prompts"),
        "steered": Column("probability in the steered run, mean over prompts"),
        "change": Column("mean of log steered minus log clean", "nats"),
        "kl": Column("contribution to KL(steered || clean), mean over prompts", "nats"),
        "side": Column("gain or loss", role="label"),
    },
    "completions": {
        "prompt": Column("index of the prompt"),
        "text": Column("the prompt"),
        "clean": Column("completion without the injection"),
        "steered": Column("completion with the injection, same seed"),
        "clean_surprise": Column("loss of the clean completion under the clean model", "nats per token"),
        "steered_surprise": Column(
            "loss of the steered completion under the clean model: high where it is not fluent", "nats per token"
        ),
    },
    "writers": WRITERS["writers"],
    "attention": ATTENTION["attention"],
}
