"""Columns of the tables of `breakdown`."""

from steerscope.analysis.results.schema import Frames

from .trace import LENS_TABLES

_COEFFICIENT = {"coefficient": ("of the first injection; inf and -inf are the exact limits", "")}
_RANGE = {
    "low": ("lower end of its interval over prompts", "as value"),
    "high": ("upper end of its interval over prompts", "as value"),
}


def _between(name: str, meaning: str, unit: str) -> dict[str, tuple[str, str]]:
    return {
        name: (meaning, unit),
        f"{name}_low": ("lower end of its interval over prompts", unit),
        f"{name}_high": ("upper end of its interval over prompts", unit),
    }


_DAMAGE = "loss on the prompts' own tokens above that of the clean run (KL where there are none); mean over prompts"

BREAKDOWN: Frames = {
    "response": {
        "outcome": (
            "effect: change of the metric; kl: KL(run || clean); entropy of the prediction; loss on the "
            "prompts' own next tokens; "
            "damage: loss above that of the clean run (kl where there are no such tokens); damage_on_topic: "
            "the same on the given "
            "on-topic texts; means over scored positions and prompts",
            "",
        ),
        **_COEFFICIENT,
        "value": ("mean over prompts", "{metric} for effect, nats for the others"),
        **_RANGE,
        "control": ("mean over random vectors of equal norm", "as value"),
        "control_low": ("2.5th percentile over the random vectors", "as value"),
        "control_high": ("97.5th percentile over the random vectors", "as value"),
    },
    "regimes": {
        "regime": (
            "linear: the effect leaves the gradient's prediction by a tenth; half: it reaches half of its "
            "limit; fluency: the loss "
            "rises by 1% of perplexity; safe: it rises by the perplexity that may be lost",
            "",
        ),
        "sign": ("of the coefficient", ""),
        "coefficient": ("size of the coefficient where that first happens; missing where it never does", ""),
        "low": ("lower end of its interval over prompts, of resamples in which it happens", ""),
        "high": ("upper end of its interval over prompts, of resamples in which it happens", ""),
        "reached": ("share of resamples of the prompts in which it happens", ""),
    },
    "predictions": {
        "layer": ("layer of the norm; the number of layers for the final one", ""),
        "norm": ("what reads the stream there: attention, mlp, or final for the unembedding", ""),
        "predicted": (
            "coefficient at which the injected stream there has turned halfway to the vector: |stream| / |vector|",
            "",
        ),
        "low": ("lower end of its interval over prompts", ""),
        "high": ("upper end of its interval over prompts", ""),
    },
    "limits": {
        "sign": ("of the infinite coefficient", ""),
        "seen": ("whether later positions attend to the injected ones", ""),
        "outcome": ("as in response", ""),
        "value": ("mean over prompts", "{metric} for effect, nats for the others"),
        **_RANGE,
    },
    "causes": {
        "cause": (
            "patterns: attention patterns set to clean; seen: injected positions hidden from later ones; "
            "values: their values set "
            "to clean; scales: norms' scales set to clean; norm: the injected stream scaled back to its clean "
            "length; mean, rogue, "
            "sink: the vector's part along the mean stream, in the largest dimensions, along the first "
            "position's stream, taken away; "
            "or a node set to clean",
            "",
        ),
        "kind": ("mechanism, together (all mechanisms undone), or node", ""),
        **_between("gone", "share of the damage that goes when this alone is undone", ""),
        **_between("effect", "share of the effect that stays then", ""),
        **_between(
            "shapley",
            "Shapley value: share of the damage, over all subsets of mechanisms; for all together, what goes",
            "",
        ),
    },
    "phase": {
        "layer": ("of the injection", ""),
        "place": ("front, middle, back or last: where in the prompt", ""),
        **_COEFFICIENT,
        "effect": ("change of the metric (along one direction of logits for all), mean over prompts", "{metric}"),
        "kl": ("disturbance: KL(run || clean), mean over prompts", "nats"),
    },
    "angles": {
        "way": (
            "addition: the whole injection; same norm: its turn alone, at the clean length; stretch: its length alone",
            "",
        ),
        **_COEFFICIENT,
        "angle": ("by how much injected streams turn, mean", "degrees"),
        "stretch": ("by what factor they lengthen, mean", ""),
        **_between("effect", "change of the metric, mean over prompts", "{metric}"),
        **_between("damage", _DAMAGE, "nats"),
    },
    "remedies": {
        "remedy": (
            (
                "addition; same norm (scaled back to the clean length); rotation; clamping (the component is set); "
                "several layers"
            ),
            "",
        ),
        "knob": ("coefficient; for rotation the share of the angle to the vector", ""),
        "effect": ("change of the metric, mean over prompts", "{metric}"),
        "damage": (_DAMAGE, "nats"),
        "kl": ("disturbance: KL(run || clean), mean over prompts", "nats"),
    },
    "equal_effect": {
        "remedy": ("as in remedies", ""),
        "target": ("the effect at which all are compared: that of the injection as given", "{metric}"),
        **_between("damage", "damage where the effect first reaches the target", "nats"),
        **_between("kl", "disturbance there", "nats"),
        "reached": ("share of resamples of the prompts in which the target is reached", ""),
    },
    "completions": {
        **_COEFFICIENT,
        "quantity": (
            "surprise: loss of the completion under the clean model; distinct: different pairs of tokens over "
            "all pairs; repeated: share "
            "of runs of four tokens that were there before",
            "",
        ),
        "value": ("mean over prompts", "nats per token for surprise"),
        **_RANGE,
    },
    "texts": {**_COEFFICIENT, "prompt": ("the prompt", ""), "completion": ("what was sampled after it", "")},
    "cache": {
        "run": ("clean or steered", ""),
        "cache": ("kept: generated tokens see the injected positions; hidden: they do not", ""),
        "token": ("first token of the window of 16", ""),
        "quantity": ("as in completions", ""),
        "value": ("mean over prompts", "nats per token for surprise"),
        **_RANGE,
    },
    "probes": {
        **_COEFFICIENT,
        "quantity": (
            "attention: share that later positions pay to the injected ones; scale: what a norm divides by, "
            "over the clean run's; "
            "committed: first layer from which on the most probable token stays, through a lens",
            "",
        ),
        "layer": ("of the attention or the norm; the number of layers for the final norm and for committed", ""),
        "at": ("attention, mlp or final (the norm), or lens", ""),
        "where": ("injected or later positions", ""),
        "value": ("mean over prompts", ""),
        **_RANGE,
    },
    **LENS_TABLES,
}
