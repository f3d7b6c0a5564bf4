"""Real vectors and what every node does for them: measured once, then each plays the vector among others."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.calibration_rows import Size
from steerscope.analysis.carriers.effect_table import effect_table
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import Prompts, make_prompts
from steerscope.analysis.question.references import references
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.results.verdicts import Basis
from steerscope.analysis.tools.patching import MEASURES, effects
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.vector import SteeringVector
from steerscope.loader import load
from steerscope.tinystories import zoo

Vectors = Sequence[int] | NDArray[np.int64]
COEFFICIENT = 3.0
WORD = " wedding"


@dataclass(frozen=True, eq=False)
class Pool:
    """Exact effects of many vectors of equal norms.

    Attributes:
        along, own: `[vector, measure, node, prompt]`, along the metric and along each one's own change.
        total, whole: `[vector, prompt]`, the same of the whole injection.
        families: by vector.
    """

    nodes: tuple[Node, ...]
    along: NDArray[np.float64]
    own: NDArray[np.float64]
    total: NDArray[np.float64]
    whole: NDArray[np.float64]
    groups: NDArray[np.int64]
    families: tuple[str, ...]

    smallest = Statistics().smallest

    @property
    def prompts(self) -> int:
        return int(self.total.shape[1])

    @property
    def shares(self) -> NDArray[np.float64]:
        """`[vector, measure, node]`, of each vector's own whole effect."""
        return np.asarray(self.own.mean(axis=-1) / self.whole.mean(axis=-1)[:, None, None])

    def of(self, family: str) -> NDArray[np.int64]:
        """The vectors of a family."""
        return np.flatnonzero(np.array(self.families) == family)

    def large_effects(self) -> NDArray[np.float64]:
        """`[effect, prompt]`: of nodes that are no smaller than what is of interest."""
        means, totals = self.along.mean(axis=-1), self.total.mean(axis=-1)[:, None, None]
        return np.asarray(self.along[np.abs(means) >= self.smallest * np.abs(totals)])

    def basis(self, vectors: Vectors) -> Basis:
        """The first as the vector, the others as its references."""
        first, *others = (int(v) for v in vectors)
        families = ("", *(self.families[v] for v in others))
        return Basis(self.groups, self.total[first], self.whole[[first, *others]], families)

    def page(self, vectors: Vectors) -> pd.DataFrame:
        """The table of effects, as a run would give it."""
        own = self.own[list(vectors)]
        return effect_table(self.nodes, MEASURES, self.along[int(vectors[0])], own, self.basis(vectors), Statistics())


@cache
def model(name: str) -> Model:
    return load(name)


@cache
def vector(name: str) -> SteeringVector:
    """The vector whose norms all others have."""
    return prompt_pair(model(name), WORD, " ", 0)


def prompts(name: str, count: int) -> Prompts:
    return make_prompts(model(name), zoo.prompts("off_topic")[:count])


def drawn(name: str, family: str, count: int, seed: int = 0) -> list[SteeringVector]:
    """Vectors of a family, as references are drawn."""
    real = [vector(name)]
    return [own for (own,) in references(f"{family}:{count}", model(name), real).draw(model(name), real, seed)]


def asked(name: str, real: SteeringVector, count: int, beside: object, seed: int = 0) -> Experiment:
    """One vector on so many prompts; the same seed draws the same references."""
    given = Injection(real, COEFFICIENT)
    return Experiment(model(name), (given,), prompts(name, count), references=beside, seed=seed)  # type: ignore[arg-type]


@cache
def pool(size: Size) -> Pool:
    """Isotropic vectors, then other concepts."""
    families = [family for family in ("isotropic", "concepts") for _ in range(size.vectors)]
    vectors = [v for family in ("isotropic", "concepts") for v in drawn(size.model, family, size.vectors)]
    found = [effects(asked(size.model, v, size.prompts, 0)) for v in vectors]
    return Pool(
        found[0].nodes,
        np.stack([one.along for one in found]),
        np.stack([one.own[0] for one in found]),
        np.stack([one.basis.total for one in found]),
        np.stack([one.basis.own[0] for one in found]),
        found[0].basis.groups,
        tuple(families),
    )
