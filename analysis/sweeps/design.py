"""`Design`: which nodes, prompt, vector and coefficient trial i has; a pure function of the seed and i.

Trials come in visits: `visit` trials in a row share a prompt, a vector and a coefficient, so that the
clean and the steered run of a visit are made once. Within a visit every `control_every`-th draw is
a control: the nodes of the first draw of its group again, with a random vector of equal norm. All controls of a visit
are of one random vector, whose own whole injection is run as well; each round of visits has all of them in an order
drawn anew, so that none is tied to some prompts or coefficients.

Random numbers are BLAKE2 hashes of (seed, i), read as integers: no state, the same on every machine and
in every version of every library.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Any

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.gate import Count, Seed, Within, gated, shown

from .units import Unit

KINDS = ("uniform", "stratified", "horizontal", "vertical")
MANY = 1_000_000_000  # trials: years of work
BATCH = 65_536  # trials that are held at once
Amount = Annotated[int, Within(1, MANY)]
Vectors = Annotated[int, Within(0, 10_000)]  # their numbers are written in 16 bits
Every = Annotated[int, Within(2, 10_000)]
Held = Annotated[int, Within(0, BATCH)]


@dataclass(frozen=True)
class Trial:
    """One trial, by numbers.

    Attributes:
        units: indices of the units that are injected into, in order.
        vectors: for each of them, the number of its vector.
        control: number of the random vector; -1 for the real one.
        mixed: whether every unit drew its own vector.
    """

    index: int
    visit: int
    prompt: int
    kind: str
    units: tuple[int, ...]
    vectors: tuple[int, ...]
    coefficient: float
    control: int
    antithetic: bool
    mixed: bool


class _Draws:
    """Random integers below a bound, from hashes of a key."""

    def __init__(self, *key: int) -> None:
        self._key, self._block, self._words = ":".join(map(str, key)), 0, []  # type: ignore[var-annotated]

    def below(self, bound: int) -> int:
        if not self._words:
            digest = hashlib.blake2b(f"{self._key}:{self._block}".encode()).digest()
            self._words = [int.from_bytes(digest[i : i + 8], "little") for i in range(0, 64, 8)]
            self._block += 1
        return int(self._words.pop() * bound >> 64)

    def sample(self, items: Sequence[int], count: int) -> list[int]:
        """`count` different items (the first steps of a Fisher-Yates shuffle)."""
        rest = list(items)
        for i in range(count):
            j = i + self.below(len(rest) - i)
            rest[i], rest[j] = rest[j], rest[i]
        return rest[:count]


@gated
@dataclass(frozen=True)
class Design:
    """How trials are drawn.

    Attributes:
        trials: how many, controls included.
        kinds: `uniform` (k of all nodes), `stratified` (by layer and kind), `horizontal` (all in one
            layer), `vertical` (one node a layer); several are drawn with equal chances.
        k: how many nodes, from and to; each value equally likely.
        spacing: of vertical layers: any, consecutive, or the step between them.
        antithetic: every set is followed by its complement (horizontal: within its layer).
        mixed: every node draws its own vector.
        coefficients: a grid; each visit has one of them.
        vectors: how many vectors there are; each visit has one of them.
        controls: how many random vectors; 0 for none.
        control_every: one in so many draws is a control.
        visit: trials in a row that share prompt, vector and coefficient.
        prompts: how many prompts there are.
    """

    trials: Amount
    prompts: Count
    kinds: tuple[str, ...] = ("uniform",)
    k: tuple[Count, Count] = (1, 4)
    spacing: str = "any"
    antithetic: bool = False
    mixed: bool = False
    coefficients: tuple[float, ...] = (1.0,)
    vectors: Vectors = 1
    controls: Vectors = 20
    control_every: Every = 2
    visit: Held = 0
    seed: Seed = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", tuple(self.kinds))
        object.__setattr__(self, "coefficients", tuple(float(c) for c in self.coefficients))
        self._check()
        if not self.visit:
            object.__setattr__(self, "visit", self._visit())

    def _check(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise BadArgument(
                f"unknown design {', '.join(map(shown, unknown[:5])) or '(none)'}; expected some of "
                f"{', '.join(KINDS)}; choose one or several"
            )
        if self.k[0] > self.k[1]:
            raise BadArgument(f"k={self.k}; expected a number of nodes, or a range such as 1-4; turn it round")
        if not self.vectors or not self.coefficients:
            raise BadArgument(
                f"{self.vectors} vectors, {len(self.coefficients)} coefficients; expected at least one of each; add one"
            )
        if self.antithetic and "vertical" in self.kinds:
            raise BadArgument(
                "antithetic with a vertical design; a set of one node a layer has no complement of its kind; "
                "leave one of the two out"
            )
        if self.spacing not in ("any", "consecutive") and not _is_step(self.spacing):
            raise BadArgument(
                f"spacing {shown(self.spacing)}; expected any, consecutive, or a step of layers such as 2; choose one"
            )
        if self.mixed and self.vectors < 2:
            raise BadArgument("mixed vectors, and only one vector is given; expected two or more; add another")

    def _visit(self) -> int:
        """As long as a fair share of the trials allows, in whole groups, so that each has its control."""
        group = self._pair * (self.control_every if self.controls else 1)
        share = self.trials // (self.prompts * group)
        return group * max(1, min(share, 32 // group))

    @property
    def _pair(self) -> int:
        return 2 if self.antithetic else 1

    @property
    def visits(self) -> int:
        return -(-self.trials // self.visit)

    @cached_property
    def _step(self) -> int | None:
        return {"any": None, "consecutive": 1}.get(self.spacing) or (
            int(self.spacing) if _is_step(self.spacing) else None
        )

    @gated
    def of_visit(self, visit: Annotated[int, Within(0, MANY)]) -> tuple[int, int | None, float]:
        """Prompt, vector (None where every node draws its own) and coefficient of a visit.

        Every prompt meets every combination in turn, and each round over the prompts has all of them.
        """
        prompt, rounds = visit % self.prompts, visit // self.prompts
        vectors = 1 if self.mixed else self.vectors
        combination = (prompt + rounds) % (vectors * len(self.coefficients))
        vector, coefficient = divmod(combination, len(self.coefficients))
        return prompt, None if self.mixed else vector, self.coefficients[coefficient]

    @gated
    def control_of(self, visit: Annotated[int, Within(0, MANY)]) -> int:
        """The random vector of a visit's controls; -1 where there are none."""
        if not self.controls:
            return -1
        rounds, place = divmod(visit, self.controls)
        return _order(self.seed, rounds, self.controls)[place]

    @gated
    def trial(self, index: Annotated[int, Within(0, MANY)], units: Sequence[Unit]) -> Trial:
        """Trial `index`, whatever was run before it, and wherever."""
        return self.draw([index], units)[0]

    def draw(self, numbers: Iterable[int], units: Sequence[Unit]) -> list[Trial]:
        """Trials by their numbers.

        Raises:
            BadArgument: the units have no room for k.
        """
        self.check(units)
        return [self._trial(number, units) for number in numbers]

    def _trial(self, index: int, units: Sequence[Unit]) -> Trial:
        visit, place = divmod(index, self.visit)
        prompt, vector, coefficient = self.of_visit(visit)
        draw, second = divmod(place, self._pair)
        control = -1
        if self.controls and draw % self.control_every == self.control_every - 1:
            control = self.control_of(visit)
            draw -= self.control_every - 1
        draws = _Draws(self.seed, visit * self.visit + draw * self._pair)
        kind = self.kinds[draws.below(len(self.kinds))]
        chosen, pool = self._choose(kind, units, draws)
        if second:
            chosen = sorted(set(pool) - set(chosen))
        vectors = [draws.below(self.vectors) if vector is None else vector for _ in chosen]
        return Trial(
            index, visit, prompt, kind, tuple(chosen), tuple(vectors), coefficient, control, bool(second), self.mixed
        )

    def _choose(self, kind: str, units: Sequence[Unit], draws: _Draws) -> tuple[list[int], list[int]]:
        """The units of a set, and the pool that its complement is taken from."""
        k = self.k[0] + draws.below(self.k[1] - self.k[0] + 1)
        everything = list(range(len(units)))
        if kind == "uniform":
            return sorted(draws.sample(everything, k)), everything
        if kind == "stratified":
            return sorted(_stratified(units, k, draws)), everything
        layers = _by(units, lambda unit: unit.layer)
        if kind == "horizontal":
            fitting = [layer for layer in layers if len(layers[layer]) >= k]
            pool = layers[fitting[draws.below(len(fitting))]]
            return sorted(draws.sample(pool, k)), pool
        return [layers[i][draws.below(len(layers[i]))] for i in self._layers(list(layers), k, draws)], everything

    def _layers(self, layers: list[int], k: int, draws: _Draws) -> list[int]:
        if self._step is None:
            return sorted(draws.sample(layers, k))
        span = (k - 1) * self._step
        start = draws.below(len(layers) - span)
        return layers[start : start + span + 1 : self._step]

    @gated
    def check(self, units: Sequence[Unit]) -> None:
        """Refuses a k that these units cannot give.

        Raises:
            BadArgument: too many nodes for the model, a layer, or its number of layers.
        """
        layers = _by(units, lambda unit: unit.layer)
        step = self._step or 1
        most = {
            "uniform": len(units),
            "stratified": len(units),
            "horizontal": max(map(len, layers.values()), default=0),
            "vertical": (len(layers) + step - 1) // step,
        }
        for kind in self.kinds:
            limit = most[kind] - (1 if self.antithetic else 0)
            if self.k[1] > limit:
                raise BadArgument(
                    f"k goes up to {self.k[1]} and a {kind} design over these {len(units)} nodes in {len(layers)} "
                    f"layers has room for {limit}; expected at most that; choose a smaller k"
                )

    def describe(self) -> dict[str, Any]:
        """What the manifest says of the design."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@lru_cache(maxsize=64)
def _order(seed: int, rounds: int, controls: int) -> list[int]:
    return _Draws(seed, rounds, 2).sample(range(controls), controls)


def _is_step(text: str) -> bool:
    return re.fullmatch("[1-9][0-9]{0,5}", text) is not None


def _by(units: Sequence[Unit], key: Any) -> dict[Any, list[int]]:
    groups: dict[Any, list[int]] = {}
    for index, unit in enumerate(units):
        groups.setdefault(key(unit), []).append(index)
    return groups


def _stratified(units: Sequence[Unit], k: int, draws: _Draws) -> list[int]:
    """The same number from every stratum of layer and kind, the rest from strata drawn at random."""
    strata = list(_by(units, lambda unit: (unit.layer, unit.kind)).values())
    rest = [draws.sample(stratum, len(stratum)) for stratum in strata]
    chosen: list[int] = []
    while len(chosen) < k:
        filled = [i for i, stratum in enumerate(rest) if stratum]
        for i in draws.sample(filled, min(len(filled), k - len(chosen))):
            chosen.append(rest[i].pop())
    return chosen
