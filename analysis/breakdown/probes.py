"""What happens inside the model along the coefficient: attention on the injected positions, norms' scales, commitment.

attention   share of a layer's attention that later positions pay to the injected ones, mean over heads
scale       what a norm divides by, over the clean run's, at injected positions and at later ones
committed   the first layer from which on a later position's most probable token (seen through a lens) stays
"""

from collections.abc import Sequence
from math import isinf

import numpy as np
import pandas as pd

from steerscope.analysis.columns import COLUMNS
from steerscope.analysis.lens.lens import Lens
from steerscope.analysis.lens.trajectory import commitment
from steerscope.analysis.model.norms import readers, sites, stream
from steerscope.analysis.model.positions import later
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.stats import mean_interval
from steerscope.analysis.tools.patches import activations

from .strength import at, rows


def probes(experiment: Experiment, lens: Lens, coefficients: Sequence[float], level: float) -> pd.DataFrame:
    """Rows of coefficient, quantity, layer and place."""
    model, found = experiment.model, readers(experiment.model)
    where = [positions for positions, _ in rows(experiment, 1.0)]
    patterns = [("pattern", n) for n in range(model.n_layers)]
    clean = activations(experiment, experiment.nothing, sites(model))
    table = []
    for c in track(coefficients, "inside the model"):
        edits = at(experiment, c) if c else experiment.nothing
        kept = activations(experiment, edits, [*sites(model), *patterns])
        values: dict[tuple[str, int, str, str], list[float]] = {}
        for p, own in enumerate(kept):
            after = later(where[p], len(experiment.prompts.full[p]))
            for _, layer in patterns:
                seen = own["pattern", layer]
                share = seen[:, after][:, :, list(where[p])].sum(-1).double().mean() if after else float("nan")
                values.setdefault(("attention", layer, "attention", "later"), []).append(float(share))
            for reader in found:
                ratio = reader.norm.scale(stream(model, reader, own)) / reader.norm.scale(
                    stream(model, reader, clean[p])
                )
                for place, positions in (("injected", [] if isinf(c) else list(where[p])), ("later", after)):
                    mean = float(ratio[positions].double().mean()) if positions else float("nan")
                    values.setdefault(("scale", reader.layer, reader.name, place), []).append(mean)
            settled = commitment(lens, own)[after].mean() if after else float("nan")
            values.setdefault(("committed", model.n_layers, "lens", "later"), []).append(float(settled))
        for (quantity, layer, name, place), means in values.items():
            finite = np.array(means)[np.isfinite(means)]
            if len(finite):
                value, low, high = mean_interval(finite, level, experiment.seed)
                table.append(
                    {
                        "coefficient": c,
                        "quantity": quantity,
                        "layer": layer,
                        "at": name,
                        "where": place,
                        "value": value,
                        "low": low,
                        "high": high,
                    }
                )
    return pd.DataFrame(table)[list(COLUMNS["breakdown"]["probes"])]
