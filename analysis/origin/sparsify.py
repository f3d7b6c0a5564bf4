"""`sparsify`: how few dimensions of a vector keep its effect.

1. Put the dimensions of each row of the vector in an order: by size |v_i|; by gradient |v_i g_i|, with g the gradient
   of
   the metric with respect to the injected vector, averaged along the coefficient (integrated gradients); as they stand
   (first); or at random, several times.
2. Keep a fraction of them, set the others to zero, inject, and measure the effect and the disturbance exactly. Once
   more
   with each row scaled back to its norm.
3. The gradient's order is chosen on one half of the prompts and measured on the other, both ways round.
4. The same for random vectors of equal norm, each along its own change of logits, in its own order.
5. The smallest fraction from which on so much of the effect is kept, with its interval over prompts.

Source: arXiv 2604.08524, which found that vectors can be sparsified by 90-99%; Sundararajan et al. 2017 (arXiv
1703.01365) for gradients along the coefficient.
What it cannot see: better sets of dimensions than these orders give; other bases than the model's own.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.errors import BadArgument, BadInjection
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.question.metrics import kl, logit_direction
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.results.result import Result
from steerscope.analysis.tools.injected_gradient import injected_gradient
from steerscope.analysis.tools.patching import against_plain
from steerscope.analysis.tools.record import check, record, tolerance

from .sparsify_tables import curves_table, dimensions_table, per_prompt_table, smallest_table

ORDERS = ("size", "gradient", "first", "random")
FRACTIONS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)
Values = NDArray[np.float64]
Ranks = list[Float[Tensor, "row dimension"]]  # by injection: which dimension comes first, second...


@dataclass(frozen=True, eq=False)
class Curves:
    """What is kept of one vector.

    Attributes:
        effect: along the metric (of the real vector), or along the vector's own change of logits.
        own: along its own change of logits.
        kl: disturbance.
        norm: share of the vector's norm that is kept, before any rescaling; the same for all prompts of a half.
        total, own_total, kl_total: of the whole vector.
    """

    effect: Float[Values, "order rescaled fraction prompt"]
    own: Float[Values, "order rescaled fraction prompt"]
    kl: Float[Values, "order rescaled fraction prompt"]
    norm: Float[Values, "order fraction"]
    total: Float[Values, " prompt"]
    own_total: Float[Values, " prompt"]
    kl_total: Float[Values, " prompt"]


def sparsify(
    experiment: Experiment,
    *,
    orders: Sequence[str] = ORDERS,
    fractions: Sequence[float] = FRACTIONS,
    keep: float = 0.9,
    rescale: bool = True,
    draws: int = 3,
    steps: int = 8,
    controls: int = 4,
    level: float = 0.95,
    alpha: float = 0.05,
) -> Result:
    """Effect and disturbance that are kept with some dimensions of the vector alone.

    Args:
        orders: in which dimensions are kept: size, gradient, first, random.
        fractions: of the dimensions of each row, rounded up; 1 is always added, and fractions that come to the same
            number
            of dimensions are run once.
        keep: how much of the effect should be kept, for the smallest fraction.
        rescale: whether to try each row scaled back to its norm, too.
        draws: random orders that are averaged over. steps: points along the coefficient for the gradient.
        controls: random vectors of equal norm, at most as many as the experiment has.

    Returns:
        a `Result` of kind "sparsify"; frames and columns as in `columns.COLUMNS["sparsify"]`.

    Raises:
        BadArgument: an unknown order, a fraction outside of (0, 1], or no draws.
        BadInjection: the injection has no effect that could be kept.
        BadMetric: a metric without a gradient, for the gradient's order.
    """
    options = Statistics(level, alpha)
    _check_arguments(orders, fractions, keep, draws, steps)
    start = time.perf_counter()
    experiment = experiment.fewer(controls)
    widths = [i.vector.values.shape[1] for i in experiment.injections]
    fractions = _distinct(fractions, widths)
    orders = tuple(dict.fromkeys(orders))
    scales = (False, True) if rescale else (False,)
    curves, gradients, checks = [], None, []
    for vector in track(range(1 + experiment.controls), "sparse vectors"):
        work = _Vector(experiment, vector, orders, draws, steps)
        curves.append(work.curves(fractions, scales))
        if vector == 0:
            gradients, checks = work.gradients, work.checks(curves[0], fractions, scales)
    asked = options, experiment.seed
    frames = {
        "curves": curves_table(curves, orders, scales, fractions, widths, *asked),
        "smallest": smallest_table(curves, orders, scales, fractions, widths, keep, *asked),
        "dimensions": dimensions_table(experiment.edits(0)[0], gradients),
        "per_prompt": per_prompt_table(curves[0], orders, scales, fractions, widths),
    }
    gap = None
    if gradients is not None:
        edits = experiment.edits(0)[0]
        reached = sum(
            (g * e.value.to(g)).sum((1, 2)).numpy()
            for g, e in zip(gradients, edits, strict=True)
            if isinstance(e.value, Tensor)
        )
        gap = float(np.abs(reached - curves[0].total).mean() / np.abs(curves[0].total).mean())
    return record(
        "sparsify",
        experiment,
        frames,
        start,
        checks=checks,
        missing=_missing(experiment, orders),
        orders=list(orders),
        keep=keep,
        draws=draws,
        gradient={"steps": steps, "gap": gap},
        total=float(curves[0].total.mean()),
        kl=float(curves[0].kl_total.mean()),
        level=level,
        alpha=alpha,
    )


def _check_arguments(orders: Sequence[str], fractions: Sequence[float], keep: float, draws: int, steps: int) -> None:
    unknown = [order for order in orders if order not in ORDERS]
    if unknown or not orders:
        raise BadArgument(
            f"orders={list(orders)}; expected some of {', '.join(ORDERS)}; leave out "
            f"{', '.join(map(repr, unknown)) or 'none'}"
        )
    outside = [f for f in fractions if not 0 < f <= 1]
    if outside or not fractions:
        raise BadArgument(
            f"fractions={list(fractions)}; expected shares of the dimensions above 0 and at most 1; change "
            f"{outside or 'it'}"
        )
    if not 0 < keep < 1 or draws < 1 or steps < 1:
        raise BadArgument(
            f"keep={keep}, draws={draws}, steps={steps}; expected keep between 0 and 1, and at least 1 of the "
            "others; 0.9, 3 "
            "and 8 are usual"
        )


def _distinct(fractions: Sequence[float], widths: Sequence[int]) -> tuple[float, ...]:
    """In order, 1 at the end, one for each set of numbers of dimensions."""
    found = {tuple(count(f, width) for width in widths): f for f in sorted({*fractions, 1.0}, reverse=True)}
    return tuple(sorted(found.values()))


def count(fraction: float, width: int) -> int:
    """How many dimensions a fraction keeps."""
    return ceil(fraction * width - 1e-9)


def _missing(experiment: Experiment, orders: Sequence[str]) -> dict[str, str]:
    if "gradient" in orders and len(experiment.prompts) < 2:
        return {"halves": "with one prompt the gradient's order is chosen on the prompt that it is measured on"}
    return {}


@dataclass
class _Vector:
    """One vector, 0 the real one: its orders and the runs that they lead to."""

    experiment: Experiment
    vector: int
    orders: Sequence[str]
    draws: int
    steps: int

    def __post_init__(self) -> None:
        asked = self.experiment
        self.edits: Edits = asked.edits(self.vector)
        self.halves = [p % 2 if len(self.edits) > 1 else 0 for p in range(len(self.edits))]
        prepared = (asked.scored_positions, asked.clean)
        outputs = asked.outputs(self.edits)
        own = logit_direction().prepare(*prepared, outputs)
        along = asked.metric.prepare(*prepared, outputs) if self.vector == 0 else own
        self.scores = [along, own, kl().prepare(*prepared, outputs)]
        self.gradients: list[Float[Tensor, "prompt row dimension"]] | None = None
        if "gradient" in self.orders:
            reads = asked.reads if self.vector == 0 else "logits"
            self.gradients = injected_gradient(asked, self.vector, along, self.steps, reads)

    def run(self, variants: list[Variant]) -> Float[Values, "score row prompt"]:
        """Changes from the clean run, of variants that are all prompts in turn."""
        clean = [Variant(p) for p in range(len(self.edits))]
        values = self.experiment.scores([*clean, *variants], self.scores, "logits").T
        rows = values.reshape(len(self.scores), -1, len(clean))
        return np.asarray(rows[:, 1:] - rows[:, :1])

    def curves(self, fractions: Sequence[float], scales: Sequence[bool]) -> Curves:
        """Steps 1 and 2."""
        whole = self.run([Variant(p, edits) for p, edits in enumerate(self.edits)])[:, 0]
        if not whole[0].any():
            raise BadInjection(
                f"the injection has no effect (coefficient {self.experiment.injections[0].coefficient:g}), so "
                "no share of it can "
                "be kept; expected a coefficient other than 0; choose one"
            )
        shape = (len(self.orders), len(scales), len(fractions))
        found = np.zeros((len(self.scores), *shape, len(self.edits)))
        norm = np.zeros((len(self.orders), len(fractions)))
        for o, order in enumerate(self.orders):
            times = self.draws if order == "random" else 1
            for draw in range(times):
                ranks = [self.ranks(order, draw, half) for half in (0, 1)]
                variants = []
                for (s, rescaled), (f, fraction) in product(enumerate(scales), enumerate(fractions)):
                    cut = [self.cut(rank, fraction, rescaled) for rank in ranks]
                    variants += [self.variant(p, cut[half]) for p, half in enumerate(self.halves)]
                    if s == 0:
                        norm[o, f] += np.mean([self.share(cut[half]) for half in self.halves]) / times
                values = self.run(variants).reshape(len(self.scores), *shape[1:], -1)
                found[:, o] += values / times
        return Curves(found[0], found[1], found[2], norm, whole[0], whole[1], whole[2])

    def ranks(self, order: str, draw: int, half: int) -> Ranks:
        """By injection and row, the place of each dimension in the order, for the prompts of a half."""
        generator = torch.Generator().manual_seed(self.experiment.seed * 1009 + draw)
        found = []
        for i, edit in enumerate(self.edits[0]):
            value = _values(edit)
            if order == "first":
                weight = -torch.arange(value.shape[1], dtype=value.dtype).expand_as(value)
            elif order == "random":
                weight = torch.rand(value.shape, generator=generator)
            elif order == "gradient":
                assert self.gradients is not None
                others = [p for p, h in enumerate(self.halves) if h != half] or list(range(len(self.halves)))
                weight = (value * self.gradients[i][others].mean(dim=0)).abs()
            else:
                weight = value.abs()
            found.append(weight.argsort(dim=1, descending=True, stable=True).argsort(dim=1))
        return found

    def cut(self, ranks: Ranks, fraction: float, rescaled: bool) -> list[Tensor]:
        """By injection, the values that are left."""
        found = []
        for edit, rank in zip(self.edits[0], ranks, strict=True):
            value = _values(edit)
            left = torch.where(rank < count(fraction, value.shape[1]), value, 0.0)
            if rescaled:
                norms = [x.norm(dim=1, keepdim=True) for x in (value, left)]
                left = left * torch.where(norms[1] > 0, norms[0] / norms[1].clamp_min(1e-30), 0.0)
            found.append(left)
        return found

    def variant(self, prompt: int, values: Sequence[Tensor]) -> Variant:
        edits = self.edits[prompt]
        return Variant(prompt, tuple(replace(e, value=v) for e, v in zip(edits, values, strict=True)))

    def share(self, values: Sequence[Tensor]) -> float:
        left, whole = (sum(v.double().square().sum().item() for v in x) for x in (values, map(_values, self.edits[0])))
        return float((left / whole) ** 0.5) if whole else 0.0

    def checks(self, found: Curves, fractions: Sequence[float], scales: Sequence[bool]) -> list[dict[str, object]]:
        """All dimensions give the whole effect, none gives none; sampled rows equal plain passes."""
        size = np.abs(found.total).max()
        everything = np.abs(found.effect[:, :, -1] - found.total).max() / size
        empty = [torch.zeros_like(_values(edit)) for edit in self.edits[0]]
        prompts = range(len(self.edits))
        nothing = np.abs(self.run([self.variant(p, empty) for p in prompts])[0]).max() / size
        generator = np.random.default_rng(self.experiment.seed)
        sampled = []
        for _ in range(4):
            p = int(generator.integers(len(self.edits)))
            ranks = self.ranks(str(generator.choice(list(self.orders))), 0, self.halves[p])
            fraction, rescaled = float(generator.choice(fractions)), bool(generator.choice(scales))
            sampled.append(self.variant(p, self.cut(ranks, fraction, rescaled)))
        wide = tolerance(self.experiment.model)
        return [
            check("all dimensions give the whole effect (relative)", everything, wide),
            check("no dimension gives no effect (relative)", nothing, wide),
            check("sampled rows equal one plain pass each", against_plain(self.experiment, sampled), wide),
        ]


def _values(edit: Edit) -> Float[Tensor, "row dimension"]:
    assert isinstance(edit.value, Tensor)
    return edit.value
