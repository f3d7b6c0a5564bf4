"""Columns of the tables of `breakdown`."""

from steerscope.analysis.results.schema import Column, Frames

from .trace import LENS_TABLES

_COEFFICIENT = {"coefficient": Column("of the first injection; inf and -inf are the exact limits", role="axis")}
_RANGE = {
    "low": Column("lower end of its interval over prompts", "as value", "low"),
    "high": Column("upper end of its interval over prompts", "as value", "high"),
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
        "outcome": Column(
            "effect: change of the metric; kl: KL(run || clean); entropy of the prediction; loss on the "
            "prompts' own next tokens; "
            "damage: loss above that of the clean run (kl where there are no such tokens); damage_on_topic: "
            "the same on the given "
            "on-topic texts; means over scored positions and prompts",
            role="label",
        ),
        **_COEFFICIENT,
        "value": Column("mean over prompts", "{metric} for effect, nats for the others", "estimate"),
        **_RANGE,
        "control": Column("mean over random vectors of equal norm", "as value", "reference"),
        "control_low": Column("2.5th percentile over the random vectors", "as value", "reference_low"),
        "control_high": Column("97.5th percentile over the random vectors", "as value", "reference_high"),
    },
    "regimes": {
        "regime": Column(
            "linear: the effect leaves the gradient's prediction by a tenth; half: it reaches half of its "
            "limit; fluency: the loss "
            "rises by 1% of perplexity; safe: it rises by the perplexity that may be lost"
        ),
        "sign": Column("of the coefficient"),
        "coefficient": Column(
            "size of the coefficient where that first happens; missing where it never does", role="axis"
        ),
        "low": Column("lower end of its interval over prompts, of resamples in which it happens", role="low"),
        "high": Column("upper end of its interval over prompts, of resamples in which it happens", role="high"),
        "reached": Column("share of resamples of the prompts in which it happens"),
    },
    "predictions": {
        "layer": Column("layer of the norm; the number of layers for the final one", role="layer"),
        "norm": Column("what reads the stream there: attention, mlp, or final for the unembedding"),
        "predicted": Column(
            "coefficient at which the injected stream there has turned halfway to the vector: |stream| / |vector|"
        ),
        "low": Column("lower end of its interval over prompts", role="low"),
        "high": Column("upper end of its interval over prompts", role="high"),
    },
    "limits": {
        "sign": Column("of the infinite coefficient"),
        "seen": Column("whether later positions attend to the injected ones"),
        "outcome": Column("as in response", role="label"),
        "value": Column("mean over prompts", "{metric} for effect, nats for the others", "estimate"),
        **_RANGE,
    },
    "causes": {
        "cause": Column(
            "patterns: attention patterns set to clean; seen: injected positions hidden from later ones; "
            "values: their values set "
            "to clean; scales: norms' scales set to clean; norm: the injected stream scaled back to its clean "
            "length; mean, rogue, "
            "sink: the vector's part along the mean stream, in the largest dimensions, along the first "
            "position's stream, taken away; "
            "or a node set to clean"
        ),
        "kind": Column("mechanism, together (all mechanisms undone), or node"),
        **_between("gone", "share of the damage that goes when this alone is undone", ""),
        **_between("effect", "share of the effect that stays then", ""),
        **_between(
            "shapley",
            "Shapley value: share of the damage, over all subsets of mechanisms; for all together, what goes",
            "",
        ),
    },
    "phase": {
        "layer": Column("of the injection", role="layer"),
        "place": Column("front, middle, back or last: where in the prompt", role="label"),
        **_COEFFICIENT,
        "effect": Column(
            "change of the metric (along one direction of logits for all), mean over prompts", "{metric}", "estimate"
        ),
        "kl": Column("disturbance: KL(run || clean), mean over prompts", "nats"),
    },
    "angles": {
        "way": Column(
            "addition: the whole injection; same norm: its turn alone, at the clean length; stretch: its length alone"
        ),
        **_COEFFICIENT,
        "angle": Column("by how much injected streams turn, mean", "degrees"),
        "stretch": Column("by what factor they lengthen, mean"),
        **_between("effect", "change of the metric, mean over prompts", "{metric}"),
        **_between("damage", _DAMAGE, "nats"),
    },
    "remedies": {
        "remedy": Column(
            "addition; same norm (scaled back to the clean length); rotation; clamping (the component is set); "
            "several layers"
        ),
        "knob": Column("coefficient; for rotation the share of the angle to the vector"),
        "effect": Column("change of the metric, mean over prompts", "{metric}", "estimate"),
        "damage": (_DAMAGE, "nats"),
        "kl": Column("disturbance: KL(run || clean), mean over prompts", "nats"),
    },
    "equal_effect": {
        "remedy": Column("as in remedies"),
        "target": Column("the effect at which all are compared: that of the injection as given", "{metric}"),
        **_between("damage", "damage where the effect first reaches the target", "nats"),
        **_between("kl", "disturbance there", "nats"),
        "reached": Column("share of resamples of the prompts in which the target is reached"),
    },
    "completions": {
        **_COEFFICIENT,
        "quantity": Column(
            "surprise: loss of the completion under the clean model; distinct: different pairs of tokens over "
            "all pairs; repeated: share "
            "of runs of four tokens that were there before",
            role="label",
        ),
        "value": Column("mean over prompts", "nats per token for surprise", "estimate"),
        **_RANGE,
    },
    "texts": {**_COEFFICIENT, "prompt": Column("the prompt"), "completion": Column("what was sampled after it")},
    "cache": {
        "run": Column("clean or steered"),
        "cache": Column("kept: generated tokens see the injected positions; hidden: they do not"),
        "token": Column("first token of the window of 16"),
        "quantity": Column("as in completions", role="label"),
        "value": Column("mean over prompts", "nats per token for surprise", "estimate"),
        **_RANGE,
    },
    "probes": {
        **_COEFFICIENT,
        "quantity": Column(
            "attention: share that later positions pay to the injected ones; scale: what a norm divides by, "
            "over the clean run's; "
            "committed: first layer from which on the most probable token stays, through a lens",
            role="label",
        ),
        "layer": Column(
            "of the attention or the norm; the number of layers for the final norm and for committed", role="layer"
        ),
        "at": Column("attention, mlp or final (the norm), or lens"),
        "where": Column("injected or later positions", role="label"),
        "value": Column("mean over prompts", role="estimate"),
        **_RANGE,
    },
    **LENS_TABLES,
}
