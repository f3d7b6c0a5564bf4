"""What is measured of a run: its effect, its disturbance, how sure it is, and its loss on the text at hand."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.edits import Variant
from steerscope.analysis.engine import Readout
from steerscope.analysis.experiment import Edits, Experiment
from steerscope.analysis.metrics import Score, kl

Values = NDArray[np.float64]
OUTCOMES = ("effect", "kl", "entropy", "loss")


def outcomes(
    experiment: Experiment, variants: Sequence[Variant]
) -> Float[Values, "outcome variant"]:
    """Means over the scored positions, in the order of `OUTCOMES`: the metric, KL to the clean run, entropy, and the loss
    on the prompt's own next tokens (NaN where no scored position has one)."""
    prepared = (experiment.scored_positions, experiment.clean, experiment.steered)
    scores = [
        experiment.metric.prepare(*prepared),
        kl().prepare(*prepared),
        _entropy,
        _loss(experiment),
    ]
    return np.asarray(experiment.scores(variants, scores, "logits").T)


def of_runs(experiment: Experiment, runs: Sequence[Edits]) -> Float[Values, "outcome run prompt"]:
    """Outcomes of runs of all prompts; effects are changes from the clean run."""
    prompts = range(len(experiment.prompts))
    variants = [
        Variant(p, tuple(edits[p])) for edits in (experiment.nothing, *runs) for p in prompts
    ]
    found = outcomes(experiment, variants).reshape(len(OUTCOMES), 1 + len(runs), -1)
    found[0] -= found[0, :1]
    return found[:, 1:]


def damage(found: Float[Values, "outcome run prompt"], clean: Float[Values, "outcome 1 prompt"]) -> Float[Values, "run prompt"]:  # fmt: skip
    """How much the loss on the prompts' own tokens rises above that of the clean run; where there are none, KL."""
    loss = found[OUTCOMES.index("loss")] - clean[OUTCOMES.index("loss")]
    return np.asarray(np.where(np.isnan(loss), found[OUTCOMES.index("kl")], loss))


def _entropy(readout: Readout) -> Float[Tensor, " read"]:
    assert readout.logits is not None
    own = readout.logits.log_softmax(dim=-1)
    return -(own.exp() * own).sum(dim=-1)


def _loss(experiment: Experiment) -> Score:
    """Weighted so that the mean over scored positions is the mean over those that have a next token."""
    token, weight = [], []
    for ids, positions in zip(
        experiment.prompts.full, experiment.scored_positions.positions, strict=True
    ):
        have = sum(p + 1 < len(ids) for p in positions)
        for p in positions:
            token.append(ids[p + 1] if p + 1 < len(ids) else 0)
            weight.append(float("nan") if not have else len(positions) / have if p + 1 < len(ids) else 0.0)  # fmt: skip
    device = experiment.model.device
    tokens, weights = torch.tensor(token, device=device), torch.tensor(weight, device=device)

    def score(readout: Readout) -> Tensor:
        assert readout.logits is not None
        places = experiment.scored_positions.places(readout)
        own = readout.logits.gather(1, tokens[places][:, None])[:, 0]
        return (readout.logits.logsumexp(dim=-1) - own) * weights[places]

    return score
