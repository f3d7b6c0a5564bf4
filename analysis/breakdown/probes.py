"""What happens inside the model along the coefficient: attention on the injected positions, norms' scales, commitment.

attention   share of a layer's attention that later positions pay to the injected ones, mean over heads
scale       what a norm divides by, over the clean run's, at injected positions and at later ones
committed   the first layer from which on a later position's most probable token (seen through a lens) stays
"""

from collections.abc import Sequence
from math import isinf

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.attribution.patches import activations
from steerscope.analysis.columns import COLUMNS
from steerscope.analysis.experiment import Experiment
from steerscope.analysis.lens.lens import Lens
from steerscope.analysis.lens.trajectory import trajectories
from steerscope.analysis.norms import readers, sites, stream
from steerscope.analysis.progress import track
from steerscope.analysis.stats import percentiles, resampled

from .strength import at, rows

Values = NDArray[np.float64]


def probes(
    experiment: Experiment, lens: Lens, coefficients: Sequence[float], level: float
) -> pd.DataFrame:
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
            length = len(experiment.prompts.full[p])
            later = [i for i in range(min(where[p], default=0), length) if i not in where[p]]
            for _, layer in patterns:
                seen = own["pattern", layer]
                share = seen[:, later][:, :, list(where[p])].sum(-1).double().mean() if later else float("nan")  # fmt: skip
                values.setdefault(("attention", layer, "attention", "later"), []).append(
                    float(share)
                )
            for reader in found:
                ratio = reader.norm.scale(stream(model, reader, own)) / reader.norm.scale(stream(model, reader, clean[p]))  # fmt: skip
                for place, positions in (
                    ("injected", [] if isinf(c) else list(where[p])),
                    ("later", later),
                ):
                    mean = float(ratio[positions].double().mean()) if positions else float("nan")
                    values.setdefault(("scale", reader.layer, reader.name, place), []).append(mean)
        rows_ = [_row(c, key, np.array(v), level, experiment.seed) for key, v in values.items()]
        table += [row for row in rows_ if row["value"] == row["value"]]
        seen_through, _ = trajectories(experiment, lens, {"steered": edits}, level=level)
        own_rows = seen_through[(seen_through["run"] == "steered") & (seen_through["quantity"] == "committed") & (seen_through["where"] == "later")]  # fmt: skip
        table += [
            {"coefficient": c, "quantity": "committed", "layer": model.n_layers, "at": "lens", "where": "later", **{str(k): v for k, v in r.items()}}
            for r in own_rows[["value", "low", "high"]].to_dict("records")
        ]  # fmt: skip
    return pd.DataFrame(table)[list(COLUMNS["breakdown"]["probes"])]


def _row(
    c: float, key: tuple[str, int, str, str], values: Float[Values, " prompt"], level: float, seed: int
) -> dict[str, object]:  # fmt: skip
    quantity, layer, at_, where = key
    means = resampled(values[np.isfinite(values)], seed) if np.isfinite(values).any() else np.full(2, np.nan)  # fmt: skip
    low, high = percentiles(means, level)
    return {
        "coefficient": c, "quantity": quantity, "layer": layer, "at": at_, "where": where, "value": means[0],
        "low": float(low), "high": float(high),
    }  # fmt: skip
