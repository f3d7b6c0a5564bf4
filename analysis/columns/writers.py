"""Columns of the tables of `writers`."""

from steerscope.analysis.results.schema import Column, Frames

_MEASURES = {
    "alone": "injecting its part alone (coefficient, layer and positions of the injection)",
    "without": "leaving its part out of the vector: the effect that is lost",
}


def _columns(measure: str, meaning: str) -> dict[str, tuple[str, str]]:
    """Of one way to try a writer's part."""
    return {
        measure: Column(f"effect of {meaning}; mean over prompts", "{metric}"),
        f"{measure}_low": Column("lower end of its interval over prompts", "{metric}"),
        f"{measure}_high": Column("upper end of its interval over prompts", "{metric}"),
        f"{measure}_share": Column("the same over the total effect; these shares need not add up"),
        f"{measure}_control": Column(
            "the same with random parts of equal norm, position by position; mean", "{metric}"
        ),
        f"{measure}_control_low": Column("2.5th percentile over the random parts", "{metric}"),
        f"{measure}_control_high": Column("97.5th percentile over the random parts", "{metric}"),
        f"{measure}_p": Column(
            "sign-flip tests over prompts: it differs from zero and goes beyond the mean control in the same "
            "direction (the larger of the two p-values, two-sided)"
        ),
        f"{measure}_p_adjusted": Column("p after Benjamini-Hochberg over writers"),
        f"{measure}_p_holm": Column("p after Holm over writers, for claims in words"),
        f"{measure}_significant": Column("p_adjusted below the manifest's alpha"),
        f"{measure}_wrong_way": Column("share of prompts with the opposite sign of the mean"),
    }


_WRITER = {
    "injection": Column("number of the injection whose vector it is, from 0"),
    "writer": Column(
        "embedding (token and position), head (L0H3) or MLP (L0M) that wrote a part of the vector in the runs that "
        "it was recorded from; a layer's bias where a norm keeps it from cancelling",
        role="label",
    ),
}

WRITERS: Frames = {
    "writers": {
        **_WRITER,
        "layer": Column("layer of the writer; missing for the embedding", role="layer"),
        "head": Column("head within the layer", role="head"),
        "kind": Column("embedding, head, mlp or bias"),
        "norm": Column("norm of the writer's part, over all rows together", "stream units"),
        "share": Column(
            "projection of its part on the vector over the vector's square, all rows together; shares add up to 1, "
            "negative ones write against the vector",
            role="share",
        ),
        "cosine": Column("cosine of its part with the vector; missing where the part is zero"),
        **{name: text for item in _MEASURES.items() for name, text in _columns(*item).items()},
    },
    "rows": {
        **_WRITER,
        "row": Column("row of the vector, from 0"),
        "plus": Column("token of the plus prompt at this row (all of them for a mean)"),
        "minus": Column("token of the minus prompt at this row"),
        "norm": Column("norm of the writer's part in this row", "stream units"),
        "share": Column("share of this row alone; missing where the row is zero", role="share"),
        "cosine": Column("cosine of its part with the vector in this row"),
    },
    "totals": {
        "quantity": Column(
            "total: steered minus clean; kl: disturbance of the steered run; sum_alone: alone, summed over all "
            "writers; "
            "sum_without: without, summed over all writers",
            role="label",
        ),
        "value": Column("mean over prompts", "{unit}", "estimate"),
        "low": Column("lower end of the interval over prompts", "{unit}", "low"),
        "high": Column("upper end of the interval over prompts", "{unit}", "high"),
        "unit": Column("unit of value, low and high"),
        "share": Column("value over the total effect (missing for total and kl)", role="share"),
        "share_low": Column("lower end of the interval of the share"),
        "share_high": Column("upper end of the interval of the share"),
    },
    "per_prompt": {
        "prompt": Column("index of the prompt"),
        **_WRITER,
        "alone": Column("effect of its part alone on this prompt", "{metric}"),
        "without": Column("effect lost on this prompt when its part is left out", "{metric}"),
    },
}
