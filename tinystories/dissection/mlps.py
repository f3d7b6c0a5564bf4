"""The secants of an MLP: by its inputs at frozen scale, and by the scale of the norm before it.

The two players are the centred stream X and the scale sigma of the norm. With h(X, sigma) at the four corners:

- at frozen scale: the mean over both sigmas of the secant of the neurons along X, linear in the change of X;
- scale: the mean over both X of the secant along sigma; D(1/sigma) is linear in the change of X, too, so that it opens
  into the same parts.

A gate is a product: each factor's change under the mean of the other.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .activations import Secant
from .form import MLP
from .secants import NormSecant

Index = Int[Tensor, " row"]
Neurons = Float[Tensor, "prompt pos neuron"]


@dataclass(frozen=True, eq=False)
class Factor:
    """How neurons follow what one of their matrices reads: a secant, times the other factor of a gate.

    Attributes:
        secant: None where the matrix is read as it is.
        times: None where there is no other factor.
    """

    secant: Secant | None
    times: Neurons | None = None

    def forward(self, step: Neurons) -> Neurons:
        step = step if self.secant is None else self.secant.forward(step)
        return step if self.times is None else step * self.times

    def back(self, above: Float[Tensor, "row neuron"], b: Index, i: Index) -> Float[Tensor, "row neuron"]:
        """What reads what the matrix reads, at positions of prompts."""
        above = above if self.times is None else above * self.times[b, i]
        return above if self.secant is None else self.secant.at(b, i).back(above)


@dataclass(frozen=True, eq=False)
class MLPSecants:
    """Of a batch of prompts.

    Attributes:
        inverse: 1 / sigma of both runs.
        along: by sigma, of each matrix that reads the normalized stream the secant of the neurons along X.
        turned: slope of each neuron along 1 / sigma.
        Dg: how each neuron's output changes.
    """

    own: MLP
    norm: NormSecant
    inverse: Float[Tensor, "run prompt pos"]
    along: tuple[list[Factor], ...]
    turned: Neurons
    Dg: Neurons
    g: tuple[Neurons, Neurons]

    @classmethod
    def of(cls, own: MLP, stream: Float[Tensor, "run prompt pos d_model"]) -> "MLPSecants":
        secant = NormSecant.of(own.norm, stream[0], stream[1])
        norm = own.norm
        X = stream if norm is None else norm.weight * norm.centre(stream)
        inverse = torch.ones_like(stream[..., 0]) if norm is None else 1 / norm.scale(stream)
        matrices = matrices_of(own)
        read = [X @ W for W, _ in matrices]  # by matrix, [run, prompt, pos, neuron]
        rest = [b if norm is None else norm.bias @ W + b for W, b in matrices]

        def before(x: int, sigma: int) -> list[Tensor]:
            return [r[x] * inverse[sigma][..., None] + b for r, b in zip(read, rest, strict=True)]

        along = tuple(secants_of(own, before(0, sigma), before(1, sigma)) for sigma in (0, 1))
        turned = torch.zeros_like(read[0][0])
        if norm is not None:
            for x in (0, 1):
                for one, r in zip(secants_of(own, before(x, 0), before(x, 1)), read, strict=True):
                    turned += one.forward(r[x]) / 2
        g = [neurons(own, before(run, run)) for run in (0, 1)]
        moved = (stream[1] != stream[0]).any(dim=-1, keepdim=True)
        change = torch.where(moved, g[1] - g[0], 0.0)  # what sees no change has none, not even by rounding
        return cls(own, secant, inverse, along, turned, change, (g[0], g[1]))

    def frozen(self, r: Float[Tensor, "row d_model"], b: Index, i: Index) -> Float[Tensor, "row d_model"]:
        """What reads the stream before the MLP at frozen scale, from what reads what it writes."""
        above = r @ self.own.W_out.T
        found = torch.zeros_like(r)
        for n, (W, _) in enumerate(matrices_of(self.own)):
            seen = [
                one[n].back(above, b, i) * run[b, i][:, None] for one, run in zip(self.along, self.inverse, strict=True)
            ]
            found = found + (seen[0] + seen[1]) / 2 @ W.T
        return found if self.norm.norm is None else self.norm.norm.centre(self.norm.norm.weight * found)

    def scale(self, r: Float[Tensor, "row d_model"], b: Index, i: Index) -> Float[Tensor, "row d_model"]:
        """What reads the stream through the scale of the norm."""
        if self.norm.norm is None:
            return torch.zeros_like(r)
        along = ((r @ self.own.W_out.T) * self.turned[b, i]).sum(dim=-1) * self.norm.turn[b, i]
        return self.norm.norm.centre(along[:, None] * self.norm.middle[b, i])

    @property
    def change(self) -> Float[Tensor, "prompt pos d_model"]:
        """What it writes differently by itself."""
        return self.Dg @ self.own.W_out


def matrices_of(own: MLP) -> list[tuple[Tensor, Tensor]]:
    """The matrices that read the normalized stream, with their biases; the gate first."""
    inner = [(own.W_in, own.b_in)]
    return inner if own.W_gate is None else [(own.W_gate, own.b_gate), *inner]


def neurons(own: MLP, before: list[Tensor]) -> Tensor:
    """What neurons give, from what their matrices read."""
    return own.act(before[0]) if own.W_gate is None else own.act(before[0]) * before[1]


def secants_of(own: MLP, a: list[Tensor], b: list[Tensor]) -> list[Factor]:
    """By matrix, how the neurons change between two corners."""
    secant = own.act.secant(a[0], b[0])
    if own.W_gate is None:
        return [Factor(secant)]
    return [Factor(secant, (a[1] + b[1]) / 2), Factor(None, (own.act(a[0]) + own.act(b[0])) / 2)]
