"""Columns of the tables of `sparsify`."""

from steerscope.analysis.results.schema import Column, Frames

_ORDER = {
    "order": Column(
        "which dimensions are kept first: size (largest values), gradient (largest value times gradient, "
        "chosen on the other "
        "half of the prompts), first (as they stand), random (mean over several draws)",
        role="label",
    ),
    "rescaled": Column("whether each row was scaled back to its norm"),
}
_FRACTION = Column("share of the dimensions of each row that is kept", role="axis")

SPARSIFY: Frames = {
    "curves": {
        **_ORDER,
        "fraction": _FRACTION,
        "dimensions": Column("how many are kept of each row (of the first injection)", "dimensions"),
        "norm": Column("share of the vector's norm that they have, before any rescaling"),
        "effect": Column("effect of what is kept; mean over prompts", "{metric}", "estimate"),
        "low": Column("lower end of the interval over prompts", "{metric}", "low"),
        "high": Column("upper end of the interval over prompts", "{metric}", "high"),
        "kept": Column("effect over the effect of the whole vector"),
        "kept_low": Column("lower end of its interval over prompts"),
        "kept_high": Column("upper end of its interval over prompts"),
        "kl": Column("disturbance: KL(run || clean), mean over prompts", "nats"),
        "kl_low": Column("lower end of its interval over prompts", "nats"),
        "kl_high": Column("upper end of its interval over prompts", "nats"),
        "kl_kept": Column("disturbance over that of the whole vector"),
        "own_kept": Column("share that is kept of the vector's own change of logits"),
        "control": Column(
            "the same share of random vectors, each of its own change in its own order; mean", role="reference"
        ),
        "control_low": Column("2.5th percentile over the random vectors", role="reference_low"),
        "control_high": Column("97.5th percentile over the random vectors", role="reference_high"),
        "p": Column("sign-flip test over prompts of own_kept minus the random vectors' mean"),
        "wrong_way": Column("share of prompts whose effect has the opposite sign of the mean"),
        "p_adjusted": Column("p after Benjamini-Hochberg over rows"),
        "significant": Column("p_adjusted below the manifest's alpha", role="verdict"),
    },
    "smallest": {
        **_ORDER,
        "keep": Column("how much of the effect is to be kept"),
        "fraction": Column("the smallest fraction tried from which on so much is kept", role="axis"),
        "low": Column("lower end of its interval, over resampled prompts", role="low"),
        "high": Column("upper end of its interval, over resampled prompts", role="high"),
        "dimensions": Column("how many dimensions of each row that is (first injection)", "dimensions"),
        "kl_kept": Column("share of the disturbance that is kept there"),
        "own": Column("the same fraction for the vector's own change of logits"),
        "control": Column("the same for random vectors; mean", role="reference"),
        "control_low": Column("2.5th percentile over the random vectors", role="reference_low"),
        "control_high": Column("97.5th percentile over the random vectors", role="reference_high"),
    },
    "dimensions": {
        "injection": Column("number of the injection, from 0"),
        "row": Column("row of what is injected (rows of zeros left out)"),
        "dimension": Column("index"),
        "value": Column("coefficient times vector", "stream units", "estimate"),
        "gradient": Column(
            "gradient of the metric along the coefficient, mean over prompts; missing where it was not asked for",
            "{metric} per stream unit",
        ),
        "contribution": Column("value times gradient; they add up to the effect, up to the manifest's gap", "{metric}"),
        "rank_size": Column("1 for the largest value of the row"),
        "rank_gradient": Column("1 for the largest contribution of the row, either sign"),
    },
    "per_prompt": {
        **_ORDER,
        "fraction": _FRACTION,
        "prompt": Column("index of the prompt"),
        "effect": Column("effect of what is kept", "{metric}", "estimate"),
        "kl": Column("disturbance", "nats"),
    },
}
