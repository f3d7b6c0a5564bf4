"""`cost`: what a question can tell at all, and what it takes, before it is asked.

1. Told from other vectors: with C reference vectors of a kind a share must lie so many spreads of theirs from their
   mean, by the prediction t with C - 1 degrees of freedom and Holm over the nodes (`told_apart`).
2. Told from zero: with G groups of prompts an effect must be so many standard errors large (t, G - 1).
3. Passes: a row that is edited from layer l on costs (L - l)/L of a forward pass, since what is before it is shared.
4. Seconds: one batch of such rows is timed. Bytes: the largest batch that the engine would run, and what is kept of
   the runs.

What it cannot see: how large the spread will be, and what a question does beside patching (completions, writers, a
search whose length depends on what it finds).
"""

import inspect
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated, Any, get_type_hints

import numpy as np
from scipy import stats

from steerscope.analysis.brief import counted
from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import chunked, working_set
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.gate import Count, Level, Refused, Whole, Within, check_of, gated, shown
from steerscope.analysis.results.stats import told_apart
from steerscope.analysis.results.verdicts import LEAST
from steerscope.questions import QUESTIONS

from .experiment import Experiment
from .references import FAMILIES

ROWS = 32  # of the batch that is timed
MOST_ROWS = 20_000  # that are looked at to see how many make a batch
LONG = 30.0  # seconds beyond which an estimate is worth saying before the start
BACKWARD = 3  # forward-equivalents of a row with gradients: forward, and twice that for the way back
SEARCH = 0.3  # patches of the search for a minimal set, over those of single nodes
LEAST_VERIFIED, SHARE_VERIFIED = 12, 0.08  # of the nodes, by a screen
WORTH = 0.5  # of the passes: what a cheaper method must save to be named
NEAR_Z, NEAR_T = 1.25, 1.5  # times what infinitely many vectors, groups would need: advisable numbers
NotNegative = Annotated[float, Within(0)]
KINDS = {True: "random vectors", False: "other concepts"}


