"""Columns of the tables of `writers`."""

from steerscope.analysis.results.schema import Frames

_MEASURES = {
    "alone": "injecting its part alone (coefficient, layer and positions of the injection)",
    "without": "leaving its part out of the vector: the effect that is lost",
}


def _columns(measure: str, meaning: str) -> dict[str, tuple[str, str]]:
    """Of one way to try a writer's part."""
    return {
        measure: (f"effect of {meaning}; mean over prompts", "{metric}"),
        f"{measure}_low": ("lower end of its interval over prompts", "{metric}"),
        f"{measure}_high": ("upper end of its interval over prompts", "{metric}"),
        f"{measure}_share": ("the same over the total effect; these shares need not add up", ""),
        f"{measure}_control": ("the same with random parts of equal norm, position by position; mean", "{metric}"),
        f"{measure}_control_low": ("2.5th percentile over the random parts", "{metric}"),
        f"{measure}_control_high": ("97.5th percentile over the random parts", "{metric}"),
        f"{measure}_p": (
            "sign-flip tests over prompts: it differs from zero and goes beyond the mean control in the same "
            "direction (the larger of the two p-values, two-sided)",
            "",
        ),
        f"{measure}_p_adjusted": ("p after Benjamini-Hochberg over writers", ""),
        f"{measure}_p_holm": ("p after Holm over writers, for claims in words", ""),
        f"{measure}_significant": ("p_adjusted below the manifest's alpha", ""),
        f"{measure}_wrong_way": ("share of prompts with the opposite sign of the mean", ""),
    }


_WRITER = {
    "injection": ("number of the injection whose vector it is, from 0", ""),
    "writer": (
        "embedding (token and position), head (L0H3) or MLP (L0M) that wrote a part of the vector in the runs that "
        "it was recorded from; a layer's bias where a norm keeps it from cancelling",
        "",
    ),
}

WRITERS: Frames = {
    "writers": {
        **_WRITER,
        "layer": ("layer of the writer; missing for the embedding", ""),
        "head": ("head within the layer", ""),
        "kind": ("embedding, head, mlp or bias", ""),
        "norm": ("norm of the writer's part, over all rows together", "stream units"),
        "share": (
            "projection of its part on the vector over the vector's square, all rows together; shares add up to 1, "
            "negative ones write against the vector",
            "",
        ),
        "cosine": ("cosine of its part with the vector; missing where the part is zero", ""),
        **{name: text for item in _MEASURES.items() for name, text in _columns(*item).items()},
    },
    "rows": {
        **_WRITER,
        "row": ("row of the vector, from 0", ""),
        "plus": ("token of the plus prompt at this row (all of them for a mean)", ""),
        "minus": ("token of the minus prompt at this row", ""),
        "norm": ("norm of the writer's part in this row", "stream units"),
        "share": ("share of this row alone; missing where the row is zero", ""),
        "cosine": ("cosine of its part with the vector in this row", ""),
    },
    "totals": {
        "quantity": (
            "total: steered minus clean; kl: disturbance of the steered run; sum_alone: alone, summed over all "
            "writers; "
            "sum_without: without, summed over all writers",
            "",
        ),
        "value": ("mean over prompts", "{unit}"),
        "low": ("lower end of the interval over prompts", "{unit}"),
        "high": ("upper end of the interval over prompts", "{unit}"),
        "unit": ("unit of value, low and high", ""),
        "share": ("value over the total effect (missing for total and kl)", ""),
        "share_low": ("lower end of the interval of the share", ""),
        "share_high": ("upper end of the interval of the share", ""),
    },
    "per_prompt": {
        "prompt": ("index of the prompt", ""),
        **_WRITER,
        "alone": ("effect of its part alone on this prompt", "{metric}"),
        "without": ("effect lost on this prompt when its part is left out", "{metric}"),
    },
}
