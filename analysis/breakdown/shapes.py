"""Ways to put a vector into a stream, each with a knob; and what an injection's turn and its stretch do by themselves.

    addition        x + c v
    same norm       the same, scaled back to |x|: the turn alone
    stretch         x, scaled to |x + c v|: the length alone
    rotation        x turned towards v in their plane by a share of the angle between them (arXiv 2601.19375, 2602.01716)
    clamping        the component along v set to c |v|, whatever it was
    several layers  the vector at the layers from its own on, each with a part of the coefficient

Turn and stretch: the angle-norm account of steering, arXiv 2606.06735. The ways are compared at equal effect: the
damage of each where it first reaches the effect that plain addition has.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.columns import COLUMNS
from steerscope.analysis.experiment import Edits, Experiment
from steerscope.analysis.progress import track
from steerscope.analysis.stats import percentiles, resampled

from .outcomes import damage, of_runs
from .strength import put, reference, rows, site, streams

Values = NDArray[np.float64]
Way = Callable[
    [Float[Tensor, "pos d_model"], Float[Tensor, "pos d_model"], float],
    Float[Tensor, "pos d_model"],
]  # stream, vector, knob -> stream
LAYERS = 4  # that "several layers" takes at most
SHARES = tuple(np.round(np.linspace(0.05, 1, 20), 3).tolist())  # of the angle, for rotation


def _addition(x: Tensor, v: Tensor, c: float) -> Tensor:
    return x + c * v


def _same_norm(x: Tensor, v: Tensor, c: float) -> Tensor:
    y = x + c * v
    return y * _size(x) / _size(y).clamp_min(1e-30)


def _stretch(x: Tensor, v: Tensor, c: float) -> Tensor:
    return x * _size(x + c * v) / _size(x).clamp_min(1e-30)


def _rotation(x: Tensor, v: Tensor, share: float) -> Tensor:
    a, b = x / _size(x).clamp_min(1e-30), v / _size(v)
    across = b - (a * b).sum(1, keepdim=True) * a
    angle: Tensor = torch.atan2(_size(across), (a * b).sum(1, keepdim=True)) * share
    across = across / _size(across).clamp_min(1e-30)
    return (a * angle.cos() + across * angle.sin()) * _size(x)


def _clamping(x: Tensor, v: Tensor, c: float) -> Tensor:
    unit = v / _size(v)
    return x + (c * _size(v) - (x * unit).sum(1, keepdim=True)) * unit


def _size(x: Tensor) -> Tensor:
    found: Tensor = x.norm(dim=1, keepdim=True)
    return found


WAYS: dict[str, Way] = {
    "addition": _addition, "same norm": _same_norm, "stretch": _stretch, "rotation": _rotation, "clamping": _clamping,
}  # fmt: skip
ANGLES = ("addition", "same norm", "stretch")
SEVERAL = "several layers"
REMEDIES = ("addition", "same norm", "rotation", "clamping", SEVERAL)


def edits(experiment: Experiment, way: str, knob: float) -> Edits:
    """The edits that put the vector in, in one of the ways."""
    if way == SEVERAL:
        return _several(experiment, knob)
    changes = []
    for (where, v), x in zip(rows(experiment, 1.0), streams(experiment), strict=True):
        before = x[list(where)]
        changes.append((where, WAYS[way](before, v, knob) - before))
    return put(experiment, changes)


def _layers(experiment: Experiment) -> int:
    return min(LAYERS, experiment.model.n_layers - site(experiment).layer)


def _several(experiment: Experiment, c: float) -> Edits:
    first, count = site(experiment).layer, _layers(experiment)
    scaled = [
        replace(i, coefficient=i.coefficient * c / reference(experiment) / count, layer=first + n)
        for n in range(count)
        for i in experiment.injections
    ]
    has_bos = experiment.model.bos is not None
    return tuple(tuple(i.edit(len(ids), has_bos) for i in scaled) for ids in experiment.prompts.ids)


def turned(experiment: Experiment, way: str, knob: float) -> tuple[float, float]:
    """By how many degrees the injected streams turn, and by what factor they lengthen; means over positions."""
    angles, factors = [], []
    for (where, v), x in zip(rows(experiment, 1.0), streams(experiment), strict=True):
        before = x[list(where)]
        after = WAYS[way](before, v, knob)
        a, b = before / _size(before).clamp_min(1e-30), after / _size(after).clamp_min(1e-30)
        angles.append(torch.rad2deg(2 * torch.atan2(_size(a - b), _size(a + b))))
        factors.append(_size(after) / _size(before).clamp_min(1e-30))
    return float(torch.cat(angles).mean()), float(torch.cat(factors).mean())


def angles_table(
    experiment: Experiment, coefficients: Sequence[float], level: float
) -> pd.DataFrame:
    """Effect and damage of the whole injection, of its turn alone and of its stretch alone."""
    clean = of_runs(experiment, [experiment.nothing])
    table = []
    for way in track(ANGLES, "turn and stretch"):
        found = of_runs(experiment, [edits(experiment, way, c) for c in coefficients])
        hurt = damage(found, clean)
        for i, c in enumerate(coefficients):
            angle, stretch = turned(experiment, way, c)
            row: dict[str, object] = {
                "way": way,
                "coefficient": c,
                "angle": angle,
                "stretch": stretch,
            }
            for name, values in (("effect", found[0, i]), ("damage", hurt[i])):
                means = resampled(values, experiment.seed)
                low, high = percentiles(means, level)
                row |= {name: means[0], f"{name}_low": float(low), f"{name}_high": float(high)}
            table.append(row)
    return pd.DataFrame(table)[list(COLUMNS["breakdown"]["angles"])]


def remedies_tables(
    experiment: Experiment, coefficients: Sequence[float], target: Float[Values, " prompt"], level: float
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Every way's effect and damage along its knob; and damage where it first reaches the target's mean effect."""
    clean = of_runs(experiment, [experiment.nothing])
    curves, equal = [], []
    for way in track(REMEDIES, "remedies"):
        if way == SEVERAL and _layers(experiment) < 2:
            continue
        knobs = SHARES if way == "rotation" else tuple(coefficients)
        found = of_runs(experiment, [edits(experiment, way, k) for k in knobs])
        hurt = damage(found, clean)
        curves += [
            {
                "remedy": way,
                "knob": k,
                "effect": found[0, i].mean(),
                "damage": hurt[i].mean(),
                "kl": found[1, i].mean(),
            }
            for i, k in enumerate(knobs)
        ]
        wanted = resampled(target, experiment.seed)
        means = [resampled(v, experiment.seed) for v in (found[0], hurt, found[1])]
        at = [_reach(means[0], m, wanted) for m in means[1:]]
        row: dict[str, object] = {"remedy": way, "target": wanted[0]}
        for name, values in zip(("damage", "kl"), at, strict=True):
            low, high = percentiles(values, level)
            row |= {name: values[0], f"{name}_low": float(low), f"{name}_high": float(high)}
        equal.append(row | {"reached": float(np.isfinite(at[0]).mean())})
    return (
        pd.DataFrame(curves)[list(COLUMNS["breakdown"]["remedies"])],
        pd.DataFrame(equal)[list(COLUMNS["breakdown"]["equal_effect"])],
    )


def _reach(
    effect: Float[Values, "resample knob"], other: Float[Values, "resample knob"], wanted: Float[Values, " resample"]
) -> Float[Values, " resample"]:  # fmt: skip
    """`other` where the effect first reaches what is wanted (from 0 at knob 0), straight between knobs; NaN where never."""
    sign = np.sign(wanted)[:, None]
    zero = np.zeros((len(effect), 1))
    effect, other = np.hstack([zero, effect * sign]), np.hstack([zero, other])
    goal = np.abs(wanted)[:, None]
    above = effect >= goal
    first, index = np.maximum(above.argmax(axis=1), 1), np.arange(len(effect))
    a, b = effect[index, first - 1], effect[index, first]
    share = (goal[:, 0] - a) / np.where(b == a, 1.0, b - a)
    found = other[index, first - 1] + share * (other[index, first] - other[index, first - 1])
    return np.asarray(np.where(above.any(axis=1), found, np.nan))