@gated
@dataclass(frozen=True)
class Cost:
    """What a question can tell and what it takes.

    Attributes:
        question: name of the function that is asked.
        nodes: how many are tested at once; 1 where the question tests something else.
        prompts, groups: of the prompts.
        references: how many vectors ride along, by kind: random vectors, other concepts.
        alpha: threshold on corrected p-values.
        passes: forward-equivalents.
        whole: whether `passes` is an estimate of all of them, or only the runs of the vectors.
        seconds: what they take, from one timed batch.
        memory: bytes beside the model.
        screened: passes and seconds of the screen that answers a question of nodes more cheaply, where it does.
    """

    question: str
    nodes: Count
    prompts: Count
    groups: Count
    references: Mapping[str, Whole]
    alpha: Level
    passes: NotNegative
    whole: bool
    seconds: NotNegative
    memory: Annotated[int, Within(0)]
    screened: tuple[NotNegative, NotNegative] | None

    @property
    def spreads(self) -> dict[str, float]:
        """By kind of reference, how many spreads of their shares a share must lie from their mean to be told."""
        return {
            kind: told_apart(count, self.nodes, self.alpha) if count >= LEAST else np.inf
            for kind, count in self.references.items()
        }

    @property
    def errors(self) -> float:
        """How many standard errors over groups an effect must be from zero; infinite with one group."""
        return _errors(self.groups, self.nodes, self.alpha)

    @property
    def advised(self) -> dict[str, int]:
        """The fewest reference vectors of a kind, and groups, beyond which more of them tell little more."""
        z = float(stats.norm.ppf(1 - self.alpha / (2 * self.nodes)))
        return {
            "references": next(c for c in range(LEAST, 10_000) if told_apart(c, self.nodes, self.alpha) <= NEAR_Z * z),
            "groups": next(g for g in range(3, 10_000) if _errors(g, self.nodes, self.alpha) <= NEAR_T * z),
        }

    @property
    def sentences(self) -> tuple[str, ...]:
        """The same in words: what can be told of vectors and of prompts, what it takes, and what would be cheaper."""
        said = (self._of_vectors(), self._of_prompts(), self._of_time(), self._of_screen())
        return tuple(filter(None, said))

    def _of_vectors(self) -> str:
        ran = " and ".join(f"{n} {kind}" for kind, n in self.references.items()) or "No reference vectors"
        tested = f"{self.nodes:,} nodes" if self.nodes > 1 else "one test alone"
        told = {kind: x for kind, x in self.spreads.items() if x < np.inf}
        if not told:
            return f"{ran}: nothing can be told from noise; at least {LEAST} of a kind are needed."
        if len({f"{x:.1f}" for x in told.values()}) == 1:
            far = f"{next(iter(told.values())):.1f} spreads (standard deviations of their shares) from their mean"
        else:
            (first, x), *others = told.items()
            far = f"{x:.1f} spreads (standard deviations of their shares) from the mean of the {first}"
            far += "".join(f" and {more:.1f} from that of the {kind}" for kind, more in others)
        said = f"{ran}, {tested}: to be told from them a share of the effect must be {far}"
        more = self.advised["references"]
        if min(self.references[kind] for kind in told) < more:
            said += f"; with {more} of a kind it would be {told_apart(more, self.nodes, self.alpha):.1f}"
        unsaid = [what for kind, what in _CLAIMS.items() if kind not in told]
        return said + "".join(f"; {what}" for what in unsaid) + "."

    def _of_prompts(self) -> str:
        more = self.advised["groups"]
        if self.groups < 2:
            which = "one prompt" if self.prompts == 1 else f"{self.prompts} prompts of one group (a template, copies)"
            return (
                f"{which[0].upper()}{which[1:]}: effects have no intervals, and nothing can be claimed; about {more} "
                "groups of prompts are needed."
            )
        said = (
            f"{counted(self.prompts, 'prompt')} in {counted(self.groups, 'group')}: an effect must be "
            f"{self.errors:.1f} standard errors from zero"
        )
        if self.groups >= more:
            return f"{said}."
        few = ", so that only huge effects count" if self.groups < 4 else ""
        return f"{said}{few}; with {more} groups it would be {_errors(more, self.nodes, self.alpha):.1f}."

    def _of_time(self) -> str:
        least = "About" if self.whole else "At least (the runs of the vectors alone)"
        return (
            f"{least} {max(1, round(self.passes)):,} forward passes, {duration(self.seconds)} by "
            f"one timed batch, and {size(self.memory)} beside the model."
        )

    def _of_screen(self) -> str:
        if self.screened is None:
            return ""
        passes, seconds = self.screened
        return (
            f"Cheaper: localize --method screen, which patches the best by gradients and bounds the rest, about "
            f"{round(passes):,} passes, {duration(seconds)}."
        )


_CLAIMS = {
    "random vectors": f"with fewer than {LEAST} random vectors noise is not asked about",
    "other concepts": f"with fewer than {LEAST} other concepts no node can be called specific",
}


@gated
def cost(experiment: Experiment, question: str = "localize", **knobs: Any) -> Cost:
    """What a question of `QUESTIONS` can tell of this experiment, and what it takes; it runs a few passes to time them.

    Args:
        knobs: as the question takes them; what is left out has its default.

    Raises:
        BadArgument: there is no such question of an experiment, or it has no such knob, or not of that value.
    """
    name, given = _asked(question, knobs)
    few = experiment.fewer(given.get("references_at_most", len(experiment.beside)))
    kinds = Counter(KINDS[FAMILIES[family].noise] for family in few.beside.families)
    formula = FORMULAS.get(name)
    nodes = len(given.get("nodes") or few.reachable) if formula else 1
    passes = formula(few, given) if formula else _runs(few)
    pace, memory = _pace(experiment), _memory(few)
    screen = _screen(few, dict(ranked_by="gradient", sample=5)) if name == "exact" else np.inf
    return Cost(
        question=name,
        nodes=nodes,
        prompts=len(few.prompts),
        groups=int(few.prompts.by_group.max()) + 1,
        references={kind: kinds[kind] for kind in _CLAIMS if kinds[kind]},
        alpha=given.get("alpha", 0.05),
        passes=passes,
        whole=formula is not None,
        seconds=pace * passes,
        memory=memory,
        screened=(screen, pace * screen) if screen <= WORTH * passes else None,
    )


