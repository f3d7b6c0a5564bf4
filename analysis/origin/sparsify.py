"""`sparsify`: how few dimensions of a vector keep its effect.

1. Put the dimensions of each row of the vector in an order: by size |v_i|; by gradient |v_i g_i|, with g the gradient
   of the metric with respect to the injected vector, averaged along the coefficient (integrated gradients); as they
   stand (first); or at random, several times.
2. Keep a fraction of them, set the others to zero, inject, and measure the effect and the disturbance exactly. Once
   more with each row scaled back to its norm.
3. The gradient's order is chosen on one half of the prompts and measured on the other, both ways round.
4. The same for random vectors of equal norm, each along its own change of logits, in its own order.
5. The smallest fraction from which on so much of the effect is kept, with its interval over prompts.

Source: arXiv 2604.08524, which found that vectors can be sparsified by 90-99%; Sundararajan et al. 2017 (arXiv
1703.01365) for gradients along the coefficient.
What it cannot see: better sets of dimensions than these orders give; other bases than the model's own.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Annotated, Any, Final, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import Reads
from steerscope.analysis.errors import BadArgument, BadInjection
from steerscope.analysis.gate import Level, Share, Whole, Within, gated
from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.question.inquiries import check_adds
from steerscope.analysis.question.metrics import kl
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frame, Frames
from steerscope.analysis.tools.gradients import Steps
from steerscope.analysis.tools.injected_gradient import injected_gradient
from steerscope.analysis.tools.keeping import Arrays, each
from steerscope.analysis.tools.patching import against_plain
from steerscope.analysis.tools.record import check, record, tolerance

from .kept import Curves, Tried, count_of, curves_table, smallest

_ORDER: Frame = {
    "order": Column(
        "which dimensions are kept first: size (largest values), gradient (largest value times gradient, chosen on the "
        "other half of the prompts), first (as they stand), random (mean over several draws)",
        role="label",
    ),
    "rescaled": Column("whether each row was scaled back to its norm", role="label"),
}
_FRACTION: Frame = {"fraction": Column("share of the dimensions of each row that is kept", role="axis")}
_BAND: Frame = {
    "reference_low": Column("2.5th percentile over the random vectors", role="reference_low"),
    "reference_high": Column("97.5th percentile over the random vectors", role="reference_high"),
}
COLUMNS: Frames = {
    "curves": {
        **_ORDER,
        **_FRACTION,
        "dimensions": Column("how many are kept of each row (of the first injection)", "dimensions"),
        "norm": Column("share of the vector's norm that they have, before any rescaling"),
        "effect": Column("effect of what is kept; mean over prompts", "{metric}"),
        "low": Column("lower end of the interval over prompts", "{metric}"),
        "high": Column("upper end of the interval over prompts", "{metric}"),
        "kept": Column("effect over the effect of the whole vector", role="estimate"),
        "kept_low": Column("lower end of its interval over prompts", role="low"),
        "kept_high": Column("upper end of its interval over prompts", role="high"),
        "kl": Column("disturbance: KL(run || clean), mean over prompts", "nats"),
        "kl_low": Column("lower end of its interval over prompts", "nats"),
        "kl_high": Column("upper end of its interval over prompts", "nats"),
        "kl_kept": Column("disturbance over that of the whole vector"),
        "own_kept": Column("share that is kept of the vector's own change of logits"),
        "reference": Column(
            "the same of random vectors, each of its own change in its own order; mean", role="reference"
        ),
        **_BAND,
        "p": Column("prediction t over vectors: own_kept differs from what is kept of random vectors"),
        "wrong_way": Column("share of prompts whose effect has the opposite sign of the mean"),
        "p_adjusted": Column("p after Benjamini-Hochberg over rows"),
        "p_holm": Column("p after Holm over rows"),
        "significant": Column("p_holm below the manifest's alpha: unlike random vectors", role="verdict"),
    },
    "smallest": {
        **_ORDER,
        "keep": Column("how much of the effect is to be kept"),
        "fraction": Column("the smallest fraction tried from which on so much is kept", role="estimate"),
        "low": Column("lower end of its interval, over resampled prompts", role="low"),
        "high": Column("upper end of its interval, over resampled prompts", role="high"),
        "dimensions": Column("how many dimensions of each row that is (first injection)", "dimensions"),
        "kl_kept": Column("share of the disturbance that is kept there"),
        "own": Column("the same fraction for the vector's own change of logits"),
        "reference": Column("the same for random vectors; mean", role="reference"),
        **_BAND,
    },
    "dimensions": {
        "injection": Column("number of the injection, from 0", role="label"),
        "row": Column("row of what is injected (rows of zeros left out)", role="label"),
        "dimension": Column("index", role="label"),
        "value": Column("coefficient times vector", "stream units", "estimate"),
        "gradient": Column(
            "gradient of the metric along the coefficient, mean over prompts; missing where it was not asked for",
            "{metric} per stream unit",
        ),
        "contribution": Column("value times gradient; they add up to the effect, up to the manifest's gap", "{metric}"),
        "rank_size": Column("1 for the largest value of the row"),
        "rank_gradient": Column("1 for the largest contribution of the row, either sign"),
    },
    "per_prompt": {
        **_ORDER,
        **_FRACTION,
        "prompt": Column("index of the prompt", role="label"),
        "effect": Column("effect of what is kept", "{metric}", "estimate"),
        "kl": Column("disturbance", "nats"),
    },
}

Order = Literal["size", "gradient", "first", "random"]
ORDERS: Final = ("size", "gradient", "first", "random")
Draws = Annotated[int, Within(1, 100)]
FRACTIONS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)
ALONE = {"halves": "with one prompt the gradient's order is chosen on the prompt that it is measured on"}
Values = NDArray[np.float64]
Groups = NDArray[np.int64]
Gradients = list[Float[Tensor, "prompt row dimension"]] | None  # by injection


@gated
def sparsify(
    experiment: Experiment,
    *,
    orders: Sequence[Order] = ORDERS,
    fractions: Sequence[Share] = FRACTIONS,
    keep: Level = 0.9,
    rescale: bool = True,
    draws: Draws = 3,
    steps: Steps = 8,
    references_at_most: Whole = 8,
    level: Level = 0.95,
    alpha: Level = 0.05,
) -> Result:
    """Effect and disturbance that are kept with some dimensions of the vector alone.

    Args:
        orders: in which dimensions are kept: size, gradient, first, random.
        fractions: of the dimensions of each row, rounded up; 1 is always added, and fractions that come to the same
            number of dimensions are run once.
        keep: how much of the effect should be kept, for the smallest fraction.
        rescale: whether to try each row scaled back to its norm, too.
        draws: random orders that are averaged over.
        steps: points along the coefficient for the gradient.
        references_at_most: reference vectors, noise first, at most as many as the experiment has.

    Returns:
        a `Result` of kind "sparsify"; frames and columns as in `COLUMNS`.

    Raises:
        BadArgument: no orders, no fractions, or a fraction of 0.
        BadInjection: the injection has no effect that could be kept, or does not add.
        BadMetric: a metric without a gradient, for the gradient's order.
    """
    options = Statistics(level, alpha)
    _check_some(orders, fractions)
    check_adds(experiment.injections, "sparsify", "a share of its dimensions is a share of what is added")
    start = time.perf_counter()
    experiment = experiment.fewer(references_at_most)
    if not experiment.effect().any():
        raise BadInjection(
            f"the injection has no effect (coefficient {experiment.injections[0].coefficient:g}), so no share of it "
            "can be kept; expected a coefficient other than 0; choose one"
        )
    widths = tuple(i.vector.values.shape[1] for i in experiment.injections)
    tried = Tried(tuple(dict.fromkeys(orders)), (False, True)[: 1 + rescale], _distinct(fractions, widths), widths)

    def read(vector: int) -> Arrays:
        work = _Vector(experiment, vector, tried, draws, steps)
        kept = [] if vector or work.gradients is None else [gradient.numpy() for gradient in work.gradients]
        return (*vars(work.curves()).values(), *kept)

    found = list(each(experiment, "sparse vectors", read, tried, draws, steps))
    count, gap = len(fields(Curves)), None
    curves = [Curves(*arrays[:count]) for arrays in found]
    gradients = [torch.from_numpy(array) for array in found[0][count:]] or None
    checks = _Vector(experiment, 0, tried, draws, steps, gradients).checks(curves[0])
    edits, total = experiment.edits(0)[0], curves[0].total
    asked = (options, experiment.prompts.by_group)
    if gradients is not None:
        reached = sum((g * _values(e).to(g)).sum((1, 2)).numpy() for g, e in zip(gradients, edits, strict=True))
        gap = float(np.abs(reached - total).mean() / np.abs(total).mean())
    names = product(tried.orders, tried.scales, tried.really, range(len(total)))
    cases = pd.DataFrame(names, columns=["order", "rescaled", "fraction", "prompt"])
    frames = {
        "curves": curves_table(curves, tried, *asked),
        "smallest": smallest(curves, tried, keep, *asked, experiment.seed),
        "dimensions": _dimensions(edits, gradients),
        "per_prompt": cases.assign(effect=curves[0].effect.ravel(), kl=curves[0].kl.ravel()),
    }
    missing = ALONE if "gradient" in orders and len(experiment.prompts) < 2 else {}
    about: dict[str, Any] = {"orders": list(tried.orders), "keep": keep, "draws": draws}
    about |= {"gradient": {"steps": steps, "gap": gap}, "total": float(total.mean())}
    about |= {"kl": float(curves[0].kl_total.mean()), "level": level, "alpha": alpha}
    return record("sparsify", experiment, frames, COLUMNS, start, checks=checks, missing=missing, **about)


def _check_some(orders: Sequence[str], fractions: Sequence[float]) -> None:
    if not orders:
        raise BadArgument(f"no orders; expected some of {', '.join(ORDERS)}; leave it out for all of them")
    if not fractions or min(fractions) == 0:
        what = "0 among the fractions" if fractions else "no fractions"
        raise BadArgument(f"{what}; expected shares of the dimensions above 0; leave it out for the default")


def _distinct(fractions: Sequence[float], widths: Sequence[int]) -> tuple[float, ...]:
    """In order, 1 at the end, one for each set of numbers of dimensions."""
    found = {tuple(count_of(f, width) for width in widths): f for f in sorted({*fractions, 1.0}, reverse=True)}
    return tuple(sorted(found.values()))


@dataclass
class _Vector:
    """One vector, 0 the real one: its orders and the runs that they lead to."""

    experiment: Experiment
    vector: int
    tried: Tried
    draws: int
    steps: int
    gradients: Gradients = None  # made, where an order asks for them

    def __post_init__(self) -> None:
        asked, own = self.experiment, self.experiment.own(self.vector)
        self.edits: Edits = asked.edits(self.vector)
        self.values = [_values(edit) for edit in self.edits[0]]
        self.halves = [p % 2 if len(self.edits) > 1 else 0 for p in range(len(self.edits))]
        along = own if self.vector else asked.along
        self.scores = [along, own, kl().prepare(asked.scored_positions, asked.clean, asked.steered)]
        self.clean = np.stack([asked.value(None, score) for score in self.scores])
        if "gradient" in self.tried.orders and self.gradients is None:
            reads: Reads = "logits" if self.vector else asked.reads
            self.gradients = injected_gradient(asked, self.vector, along, self.steps, reads)

    def changes(self, variants: list[Variant]) -> Float[Values, "score row prompt"]:
        """From the clean run, of variants that are all prompts in turn."""
        values = self.experiment.scores(variants, self.scores, "logits").T
        return np.asarray(values.reshape(len(values), -1, len(self.edits)) - self.clean[:, None])

    def curves(self) -> Curves:
        """Steps 1 and 2."""
        found, norm = [], []
        for order in self.tried.orders:
            draws = [self.draw(order, draw) for draw in range(self.draws if order == "random" else 1)]
            found.append(np.mean([values for values, _ in draws], axis=0))
            norm.append(np.mean([shares for _, shares in draws], axis=0))
        whole = np.stack([self.experiment.value(self.vector, score) for score in self.scores]) - self.clean
        effect, own, disturbance = np.stack(found, axis=1)
        return Curves(effect, own, disturbance, np.array(norm), whole[0], whole[1], whole[2])

    def draw(self, order: str, draw: int) -> tuple[Values, Float[Values, " fraction"]]:
        """What all fractions change, in one order [score, rescaled, fraction, prompt], and the norm that they keep."""
        scales, fractions = self.tried.scales, self.tried.fractions
        ranks = [self.ranks(order, draw, half) for half in (0, 1)]
        cuts = [[self.cut(rank, f, rescaled) for rank in ranks] for rescaled, f in product(scales, fractions)]
        values = self.changes([self.variant(p, cut[half]) for cut in cuts for p, half in enumerate(self.halves)])
        norm = np.array([[_norm(cut[half]) for half in self.halves] for cut in cuts[: len(fractions)]])
        return values.reshape(len(values), len(scales), len(fractions), -1), norm.mean(axis=1) / _norm(self.values)

    def ranks(self, order: str, draw: int, half: int) -> list[Tensor]:
        """By injection and row, the place of each dimension in the order, for the prompts of a half."""
        generator = torch.Generator().manual_seed(self.experiment.seed * 1009 + draw)
        found = []
        for i, value in enumerate(self.values):
            weight = value.abs()
            if order == "first":
                weight = -torch.arange(value.shape[1], dtype=value.dtype).expand_as(value)
            elif order == "random":
                weight = torch.rand(value.shape, generator=generator)
            elif order == "gradient":
                assert self.gradients is not None
                others = [p for p, h in enumerate(self.halves) if h != half] or list(range(len(self.halves)))
                weight = (value * self.gradients[i][others].mean(dim=0)).abs()
            found.append(weight.argsort(dim=1, descending=True, stable=True).argsort(dim=1))
        return found

    def cut(self, ranks: Sequence[Tensor], fraction: float, rescaled: bool) -> list[Tensor]:
        """By injection, the values that are left."""
        found = []
        for value, rank in zip(self.values, ranks, strict=True):
            left = torch.where(rank < count_of(fraction, value.shape[1]), value, 0.0)
            if rescaled:
                whole, part = (x.norm(dim=1, keepdim=True) for x in (value, left))
                left = left * torch.where(part > 0, whole / part.clamp_min(1e-30), 0.0)
            found.append(left)
        return found

    def variant(self, prompt: int, values: Sequence[Tensor]) -> Variant:
        edits = zip(self.edits[prompt], values, strict=True)
        return Variant(prompt, tuple(replace(edit, value=value) for edit, value in edits))

    def checks(self, found: Curves) -> list[dict[str, object]]:
        """All dimensions give the whole effect, none gives none; sampled rows equal plain passes."""
        tried, size = self.tried, np.abs(found.total).max()
        everything = np.abs(found.effect[:, :, -1] - found.total).max() / size
        empty = [torch.zeros_like(value) for value in self.values]
        nothing = np.abs(self.changes([self.variant(p, empty) for p in range(len(self.edits))])[0]).max() / size
        generator = np.random.default_rng(self.experiment.seed)
        sampled = []
        for _ in range(4):
            p, order = int(generator.integers(len(self.edits))), str(generator.choice(tried.orders))
            fraction, rescaled = float(generator.choice(tried.fractions)), bool(generator.choice(tried.scales))
            sampled.append(self.variant(p, self.cut(self.ranks(order, 0, self.halves[p]), fraction, rescaled)))
        wide = tolerance(self.experiment.model)
        return [
            check("all dimensions give the whole effect (relative)", everything, wide),
            check("no dimension gives no effect (relative)", nothing, wide),
            check("sampled rows equal one plain pass each", against_plain(self.experiment, sampled), wide),
        ]


def _values(edit: Edit) -> Float[Tensor, "row dimension"]:
    assert isinstance(edit.value, Tensor)
    return edit.value


def _norm(values: Sequence[Tensor]) -> float:
    return float(torch.cat([value.double().flatten() for value in values]).norm())


def _dimensions(edits: Sequence[Edit], gradients: Gradients) -> pd.DataFrame:
    """Every dimension of every row that is not zero: its value times the coefficient, its gradient, and its ranks."""
    frames = []
    for i, values in enumerate(_values(edit).double().numpy() for edit in edits):
        mean = np.full_like(values, np.nan) if gradients is None else gradients[i].mean(0).double().numpy()
        for row in np.flatnonzero(values.any(axis=1)):
            numbers = {"dimension": range(len(mean[row])), "value": values[row], "gradient": mean[row]}
            table = pd.DataFrame({"injection": i, "row": row, **numbers}).assign(contribution=values[row] * mean[row])
            for name, of in (("rank_size", "value"), ("rank_gradient", "contribution")):
                table[name] = table[of].abs().rank(method="first", ascending=False)
            frames.append(table)
    return pd.concat(frames, ignore_index=True)
