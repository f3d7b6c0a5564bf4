"""Where a response changes its nature: crossings of its curves, by sign of the coefficient, with intervals.

    linear     the effect leaves what the gradient in the clean run predicts by a tenth
    half       the effect reaches half of its exact limit
    fluency    the loss on ordinary text rises by 1% of perplexity
    safe       the loss rises by the perplexity that may be lost (10% by default): the largest safe coefficient

Between two coefficients a curve is taken as straight in log |coefficient|. An interval resamples prompts and finds
the crossing again. And a guess without any run: the injected stream has turned halfway to the vector where
coefficient x |vector| = |stream|, so the half-point should lie near |stream| / |vector|.
"""

from dataclasses import replace
from math import isinf, log

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.errors import BadMetric
from steerscope.analysis.model.norms import readers, sites, stream
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.results.stats import mean_interval, percentiles, resampled
from steerscope.analysis.tools.injected_gradient import injected_gradient

from .response import Response
from .strength import reference, rows, site

Values = NDArray[np.float64]
LINEAR, FLUENT, TINY = 0.1, log(1.01), 1e-4
_RANGE = "end of its interval over prompts"
REGIMES: Frames = {
    "regimes": {
        "regime": Column(
            "linear: the effect leaves the gradient's prediction by a tenth; half: it reaches half of its limit; "
            "fluency: the loss rises by 1% of perplexity; safe: it rises by the perplexity that may be lost",
            role="label",
        ),
        "sign": Column("of the coefficient", role="label"),
        "coefficient": Column(
            "size of the coefficient where that first happens; missing where it never does", role="estimate"
        ),
        "low": Column(f"lower {_RANGE}, of resamples in which it happens", role="low"),
        "high": Column(f"upper {_RANGE}, of resamples in which it happens", role="high"),
        "reached": Column("share of resamples of the prompts in which it happens"),
    },
    "predictions": {
        "layer": Column("layer of the norm; the number of layers for the final one", role="axis"),
        "norm": Column("what reads the stream there: attention, mlp, or final for the unembedding", role="label"),
        "predicted": Column(
            "coefficient at which the injected stream there has turned halfway to the vector: |stream| / |vector|",
            role="estimate",
        ),
        "low": Column(f"lower {_RANGE}", role="low"),
        "high": Column(f"upper {_RANGE}", role="high"),
    },
}


def slope(experiment: Experiment) -> Float[Values, " prompt"]:
    """The effect's gradient with respect to the coefficient, in the clean run.

    Raises:
        BadMetric: the metric has no gradient.
    """
    small = replace(
        experiment, injections=tuple(replace(i, coefficient=TINY * i.coefficient) for i in experiment.injections)
    )
    gradients = injected_gradient(small, 0, experiment.along, 1, "logits")
    found = np.zeros(len(experiment.prompts))
    for p, own in enumerate(experiment.edits(0)):
        for gradient, edit in zip(gradients, own, strict=True):
            assert isinstance(edit.value, Tensor)
            value = edit.value.detach().cpu().float()
            found[p] += float((gradient[p] * value).sum()) / reference(experiment)
    return found


def crossing(sizes: Float[Values, " size"], gap: Float[Values, "resample size"]) -> Float[Values, " resample"]:
    """The size at which each row first becomes positive; NaN where it never does."""
    above = gap > 0
    first = above.argmax(axis=1)
    rows_ = np.arange(len(gap))
    before = np.maximum(first - 1, 0)
    a, b = gap[rows_, before], gap[rows_, first]
    with np.errstate(all="ignore"):
        share = np.where(first > 0, -a / (b - a), 0.0)
        found = np.exp(np.log(sizes[before]) + share * (np.log(sizes[first]) - np.log(sizes[before])))
    return np.asarray(np.where(above.any(axis=1), found, np.nan))


def regimes(experiment: Experiment, found: Response, loss: float, level: float) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table of crossings, and what is missing of it.

    Args:
        loss: share of the perplexity that may be lost.
    """
    missing: dict[str, str] = {}
    steep: Values | None = None
    if experiment.metric.flat_at_clean:
        missing["linear"] = "kl has no slope in the clean run; choose another metric for it"
    else:
        try:
            steep = slope(experiment)
        except BadMetric as error:
            missing["linear"] = str(error)
    seed, table = experiment.seed, []
    grid = np.array(found.coefficients)
    finite = np.isfinite(found.of("kl")).all(axis=1) & np.isfinite(grid)
    for sign in (1, -1):
        side = np.flatnonzero(finite & (sign * grid > 0))
        if not len(side):
            continue
        side = side[np.argsort(np.abs(grid[side]))]
        sizes = np.abs(grid[side])
        effect, hurt = (resampled(found.of(c)[side], seed) for c in ("effect", "damage"))
        gaps = {"fluency": hurt - FLUENT, "safe": hurt - log(1 + loss)}
        if steep is not None:
            line = resampled(steep[None], seed) * grid[side]
            gaps["linear"] = np.abs(effect - line) - LINEAR * np.abs(line)
        end = found.limit("effect", sign)
        if end is not None:
            whole = resampled(end[None], seed)
            gaps["half"] = effect * np.sign(whole) - np.abs(whole) / 2
        for name in ("linear", "half", "fluency", "safe"):
            if name in gaps:
                places = crossing(sizes, gaps[name])
                low, high = percentiles(places, level)
                reached = float(np.isfinite(places[1:]).mean())
                table.append((name, sign, places[0], float(low), float(high), reached))
    return pd.DataFrame(table, columns=list(REGIMES["regimes"])), missing


def predictions(experiment: Experiment, level: float) -> pd.DataFrame:
    """At every norm, the coefficient at which the stream at injected positions has turned halfway to the vector."""
    model, place = experiment.model, site(experiment)
    unit = rows(experiment, 1.0)
    clean = experiment.activations(None, sites(model))
    table = []
    for reader in readers(model):
        if reader.layer < place.layer or (
            reader.layer == place.layer and reader.name == "attention" and place.name != "resid_pre"
        ):
            continue
        sizes = np.array(
            [
                float((stream(model, reader, kept)[list(where)].double().cpu().norm(dim=1) / value.norm(dim=1)).mean())
                for kept, (where, value) in zip(clean, unit, strict=True)
            ]
        )
        table.append((reader.layer, reader.name, *mean_interval(sizes, level, experiment.seed)))
    return pd.DataFrame(table, columns=list(REGIMES["predictions"]))


def broken(found: Response, loss: float, sign: int) -> float | None:
    """The smallest coefficient of a sign that does at least half of the most damage there; None where nothing breaks"""
    hurt = found.of("damage").mean(axis=1)
    own = [(c, h) for c, h in zip(found.coefficients, hurt.tolist(), strict=True) if sign * c > 0 and np.isfinite(h)]
    finite = sorted(((c, h) for c, h in own if not isinf(c)), key=lambda row: abs(row[0]))
    most = max((h for _, h in finite), default=0.0)
    if most <= log(1 + loss):
        return None
    return next(c for c, h in finite if h >= most / 2 and h > log(1 + loss))
