"""Where a response changes its nature: crossings of its curves, by sign of the coefficient, with intervals.

    linear     the effect leaves what the gradient in the clean run predicts by a tenth
    half       the effect reaches half of its exact limit
    fluency    damage reaches 1% of perplexity
    safe       damage reaches the perplexity that may be lost (10% by default): the largest safe coefficient

Between two coefficients a curve is taken as straight in log |coefficient|. What is crossed at the smallest coefficient
already may have been crossed anywhere below it, and what is not crossed anywhere beyond the largest: such a crossing
has a side and no number. An interval resamples groups and finds the crossing again; a resample that crosses below or
beyond counts as such, and where it is the end of the interval, that end is open. And a guess without any run: the
injected stream has turned halfway to the vector where coefficient x |vector| = |stream|, so the half-point should lie
near |stream| / |vector|.
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
from steerscope.analysis.results.stats import mean_interval
from steerscope.analysis.tools.injected_gradient import injected_gradient

from .outcomes import Asked, open_interval
from .response import Response
from .strength import reference, rows, site

Values = NDArray[np.float64]
LINEAR, FLUENT, TINY = 0.1, log(1.01), 1e-4
BELOW, WITHIN, BEYOND = "below", "within", "beyond"
CROSSED = {"linear": "effect", "half": "effect", "fluency": "damage", "safe": "damage"}
_SIDES = "within the coefficients that were tried; below: at the smallest of them or lower; beyond the largest"
REGIMES: Frames = {
    "regimes": {
        "regime": Column(
            "linear: the effect leaves the gradient's prediction by a tenth; half: it reaches half of its limit; "
            "fluency: damage reaches 1% of perplexity; safe: it reaches the perplexity that may be lost",
            role="label",
        ),
        "sign": Column("of the coefficient", role="label"),
        "coefficient": Column(
            "size of the coefficient where that first happens; missing unless that is within", role="estimate"
        ),
        "where": Column(f"where that is: {_SIDES}"),
        "low": Column(
            "lower end of its interval over groups (of prompts; of the text for damage), resamples that cross below or "
            "beyond among them; missing unless it is within",
            role="low",
        ),
        "low_where": Column("where the lower end is; missing where one group gives no interval"),
        "high": Column("upper end of the same", role="high"),
        "high_where": Column("where the upper end is"),
        "reached": Column("share of resamples in which it happens at or below the largest coefficient"),
        "smallest": Column("smallest coefficient that was tried"),
        "largest": Column("largest coefficient that was tried"),
    },
    "predictions": {
        "layer": Column("layer of the norm; the number of layers for the final one", role="axis"),
        "norm": Column("what reads the stream there: attention, mlp, or final for the unembedding", role="label"),
        "predicted": Column(
            "coefficient at which the injected stream there has turned halfway to the vector: |stream| / |vector|",
            role="estimate",
        ),
        "low": Column("lower end of its interval over prompts", role="low"),
        "high": Column("upper end of its interval over prompts", role="high"),
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
    """The size at which each row first becomes positive: 0 where that is so at the smallest already, infinity where it
    never is, NaN where a row is missing.
    """
    above = gap > 0
    first = above.argmax(axis=1)
    rows_ = np.arange(len(gap))
    before = np.maximum(first - 1, 0)
    a, b = gap[rows_, before], gap[rows_, first]
    with np.errstate(all="ignore"):
        found = np.exp(np.log(sizes[before]) - a / (b - a) * (np.log(sizes[first]) - np.log(sizes[before])))
    found = np.where(first > 0, found, 0.0)
    found = np.where(above.any(axis=1), found, np.inf)
    return np.asarray(np.where(np.isnan(gap).any(axis=1), np.nan, found))


def ends(places: Float[Values, " resample"], level: float, groups: int) -> tuple[float, float]:
    """The interval of crossings: 0 for an end below the smallest size, infinity for one beyond the largest."""
    with np.errstate(divide="ignore"):
        low, high = np.exp(open_interval(np.log(places), level, groups))
    return float(low), float(high)


def side(place: float) -> str | None:
    """Where a crossing is, as `crossing` says it."""
    if np.isnan(place):
        return None
    return BELOW if place == 0 else BEYOND if isinf(place) else WITHIN


def regimes(asked: Asked, found: Response, loss: float, level: float) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table of crossings, and what is missing of it.

    Args:
        loss: share of the perplexity that may be lost.
    """
    experiment, missing = asked.prompts, dict[str, str]()
    steep: Values | None = None
    if experiment.metric.flat_at_clean:
        missing["linear"] = "kl has no slope in the clean run; choose another metric for it"
    else:
        try:
            steep = slope(experiment)
        except BadMetric as error:
            missing["linear"] = str(error)
    table = []
    grid = np.array(found.coefficients)
    finite = np.isfinite(found.of("kl")).all(axis=1) & np.isfinite(grid)
    for sign in (1, -1):
        own = np.flatnonzero(finite & (sign * grid > 0))
        if not len(own):
            continue
        own = own[np.argsort(np.abs(grid[own]))]
        sizes = np.abs(grid[own])
        effect, hurt = (asked.resampled(curve, found.of(curve)[own]) for curve in ("effect", "damage"))
        gaps: dict[str, Values] = {}
        if steep is not None:
            line = asked.resampled("effect", steep[None]) * grid[own]
            gaps["linear"] = np.abs(effect - line) - LINEAR * np.abs(line)
        end = found.limit("effect", sign)
        if end is not None:
            whole = asked.resampled("effect", end[None])
            gaps["half"] = effect * np.sign(whole) - np.abs(whole) / 2
        if asked.text is not None:
            gaps |= {"fluency": hurt - FLUENT, "safe": hurt - log(1 + loss)}
        for name, gap in gaps.items():
            places = crossing(sizes, gap)
            interval = ends(places, level, asked.count(CROSSED[name]))
            table.append((name, sign, *_cells(float(places[0]), *interval), _reached(places), sizes[0], sizes[-1]))
    return pd.DataFrame(table, columns=list(REGIMES["regimes"])), missing


def _cells(*places: float) -> list[object]:
    """A number and its side, in turn: of the crossing, and of both ends of its interval."""
    return [cell for place in places for cell in (place if side(place) == WITHIN else np.nan, side(place))]


def _reached(places: Float[Values, " resample"]) -> float:
    drawn = places[1:][~np.isnan(places[1:])]
    return float((drawn < np.inf).mean()) if len(drawn) else float("nan")


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
        table.append((reader.layer, reader.name, *mean_interval(sizes, level, experiment.prompts.by_group)))
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
