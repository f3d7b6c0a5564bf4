"""What the manifest says of a question."""

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .experiment import Experiment


def described(experiment: "Experiment") -> dict[str, Any]:
    """Model, injections, prompts, metric, references and seed: JSON types only."""
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
            "labels": [" and ".join(i.vector.label for i in own) for own in experiment.steering[1:]],
        },
        "seed": experiment.seed,
    }
