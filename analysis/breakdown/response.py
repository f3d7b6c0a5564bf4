"""Response curves: every outcome against the coefficient, of the vector and of its references, with the exact limits.

The limits at plus and minus infinity are runs of their own (see `limit`), not extrapolations. A coefficient at which
the model's numbers overflow is named and left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, product
from math import isinf

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.errors import BadArgument, BadInjection, UnsupportedModel
from steerscope.analysis.lens.trajectory import RANGE
from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.results.schema import Column, Frame, Frames
from steerscope.analysis.results.stats import interval, mean_interval
from steerscope.analysis.results.verdicts import band

from .mechanisms import Undo
from .outcomes import COEFFICIENT, CURVES, Asked, of_runs
from .strength import at, overflows, reference

Values = NDArray[np.float64]
_VALUE: Frame = {
    "value": Column(
        "mean over prompts; of loss and damage over the pieces of the text",
        "{metric} for effect, nats for the others",
        "estimate",
    ),
    **RANGE,
}
RESPONSE: Frames = {
    "response": {
        "outcome": Column(
            "effect: change of the metric; kl: KL(run || clean); entropy of the prediction, all three on the prompts; "
            "loss on the text that the manifest names (text); damage: that loss above the clean run's; "
            "damage_on_topic: the same on the given on-topic texts",
            role="measure",
        ),
        **COEFFICIENT,
        **_VALUE,
        "reference": Column("mean over reference vectors", "as value", "reference"),
        "reference_low": Column("2.5th percentile over the reference vectors", "as value", "reference_low"),
        "reference_high": Column("97.5th percentile over the reference vectors", "as value", "reference_high"),
    },
    "limits": {
        "sign": Column("of the infinite coefficient", role="label"),
        "seen": Column("whether later positions attend to the injected ones", role="label"),
        "outcome": Column("as in response", role="measure"),
        **_VALUE,
    },
}


MOST = 500  # coefficients


def default_coefficients() -> tuple[float, ...]:
    """81 points: 0, and 40 on each side, evenly on a log scale from 0.01 to 10,000."""
    sizes = np.geomspace(1e-2, 1e4, 40)
    return tuple(np.round([*(-sizes[::-1]), 0.0, *sizes], 10).tolist())


@dataclass(frozen=True, eq=False)
class Response:
    """Curves of the vector and its references.

    Attributes:
        coefficients: finite ones in order; where there are limits, minus infinity first and infinity last.
        values: by curve and vector (the real one first); NaN where numbers overflow, or where there is no text.
        missing: what is not there, and why.
    """

    coefficients: tuple[float, ...]
    values: Mapping[str, Float[Values, "vector coefficient item"]]
    missing: dict[str, str]

    def of(self, curve: str, vector: int = 0) -> Float[Values, "coefficient item"]:
        """One curve of one vector."""
        return np.asarray(self.values[curve][vector])

    def at(self, curve: str, coefficient: float) -> Float[Values, " item"]:
        """The real vector's outcome at one of the coefficients."""
        return np.asarray(self.of(curve)[self.coefficients.index(coefficient)])

    def limit(self, curve: str, sign: int) -> Float[Values, " item"] | None:
        """The real vector's outcome at plus or minus infinity; None where there is no limit."""
        place = -1 if sign > 0 else 0
        return self.of(curve)[place] if isinf(self.coefficients[place]) else None


def response(asked: Asked, coefficients: Sequence[float]) -> Response:
    """Runs every coefficient, and the given one.

    Raises:
        BadArgument: no coefficients, or too many.
    """
    experiment = asked.prompts
    if not 0 < len(set(coefficients)) <= MOST:
        raise BadArgument(
            f"{len(set(coefficients)):,} coefficients; expected 1 to {MOST}: each is a run of every prompt, vector and "
            "text; leave it out for the default"
        )
    wanted = sorted({*map(float, coefficients), float(reference(experiment))})
    missing: dict[str, str] = {}
    try:
        at(experiment, float("inf"))
        wanted = [-float("inf"), *wanted, float("inf")]
    except (BadInjection, UnsupportedModel) as error:
        missing["limit"] = str(error)
    vectors = list(experiment.vectors)
    held = [not overflows(experiment, c) for c in wanted]
    runs = list(product(vectors, compress(wanted, held)))
    found = of_runs(asked, lambda one: (at(one, c, v) for v, c in runs), "coefficients", len(runs))
    values = {}
    for curve in CURVES:
        values[curve] = np.full((len(vectors), len(wanted), found[curve].shape[-1]), np.nan)
        values[curve][:, held] = found[curve].reshape(len(vectors), sum(held), -1)
    if not all(held):
        least = min(abs(c) for c, ok in zip(wanted, held, strict=True) if not ok)
        what = f"coefficients of {least:.3g} and more"
        missing["overflow"] = f"{what}: {experiment.model.dtype} overflows there; load the model with dtype='float32'"
    return Response(tuple(wanted), values, missing)


def response_table(asked: Asked, found: Response, level: float) -> pd.DataFrame:
    """Means with intervals, and the band of the references."""
    frames = []
    for curve in CURVES:
        own = found.of(curve)
        low, high = interval(own, level, asked.groups(curve))
        references = found.values[curve][1:].mean(axis=-1)
        reference_low, reference_high = band(references)
        columns = {
            "outcome": curve,
            "coefficient": found.coefficients,
            "value": own.mean(axis=-1),
            "low": low,
            "high": high,
            "reference": references.mean(axis=0) if len(references) else np.nan,
            "reference_low": reference_low,
            "reference_high": reference_high,
        }
        frames.append(pd.DataFrame(columns))
    table = pd.concat(frames, ignore_index=True).dropna(subset="value", ignore_index=True)
    return table[list(RESPONSE["response"])]


def limits_table(asked: Asked, found: Response, level: float) -> pd.DataFrame:
    """Both exact limits, with later positions attending to the injected ones and without; empty where there is none."""
    table = []
    for sign in (1, -1) if isinf(found.coefficients[-1]) else ():

        def unseen(one: Experiment, sign: int = sign) -> list[Edits]:
            hidden = Undo(one, reference(one)).hidden
            edits = zip(at(one, sign * np.inf), hidden, strict=True)
            return [tuple((*own, *hide) for own, hide in edits)]

        apart = of_runs(asked, unseen)
        for seen in (True, False):
            for curve in CURVES:
                own = found.of(curve)[-1 if sign > 0 else 0] if seen else apart[curve][0]
                table.append((sign, seen, curve, *mean_interval(own, level, asked.groups(curve))))
    return pd.DataFrame(table, columns=list(RESPONSE["limits"])).dropna(subset="value", ignore_index=True)
