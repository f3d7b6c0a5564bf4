"""`judged`: whether a circuit survives steering: a verdict from what the model answers and what the circuit explains.

m is the logit of one answer minus that of the other; x are prompts, x' their counterfactuals, all under c times a
vector. Signed by x's label: D = m(x) - m(x'), what the input decides; B = (m(x) + m(x')) / 2, the push common to both;
rho = D(c) / D(0), dB = B(c) - B(0). C_0 is the circuit that is claimed, C_c one that was found under steering; F_c of a
circuit is the share of D that it explains with everything under c. The first row that fits:

    undetermined  D(0) is not clear of 0.
    overwritten   |dB| >= D(c) / 2 and > D(0) / 4; "outvoted" where rho >= .5, else "silenced".
    rerouted      rho >= .5; F_c(C_0) <= .5 F_0(C_0); F_c(C_c) >= .8; F_0(C_c) <= .5 F_c(C_c).
    weaker        -.1 <= rho <= .8; F_c(C_0) >= .8 F_0(C_0); or rho < .1, "broken": of nothing there is no share.
    unaffected    .8 < rho < 1.25; |dB| <= D(0) / 8; F_c(C_0) >= .9 F_0(C_0).
    mixed         else, naming what failed: "stronger", where rho >= 1.25 and F_c(C_0) >= .8 F_0(C_0); "reversed" below
                  -.1; "narrowed" where only F_c(C_0) fails and C_c explains both conditions: a backup took over.

Where answers vary by prompt nothing pushes them all one way: in place of |dB| stands the rise of the share of prompts
whose top token is neither, which must pass .5 to overwrite and stay within 1/8 to be none.

1. Prompts are resampled in groups, all quantities together.
2. A condition is met, or violated, only with its unfavourable 95% bound; else it is open. F has no value unless what it
   is a share of clears 0, and then its conditions are open; so are those that compare with an F_0(C_0) below .1.
3. A row is out where a condition is violated, fits where all are met. One that is neither makes "undetermined".

How much two circuits overlap is no part of it: two lists that explain both conditions are one mechanism.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.gate import Level, Positive, Seed, Share, gated
from steerscope.analysis.results.stats import percentiles, resampled

Array = NDArray[np.float64]
States = Callable[[Array], int]
Quantities = dict[str, Array]  # by name, its value, then that of each resample
VERDICTS = ("unaffected", "weaker", "rerouted", "overwritten", "undetermined", "mixed")
DETAILS = ("outvoted", "silenced", "broken", "stronger", "reversed", "narrowed")
F_0, F_C, F_CC, F_0C = "F_0(C_0)", "F_c(C_0)", "F_c(C_c)", "F_0(C_c)"
SHARES = (F_0, F_C, F_CC, F_0C)
MET, OPEN, VIOLATED = 1, 0, -1
RESAMPLES = 2000


@gated
@dataclass(frozen=True)
class Thresholds:
    """Limits of the rule. They are ours.

    Attributes:
        outvotes: |dB| over D(c) from which it is overwritten.
        pushes: |dB| over D(0) that it must pass, too.
        neither: rise of the share whose top token is neither, from which it is overwritten.
        survives: rho from which the task does.
        lost: share of its F that a circuit keeps at most, where it has lost it.
        explains: F of a circuit that explains the task.
        weaker: rho up to which it is.
        kept: share of its F that a circuit must keep, to be the same one.
        broken: rho below which nothing is left, and F_0 below which a circuit has nothing to lose.
        stronger: rho from which it is.
        still: |dB| over D(0), or the rise of neither, up to which there is no push.
        same: share of its F that a circuit must keep, to be unaffected.
    """

    outvotes: Positive = 0.5
    pushes: Positive = 0.25
    neither: Share = 0.5
    survives: Positive = 0.5
    lost: Share = 0.5
    explains: Share = 0.8
    weaker: Share = 0.8
    kept: Share = 0.8
    broken: Share = 0.1
    stronger: Positive = 1.25
    still: Positive = 0.125
    same: Share = 0.9

    def __post_init__(self) -> None:
        if not self.broken < self.weaker < self.stronger or self.broken > self.survives:
            raise BadArgument(
                f"broken={self.broken:g}, survives={self.survives:g}, weaker={self.weaker:g}, "
                f"stronger={self.stronger:g}; expected broken below the others and weaker below stronger; mend them"
            )


@dataclass(frozen=True, eq=False)
class Explained:
    """What a circuit explains in one condition, by prompt; NaN for prompts that it was not measured on.

    Attributes:
        part: m of the circuit's run minus that of the empty circuit's, signed.
        whole: m minus that of the empty circuit's, signed.
    """

    part: Float[Array, " prompt"]
    whole: Float[Array, " prompt"]

    def where(self, chosen: NDArray[np.bool_]) -> "Explained":
        return Explained(self.part[chosen], self.whole[chosen])


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of a task at c = 0 and under steering.

    Attributes:
        labels: 1 where x asks for the first answer, -1 for the second.
        m: at c = 0 and under c, on x and on x'.
        explained: by share of `SHARES`, what a circuit explains.
        neither: at c = 0 and under c, the share of x and x' whose top token is neither answer.
        varied: whether answers vary by prompt: `neither` counts in place of the push.
        opposed: whether x' asks for the other answer, so that it counts for the accuracy.
        groups: by prompt, the number of its group.
    """

    labels: Float[Array, " prompt"]
    m: Float[Array, "2 2 prompt"]
    explained: Mapping[str, Explained]
    neither: Float[Array, "2 prompt"]
    varied: bool
    opposed: bool
    groups: Int[NDArray[np.int64], " prompt"]

    def where(self, chosen: NDArray[np.bool_]) -> "Evidence":
        """Of some of the prompts."""
        return replace(
            self,
            labels=self.labels[chosen],
            m=self.m[..., chosen],
            explained={name: own.where(chosen) for name, own in self.explained.items()},
            neither=self.neither[:, chosen],
            groups=np.unique(self.groups[chosen], return_inverse=True)[1].reshape(-1),
        )


