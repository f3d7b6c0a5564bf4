"""What is measured of a run: of the prompts its effect, its disturbance and how sure it is; of the text that damage is
measured on (see `frozen.damage`) its loss, and its damage: how far that loss rises above the clean run's.

Prompts and text are two samples: an interval goes by the groups of that which its number is a mean over, and where
both are resampled, each by itself. And the columns that several tables have: the coefficient, numbers with their
intervals.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import Readout
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.question.metrics import kl
from steerscope.analysis.results.schema import Column, Frame
from steerscope.analysis.results.stats import percentiles, resampled

Values = NDArray[np.float64]
Groups = NDArray[np.int64]
ON_PROMPTS = ("effect", "kl", "entropy")
ON_TEXT = ("loss", "damage")
CURVES = (*ON_PROMPTS, *ON_TEXT)
RUNS = 16  # runs of all prompts that are measured at once: bounds what edits take

COEFFICIENT: Frame = {"coefficient": Column("of the first injection; inf and -inf are the exact limits", role="axis")}
DAMAGED = "loss of the text that the manifest names (text) above that of the clean run, mean over its pieces"
DISTURBED = Column("disturbance: KL(run || clean), mean over prompts", "nats")


def between(name: str, meaning: str, unit: str = "", drawn: bool = False, over: str = "prompts") -> Frame:
    """The columns of a number with its interval; `drawn`: the frame's own estimate."""
    return {
        name: Column(meaning, unit, "estimate" if drawn else "detail"),
        f"{name}_low": Column(f"lower end of its interval over {over}", unit, "low" if drawn else "detail"),
        f"{name}_high": Column(f"upper end of its interval over {over}", unit, "high" if drawn else "detail"),
    }


def bounded(name: str, bounds: tuple[float, float, float]) -> dict[str, object]:
    """Its cells in a row."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), bounds, strict=True))


def open_interval(values: Float[Values, " resample"], level: float, groups: int) -> tuple[float, float]:
    """Percentile interval over resamples, those with an infinite value among them; an end among these is infinite.

    A percentile lies between two resamples: where one of these is infinite, so is the end.
    """
    largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    far = 1e6 * (1 + largest)
    ends = [float(end) for end in percentiles(np.clip(values, -far, far), level, groups)]
    low, high = (float(np.copysign(np.inf, end)) if abs(end) > largest else end for end in ends)
    return low, high


@dataclass(frozen=True, eq=False)
class Asked:
    """One injection asked of two samples.

    Attributes:
        prompts: for effect and disturbance.
        text: for damage; None where there is none.
    """

    prompts: Experiment
    text: Experiment | None = None

    def groups(self, curve: str) -> Int[Groups, " item"]:
        """Groups of what a curve is a mean over: of the prompts, or of the pieces of the text."""
        asked = self.prompts if curve in ON_PROMPTS else self.text
        return np.zeros(1, dtype=np.int64) if asked is None else asked.prompts.by_group

    def count(self, curve: str) -> int:
        """How many groups there are."""
        return len(set(self.groups(curve).tolist()))

    def with_prompts(self, prompts: Experiment) -> "Asked":
        """Other prompts, the same text."""
        return replace(self, prompts=prompts)

    def resampled(self, curve: str, values: Float[Values, "... item"]) -> Float[Values, "resample ..."]:
        """Means of a curve over groups drawn anew, those of the values themselves first."""
        seed = self.prompts.seed + (curve in ON_TEXT)  # two samples, drawn apart
        return resampled(values, self.groups(curve), seed)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Of each curve, `[run, item]`: by prompt, or by piece of the text (a single missing one, where there is none)."""

    values: Mapping[str, Float[Values, "run item"]]

    def __getitem__(self, curve: str) -> Float[Values, "run item"]:
        return self.values[curve]


Runs = Callable[[Experiment], Iterable[Edits]]  # from an experiment to the edits of each run


def of_runs(asked: Asked, runs: Runs, what: str | None = None, total: int | None = None) -> Outcomes:
    """Outcomes of runs; effects are changes from the clean run.

    Args:
        runs: taken a few at a time, so they may be made as they are needed.
        what: name for a progress bar; none by default. total: how many runs there are.
    """
    found = of_prompts(asked.prompts, runs, what, total)
    if asked.text is not None:
        return Outcomes(found | of_text(asked.text, runs, f"{what}, text" if what else None, total))
    missing = np.full((len(found["effect"]), 1), np.nan)
    return Outcomes(found | dict.fromkeys(ON_TEXT, missing))


def of_prompts(
    experiment: Experiment, runs: Runs, what: str | None = None, total: int | None = None
) -> dict[str, Float[Values, "run prompt"]]:
    """The curves on the prompts."""
    disturbance = kl().prepare(experiment.scored_positions, experiment.clean, experiment.steered)
    scores = [experiment.along, disturbance, _entropy]
    value, nats, entropy = _measured(experiment, runs(experiment), scores, what, total)
    return {"effect": value - experiment.value(None), "kl": nats, "entropy": entropy}


def of_text(
    text: Experiment, runs: Runs, what: str | None = None, total: int | None = None
) -> dict[str, Float[Values, "run piece"]]:
    """The curves on the text."""
    [loss] = _measured(text, runs(text), [text.along], what, total)
    return {"loss": loss, "damage": loss - text.value(None)}


def _measured(
    experiment: Experiment,
    runs: Iterable[Edits],
    scores: list[Callable[[Readout], Tensor]],
    what: str | None,
    total: int | None,
) -> Float[Values, "score run prompt"]:
    prompts, found = range(len(experiment.prompts)), []
    left = iter(track(runs, what, total) if what else runs)
    while batch := list(islice(left, RUNS)):
        variants = [Variant(p, tuple(edits[p])) for edits in batch for p in prompts]
        means = experiment.scores(variants, scores, "logits")
        found.append(means.T.reshape(len(scores), len(batch), len(prompts)))
    return np.concatenate(found, axis=1) if found else np.zeros((len(scores), 0, len(prompts)))


def _entropy(readout: Readout) -> Float[Tensor, " read"]:
    assert readout.logits is not None
    own = readout.logits.log_softmax(dim=-1)
    return -(own.exp() * own).sum(dim=-1)
