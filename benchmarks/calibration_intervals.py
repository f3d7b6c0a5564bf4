"""Intervals over groups of prompts and their test against zero, on data whose truth is known.

Node effects are drawn from real ones (with replacement from the prompts of a node and a vector, each moved a little,
since few prompts stand for many: a smoothed bootstrap, whose truth is their mean), or made up where groups matter:
clustered, and of unequal size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibration_pool import Pool, pool
from benchmarks.calibration_rows import ALPHA, FROM, LEVEL, Cell, Row, Size
from steerscope.analysis.breakdown.regimes import crossing, ends
from steerscope.analysis.origin.kept import Curves, Tried, smallest
from steerscope.analysis.question.groups import groups_of
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.results.stats import (
    holm,
    interval,
    mean_interval,
    nonzero_p,
    percentiles,
    ratio_interval,
    resampled,
)

Values = NDArray[np.float64]
Groups = NDArray[np.int64]
Draw = Callable[[np.random.Generator, int, int], tuple[Values, Groups]]
SMOOTH = 0.35  # of the standard deviation over prompts, by which a draw is moved
WITHIN = 0.04  # of the variance; 96% lies between groups
RESAMPLES = 500
ONE_LARGE = "the mean over prompts is mostly that of one group"
SKEWED = "far more skewed than real effects"


@dataclass(frozen=True)
class Data:
    """Data sets `[try, prompt]` whose mean is zero, and the groups of their prompts."""

    name: str
    draw: Draw
    weakness: str = ""


def _sized(sizes: Callable[[int], list[int]], skewed: bool = False) -> Draw:
    def draw(generator: np.random.Generator, tries: int, groups: int) -> tuple[Values, Groups]:
        of = np.repeat(np.arange(groups), sizes(groups))
        shared = generator.normal(size=(tries, groups))
        if skewed:
            shared = (np.exp(shared) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)
        own = generator.normal(size=(tries, len(of)))
        return np.sqrt(1 - WITHIN) * shared[:, of] + np.sqrt(WITHIN) * own, of

    return draw


def _real(effects: Values) -> Draw:
    """Rows of effects by prompt, minus their mean, drawn with replacement."""
    centred = effects - effects.mean(axis=-1, keepdims=True)

    def draw(generator: np.random.Generator, tries: int, groups: int) -> tuple[Values, Groups]:
        rows = centred[generator.integers(len(centred), size=tries)]
        at = generator.integers(rows.shape[1], size=(tries, groups))
        moved = SMOOTH * rows.std(axis=1, keepdims=True) * generator.normal(size=at.shape)
        return np.take_along_axis(rows, at, axis=1) + moved, np.arange(groups)

    return draw


def kinds(found: Pool) -> list[Data]:
    """All data that intervals are tried on."""
    return [
        Data("normal, every prompt a group", _sized(lambda g: [1] * g)),
        Data("real node effects, every prompt a group", _real(found.large_effects())),
        Data("4 names x as many templates as groups, 96% of the variance between templates", _sized(lambda g: [4] * g)),
        Data("half of the groups 1 prompt, half 6", _sized(lambda g: [1] * (g // 2) + [6] * (g - g // 2))),
        Data("one template with as many prompts as all others", _sized(lambda g: [1] * (g - 1) + [g - 1]), ONE_LARGE),
        Data("log-normal (skew 6), every prompt a group", _sized(lambda g: [1] * g, True), SKEWED),
    ]


def rows(size: Size) -> list[Row]:
    """All lines about intervals."""
    found = pool(size)
    lines: list[Row] = []
    for data in kinds(found):
        lines += _of(data, size)
    return [
        *lines,
        *_clustered(),
        _ratios(found, size),
        _families(found, size),
        _mean(size),
        _crossings(size),
        _fractions(size),
    ]


def _of(data: Data, size: Size) -> list[Row]:
    covered: dict[str, list[Cell]] = {"t": [], "percentile": [], "p": []}
    for groups in size.groups:
        values, of = data.draw(np.random.default_rng(groups), size.tries, groups)
        resamples = percentiles(resampled(values, of, groups, RESAMPLES), LEVEL, groups)
        hits = {
            "t": _holds(*interval(values, LEVEL, of)),
            "percentile": _holds(*resamples),
            "p": nonzero_p(values, of) < ALPHA,
        }
        for name, hit in hits.items():
            covered[name].append(Cell(str(groups), float(hit.mean()), size.tries, groups >= FROM))
    names = {"t": "95% interval (cluster t)", "percentile": "95% interval (expanded percentile)"}
    lines = [Row(names[n], data.name, "coverage", tuple(covered[n]), "groups", LEVEL, data.weakness) for n in names] + [
        Row("p: differs from zero", data.name, "rate", tuple(covered["p"]), "groups", ALPHA, data.weakness)
    ]
    return [_shown(line) if data.weakness else line for line in lines]


def _shown(line: Row) -> Row:
    return Row(line.what, line.where, "shown", line.cells, line.varies, line.stated, line.weakness)


def _holds(low: Values, high: Values) -> NDArray[np.bool_]:
    return np.asarray((low <= 0) & (high >= 0))


def _clustered() -> list[Row]:
    """Twelve copies of a prompt are one group, and one group says nothing; 16 prompts of 4 templates are 4."""
    copies = groups_of([[5, 6, 7, 8]] * 12)
    values = np.random.default_rng(0).normal(1.0, 0.1, (100, 12))
    said = np.isfinite(interval(values, LEVEL, copies)[0]) | (nonzero_p(values, copies) < 1)
    said |= np.isfinite(percentiles(resampled(values, copies, 0, RESAMPLES), LEVEL, 1)[0])
    prompts = [[100 * t + i for i in range(9)] + [900 + name] for t in range(4) for name in range(4)]
    wrong = float(len(np.unique(groups_of(prompts))) != 4)
    return [
        Row("an interval or a p below 1", "12 copies of one prompt", "never", (Cell("", float(said.mean()), 100),)),
        Row("other than 4 groups found", "16 prompts, 4 names x 4 templates", "never", (Cell("", wrong, 1),)),
    ]


def _ratios(found: Pool, size: Size) -> Row:
    """Shares of the whole effect: the nodes of a vector on prompts that are drawn from its own."""
    generator, cells = np.random.default_rng(0), []
    tries = max(50, size.tries // 10)
    for groups in size.groups:
        hits = []
        for _ in range(tries):
            v = int(generator.integers(len(found.total)))
            part, whole = found.along[v].reshape(-1, found.prompts), found.total[v]
            truth = part.mean(axis=-1) / whole.mean()
            at = generator.integers(found.prompts, size=groups)
            low, high = ratio_interval(part[:, at], whole[at], LEVEL)
            large = np.abs(truth) >= found.smallest
            hits.append(((low <= truth) & (truth <= high))[large].mean())
        cells.append(Cell(str(groups), float(np.mean(hits)), tries, groups >= FROM))
    return Row("95% interval of a share", "real nodes, every prompt a group", "coverage", tuple(cells), "groups", LEVEL)


def _families(found: Pool, size: Size) -> Row:
    """Any of a vector's nodes called `against`, where all are zero on average: below zero, after Holm."""
    generator, cells = np.random.default_rng(1), []
    for groups in size.groups:
        hits = []
        for _ in range(size.tries):
            v, m = int(generator.integers(len(found.total))), int(generator.integers(2))
            own = found.along[v, m]
            own = own[np.abs(own.mean(axis=-1)) >= found.smallest * abs(found.total[v].mean())]
            own = own - own.mean(axis=-1, keepdims=True)
            drawn = own[:, generator.integers(found.prompts, size=groups)]
            drawn = drawn + SMOOTH * own.std(axis=-1, keepdims=True) * generator.normal(size=drawn.shape)
            below = drawn.mean(axis=-1) < 0
            hits.append((below & (holm(nonzero_p(drawn), len(found.nodes)) < ALPHA)).any())
        cells.append(Cell(str(groups), float(np.mean(hits)), size.tries, groups >= FROM))
    where = "nodes of real vectors that are not small, their means taken away"
    return Row("any node of a table called against", where, "rate", tuple(cells), "groups", ALPHA)


