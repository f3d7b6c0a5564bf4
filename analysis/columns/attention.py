"""Columns of the tables of `freeze_attention`."""

from steerscope.analysis.results.schema import Frames

_OUTCOME = {
    "outcome": (
        (
            "effect: the metric on the prompts; damage: loss of the true next tokens of ordinary text; both "
            "steered minus clean"
        ),
        "",
    )
}
_FROZEN = {
    "frozen": (
        "what is set to its clean value in the steered run: patterns (where heads look; what survives goes through "
        "values and MLPs), values (what heads move; patterns steered), or both (MLPs and the direct path are left)",
        "",
    )
}

ATTENTION: Frames = {
    "attention": {
        **_OUTCOME,
        "unit": ("unit of the outcome", ""),
        **_FROZEN,
        "scope": ("all: in all layers at once; layer: in one layer; head: of one head", ""),
        "node": ("all, a layer (L2), a head (L2H3), or the values that several heads share (L2KV1)", ""),
        "layer": ("layer that is frozen; missing for all", ""),
        "head": ("head that is frozen (of values: key-value head); missing for whole layers", ""),
        "total": ("the outcome with nothing frozen; mean over prompts", "{unit}"),
        "total_low": ("lower end of its interval over prompts", "{unit}"),
        "total_high": ("upper end of its interval over prompts", "{unit}"),
        "lost": ("outcome that is lost when this is frozen; mean over prompts", "{unit}"),
        "low": ("lower end of its interval over prompts", "{unit}"),
        "high": ("upper end of its interval over prompts", "{unit}"),
        "survives": (
            "1 minus lost over total; missing where the total cannot be told from zero (or a damage is none)",
            "",
        ),
        "survives_low": ("lower end of its interval, prompts resampled together", ""),
        "survives_high": ("upper end of its interval", ""),
        "control": ("lost for random vectors of equal norm, along the same metric; mean", "{unit}"),
        "control_low": ("2.5th percentile over the random vectors", "{unit}"),
        "control_high": ("97.5th percentile over the random vectors", "{unit}"),
        "p": (
            "effect: sign-flip tests over prompts that lost differs from zero and goes beyond the mean control in the "
            "same direction (the larger p); damage, which random vectors do as well: that lost differs from zero",
            "",
        ),
        "p_adjusted": ("p after Benjamini-Hochberg over the rows of an outcome", ""),
        "p_holm": ("p after Holm over the rows of an outcome, for claims in words", ""),
        "significant": ("p_adjusted below the manifest's alpha", ""),
        "wrong_way": ("share of prompts whose lost has the opposite sign of the mean", ""),
        "own_survives": (
            "share of the vector's own change of the logits that survives (damage: of its own damage)",
            "",
        ),
        "control_survives": (
            (
                "the same for random vectors, each of its own; mean of those whose total is no zero, missing where "
                "these are less than half"
            ),
            "",
        ),
        "control_survives_low": ("2.5th percentile over these random vectors", ""),
        "control_survives_high": ("97.5th percentile over these random vectors", ""),
        "p_own": (
            (
                "sign-flip test over prompts of the own share that is lost minus that of random vectors; 1 where "
                "one is missing"
            ),
            "",
        ),
        "p_own_adjusted": ("p_own after Benjamini-Hochberg over the rows of an outcome", ""),
    },
    "per_prompt": {
        **_OUTCOME,
        "prompt": ("index of the prompt, or of the window of ordinary text", ""),
        **_FROZEN,
        "node": ("as in attention", ""),
        "total": ("steered minus clean with nothing frozen", "{unit}"),
        "lost": ("what of it is lost", "{unit}"),
        "control": ("lost for random vectors, along the same metric; mean", "{unit}"),
    },
    "texts": {
        **_OUTCOME,
        "prompt": ("index of the prompt, or of the window of ordinary text", ""),
        "text": ("its text (token ids where there is no tokenizer)", ""),
        "tokens": ("number of tokens, BOS included", ""),
        "injected": ("positions that the injection edits", ""),
        "scored": ("positions that are scored", ""),
        "clean": ("outcome of the clean run: the metric, or the loss", "{unit}"),
        "steered": ("the same of the steered run", "{unit}"),
    },
}
