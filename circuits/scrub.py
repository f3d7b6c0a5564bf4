"""`scrub`: causal scrubbing: how much of a behaviour a hypothesis explains, by resampling all that it calls irrelevant.

A hypothesis is a tree of claims: a node, as its parent reads it, computes a feature of the prompt and nothing else.

1. From the logits down, a claim made for a prompt x gives every child a prompt that is drawn uniformly from those with
   the same feature as x (x too): the model is unrolled, and no two paths share a draw.
2. All inputs of a node that nothing is claimed of come from one prompt drawn from all, afresh for every node.
3. Leaves are activations of a plain run. A node with children is run anew: its inputs are the drawn stream with the
   children's writes exchanged, through its norm.
4. Scored by the answer of x: score s. Recovered: (s - r) / (m - r), m the score of the model, r that of the model on
   any prompt with x's answer.
5. Scores hide cancellation and saturate, so the outputs themselves are compared, too: 1 - E(f_scrubbed - f)^2 /
   E(f(y) - f(x))^2 over the logits of all answers, less their mean.
6. Each claim alone: every node between it and the logits is run on x, all of its other inputs x's own; only the claimed
   write, in the input that reads it, is that of a prompt with the same feature. `branch`: with the claims below it.
7. Control: the same with the values of all features shuffled over the prompts (one order a draw, the same for all
   features), so as fine as what is claimed, and about nothing. A feature that tells all prompts apart draws x itself:
   such a claim alone exchanges nothing and cannot fail.

"All" and "any" are prompts that can be exchanged: of one length, claimed places where the other has them. Under
steering every run carries the injection ("stands"), or prompts are counted steered and unsteered, and a feature may
tell the two apart ("feature").

Source: Chan, Garriga-Alonso et al. 2022 (causal scrubbing); Scheurer et al. 2023 on cancellation.
What it cannot see: a claim that is finer than the truth stands as well as the true one.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.brief import counted
from steerscope.analysis.errors import BadArgument, BadCircuit
from steerscope.analysis.gate import Bytes, Count, Level, Seed, Whole, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import Prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.results.stats import holm, interval, nonzero_p, ratio_interval
from steerscope.analysis.tools.record import check, made_now, tolerance

from .features import told, where
from .hypotheses import hypothesis as named
from .hypothesis import LOGITS, Claim, Hypothesis, Place, check_claim, places
from .scrub_data import Data, Dataset, Shuffled, dataset_of
from .task import TaskPrompts
from .unrolled import Answers, Read, Step, Unrolled, pruned, untouched, whole

NO_GAIN = "the model answers a prompt no better than another one would: there is nothing to share out"
STEERING = Literal["none", "stands", "feature"]
MOST, WORK = 50_000, 1 << 24  # runs in all; numbers of a stream that are held at once
SHARE, ENDS = "(score - resampled) / (model - resampled)", ("lower end, over prompts", "upper end, over prompts")
COLUMNS: Frames = {
    "recovered": {
        "hypothesis": Column("its name", role="label"),
        "node": Column("logits: the whole tree; else a claim, by its path from the logits", role="label"),
        "share": Column(f"{SHARE}, of the whole tree or of this claim alone", role="estimate"),
        "low": Column(ENDS[0], role="low"),
        "high": Column(ENDS[1], role="high"),
        "control": Column("the same with features shuffled over prompts", role="reference"),
        "control_low": Column(ENDS[0], role="reference_low"),
        "control_high": Column(ENDS[1], role="reference_high"),
        "beyond": Column("whether the share is above its control (Holm)", role="verdict"),
        "p_holm": Column("p that share and control are equal over prompts, after Holm over all rows"),
        "branch": Column("share of this claim with those of what it reads; missing where there are none"),
        "branch_low": Column(ENDS[0]),
        "branch_high": Column(ENDS[1]),
        "squared": Column("1 - mean squared change of the answers' logits over that of another prompt's"),
        "squared_low": Column(ENDS[0]),
        "squared_high": Column(ENDS[1]),
        "score": Column("mean log-odds of the right answer, scrubbed", "nats"),
        "feature": Column("what the node is claimed to depend on"),
        "at": Column("the places that are claimed; all where empty"),
        "alike": Column("prompts with the same value of the feature, on average; 1: it tells all apart, cannot fail"),
        "exchanged": Column("prompts that can be exchanged for one another, on average"),
        "claim": Column("number of the claim in its tree; -1 for the whole"),
        "within": Column("number of the claim that reads it; -1 for the logits"),
    }
}
Given = Hypothesis | Sequence[Hypothesis | Claim | str] | Mapping[str, Sequence[Claim]] | str | Path


@gated
def scrub(
    model: Model,
    hypothesis: Hypothesis | Sequence[Hypothesis | Claim | str] | Mapping[str, Sequence[Claim]] | str | Path,
    dataset: TaskPrompts | Prompts | Experiment,
    *,
    steering: STEERING = "none",
    injections: Injection | Sequence[Injection] = (),
    places: Sequence[Mapping[str, Whole]] | None = None,
    alone: bool = True,
    draws: Count = 8,
    seed: Seed | None = None,
    level: Level = 0.95,
    alpha: Level = 0.05,
    budget: Bytes | None = None,
) -> Result:
    """How much of the right answers a hypothesis explains, as a whole and claim by claim.

    Args:
        hypothesis: one or several: a `Hypothesis`, its name or file, claims of what the logits read, or such by name.
        dataset: prompts with an answer each: a task's, `Prompts` with targets, or an experiment with
            `log_prob(PerPrompt(...))`, scored at their last position.
        steering: none; in all runs (stands); or in half of them, as a part of what features see (feature).
        injections: of `steering`, where the dataset is no experiment.
        places: by prompt, named places; those of the task by default, and END, the last token, in any case.
        alone: whether each claim is tried alone, too.
        draws: of every prompt.
        seed: of what is drawn; an experiment's own.
        level: of intervals over prompts.
        alpha: of the comparison with the control, after Holm.
        budget: bytes that the engine may take; worked out by default.

    Returns:
        a `Result` of kind "scrub": `recovered`, a row for each whole tree (`node` is "logits") and each claim alone.

    Raises:
        BadPrompt: prompts without answers, or none that can be exchanged.
        BadNode: a claim of a node that is not there, or that its parent does not read.
        BadCircuit: no such hypothesis, or a place that the prompts have not.
        BadArgument: more draws than are run, a feature that fails, or steering without injections.
        UnsupportedModel: a norm stands between nodes and the stream.
    """
    start = time.perf_counter()
    asked = _named(hypothesis)
    given = dataset_of(model, dataset, steering, injections, places, seed, budget)
    for one in asked:
        for claim in one.tree:
            check_claim(model, claim, None)
    data = Data(given, [claim for one in asked for claim in one.tree])
    if len(data) * draws > MOST:
        raise BadArgument(
            f"draws={draws:,} of {counted(len(data), 'prompt')}; expected at most {MOST:,} runs in all; draw fewer"
        )
    scrubber = _Scrubber(data, draws, level)
    steps = (row for one in asked for row in scrubber.rows(one, alone))
    rows = list(track(steps, "scrubbing", sum(1 + alone * len(one) for one in asked)))
    p = np.array([row.pop("p") for row in rows])
    holm_p = np.full(len(p), np.nan)
    tried = np.isfinite(p)
    holm_p[tried] = holm(p[tried])
    table = pd.DataFrame(rows).assign(p_holm=holm_p)
    table["beyond"] = (table["p_holm"] < alpha) & (table["share"] > table["control"])
    frames = {"recovered": table[list(COLUMNS["recovered"])]}
    return Result("scrub", frames, COLUMNS, _manifest(given, asked, scrubber, start, steering, draws, level, alpha))


def _named(given: Any) -> list[Hypothesis]:
    if isinstance(given, Mapping):
        found = [Hypothesis(name, tuple(claims)) for name, claims in given.items()]
    elif isinstance(given, Hypothesis | str | Path):
        found = [given if isinstance(given, Hypothesis) else named(given)]
    elif given and all(isinstance(one, Claim) for one in given):
        found = [Hypothesis("hypothesis", tuple(given))]
    elif any(isinstance(one, Claim) for one in given):
        raise BadCircuit("claims beside hypotheses; expected one or the other; put the claims into a Hypothesis")
    else:
        found = [one if isinstance(one, Hypothesis) else named(one) for one in given]
    names = [one.name for one in found]
    if not found or len(set(names)) < len(names):
        raise BadCircuit(
            f"hypotheses with the names {', '.join(map(repr, names)) or 'of none'}; expected at least one, each with a "
            "name of its own; rename them"
        )
    return found


def _manifest(
    given: Dataset,
    asked: Sequence[Hypothesis],
    scrubber: "_Scrubber",
    start: float,
    steering: str,
    draws: int,
    level: float,
    alpha: float,
) -> dict[str, Any]:
    told_of = [
        {name: getattr(one, name) for name in ("name", "title", "model", "task")}
        | {"claims": len(one), "sources": list(one.sources), "caveats": list(one.caveats)}
        | {"reported": dict(one.reported), "rivals": list(one.rivals)}
        for one in asked
    ]
    sizes = scrubber.data.aligned.sizes
    missing = {} if scrubber.clear else {"share": NO_GAIN}
    if int(scrubber.data.groups.max()) < 1:
        missing["intervals"] = "one group of prompts (copies, or one template) gives no interval over prompts"
    return {
        **given.about,
        "hypotheses": told_of,
        "steering": steering,
        "draws": draws,
        "level": level,
        "alpha": alpha,
        "model_score": float(scrubber.model.mean()),
        "resampled_score": float(scrubber.resampled.mean()),
        "alignments": {"count": len(sizes), "smallest": int(sizes.min()), "alone": int((sizes == 1).sum())},
        "checks": scrubber.checks,
        "warnings": [],
        "missing": missing,
        **made_now(start),
    }


@dataclass(frozen=True, eq=False)
class _Scored:
    """By datum: the score, and the squared change of the answers' logits, both means over draws."""

    score: Float[NDArray[np.float64], " datum"]
    squared: Float[NDArray[np.float64], " datum"]


