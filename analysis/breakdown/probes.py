"""What happens inside the model along the coefficient: attention on the injected positions, norms' scales, commitment.

attention   share of a layer's attention that later positions pay to the injected ones, mean over heads
scale       what a norm divides by, over the clean run's, at injected positions and at later ones
committed   the first layer from which on a later position's most probable token (seen through a lens) stays
"""

from collections.abc import Sequence
from math import isinf

import pandas as pd
from torch import Tensor

from steerscope.analysis.lens.lens import Lens
from steerscope.analysis.lens.trajectory import RANGE, averaged, commitment
from steerscope.analysis.model.norms import readers, sites, stream
from steerscope.analysis.model.positions import later
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.schema import Column, Frames

from .outcomes import COEFFICIENT
from .strength import at, rows

PROBES: Frames = {
    "probes": {
        **COEFFICIENT,
        "quantity": Column(
            "attention: share that later positions pay to the injected ones; scale: what a norm divides by, over the "
            "clean run's; committed: first layer from which on the most probable token stays, through a lens",
            role="measure",
        ),
        "layer": Column(
            "of the attention or the norm; the number of layers for the final norm and for committed", role="label"
        ),
        "at": Column("attention, mlp or final (the norm), or lens", role="label"),
        "where": Column("injected or later positions", role="label"),
        "value": Column("mean over prompts", role="estimate"),
        **RANGE,
    }
}


def probes(experiment: Experiment, lens: Lens, coefficients: Sequence[float], level: float) -> pd.DataFrame:
    """Rows of coefficient, quantity, layer and place."""
    model, found = experiment.model, readers(experiment.model)
    where = [positions for positions, _ in rows(experiment, 1.0)]
    patterns = [("pattern", n) for n in range(model.n_layers)]
    wanted = [*sites(model), *patterns]
    clean = experiment.activations(None, wanted)
    values: dict[tuple[object, ...], list[float]] = {}

    def note(*key: object, value: Tensor) -> None:
        values.setdefault(key, []).append(float(value))

    for c in track(coefficients, "inside the model"):
        kept = experiment.read(at(experiment, c), wanted) if c else clean
        for p, own in enumerate(kept):
            after = later(where[p], len(experiment.prompts.full[p]))
            places = {"injected": [] if isinf(c) else list(where[p]), "later": after}
            for _, layer in patterns:
                seen = own["pattern", layer][:, after][:, :, list(where[p])].sum(-1).double()
                note(c, "attention", layer, "attention", "later", value=seen.mean())
            for reader in found:
                scale, before = (reader.norm.scale(stream(model, reader, run)) for run in (own, clean[p]))
                for place, positions in places.items():
                    ratio = (scale / before)[positions].double()
                    note(c, "scale", reader.layer, reader.name, place, value=ratio.mean())
            note(c, "committed", model.n_layers, "lens", "later", value=commitment(lens, own)[after].mean())
    table = averaged(values, PROBES["probes"], level, experiment.prompts.by_group)
    return table.dropna(subset="value", ignore_index=True)
