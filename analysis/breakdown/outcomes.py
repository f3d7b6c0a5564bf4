"""What is measured of a run: its effect, its disturbance, how sure it is, its loss on the text at hand, and its damage:
how much that loss rises above the clean run's; KL, where there is no such text.

And the columns that several tables have: the coefficient, numbers with their intervals.
"""

from collections.abc import Iterable
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
from steerscope.analysis.results.schema import Column, Frame

Values = NDArray[np.float64]
OUTCOMES = ("effect", "kl", "entropy", "loss")  # measured
CURVES = (*OUTCOMES, "damage")
EFFECT, KL, DAMAGE = (CURVES.index(name) for name in ("effect", "kl", "damage"))
RUNS = 16  # runs of all prompts that are measured at once: bounds what edits take

COEFFICIENT: Frame = {"coefficient": Column("of the first injection; inf and -inf are the exact limits", role="axis")}
DAMAGED = "loss on the prompts' own tokens above that of the clean run (KL where there are none), mean over prompts"
DISTURBED = Column("disturbance: KL(run || clean), mean over prompts", "nats")


def between(name: str, meaning: str, unit: str = "", drawn: bool = False) -> Frame:
    """The columns of a number with its interval; `drawn`: the frame's own estimate."""
    return {
        name: Column(meaning, unit, "estimate" if drawn else "detail"),
        f"{name}_low": Column("lower end of its interval over prompts", unit, "low" if drawn else "detail"),
        f"{name}_high": Column("upper end of its interval over prompts", unit, "high" if drawn else "detail"),
    }


def bounded(name: str, bounds: tuple[float, float, float]) -> dict[str, object]:
    """Its cells in a row."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), bounds, strict=True))


def of_runs(
    experiment: Experiment, runs: Iterable[Edits], what: str | None = None, total: int | None = None
) -> Float[Values, "curve run prompt"]:
    """Outcomes of runs of all prompts, in the order of `CURVES`; effects are changes from the clean run.

    Args:
        runs: taken a few at a time, so they may be made as they are needed.
        what: name for a progress bar; none by default. total: how many runs there are.
    """
    disturbance = kl().prepare(experiment.scored_positions, experiment.clean, experiment.steered)
    scores = [experiment.along, disturbance, _entropy, loss_of(experiment)]
    prompts, found = range(len(experiment.prompts)), []
    left = iter(track(runs, what, total) if what else runs)
    while batch := list(islice(left, RUNS)):
        variants = [Variant(p, tuple(edits[p])) for edits in batch for p in prompts]
        means = experiment.scores(variants, scores, "logits")
        found.append(means.T.reshape(len(scores), len(batch), len(prompts)))
    value, nats, entropy, loss = np.concatenate(found, axis=1)
    rise = loss - experiment.value(None, scores[-1])
    return np.stack([value - experiment.value(None), nats, entropy, loss, np.where(np.isnan(rise), nats, rise)])


def _entropy(readout: Readout) -> Float[Tensor, " read"]:
    assert readout.logits is not None
    own = readout.logits.log_softmax(dim=-1)
    return -(own.exp() * own).sum(dim=-1)


def loss_of(experiment: Experiment) -> Score:
    """The loss on the prompts' own next tokens, NaN where no scored position has one.

    Weighted so that the mean over scored positions is the mean over those that have a next token.
    """
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
