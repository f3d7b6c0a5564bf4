"""Columns of the tables of `sparsify`."""

from steerscope.analysis.results.schema import Frames

_ORDER = {
    "order": (
        "which dimensions are kept first: size (largest values), gradient (largest value times gradient, "
        "chosen on the other "
        "half of the prompts), first (as they stand), random (mean over several draws)",
        "",
    ),
    "rescaled": ("whether each row was scaled back to its norm", ""),
}
_FRACTION = ("share of the dimensions of each row that is kept", "")

SPARSIFY: Frames = {
    "curves": {
        **_ORDER,
        "fraction": _FRACTION,
        "dimensions": ("how many are kept of each row (of the first injection)", "dimensions"),
        "norm": ("share of the vector's norm that they have, before any rescaling", ""),
        "effect": ("effect of what is kept; mean over prompts", "{metric}"),
        "low": ("lower end of the interval over prompts", "{metric}"),
        "high": ("upper end of the interval over prompts", "{metric}"),
        "kept": ("effect over the effect of the whole vector", ""),
        "kept_low": ("lower end of its interval over prompts", ""),
        "kept_high": ("upper end of its interval over prompts", ""),
        "kl": ("disturbance: KL(run || clean), mean over prompts", "nats"),
        "kl_low": ("lower end of its interval over prompts", "nats"),
        "kl_high": ("upper end of its interval over prompts", "nats"),
        "kl_kept": ("disturbance over that of the whole vector", ""),
        "own_kept": ("share that is kept of the vector's own change of logits", ""),
        "control": ("the same share of random vectors, each of its own change in its own order; mean", ""),
        "control_low": ("2.5th percentile over the random vectors", ""),
        "control_high": ("97.5th percentile over the random vectors", ""),
        "p": ("sign-flip test over prompts of own_kept minus the random vectors' mean", ""),
        "wrong_way": ("share of prompts whose effect has the opposite sign of the mean", ""),
        "p_adjusted": ("p after Benjamini-Hochberg over rows", ""),
        "significant": ("p_adjusted below the manifest's alpha", ""),
    },
    "smallest": {
        **_ORDER,
        "keep": ("how much of the effect is to be kept", ""),
        "fraction": ("the smallest fraction tried from which on so much is kept", ""),
        "low": ("lower end of its interval, over resampled prompts", ""),
        "high": ("upper end of its interval, over resampled prompts", ""),
        "dimensions": ("how many dimensions of each row that is (first injection)", "dimensions"),
        "kl_kept": ("share of the disturbance that is kept there", ""),
        "own": ("the same fraction for the vector's own change of logits", ""),
        "control": ("the same for random vectors; mean", ""),
        "control_low": ("2.5th percentile over the random vectors", ""),
        "control_high": ("97.5th percentile over the random vectors", ""),
    },
    "dimensions": {
        "injection": ("number of the injection, from 0", ""),
        "row": ("row of what is injected (rows of zeros left out)", ""),
        "dimension": ("index", ""),
        "value": ("coefficient times vector", "stream units"),
        "gradient": (
            "gradient of the metric along the coefficient, mean over prompts; missing where it was not asked for",
            "{metric} per stream unit",
        ),
        "contribution": ("value times gradient; they add up to the effect, up to the manifest's gap", "{metric}"),
        "rank_size": ("1 for the largest value of the row", ""),
        "rank_gradient": ("1 for the largest contribution of the row, either sign", ""),
    },
    "per_prompt": {
        **_ORDER,
        "fraction": _FRACTION,
        "prompt": ("index of the prompt", ""),
        "effect": ("effect of what is kept", "{metric}"),
        "kl": ("disturbance", "nats"),
    },
}
