"""Ways to put a vector into a stream, each with a knob; and what an injection's turn and its stretch do by themselves.

    addition        x + c v
    same norm       the same, scaled back to |x|: the turn alone
    stretch         x, scaled to |x + c v|: the length alone
    rotation        x turned towards v in their plane by a share of their angle (arXiv 2601.19375, 2602.01716)
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

from steerscope.analysis.model.norms import angle
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.question.injection import compose
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.results.stats import mean_interval, percentiles, resampled

from .outcomes import COEFFICIENT, DAMAGE, DAMAGED, DISTURBED, EFFECT, KL, between, bounded, of_runs
from .strength import put, reference, rows, site, streams

Values = NDArray[np.float64]
Way = Callable[
    [Float[Tensor, "pos d_model"], Float[Tensor, "pos d_model"], float], Float[Tensor, "pos d_model"]
]  # stream, vector, knob -> stream
LAYERS = 4  # that "several layers" takes at most
SHARES = tuple(np.round(np.linspace(0.05, 1, 20), 3).tolist())  # of the angle, for rotation
SHAPES: Frames = {
    "angles": {
        "way": Column(
            "addition: the whole injection; same norm: its turn alone, at the clean length; stretch: its length alone",
            role="label",
        ),
        **COEFFICIENT,
        "angle": Column("by how much injected streams turn, mean", "degrees"),
        "stretch": Column("by what factor they lengthen, mean"),
        **between("effect", "change of the metric, mean over prompts", "{metric}", drawn=True),
        **between("damage", DAMAGED, "nats"),
    },
    "remedies": {
        "remedy": Column(
            "addition; same norm (scaled back to the clean length); rotation; clamping (the component is set); "
            "several layers",
            role="label",
        ),
        "knob": Column("coefficient; for rotation the share of the angle to the vector", role="axis"),
        "effect": Column("change of the metric, mean over prompts", "{metric}", "estimate"),
        "damage": Column(DAMAGED, "nats"),
        "kl": DISTURBED,
    },
    "equal_effect": {
        "remedy": Column("as in remedies", role="label"),
        "target": Column("the effect at which all are compared: that of the injection as given", "{metric}"),
        **between("damage", "damage where the effect first reaches the target", "nats", drawn=True),
        **between("kl", "disturbance there", "nats"),
        "reached": Column("share of resamples of the prompts in which the target is reached"),
    },
}


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
    turn: Tensor = torch.atan2(_size(across), (a * b).sum(1, keepdim=True)) * share
    across = across / _size(across).clamp_min(1e-30)
    return (a * turn.cos() + across * turn.sin()) * _size(x)


def _clamping(x: Tensor, v: Tensor, c: float) -> Tensor:
    unit = v / _size(v)
    return x + (c * _size(v) - (x * unit).sum(1, keepdim=True)) * unit


def _size(x: Tensor) -> Tensor:
    found: Tensor = x.norm(dim=1, keepdim=True)
    return found


WAYS: dict[str, Way] = {
    "addition": _addition,
    "same norm": _same_norm,
    "stretch": _stretch,
    "rotation": _rotation,
    "clamping": _clamping,
}
ANGLES = ("addition", "same norm", "stretch")
SEVERAL = "several layers"
REMEDIES = ("addition", "same norm", "rotation", "clamping", SEVERAL)


class Shapes:
    """An experiment's injection, put in by any of the ways."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        # by prompt: positions, the stream there before, and the vector at coefficient 1
        self._at = [
            (where, x[list(where)], v) for (where, v), x in zip(rows(experiment, 1.0), streams(experiment), strict=True)
        ]
        self._found: dict[tuple[str, tuple[float, ...]], Values] = {}

    @property
    def layers(self) -> int:
        """How many layers "several layers" takes."""
        return min(LAYERS, self.experiment.model.n_layers - site(self.experiment).layer)

    def edits(self, way: str, knob: float) -> Edits:
        """The edits that put the vector in, in one of the ways."""
        if way == SEVERAL:
            return self._several(knob)
        return put(self.experiment, [(where, WAYS[way](x, v, knob) - x) for where, x, v in self._at])

    def _several(self, c: float) -> Edits:
        asked, first = self.experiment, site(self.experiment).layer
        part = c / reference(asked) / self.layers
        scaled = [
            replace(i, coefficient=i.coefficient * part, layer=first + n)
            for n in range(self.layers)
            for i in asked.injections
        ]
        return tuple(compose(scaled, len(ids), asked.model.bos is not None) for ids in asked.prompts.ids)

    def outcomes(self, way: str, knobs: Sequence[float]) -> Float[Values, "curve knob prompt"]:
        """Outcomes along the knob, run once."""
        key = way, tuple(knobs)
        if key not in self._found:
            self._found[key] = of_runs(self.experiment, (self.edits(way, k) for k in knobs))
        return self._found[key]

    def turned(self, way: str, knob: float) -> tuple[float, float]:
        """By how many degrees the injected streams turn, and by what factor they lengthen; means over positions."""
        both = [(x, WAYS[way](x, v, knob)) for _, x, v in self._at]
        angles = torch.cat([angle(x, y) for x, y in both])
        factors = torch.cat([_size(y) / _size(x).clamp_min(1e-30) for x, y in both])
        return float(angles.mean()), float(factors.mean())


def angles_table(shapes: Shapes, coefficients: Sequence[float], level: float) -> pd.DataFrame:
    """Effect and damage of the whole injection, of its turn alone and of its stretch alone."""
    seed, table = shapes.experiment.seed, []
    for way in track(ANGLES, "turn and stretch"):
        found = shapes.outcomes(way, coefficients)
        for i, c in enumerate(coefficients):
            turn, stretch = shapes.turned(way, c)
            row = {"way": way, "coefficient": c, "angle": turn, "stretch": stretch}
            for name, outcome in (("effect", EFFECT), ("damage", DAMAGE)):
                row |= bounded(name, mean_interval(found[outcome, i], level, seed))
            table.append(row)
    return pd.DataFrame(table, columns=list(SHAPES["angles"]))


def remedies_tables(
    shapes: Shapes, coefficients: Sequence[float], target: Float[Values, " prompt"], level: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every way's effect and damage along its knob; and damage where it first reaches the target's mean effect."""
    seed, curves, equal = shapes.experiment.seed, [], []
    wanted = resampled(target, seed)
    for way in track(REMEDIES, "remedies"):
        if way == SEVERAL and shapes.layers < 2:
            continue
        knobs = SHARES if way == "rotation" else tuple(coefficients)
        found = effect, damage, kl = shapes.outcomes(way, knobs)[[EFFECT, DAMAGE, KL]]
        curves += [(way, k, *found[:, i].mean(axis=-1)) for i, k in enumerate(knobs)]
        along = resampled(effect, seed)
        row: dict[str, object] = {"remedy": way, "target": wanted[0]}
        for name, values in (("damage", damage), ("kl", kl)):
            at = _reach(along, resampled(values, seed), wanted)
            row |= bounded(name, (at[0], *map(float, percentiles(at, level))))
            row["reached"] = float(np.isfinite(at).mean())
        equal.append(row)
    return (
        pd.DataFrame(curves, columns=list(SHAPES["remedies"])),
        pd.DataFrame(equal, columns=list(SHAPES["equal_effect"])),
    )


def _reach(
    effect: Float[Values, "resample knob"], other: Float[Values, "resample knob"], wanted: Float[Values, " resample"]
) -> Float[Values, " resample"]:
    """`other` where the effect first reaches what is wanted (from 0 at knob 0), straight between knobs; NaN where
    never.
    """
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
