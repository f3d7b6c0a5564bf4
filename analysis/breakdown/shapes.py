"""Ways to put a vector into a stream, each with a knob; and what an injection's turn and its stretch do by themselves.

    addition        x + c v
    same norm       the same, scaled back to |x|: the turn alone
    stretch         x, scaled to |x + c v|: the length alone
    rotation        x turned towards v in their plane by a share of their angle (arXiv 2601.19375, 2602.01716)
    clamping        the component along v set to c |v|, whatever it was
    several layers  the vector at the layers from its own on, each with a part of the coefficient

Turn and stretch: the angle-norm account of steering, arXiv 2606.06735. How ways compare at equal effect: `remedies`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.operations import changed
from steerscope.analysis.model.norms import angle
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.question.injection import compose
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.results.stats import mean_interval

from .outcomes import COEFFICIENT, DAMAGED, Asked, Outcomes, between, bounded, of_runs
from .strength import put, reference, rows, site, streams

Values = NDArray[np.float64]
Way = Callable[
    [Float[Tensor, "pos d_model"], Float[Tensor, "pos d_model"], float], Float[Tensor, "pos d_model"]
]  # stream, vector, knob -> stream
LAYERS = 4  # that "several layers" takes at most
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
        **between("damage", DAMAGED, "nats", over="the text"),
    }
}


def _addition(x: Tensor, v: Tensor, c: float) -> Tensor:
    return x + c * v


def _same_norm(x: Tensor, v: Tensor, c: float) -> Tensor:
    return changed("norm_add", x, c * v, 1.0)


def _stretch(x: Tensor, v: Tensor, c: float) -> Tensor:
    return x * _size(x + c * v) / _size(x).clamp_min(1e-30)


def _rotation(x: Tensor, v: Tensor, share: float) -> Tensor:
    v, share = (-v, -share) if share < 0 else (v, share)  # away from v is towards its opposite
    a, b = x / _size(x).clamp_min(1e-30), v / _size(v)
    across = b - (a * b).sum(1, keepdim=True) * a
    turn: Tensor = torch.atan2(_size(across), (a * b).sum(1, keepdim=True)) * share
    across = across / _size(across).clamp_min(1e-30)
    return (a * turn.cos() + across * turn.sin()) * _size(x)


def _clamping(x: Tensor, v: Tensor, c: float) -> Tensor:
    return changed("project", x, v, c)


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


class Shapes:
    """The injection of an experiment, put in by any of the ways, into any experiment with the same injections."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        # by experiment and prompt: positions, the stream there before, and the vector at coefficient 1
        self._at = {
            id(one): [(where, x[list(where)], v) for (where, v), x in zip(rows(one, 1.0), streams(one), strict=True)]
            for one in (asked.prompts, asked.text)
            if one is not None
        }
        self._found: dict[tuple[str, float], dict[str, Values]] = {}

    @property
    def layers(self) -> int:
        """How many layers "several layers" takes."""
        one = self.asked.prompts
        return min(LAYERS, one.model.n_layers - site(one).layer)

    def edits(self, way: str, knob: float, one: Experiment | None = None) -> Edits:
        """The edits that put the vector in, in one of the ways; into the prompts by default."""
        one = one or self.asked.prompts
        if way == SEVERAL:
            return self._several(one, knob)
        return put(one, [(where, WAYS[way](x, v, knob) - x) for where, x, v in self._at[id(one)]])

    def _several(self, one: Experiment, c: float) -> Edits:
        first, part = site(one).layer, c / reference(one) / self.layers
        scaled = [
            replace(i, coefficient=i.coefficient * part, layer=first + n)
            for n in range(self.layers)
            for i in one.injections
        ]
        return tuple(compose(scaled, prompt) for prompt in one.layouts)

    def outcomes(self, way: str, knobs: Sequence[float]) -> Outcomes:
        """Outcomes along the knob; each is run once."""
        absent = [k for k in knobs if (way, k) not in self._found]
        if absent:
            new = of_runs(self.asked, lambda one: (self.edits(way, k, one) for k in absent))
            for i, k in enumerate(absent):
                self._found[way, k] = {curve: values[i] for curve, values in new.values.items()}
        first = self._found[way, knobs[0]]
        return Outcomes({curve: np.stack([self._found[way, k][curve] for k in knobs]) for curve in first})

    def turned(self, way: str, knob: float) -> tuple[float, float]:
        """By how many degrees the injected streams turn, and by what factor they lengthen; means over positions."""
        both = [(x, WAYS[way](x, v, knob)) for _, x, v in self._at[id(self.asked.prompts)]]
        angles = torch.cat([angle(x, y) for x, y in both])
        factors = torch.cat([_size(y) / _size(x).clamp_min(1e-30) for x, y in both])
        return float(angles.mean()), float(factors.mean())


def angles_table(shapes: Shapes, coefficients: Sequence[float], level: float) -> pd.DataFrame:
    """Effect and damage of the whole injection, of its turn alone and of its stretch alone."""
    table: list[dict[str, object]] = []
    for way in track(ANGLES, "turn and stretch"):
        found = shapes.outcomes(way, coefficients) if coefficients else None
        for i, c in enumerate(coefficients):
            turn, stretch = shapes.turned(way, c)
            row: dict[str, object] = {"way": way, "coefficient": c, "angle": turn, "stretch": stretch}
            for name in ("effect", "damage"):
                assert found is not None
                row |= bounded(name, mean_interval(found[name][i], level, shapes.asked.groups(name)))
            table.append(row)
    return pd.DataFrame(table, columns=list(SHAPES["angles"]))
