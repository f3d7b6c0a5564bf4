"""Response curves: every outcome against the coefficient, of the vector and of random ones, with the exact limits.

The limits at plus and minus infinity are runs of their own (see `limit`), not extrapolations. A coefficient at which
the model's numbers overflow is named and left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.errors import BadArgument, BadInjection, UnsupportedModel
from steerscope.analysis.lens.trajectory import RANGE
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import band
from steerscope.analysis.results.schema import Column, Frame, Frames
from steerscope.analysis.results.stats import mean_interval, percentiles, resampled

from .mechanisms import Undo
from .outcomes import COEFFICIENT, CURVES, of_runs
from .strength import at, reference, rows

Values = NDArray[np.float64]
_VALUE: Frame = {"value": Column("mean over prompts", "{metric} for effect, nats for the others", "estimate"), **RANGE}
RESPONSE: Frames = {
    "response": {
        "outcome": Column(
            "effect: change of the metric; kl: KL(run || clean); entropy of the prediction; loss on the prompts' own "
            "next tokens; damage: loss above that of the clean run (kl where there are no such tokens); "
            "damage_on_topic: the same on the given on-topic texts; means over scored positions and prompts",
            role="measure",
        ),
        **COEFFICIENT,
        **_VALUE,
        "reference": Column("mean over random vectors of equal norm", "as value", "reference"),
        "reference_low": Column("2.5th percentile over the random vectors", "as value", "reference_low"),
        "reference_high": Column("97.5th percentile over the random vectors", "as value", "reference_high"),
    },
    "limits": {
        "sign": Column("of the infinite coefficient", role="label"),
        "seen": Column("whether later positions attend to the injected ones", role="label"),
        "outcome": Column("as in response", role="measure"),
        **_VALUE,
    },
}


def default_coefficients() -> tuple[float, ...]:
    """81 points: 0, and 40 on each side, evenly on a log scale from 0.01 to 10,000."""
    sizes = np.geomspace(1e-2, 1e4, 40)
    return tuple(np.round([*(-sizes[::-1]), 0.0, *sizes], 10).tolist())


@dataclass(frozen=True, eq=False)
class Response:
    """Curves of the vector and its references.

    Attributes:
        coefficients: finite ones in order; where there are limits, minus infinity first and infinity last.
        values: by vector (the real one first); NaN where numbers overflow.
        missing: what is not there, and why.
    """

    coefficients: tuple[float, ...]
    values: Float[Values, "vector curve coefficient prompt"]
    missing: dict[str, str]

    def of(self, curve: str, vector: int = 0) -> Float[Values, "coefficient prompt"]:
        """One curve of one vector."""
        return np.asarray(self.values[vector, CURVES.index(curve)])

    def limit(self, curve: str, sign: int) -> Float[Values, " prompt"] | None:
        """The real vector's outcome at plus or minus infinity; None where there is no limit."""
        place = -1 if sign > 0 else 0
        return self.of(curve)[place] if isinf(self.coefficients[place]) else None


def response(experiment: Experiment, coefficients: Sequence[float]) -> Response:
    """Runs every coefficient.

    Raises:
        BadArgument: no coefficients, or one that is no finite number.
    """
    wanted = sorted(set(map(float, coefficients)))
    if not wanted or not np.isfinite(wanted).all():
        raise BadArgument(f"coefficients={list(coefficients)[:5]}; expected finite numbers; infinity is always added")
    missing: dict[str, str] = {}
    try:
        at(experiment, float("inf"))
        wanted = [-float("inf"), *wanted, float("inf")]
    except (BadInjection, UnsupportedModel) as error:
        missing["limit"] = str(error)
    asked = [(v, c) for v in range(1 + experiment.references) for c in wanted]
    runs = (at(experiment, c, v) for v, c in asked)
    found = of_runs(experiment, runs, "coefficients", len(asked))
    shape = (len(CURVES), 1 + experiment.references, len(wanted), -1)
    values = found.reshape(shape).swapaxes(0, 1).copy()
    kl = values[:, CURVES.index("kl")]
    broken = np.asarray(~np.isfinite(kl).all(axis=(0, 2)))
    broken |= np.array([not isinf(c) and overflows(experiment, c) for c in wanted])
    if broken.any():
        sizes = [abs(c) for c, out in zip(wanted, broken, strict=True) if out and not isinf(c)]
        what = f"coefficients of {min(sizes):.3g} and more" if sizes else "the limit"
        missing["overflow"] = f"{what}: {experiment.model.dtype} overflows there; load the model with dtype='float32'"
        values[:, :, broken] = np.nan
    return Response(tuple(wanted), values, missing)


def overflows(experiment: Experiment, coefficient: float) -> bool:
    """Whether an injected stream, or the sum of squares that its norm needs, is beyond the model's numbers.

    The sum of squares overflows first, and silently: a norm then divides by infinity.
    """
    dtype = experiment.model.dtype
    largest = max((float(value.abs().max()) for where, value in rows(experiment, coefficient) if where), default=0.0)
    squares = torch.float64 if dtype == torch.float64 else torch.float32  # halves are squared in single precision
    return not (largest < torch.finfo(dtype).max and largest**2 * experiment.model.d_model < torch.finfo(squares).max)


def response_table(found: Response, level: float, seed: int) -> pd.DataFrame:
    """Means with intervals over prompts, and the band of the random vectors."""
    frames = []
    for c, curve in enumerate(CURVES):
        means = resampled(found.values[0, c], seed)
        low, high = percentiles(means, level)
        references = found.values[1:, c].mean(axis=-1)
        reference_low, reference_high = band(references)
        columns = {
            "outcome": curve,
            "coefficient": found.coefficients,
            "value": means[0],
            "low": low,
            "high": high,
            "reference": references.mean(axis=0) if len(references) else np.nan,
            "reference_low": reference_low,
            "reference_high": reference_high,
        }
        frames.append(pd.DataFrame(columns))
    table = pd.concat(frames, ignore_index=True).dropna(subset="value", ignore_index=True)
    return table[list(RESPONSE["response"])]


def limits_table(experiment: Experiment, found: Response, level: float) -> pd.DataFrame:
    """Both exact limits, with later positions attending to the injected ones and without; empty where there is none."""
    hidden, table = Undo(experiment, reference(experiment)).hidden, []
    for sign in (1, -1) if isinf(found.coefficients[-1]) else ():
        edits = zip(at(experiment, sign * np.inf), hidden, strict=True)
        unseen = of_runs(experiment, [tuple((*own, *hide) for own, hide in edits)])[:, 0]
        place = -1 if sign > 0 else 0
        for seen, values in ((True, found.values[0, :, place]), (False, unseen)):
            for outcome, own in zip(CURVES, values, strict=True):
                table.append((sign, seen, outcome, *mean_interval(own, level, experiment.seed)))
    return pd.DataFrame(table, columns=list(RESPONSE["limits"])).dropna(subset="value", ignore_index=True)