@dataclass(frozen=True)
class Judged:
    """A verdict.

    Attributes:
        verdict: one of `VERDICTS`. detail: one of `DETAILS`, or nothing.
        why: the conditions that are open, of "undetermined"; that failed, of "mixed".
    """

    verdict: str
    detail: str = ""
    why: tuple[str, ...] = ()


UNCLEAR = Judged("undetermined", "", ("D(0) is not clear of 0",))


@dataclass(frozen=True, eq=False)
class Weighed:
    """All quantities of a verdict, their intervals, and the verdicts in both forms.

    Attributes:
        values: P_0, P_c, D_0, D_c, B_0, B_c, dB, rho, neither (its rise) and the four shares; shares are NaN where what
            they are shares of does not clear 0.
        intervals: of each, low and high.
        point: the verdict by values alone (where D(0) is clear of 0). judged: by bounds.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    point: Judged
    judged: Judged


@dataclass(frozen=True)
class _Condition:
    name: str
    state: int


def weighed(
    evidence: Evidence, thresholds: Thresholds | None = None, *, level: Level = 0.95, seed: Seed = 0
) -> Weighed:
    """The verdict on a circuit, with its evidence.

    Args:
        level: of intervals and bounds.
        seed: of the resamples of prompts.
    """
    limits = thresholds or Thresholds()
    found, whole = _quantities(evidence, seed)
    number = len(np.unique(evidence.groups))

    def bounded(draws: Array) -> tuple[float, float]:
        low, high = percentiles(draws, level, number)
        return float(low), float(high)

    bounds = {name: bounded(draws) for name, draws in found.items()}
    sure, likely = dict(found), dict(found)
    for name, draws in whole.items():
        if not bounded(draws)[0] > 0:
            sure[name] = np.full_like(draws, np.nan)
            bounds[name] = (float("nan"), float("nan"))
        if not draws[0] > 0:
            likely[name] = np.full_like(draws, np.nan)
    clear = bounds["D_0"][0] > 0
    alone = number < 2 and bool(found["D_0"][0] > 0)  # there are no bounds
    point = _judged(likely, limits, evidence.varied, lambda margin: _state(margin[0], margin[0]))
    judged = _judged(sure, limits, evidence.varied, lambda margin: _state(*bounded(margin)))
    return Weighed(
        {name: float(draws[0]) for name, draws in sure.items()},
        bounds,
        point if clear or alone else UNCLEAR,
        judged if clear else UNCLEAR,
    )


def asks(found: Weighed) -> bool:
    """Whether the verdict depends on the circuit that works under steering."""
    return any(
        any("C_c" in name for name in judged.why)
        or (judged.verdict == "mixed" and not judged.detail and [name[: len(F_C)] for name in judged.why] == [F_C])
        for judged in (found.judged, found.point)
    )


def _quantities(evidence: Evidence, seed: int) -> tuple[Quantities, Quantities]:
    """All quantities, and for each share what it is one of: by value, then by resample."""
    signed = evidence.labels * evidence.m
    right = (signed[:, 0] > 0).astype(float)
    if evidence.opposed:
        right = (right + (signed[:, 1] < 0)) / 2
    rows = {"P_0": right[0], "P_c": right[1]}
    rows |= {name: signed[c, 0] - signed[c, 1] for c, name in enumerate(("D_0", "D_c"))}
    rows |= {name: evidence.m[c].mean(axis=0) for c, name in enumerate(("B_0", "B_c"))}
    rows |= {"neither_0": evidence.neither[0], "neither_c": evidence.neither[1]}
    for name in SHARES:
        own = evidence.explained.get(name)
        parts = (np.full(len(evidence.labels), np.nan),) * 2 if own is None else (own.part, own.whole)
        known = np.isfinite(parts[0]) & np.isfinite(parts[1])
        rows |= {f"{what} {name}": np.where(known, p, 0.0) for what, p in zip(("part", "whole"), parts, strict=True)}
    drawn = resampled(np.stack(list(rows.values())), evidence.groups, seed, RESAMPLES)
    means = dict(zip(rows, drawn.T, strict=True))
    found: Quantities = {name: means[name] for name in ("P_0", "P_c", "D_0", "D_c", "B_0", "B_c")}
    found["dB"] = means["B_c"] - means["B_0"]
    found["neither"] = means["neither_c"] - means["neither_0"]
    with np.errstate(all="ignore"):
        found["rho"] = np.where(means["D_0"] > 0, means["D_c"] / means["D_0"], np.nan)
        found |= {name: means[f"part {name}"] / means[f"whole {name}"] for name in SHARES}
    return found, {name: means[f"whole {name}"] for name in SHARES}


def _state(low: float, high: float) -> int:
    if low >= 0:
        return MET
    return VIOLATED if high < 0 else OPEN


def _judged(q: Quantities, limits: Thresholds, varied: bool, state: States) -> Judged:
    """The rule. `state` says of a margin (from 0 on the condition holds) whether it is met, open or violated."""

    def condition(name: str, margin: Array) -> _Condition:
        return _Condition(name, state(margin))

    push = np.abs(q["dB"])
    alive = condition(f"rho >= {limits.survives:g}", q["D_c"] - limits.survives * q["D_0"])
    less = condition(f"rho <= {limits.weaker:g}", limits.weaker * q["D_0"] - q["D_c"])
    broken = condition(f"rho < {limits.broken:g}", limits.broken * q["D_0"] - q["D_c"])
    upright = condition(f"rho >= {-limits.broken:g}", q["D_c"] + limits.broken * q["D_0"])
    more = condition(f"rho >= {limits.stronger:g}", q["D_c"] - limits.stronger * q["D_0"])
    if (
        condition("", q[F_0] - limits.broken).state != MET
    ):  # of a circuit that explains nothing, nothing is kept or lost
        q = {**q, F_0: np.full_like(q[F_0], np.nan)}
    kept = condition(f"{F_C} >= {limits.kept:g} {F_0}", q[F_C] - limits.kept * q[F_0])
    same = condition(f"{F_C} >= {limits.same:g} {F_0}", q[F_C] - limits.same * q[F_0])
    works = condition(f"{F_CC} >= {limits.explains:g}", q[F_CC] - limits.explains)
    if varied:
        over = [condition(f"rise of neither >= {limits.neither:g}", q["neither"] - limits.neither)]
        still = condition(f"rise of neither <= {limits.still:g}", limits.still - q["neither"])
    else:
        over = [
            condition(f"|dB| >= {limits.outvotes:g} D(c)", push - limits.outvotes * q["D_c"]),
            condition(f"|dB| > {limits.pushes:g} D(0)", push - limits.pushes * q["D_0"]),
        ]
        still = condition(f"|dB| <= {limits.still:g} D(0)", limits.still * q["D_0"] - push)
    rows: dict[str, list[_Condition]] = {
        "overwritten": over,
        "rerouted": [
            alive,
            condition(f"{F_C} <= {limits.lost:g} {F_0}", limits.lost * q[F_0] - q[F_C]),
            works,
            condition(f"{F_0C} <= {limits.lost:g} {F_CC}", limits.lost * q[F_CC] - q[F_0C]),
        ],
        "weaker": [less, upright, _Condition(kept.name, max(kept.state, broken.state))],
        "unaffected": [_not(less), _not(more), still, same],
    }
    for verdict, conditions in rows.items():
        worst = min(one.state for one in conditions)
        if worst == OPEN:
            return Judged("undetermined", "", tuple(one.name for one in conditions if one.state == OPEN))
        if worst == MET:
            said = {"overwritten": {MET: "outvoted", VIOLATED: "silenced"}.get(alive.state, "")}
            said["weaker"] = "broken" if broken.state == MET else ""
            return Judged(verdict, said.get(verdict, ""))
    failed = tuple(one.name for one in rows["unaffected"] if one.state == VIOLATED)
    if more.state == MET and kept.state == MET:
        return Judged("mixed", "stronger", failed)
    if upright.state == VIOLATED:
        return Judged("mixed", "reversed", failed)
    backup = condition(f"{F_0C} >= {limits.explains:g} {F_CC}", q[F_0C] - limits.explains * q[F_CC])
    narrowed = failed == (same.name,) and min(works.state, backup.state) == MET
    return Judged("mixed", "narrowed" if narrowed else "", failed)


def _not(condition: _Condition) -> _Condition:
    """Its opposite, by name."""
    name = condition.name.replace("<=", ">") if "<=" in condition.name else condition.name.replace(">=", "<")
    return _Condition(name, -condition.state)
