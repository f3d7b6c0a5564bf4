"""What a line of the calibration table is: a rate or a coverage, how many tries stand behind it, and its bound.

A bound is broken only where the tries say so: the lower end of the 95% interval of a rate (Clopper and Pearson 1934)
must lie above 1.5 times the stated level, the upper end of that of a coverage below 92%. Where the tries do not say
that it holds either (too few of them, or a value close to it) the line reads `not broken` instead of `yes`. A try that
gives several numbers (nodes of one draw) counts once, with the share of them: that interval is too wide rather than too
narrow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

ALPHA, LEVEL = 0.05, 0.95
TIMES, LEAST = 1.5, 0.92  # the stated level at most so many times; coverage at least
FROM = 8  # groups from which on coverage is bounded


@dataclass(frozen=True)
class Size:
    """How much is tried.

    Attributes:
        tries: made-up data sets of one setting.
        vectors: of each family, whose effects are measured in `model`.
        prompts: that they are measured on.
        draws: of a vector and its references from these.
        runs: whole runs of a question with a random vector as the injection.
        planted: models.
        of: the vectors that other methods are asked of.
    """

    tries: int
    vectors: int
    prompts: int
    draws: int
    runs: int
    planted: int
    of: int
    model: str = "tinystories-2l"
    groups: tuple[int, ...] = (4, 6, 8, 12, 16, 32)
    references: tuple[int, ...] = (6, 8, 12, 20)


QUICK = Size(
    tries=600, vectors=22, prompts=8, draws=66, runs=1, planted=4, of=13, groups=(4, 8, 16), references=(8, 12, 20)
)
WHOLE = Size(tries=4000, vectors=64, prompts=16, draws=640, runs=12, planted=48, of=33)


@dataclass(frozen=True)
class Cell:
    """A measured rate or coverage in one setting.

    Attributes:
        at: the setting that varies within the line, such as the number of groups.
        bounded: whether the line's bound is meant here.
    """

    at: str
    value: float
    tries: int
    bounded: bool = True

    @property
    def low(self) -> float:
        """Lower end of the interval of the true rate."""
        found = self.value * self.tries
        return 0.0 if found <= 0 else float(stats.beta.ppf(0.025, found, self.tries - found + 1))

    @property
    def high(self) -> float:
        """Upper end."""
        found = self.value * self.tries
        return 1.0 if found >= self.tries else float(stats.beta.ppf(0.975, found + 1, self.tries - found))


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        what: the number or the claim. where: data, vectors and groups. varies: what the cells differ in.
        kind: rate (of false claims), coverage, never (a claim that may not be made at all), or shown (no bound).
        stated: level; missing where none is stated.
        weakness: why a line without a bound has none, in words.
    """

    what: str
    where: str
    kind: Literal["rate", "coverage", "never", "shown"]
    cells: tuple[Cell, ...]
    varies: str = ""
    stated: float | None = None
    weakness: str = ""

    @property
    def bound(self) -> float | None:
        if self.kind == "shown":
            return None
        if self.kind == "never":
            return 0.0
        return LEAST if self.kind == "coverage" else TIMES * (ALPHA if self.stated is None else self.stated)

    @property
    def ok(self) -> bool:
        return not any(self.broken(cell) for cell in self.cells)

    @property
    def sure(self) -> bool:
        """Whether the tries are enough to say that the bound holds: the other end of every interval is inside, too."""
        bound = self.bound
        inside = [
            c.low >= bound if self.kind == "coverage" else c.high <= bound for c in self.cells if c.bounded and bound
        ]
        return self.ok and (self.kind == "never" or bool(inside) and all(inside))

    def broken(self, cell: Cell) -> bool:
        """Whether the tries of a cell say that the bound does not hold; a value that is missing breaks it, too."""
        bound = self.bound
        if bound is None or not cell.bounded:
            return False
        if not cell.value == cell.value or not cell.tries:
            return True
        return cell.high < bound if self.kind == "coverage" else cell.low > bound


def rates(
    what: str, where: str, found: Sequence[tuple[str, float, int]], varies: str = "", stated: float = ALPHA
) -> Row:
    """A line of false-positive rates: (setting, rate, tries)."""
    return Row(what, where, "rate", tuple(Cell(*one) for one in found), varies, stated)