@gated
def duration(seconds: NotNegative) -> str:
    """In words: `2 s`, `21 minutes`, `3.5 hours`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


@gated
def size(memory: Annotated[int, Within(0)]) -> str:
    """In words: `12 MB`, `1.4 GB`."""
    return f"{max(1, round(memory / 1e6))} MB" if memory < 1e9 else f"{memory / 1e9:.1f} GB"


def _errors(groups: int, nodes: int, alpha: float) -> float:
    return float(stats.t.ppf(1 - alpha / (2 * nodes), groups - 1)) if groups > 1 else np.inf


def _asked(question: str, knobs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The function behind a question (the method's, of `localize`) by name, and all of its knobs."""
    if question not in QUESTIONS or not QUESTIONS[question].experiment:
        known = ", ".join(name for name, line in QUESTIONS.items() if line.experiment)
        raise BadArgument(f"unknown question {shown(question)}; expected one of {known}; choose one")
    door: Any = QUESTIONS[question].function
    function, given = door, dict(knobs)
    if question == "localize":
        methods, method = QUESTIONS[question].module.METHODS, given.pop("method", "exact")
        if not isinstance(method, str) or method not in methods:
            raise BadArgument(f"unknown method {shown(method)}; expected one of {', '.join(methods)}; choose one")
        function = methods[method]
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    plain = getattr(function, "func", function)  # of a partial
    kinds = _kinds(door) | _kinds(plain)
    return plain.__name__, defaults | {name: _knob(question, name, value, kinds) for name, value in given.items()}


def _kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function's knobs."""
    hints = get_type_hints(inspect.unwrap(function), include_extras=True)
    return {name: hint for name, hint in hints.items() if name not in ("experiment", "knobs", "return")}


def _knob(question: str, name: str, value: Any, kinds: Mapping[str, Any]) -> Any:
    """The value of a knob, as the question itself would take it.

    Raises:
        BadArgument: it would not.
    """
    if name not in kinds:
        raise BadArgument(f"{question} has no {name}; expected its own knobs; see help({question})")
    try:
        return check_of(kinds[name])(value)
    except Refused as expected:
        raise BadArgument(f"{question} got {name}={shown(value)}; expected {expected}; give that") from None


# Passes by question.


def _runs(experiment: Experiment) -> float:
    """The clean run, and the vectors' runs: once for what comes out, once for what the nodes did."""
    return 2.0 * len(experiment.prompts) * (1 + len(experiment.vectors) * _from(experiment))


def _from(experiment: Experiment) -> float:
    """The share of a pass that runs behind the injection."""
    layers = experiment.model.n_layers
    return (layers - min(node.layer for node in experiment.reachable)) / layers


def _row(experiment: Experiment) -> float:
    """What patching one node on one prompt takes, mean over nodes."""
    layers = experiment.model.n_layers
    return float(np.mean([(layers - node.layer) / layers for node in experiment.reachable]))


def _single(experiment: Experiment, nodes: int) -> float:
    """Both measures of nodes one by one, for all vectors."""
    return 2 * nodes * _row(experiment) * len(experiment.prompts) * len(experiment.vectors)


def _exact(experiment: Experiment, knobs: Mapping[str, Any]) -> float:
    nodes, prompts = len(experiment.reachable), len(experiment.prompts)
    sets = (4 + SEARCH * 2 * nodes) * prompts * len(experiment.vectors) * _from(experiment)
    return _runs(experiment) + _single(experiment, nodes) + sets


