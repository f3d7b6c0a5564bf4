"""The gradient of a score with respect to the vector that is injected, averaged along its coefficient.

Averaged, since a gradient at one coefficient says little where the model saturates, and since that of KL is zero in
the clean run. Times the vector it adds up to the whole effect, up to the quadrature (completeness).

Source: Sundararajan et al. 2017 (arXiv 1703.01365).
What it cannot see: which dimensions only act together.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.engine.backward import backward, gradients
from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import Reads
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.scores import Score


def injected_gradient(
    experiment: Experiment, vector: int, score: Score, steps: int, reads: Reads
) -> list[Float[Tensor, "prompt row dimension"]]:
    """By injection, the gradient with respect to each row of its value; rows that stand at many positions sum over
    them.

    Args:
        vector: 0 is the real one, 1 the first reference.
        steps: points of the quadrature along the coefficient.

    Raises:
        BadMetric: the score has no gradient.
    """
    prompts, edits = experiment.prompts.full, experiment.edits(vector)
    points, weights = np.polynomial.legendre.leggauss(steps)
    along = [(float(x + 1) / 2, float(w) / 2) for x, w in zip(points, weights, strict=True)]
    groups = [
        [Variant(p, tuple(replace(edit, value=edit.value * x) for edit in own)) for x, _ in along]
        for p, own in enumerate(edits)
    ]
    found = [torch.zeros(len(edits), *_shape(edit.value)) for edit in edits[0]]

    def put(seen: tuple[list[int], tuple[str, int], Tensor]) -> None:
        indices, at_site, g = seen
        for row, index in enumerate(indices):
            p, step = divmod(index, steps)
            for i, edit in enumerate(edits[p]):
                if (edit.site.name, edit.site.layer) == at_site and edit.positions is not None:
                    at = g[row, list(edit.positions)]
                    at = at if edit.site.head is None else at[:, edit.site.head]
                    rows = at.sum(dim=0, keepdim=True) if _shape(edit.value)[0] == 1 else at
                    found[i][p] += along[step][1] * rows.float().cpu()

    backward(
        experiment.model,
        prompts,
        groups,
        experiment.scored_positions.positions,
        score,
        sorted({(edit.site.name, edit.site.layer) for edit in edits[0]}),
        gradients,
        put,
        reads=reads,
        budget=experiment.budget,
        name=experiment.metric.name,
    )
    return found


def _shape(value: Tensor | float) -> tuple[int, int]:
    assert isinstance(value, Tensor)
    return (int(value.shape[0]), int(value.shape[1]))