class _Scrubber:
    """Scores hypotheses on data."""

    def __init__(self, data: Data, draws: int, level: float) -> None:
        self.data, self.draws, self.level = data, draws, level
        self.answers = Answers(data.dataset.prompts, data.of)
        self.runs = Unrolled(data, self.answers)
        self.checks: list[dict[str, object]] = []
        plain = self.runs.plain
        self.own, matrix = self.answers.compared(plain), self.answers.matrix(plain)
        self.model = np.diagonal(matrix).copy()
        self.resampled, self.spread = np.empty(len(data)), np.empty(len(data))
        for d in range(len(data)):
            others = np.flatnonzero(data.aligned.number == data.aligned.number[d])
            self.resampled[d] = matrix[others, d].mean()
            self.spread[d] = ((self.own[others] - self.own[d]) ** 2).sum(-1).mean()
        self.gain = self.model - self.resampled
        low, _ = interval(self.gain, level, data.groups)
        self.clear = bool(self.gain.mean() > 0 and not low <= 0)

    def rows(self, one: Hypothesis, each: bool) -> Iterator[dict[str, Any]]:
        """Of the whole tree, then (`each`) of each claim alone."""
        found, tree = places(one.tree), one.tree
        kept = self._scored(untouched(tree), own=True, draws=1)
        limit = tolerance(self.data.dataset.model, float(np.abs(self.model).max()))
        off = float(np.abs(kept.score - self.model).max())
        self.checks.append(check(f"{one.name}, with nothing exchanged, is the model", off, limit))
        parts = [self.data.parts(place.claim) for place in found]
        free = any(part is not None for part in parts)  # there is something to shuffle
        all_of = self._scored(whole(tree))
        shuffled = self._scored(whole(tree), shuffled=True) if free else None
        yield self._row(one.name, None, all_of, shuffled, parts)
        for number, (place, part) in enumerate(zip(found, parts, strict=True) if each else ()):
            steps = pruned(tree, place.path, branch=False)
            alone = None if part is None else self._scored(steps, own=True)
            control = None if part is None else self._scored(steps, own=True, shuffled=True)
            branch = self._scored(pruned(tree, place.path, branch=True), own=True) if place.claim.children else None
            yield self._row(one.name, place, alone or self._plain, control, [part], branch, number)

    @property
    def _plain(self) -> _Scored:
        """Of a claim of the whole prompt: nothing is exchanged."""
        return _Scored(self.model, np.zeros(len(self.data)))

    def _row(
        self,
        name: str,
        place: Place | None,
        found: _Scored,
        control: _Scored | None,
        parts: Sequence[Any],
        branch: _Scored | None = None,
        number: int = -1,
    ) -> dict[str, Any]:
        data = self.data
        changed = self.spread - found.squared
        p = np.nan if control is None else float(nonzero_p(found.score - control.score, data.groups))
        return {
            "hypothesis": name,
            "node": LOGITS if place is None else place.name,
            **self._share("share", "", found),
            **self._share("control", "control_", control),
            **self._share("branch", "branch_", branch),
            **_ratio("squared", "squared_", changed, self.spread, data.groups, self.level),
            "score": float(found.score.mean()),
            "feature": "" if place is None else told(place.claim.feature),
            "at": "" if place is None else where(place.claim.at),
            "alike": min((1.0 if part is None else part.mean for part in parts), default=np.nan),
            "exchanged": data.aligned.mean,
            "claim": number,
            "within": -1 if place is None else place.within,
            "p": p if self.clear else np.nan,
        }

    def _share(self, name: str, ends: str, found: _Scored | None) -> dict[str, float]:
        if found is None or not self.clear:
            return dict.fromkeys((name, f"{ends}low", f"{ends}high"), np.nan)
        return _ratio(name, ends, found.score - self.resampled, self.gain, self.data.groups, self.level)

    def _scored(
        self, steps: Sequence[Step], own: bool = False, shuffled: bool = False, draws: int | None = None
    ) -> _Scored:
        """Every test draws from a stream of its own that begins alike: what is asked beside it changes nothing."""
        data, draws = self.data, draws or self.draws
        dice = np.random.default_rng(data.dataset.seed)
        orders = Shuffled(data, draws, np.random.default_rng([data.dataset.seed, 1])) if shuffled else None
        references, draw = np.tile(np.arange(len(data)), draws), np.repeat(np.arange(draws), len(data))
        size = max(1, WORK // (data.length * data.dataset.model.d_model))
        score, squared = np.zeros(len(data)), np.zeros(len(data))
        for begin in range(0, len(references), size):
            chunk = slice(begin, begin + size)
            rows = references[chunk]
            read: Read = self.runs.read(steps, rows, own, dice, orders and orders.rows(draw[chunk]))
            np.add.at(score, rows, self.answers.matrix(read)[np.arange(len(rows)), rows])
            np.add.at(squared, rows, ((self.answers.compared(read) - self.own[rows]) ** 2).sum(-1))
        return _Scored(score / draws, squared / draws)


def _ratio(
    name: str, ends: str, part: NDArray[np.float64], all_of: NDArray[np.float64], groups: Any, level: float
) -> dict[str, float]:
    """A share with its interval over prompts."""
    low, high = ratio_interval(part, all_of, level, groups)
    size = float(all_of.mean())
    share = float(part.mean() / size) if size > 0 else np.nan
    return {name: share, f"{ends}low": float(low), f"{ends}high": float(high)}
