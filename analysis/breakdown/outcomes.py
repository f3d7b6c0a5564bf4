"""What is measured of a run: its effect, its disturbance, how sure it is, its loss on the text at hand, and its damage:
how much that loss rises above the clean run's; KL, where there is no such text."""

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import Readout
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.question.metrics import Score, kl

Values = NDArray[np.float64]
OUTCOMES = ("effect", "kl", "entropy", "loss")  # measured
CURVES = (*OUTCOMES, "damage")
EFFECT, KL, DAMAGE = (CURVES.index(name) for name in ("effect", "kl", "damage"))
RUNS = 16  # runs of all prompts that are measured at once: bounds what edits take


def _means(experiment: Experiment, variants: Sequence[Variant]) -> Float[Values, "mean variant"]:
    """Means over the scored positions: the metric, KL to the clean run, entropy, and the loss on the prompt's own next
    tokens (NaN where no scored position has one)."""
    prepared = (experiment.scored_positions, experiment.clean, experiment.steered)
    scores = [experiment.metric.prepare(*prepared), kl().prepare(*prepared), _entropy, _loss(experiment)]
    return np.asarray(experiment.scores(variants, scores, "logits").T)


def of_runs(
    experiment: Experiment, runs: Iterable[Edits], what: str | None = None, total: int | None = None
) -> Float[Values, "curve run prompt"]:
    """Outcomes of runs of all prompts, in the order of `CURVES`; effects are changes from the clean run.

    Args:
        runs: taken a few at a time, so they may be made as they are needed.
        what: name for a progress bar; none by default. total: how many runs there are.
    """
    left = iter(track(runs, what, total) if what else runs)
    found = []
    while batch := list(islice(left, RUNS)):
        found.append(_of_batch(experiment, batch))
    return np.concatenate(found, axis=1)


def _of_batch(experiment: Experiment, runs: Sequence[Edits]) -> Float[Values, "curve run prompt"]:
    prompts = range(len(experiment.prompts))
    variants = [Variant(p, tuple(edits[p])) for edits in (experiment.nothing, *runs) for p in prompts]
    found = _means(experiment, variants).reshape(-1, 1 + len(runs), len(prompts))
    effect, kl, _, loss = found
    effect -= effect[:1].copy()
    rise = loss - loss[:1]
    return np.concatenate([found, np.where(np.isnan(rise), kl, rise)[None]])[:, 1:]


def _entropy(readout: Readout) -> Float[Tensor, " read"]:
    assert readout.logits is not None
    own = readout.logits.log_softmax(dim=-1)
    return -(own.exp() * own).sum(dim=-1)


def _loss(experiment: Experiment) -> Score:
    """Weighted so that the mean over scored positions is the mean over those that have a next token."""
    token, weight = [], []
    for ids, positions in zip(experiment.prompts.full, experiment.scored_positions.positions, strict=True):
        have = sum(p + 1 < len(ids) for p in positions)
        for p in positions:
            token.append(ids[p + 1] if p + 1 < len(ids) else 0)
            weight.append(float("nan") if not have else len(positions) / have if p + 1 < len(ids) else 0.0)
    device = experiment.model.device
    tokens, weights = torch.tensor(token, device=device), torch.tensor(weight, device=device)

    def score(readout: Readout) -> Tensor:
        assert readout.logits is not None
        places = experiment.scored_positions.places(readout)
        own = readout.logits.gather(1, tokens[places][:, None])[:, 0]
        return (readout.logits.logsumexp(dim=-1) - own) * weights[places]

    return score
