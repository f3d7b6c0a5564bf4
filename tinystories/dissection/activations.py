"""Activation functions of MLPs with their exact secants: those that take each neuron by itself, and SoLU.

SoLU is h softmax(h), a product of which one factor is a softmax over all neurons; some models normalize it afterwards.

Source: Elhage et al. 2022 (Softmax Linear Units).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.model.norms import Norm

from .secants import NormSecant, divided_difference, logarithmic_mean, softmax_back

Neurons = Float[Tensor, "*rows neuron"]


class Secant(Protocol):
    """A linear map of what neurons read to what they give."""

    def at(self, *index: Tensor) -> "Secant":
        """That of some rows."""

    def forward(self, step: Neurons) -> Neurons:
        """What a part of the change of what they read becomes."""

    def back(self, above: Neurons) -> Neurons:
        """What reads what they read, from what reads what they give: the transpose."""


class Activation(Protocol):
    """A function of what neurons read, with its secants."""

    def __call__(self, h: Neurons) -> Neurons: ...

    def secant(self, a: Neurons, b: Neurons) -> Secant: ...


@dataclass(frozen=True, eq=False)
class Slopes:
    """Of neurons that do not see each other."""

    slope: Neurons

    def at(self, *index: Tensor) -> "Slopes":
        return Slopes(self.slope[index])

    def forward(self, step: Neurons) -> Neurons:
        return self.slope * step

    def back(self, above: Neurons) -> Neurons:
        return self.slope * above


@dataclass(frozen=True, eq=False)
class Pointwise:
    """One function for each neuron by itself."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, h: Neurons) -> Neurons:
        return self.function(h)

    def secant(self, a: Neurons, b: Neurons) -> Slopes:
        return Slopes(divided_difference(self.function, a, b))


@dataclass(frozen=True, eq=False)
class SoLUSecant:
    """D(h p) = Dh Mp + Mh Dp, with Dp by the logarithmic mean; then the norm's, where there is one."""

    h: Neurons
    p: Neurons
    weight: Neurons
    norm: NormSecant | None

    def at(self, *index: Tensor) -> "SoLUSecant":
        norm = None if self.norm is None else self.norm.at(*index)
        return SoLUSecant(self.h[index], self.p[index], self.weight[index], norm)

    def forward(self, step: Neurons) -> Neurons:
        mean = (self.weight * step).sum(dim=-1, keepdim=True) / self.weight.sum(dim=-1, keepdim=True)
        found = self.p * step + self.h * self.weight * (step - mean)
        return found if self.norm is None else self.norm.forward(found)

    def back(self, above: Neurons) -> Neurons:
        above = above if self.norm is None else self.norm.back(above)
        return self.p * above + softmax_back(self.weight, self.h * above)


@dataclass(frozen=True, eq=False)
class SoLU:
    """h softmax(h), normalized where there is a norm."""

    norm: Norm | None = None

    def __call__(self, h: Neurons) -> Neurons:
        found = h * h.softmax(dim=-1)
        return found if self.norm is None else self.norm(found)

    def secant(self, a: Neurons, b: Neurons) -> SoLUSecant:
        p = a.softmax(dim=-1), b.softmax(dim=-1)
        norm = None if self.norm is None else NormSecant.of(self.norm, a * p[0], b * p[1])
        return SoLUSecant((a + b) / 2, (p[0] + p[1]) / 2, logarithmic_mean(*p), norm)
