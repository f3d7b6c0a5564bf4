"""Columns of the tables of `freeze_attention`."""

from steerscope.analysis.results.schema import Column, Frames

_OUTCOME = {
    "outcome": Column(
        (
            "effect: the metric on the prompts; damage: loss of the true next tokens of ordinary text; both "
            "steered minus clean"
        ),
        role="label",
    )
}
_FROZEN = {
    "frozen": Column(
        "what is set to its clean value in the steered run: patterns (where heads look; what survives goes through "
        "values and MLPs), values (what heads move; patterns steered), or both (MLPs and the direct path are left)",
        role="measure",
    )
}

ATTENTION: Frames = {
    "attention": {
        **_OUTCOME,
        "unit": Column("unit of the outcome"),
        **_FROZEN,
        "scope": Column("all: in all layers at once; layer: in one layer; head: of one head"),
        "node": Column("all, a layer (L2), a head (L2H3), or the values that several heads share (L2KV1)", role="node"),
        "layer": Column("layer that is frozen; missing for all", role="layer"),
        "head": Column("head that is frozen (of values: key-value head); missing for whole layers", role="head"),
        "total": Column("the outcome with nothing frozen; mean over prompts", "{unit}"),
        "total_low": Column("lower end of its interval over prompts", "{unit}"),
        "total_high": Column("upper end of its interval over prompts", "{unit}"),
        "lost": Column("outcome that is lost when this is frozen; mean over prompts", "{unit}"),
        "low": Column("lower end of its interval over prompts", "{unit}", "low"),
        "high": Column("upper end of its interval over prompts", "{unit}", "high"),
        "survives": Column(
            "1 minus lost over total; missing where the total cannot be told from zero (or a damage is none)"
        ),
        "survives_low": Column("lower end of its interval, prompts resampled together"),
        "survives_high": Column("upper end of its interval"),
        "control": Column("lost for random vectors of equal norm, along the same metric; mean", "{unit}", "reference"),
        "control_low": Column("2.5th percentile over the random vectors", "{unit}", "reference_low"),
        "control_high": Column("97.5th percentile over the random vectors", "{unit}", "reference_high"),
        "p": Column(
            "effect: sign-flip tests over prompts that lost differs from zero and goes beyond the mean control in the "
            "same direction (the larger p); damage, which random vectors do as well: that lost differs from zero"
        ),
        "p_adjusted": Column("p after Benjamini-Hochberg over the rows of an outcome"),
        "p_holm": Column("p after Holm over the rows of an outcome, for claims in words"),
        "significant": Column("p_adjusted below the manifest's alpha", role="verdict"),
        "wrong_way": Column("share of prompts whose lost has the opposite sign of the mean"),
        "own_survives": Column(
            "share of the vector's own change of the logits that survives (damage: of its own damage)"
        ),
        "control_survives": Column(
            "the same for random vectors, each of its own; mean of those whose total is no zero, missing where "
            "these are less than half"
        ),
        "control_survives_low": Column("2.5th percentile over these random vectors"),
        "control_survives_high": Column("97.5th percentile over these random vectors"),
        "p_own": Column(
            "sign-flip test over prompts of the own share that is lost minus that of random vectors; 1 where "
            "one is missing"
        ),
        "p_own_adjusted": Column("p_own after Benjamini-Hochberg over the rows of an outcome"),
    },
    "per_prompt": {
        **_OUTCOME,
        "prompt": Column("index of the prompt, or of the window of ordinary text"),
        **_FROZEN,
        "node": Column("as in attention", role="node"),
        "total": Column("steered minus clean with nothing frozen", "{unit}"),
        "lost": Column("what of it is lost", "{unit}"),
        "control": Column("lost for random vectors, along the same metric; mean", "{unit}", "reference"),
    },
    "texts": {
        **_OUTCOME,
        "prompt": Column("index of the prompt, or of the window of ordinary text"),
        "text": Column("its text (token ids where there is no tokenizer)"),
        "tokens": Column("number of tokens, BOS included"),
        "injected": Column("positions that the injection edits"),
        "scored": Column("positions that are scored"),
        "clean": Column("outcome of the clean run: the metric, or the loss", "{unit}"),
        "steered": Column("the same of the steered run", "{unit}"),
    },
}
