"""What the manifest says of a question."""

from collections import Counter
from typing import Any


def described(experiment: Any) -> dict[str, Any]:
    """Model, injections, prompts, metric, references and seed of an `Experiment` (which asks this): JSON types only."""
    prompts, beside = experiment.prompts, experiment.beside
    return {
        "model": experiment.model.describe(),
        "injections": [injection.describe() for injection in experiment.injections],
        "held": experiment.holds,
        "prompts": {
            "count": len(prompts),
            "groups": int(prompts.by_group.max()) + 1,
            "hash": prompts.hash,
            "source": prompts.source,
        },
        "metric": {**experiment.metric.describe(), "scored": experiment.scoring_rule},
        "references": {
            "count": len(beside),
            "families": dict(Counter(beside.families)),
            "matched": experiment.matched,
            "labels": [" and ".join(dict.fromkeys(i.vector.label for i in own)) for own in experiment.steering[1:]],
        },
        "seed": experiment.seed,
    }