def _screen(experiment: Experiment, knobs: Mapping[str, Any]) -> float:
    nodes, prompts = len(experiment.reachable), len(experiment.prompts)
    top = knobs.get("top") or max(LEAST_VERIFIED, ceil(SHARE_VERIFIED * nodes))
    verified = min(nodes, top + knobs["sample"])
    steps = {"ig": 8, "atp*": experiment.model.n_layers}.get(knobs["ranked_by"], 2)
    joint = 4 * prompts * len(experiment.vectors) * _from(experiment)
    return float(_runs(experiment) + BACKWARD * steps * prompts + _single(experiment, verified) + joint)


def _attribute(experiment: Experiment, knobs: Mapping[str, Any]) -> float:
    steps = {"ig": knobs["steps"], "atp*": experiment.model.n_layers}.get(knobs["method"], 2)
    estimates = BACKWARD * steps * len(experiment.prompts) * len(experiment.vectors)
    sampled = _single(experiment.fewer(0), min(knobs["sample"], len(experiment.reachable)))
    return float(_runs(experiment) + estimates + sampled)


def _shapley(experiment: Experiment, knobs: Mapping[str, Any]) -> float:
    coalitions = knobs["passes"] or 8 * len(knobs["nodes"] or experiment.reachable) + 2
    rows = coalitions * len(experiment.prompts) * len(experiment.vectors)
    return float(_runs(experiment) + rows * _from(experiment))


def _map_effect(experiment: Experiment, knobs: Mapping[str, Any]) -> float:
    """Every node by itself, then of each circuit other sets of its make, by two makes and two measures."""
    given, nodes = knobs.get("circuit", ""), len(experiment.reachable)
    circuits = len(given) if isinstance(given, list | tuple) else 1
    sets = knobs["sets"] if knobs["sets"] is not None else 200 if nodes <= 100 else 99
    alone = _runs(experiment) + _single(experiment, nodes)
    rows = 4 * (1 + sets) + 4 * knobs["paths"]
    return float(alone + circuits * rows * len(experiment.prompts) * _from(experiment))


FORMULAS: dict[str, Callable[[Experiment, Mapping[str, Any]], float]] = {
    "exact": _exact,
    "screen": _screen,
    "attribute": _attribute,
    "shapley": _shapley,
    "map_effect": _map_effect,
}


# Seconds and bytes.


def _pace(experiment: Experiment) -> float:
    """Seconds of one forward pass in a batch, from one batch of patched rows; the experiment keeps none of them."""
    alone = replace(experiment, references=0)
    by_length = sorted(range(len(alone.prompts)), key=lambda p: len(alone.prompts.full[p]))
    alone = replace(alone, prompts=alone.prompts.some([by_length[len(by_length) // 2]]))
    chosen = [alone.reachable[i] for i in np.linspace(0, len(alone.reachable) - 1, ROWS).round().astype(int)]
    patches, layers = alone.patches(None, alone.reachable), alone.model.n_layers
    # An edit of its own for each row: rows with the same edits would be one.
    variants = [Variant(0, (*alone.edits(0)[0], replace(patches[node][0]))) for node in chosen]
    alone.score(variants[:1])  # what is loaded and prepared once
    start = time.perf_counter()
    alone.score(variants)
    taken = time.perf_counter() - start
    return float(taken / sum((layers - node.layer) / layers for node in chosen))


def _memory(experiment: Experiment) -> int:
    """The largest batch that the engine would run, and what is kept of the clean run and of two vectors'."""
    model, prompts, scored = experiment.model, experiment.prompts.full, experiment.scored_positions.positions
    longest = max(range(len(prompts)), key=lambda p: len(prompts[p]))
    asked = [Variant(longest)] * min(2 * len(experiment.reachable) * len(prompts), MOST_ROWS)
    rows = len(next(chunked(model, prompts, asked, scored, experiment.reads, (), experiment.budget)))
    batch = working_set(model, rows, len(prompts[longest]), rows * len(scored[longest]), experiment.reads, ())
    outputs = model.n_layers * (model.n_heads * model.d_head + model.d_model)
    kept = sum(map(len, prompts)) * outputs + sum(map(len, scored)) * model.d_vocab_out
    return int(batch + 3 * kept * model.dtype.itemsize)