def _mean(size: Size) -> Row:
    tries, cells = min(size.tries, 500), []
    for groups in size.groups:
        values, of = _sized(lambda g: [4] * g)(np.random.default_rng(groups), tries, groups)
        ends_ = np.array([mean_interval(row, LEVEL, of)[1:] for row in values]).T
        cells.append(Cell(str(groups), float(_holds(*ends_).mean()), tries, groups >= FROM))
    where = "4 names x as many templates as groups"
    return Row("95% interval of one mean", where, "coverage", tuple(cells), "groups", LEVEL)


def _crossings(size: Size) -> Row:
    """Where a mean curve crosses zero: damage that grows with the square of the coefficient, at a rate of the group."""
    sizes, tries, cells = np.geomspace(0.1, 10, 15), min(size.tries, 300), []
    for groups in size.groups:
        generator, hits = np.random.default_rng(groups), []
        for _ in range(tries):
            rate = np.exp(0.5 * generator.normal(size=groups) - 0.125)
            curve = rate * np.square(sizes)[:, None] + 0.02 * generator.normal(size=(len(sizes), groups))
            places = crossing(sizes, resampled(curve - 1.0, None, 0, RESAMPLES))
            low, high = ends(places, LEVEL, groups)
            hits.append(low <= 1.0 <= high)
        cells.append(Cell(str(groups), float(np.mean(hits)), tries, groups >= FROM))
    where = "damage = rate x coefficient squared, rates of groups log-normal"
    return Row("95% interval of a threshold's coefficient", where, "coverage", tuple(cells), "groups", LEVEL)


def _fractions(size: Size) -> Row:
    """The smallest fraction of the dimensions that keeps 90%, where a prompt's share is a power of the fraction."""
    tried = Tried(("size",), (False,), tuple(np.round(np.linspace(0.05, 1.0, 20), 2).tolist()), (100,))
    fractions, tries, cells = tried.really, max(50, size.tries // 10), []

    def curves(generator: np.random.Generator, prompts: int) -> Values:
        power = 0.2 * generator.lognormal(0.0, 0.5, prompts)
        return np.asarray(np.exp(0.3 * generator.normal(size=prompts)) * fractions[:, None] ** power)

    many = curves(np.random.default_rng(99), 200_000).mean(axis=1)
    truth = fractions[np.argmax(many >= 0.9 * many[-1])]
    for groups in size.groups:
        generator, hits = np.random.default_rng(groups), []
        for _ in range(tries):
            effect = curves(generator, groups)[None, None]
            whole = effect[0, 0, -1]
            one = Curves(effect, effect, effect, np.ones((1, len(fractions))), whole, whole, whole)
            found = smallest([one], tried, 0.9, Statistics(), np.arange(groups), 0).iloc[0]
            hits.append(found["low"] <= truth <= found["high"])
        cells.append(Cell(str(groups), float(np.mean(hits)), tries, groups >= FROM))
    where = "made-up curves of a sparse vector"
    return Row("95% interval of the smallest fraction that keeps 90%", where, "coverage", tuple(cells), "groups", LEVEL)
