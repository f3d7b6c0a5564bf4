"""`phase`: effect and disturbance by the layer, the place and the coefficient of the injection.

The same vector is added everywhere. Its effect is measured along one direction of logits for all (that of the injection
as it was given, averaged over prompts), or by the metric where that needs no direction. Beside it stands disturbance:
KL to the clean run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.engine.run import Readout
from steerscope.analysis.errors import SteerscopeError
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.metrics import Metric
from steerscope.analysis.question.outputs import Outputs
from steerscope.analysis.question.scored import Scored
from steerscope.analysis.question.scores import Score
from steerscope.analysis.results.schema import Column, Frames

from .outcomes import COEFFICIENT, DISTURBED, Asked, of_runs
from .strength import at

PLACES = ("front", "middle", "back", "last")
LAYERS = 12  # at most so many, evenly spaced
PHASE: Frames = {
    "phase": {
        "layer": Column("of the injection", role="label"),
        "place": Column("front, middle, back or last: where in the prompt", role="label"),
        **COEFFICIENT,
        "effect": Column(
            "change of the metric (along one direction of logits for all), mean over prompts", "{metric}", "estimate"
        ),
        "kl": DISTURBED,
    }
}


def phase(experiment: Experiment, coefficients: Sequence[float]) -> pd.DataFrame:
    """Rows of layer, place and coefficient; places that the vector or a prompt does not allow are left out."""
    last = experiment.model.n_layers - 1
    layers = sorted({round(x) for x in np.linspace(0, last, min(LAYERS, last + 1))})
    metric = _one_direction(experiment)
    table = []
    for place in track(PLACES, "layers and places"):
        for layer in layers:
            try:
                moved = Asked(_moved(experiment, metric, layer, place))
                found = of_runs(moved, lambda one: (at(one, c) for c in coefficients))
            except SteerscopeError:  # a place that a prompt does not have
                continue
            effect, nats = (found[curve].mean(axis=-1) for curve in ("effect", "kl"))
            table += [(layer, place, c, effect[i], nats[i]) for i, c in enumerate(coefficients)]
    return pd.DataFrame(table, columns=list(PHASE["phase"]))


def _moved(experiment: Experiment, metric: Metric, layer: int, place: str) -> Experiment:
    """The same vector at another layer and place; one row where the place takes one."""
    moved = []
    for injection in experiment.injections:
        vector = injection.vector
        if place == "last" and vector.body.rows > 1:
            vector = vector.row(-1)
        moved.append(replace(injection, vector=vector, layer=layer, positions=place))
    return replace(experiment, injections=tuple(moved), metric=metric, references=0)


def _one_direction(experiment: Experiment) -> Metric:
    """The experiment's metric, or, where that follows each run's own direction, projection on one for all."""
    if not experiment.metric.own_direction:
        return experiment.metric
    change = (experiment.steered.logits - experiment.clean.logits).double()
    change = (change - change.mean(dim=-1, keepdim=True)).mean(dim=0)
    unit = change / change.norm().clamp_min(1e-30)
    return Metric(
        "one logit direction", "logits", partial(_moved_along, unit), options={"of": "the injection as given"}
    )


def _moved_along(unit: Float[Tensor, " vocab"], scored: Scored, clean: Outputs, steered: Outputs) -> Score:
    return Along(scored, clean, unit)


@dataclass(frozen=True, eq=False)
class Along:
    """A score: the change of the logits from the clean run, along one direction."""

    scored: Scored
    clean: Outputs
    unit: Float[Tensor, " vocab"]

    def __call__(self, readout: Readout) -> Float[Tensor, " read"]:
        assert readout.logits is not None
        moved = readout.logits - self.clean.logits[self.scored.places(readout)]
        found: Tensor = moved @ self.unit.to(moved)
        return found
