"""`stress`: does a circuit survive steering? A verdict for each vector and coefficient, with its evidence.

1. Prompts x and counterfactuals x' are answered without steering and under every vector times every coefficient, in
   one call of the engine.
2. The circuit is measured unsteered and steered (`circuit_run`): the share of what the input decides that its edges,
   or nodes, explain.
3. Where the verdict depends on it, the circuit that works under steering is looked for on half of the prompts, and
   measured on the other half there and without steering.
4. The rule of `verdict` decides, by bounds of a bootstrap over groups of prompts, and by values alone.
5. Beside every vector stand random ones of its norms; beside the claimed circuit its rivals; beside all prompts those
   of each template.
6. A role's completeness is what is lost of the task when its nodes carry x' instead.

Source: Wang et al. 2022 (arXiv 2211.00593) for faithfulness, completeness and roles; arXiv 2606.06267 for transfer.
What it cannot see: how a circuit changes inside while it explains as much; circuits that depend on positions.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd

from steerscope.analysis.brief import brief, counted
from steerscope.analysis.errors import BadArgument, BadInjection
from steerscope.analysis.gate import Bytes, Count, Level, Seed, Share, Whole, Within, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.progress import track
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import Prompts
from steerscope.analysis.question.references import References
from steerscope.analysis.results.result import Result
from steerscope.analysis.tools.record import check, made_now, tolerance

from .circuit import Circuit
from .circuit_run import Ablation
from .conditions import Condition, Conditions, overlap
from .inside import edge_rows, look_rows, role_rows
from .library import circuit as named
from .masks import Mask, members
from .pairs import Answers, Pairs, opposed, pairs_of
from .searched import Units, claimed, headed
from .stress_columns import COLUMNS, MEASURES
from .task import TaskPrompts
from .verdict import F_0, F_0C, F_C, F_CC, Evidence, Explained, Judged, Thresholds, Weighed, asks, weighed

Claim = Circuit | str
Steering = Injection | Sequence[Injection]
Randoms = Annotated[int, Within(0, 1000)]
COEFFICIENTS = (0.25, 0.5, 1.0, 2.0, 4.0)
FOUND = "found here"
LEAST = 2  # prompts of a template that is judged by itself


@dataclass(frozen=True)
class _Vector:
    """What is injected, at coefficient 1.

    Attributes:
        beside: the vector that it is a random one beside; nothing of a real one.
    """

    name: str
    injections: tuple[Injection, ...]
    beside: str = ""

    def times(self, coefficient: float) -> tuple[Injection, ...]:
        return tuple(replace(one, coefficient=coefficient * one.coefficient) for one in self.injections)


@dataclass(frozen=True, eq=False)
class _Claimed:
    """A circuit as it is measured.

    Attributes:
        found: whether it was looked for on half of the prompts.
        unsteered: what it explains there.
    """

    circuit: Circuit | None
    mask: Mask
    unsteered: Explained

    @property
    def found(self) -> bool:
        return self.circuit is None

    @property
    def edges(self) -> bool:
        """Whether it claims edges, and not nodes."""
        return self.circuit is not None and self.circuit.level == "exact"

    @property
    def name(self) -> str:
        return FOUND if self.circuit is None else self.circuit.name


@gated
def stress(
    circuit: Claim | Sequence[Claim] | None,
    task: TaskPrompts | str | Sequence[Prompts],
    injections: Injection | Sequence[Injection] | Mapping[str, Steering],
    *,
    model: Model,
    coefficients: Sequence[float] = COEFFICIENTS,
    n: Count = 64,
    ask: bool = False,
    randoms: Randoms = 4,
    find: Literal["needed", "always", "never"] = "needed",
    keep: Share = 0.9,
    units: Units = "nodes",
    edges: Whole = 8,
    ablation: Ablation = "resample",
    thresholds: Thresholds | None = None,
    seed: Seed = 0,
    level: Level = 0.95,
    budget: Bytes | None = None,
) -> Result:
    """Whether a circuit survives steering, by vector and coefficient.

    Args:
        circuit: by name or as one; several: the first is the claim, the others its rivals. None for one of nodes that
            is found on half of the prompts.
        task: by name, the prompts that `st.task` makes, or clean and corrupted `Prompts` with targets and against.
        injections: one or several, each by itself; or by name, where several act together. They add.
        model: that is asked.
        coefficients: that each injection's own is multiplied by.
        n: pairs of prompts, of a task by name. ask: one that the model does not solve, too.
        randoms: random vectors of equal norms beside each.
        find: whether the circuit under steering is looked for where the verdict depends on it ("needed"), everywhere,
            or nowhere ("never": then nothing is found to be rerouted).
        keep: share of the task that a found circuit must explain, on the half that it is looked for on.
        units: whether found circuits are sets of nodes or of edges.
        edges: single claimed edges that are cut in every condition, the strongest.
        ablation: what stands in the place of what is left out: x' ("resample"), the mean over x', or nothing ("zero").
        thresholds: of the rule.
        seed: of prompts, random vectors, the split and the bootstrap.
        level: of intervals and bounds.
        budget: bytes that the engine may take; worked out by default.

    Returns:
        a `Result` of kind "stress": `verdicts`, `answers`, `roles`, `edges`, `looks`, `templates`; see `COLUMNS`.

    Raises:
        BadCircuit: no such circuit or task, one of another model, or a task that the model does not solve.
        BadPrompt: pairs of unequal length, or without answers.
        BadInjection: an injection that does not add, or that does not fit.
        BadArgument: no coefficients, or circuits or names given twice.
    """
    start = time.perf_counter()
    limits = thresholds or Thresholds()
    strengths = _strengths(coefficients)
    claims = _claims(circuit)
    for claim in claims:
        claim.of(model)
    vectors = _vectors(injections, model, randoms, seed)
    pairs = pairs_of(task, model, n, seed, ask, budget)
    asked = [(vector, c) for vector in vectors for c in strengths]
    unsteered, *answers = pairs.answers([(), *(vector.times(c) for vector, c in asked)], "answers")
    state = _State(pairs, unsteered, Conditions(pairs, ablation, keep, units, seed), limits, find, level, seed, edges)
    stand = state.claimed(claims)
    found = _Tables()
    for (vector, c), own in track(list(zip(asked, answers, strict=True)), "circuits under steering"):
        state.ask(found, vector, c, own, stand)
    state.ask_inside_unsteered(found, stand)
    gap = state.conditions.unsteered.runs.check()
    return Result(
        "stress",
        found.frames(),
        COLUMNS,
        {
            "model": model.describe(),
            "circuits": [_about(one, state) for one in stand],
            "task": {"name": pairs.name, "pairs": len(pairs), "groups": int(pairs.groups.max()) + 1}
            | {"hash": [pairs.clean.hash, pairs.corrupted.hash], "varied": pairs.varied, "opposed": state.opposed}
            | {"templates": len(set(pairs.template)), "measured": int(state.conditions.measured.sum())},
            "vectors": [
                {"name": one.name, "injections": [i.describe() for i in one.injections]}
                for one in vectors
                if not one.beside
            ],
            "coefficients": list(strengths),
            "randoms": randoms,
            "thresholds": vars(limits),
            "find": find,
            "keep": keep,
            "units": units,
            "ablation": ablation,
            "level": level,
            "seed": seed,
            "checks": [check("all edges give the whole run, none the counterfactual's", gap, 100 * tolerance(model))],
            "warnings": _warnings(stand, state),
            "missing": _missing(state, randoms),
            **made_now(start),
        },
    )


# What was given.


def _strengths(coefficients: Sequence[float]) -> tuple[float, ...]:
    found = tuple(dict.fromkeys(float(c) for c in coefficients if c))
    if not found:
        raise BadArgument(
            f"coefficients={list(coefficients)!r}; expected one or more that are not 0, which stands beside all of "
            "them anyway; give some"
        )
    return found


def _claims(given: Claim | Sequence[Claim] | None) -> list[Circuit]:
    several = [] if given is None else [given] if isinstance(given, Circuit | str) else list(given)
    made = [named(one) if isinstance(one, str) else one for one in several]
    names = [one.name for one in made]
    twice = next((name for name in names if names.count(name) > 1 or name == FOUND), None)
    if twice is not None or (given is not None and not made):
        what = "no circuit" if twice is None else f"the name {brief(repr(twice), 60)} twice, or one that is ours"
        raise BadArgument(
            f"circuit got {what}; expected circuits of different names, none of them {FOUND!r}; mend it, or give None"
        )
    return made


def _vectors(given: Any, model: Model, randoms: int, seed: int) -> list[_Vector]:
    """The real vectors, each with its random ones behind it."""
    if not isinstance(given, Mapping):
        several = [given] if isinstance(given, Injection) else list(given)
        labels = [brief(one.vector.label, 60) for one in several]
        given = {
            label if labels.count(label) < 2 else f"{label} ({n})": one
            for n, (label, one) in enumerate(zip(labels, several, strict=True), 1)
        }
    found: list[_Vector] = []
    for name, own in given.items():
        injections = (own,) if isinstance(own, Injection) else tuple(own)
        for one in injections:
            if one.operation != "add":
                raise BadInjection(
                    f"{brief(name, 60)} injects by {one.operation}; expected add, which does the same to a prompt and "
                    "to its counterfactual; add a vector"
                )
            one.check(model)
        if not injections:
            raise BadInjection(f"{brief(repr(name), 60)} holds no injection; expected one or more; give some")
        found.append(_Vector(name, injections))
        drawn = References((("isotropic", randoms),) if randoms else ()).draw(
            model, [one.vector for one in injections], seed
        )
        for number, others in enumerate(drawn, 1):
            pairs = zip(injections, others, strict=True)
            made = tuple(replace(one, vector=other) for one, other in pairs)
            found.append(_Vector(f"{name}: random {number}", made, name))
    names = [one.name for one in found]
    if not found or len(set(names)) < len(names):
        raise BadInjection(f"injections of {counted(len(found), 'vector')}; expected one or more, of different names")
    return found


# What is asked.


class _Tables:
    """Rows of all frames."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in COLUMNS}

    def add(self, frame: str, **values: Any) -> None:
        self.rows[frame].append(values)

    def frames(self) -> dict[str, pd.DataFrame]:
        made = {name: pd.DataFrame(rows, columns=list(COLUMNS[name])) for name, rows in self.rows.items()}
        for name in ("roles", "edges", "looks"):  # unsteered ones first
            made[name] = made[name].sort_values("coefficient", key=lambda c: c != 0, kind="stable", ignore_index=True)
        return made | {"looks": made["looks"].astype({"head": "Int64", "layer": "Int64"})}


@dataclass(eq=False)
class _State:
    """What all verdicts of a question share."""

    pairs: Pairs
    answers: Answers
    conditions: Conditions
    limits: Thresholds
    find: str
    level: float
    seed: int
    cut: int

    @property
    def opposed(self) -> bool:
        return opposed(self.answers, self.pairs.labels)

    def claimed(self, claims: Sequence[Circuit]) -> list[_Claimed]:
        """The circuits, measured without steering."""
        here = self.conditions.unsteered
        if not claims:
            return [_Claimed(None, here.found, here.explained([here.found], found=True)[0])]
        masks = [claimed(here.runs.contrast, claim) for claim in claims]
        measured = here.explained(masks)
        return [_Claimed(*one) for one in zip(claims, masks, measured, strict=True)]

    def ask(self, found: _Tables, vector: _Vector, c: float, answers: Answers, stand: Sequence[_Claimed]) -> None:
        """All rows of a vector and coefficient."""
        here = self.conditions.steered(vector.times(c))
        about = {"vector": vector.name, "beside": vector.beside, "coefficient": c}
        own = here.explained([one.mask for one in stand], found=stand[0].found)
        for number, (one, explained) in enumerate(zip(stand, own, strict=True)):
            told = about | {"circuit": one.name}
            evidence = self.evidence(answers, {F_0: one.unsteered, F_C: explained})
            weights = self.weigh(evidence)
            overlaps: dict[str, float] = {}
            if self.find == "always" or (self.find == "needed" and asks(weights)):
                evidence, overlaps = self.transferred(evidence, one, here)
                weights = self.weigh(evidence)
            found.add("verdicts", **told, **_said(weights), **_numbers(weights), **overlaps)
            if number == 0:
                self._answers(found, about, weights)
            if not vector.beside:
                self._templates(found, told, evidence)
                self._inside(found, told, one, here)

    def evidence(self, answers: Answers, explained: Mapping[str, Explained]) -> Evidence:
        return Evidence(
            self.pairs.labels,
            np.stack([self.answers.m, answers.m]),
            explained,
            np.stack([self.answers.neither, answers.neither]),
            self.pairs.varied,
            self.opposed,
            self.pairs.groups,
        )

    def weigh(self, evidence: Evidence) -> Weighed:
        return weighed(evidence, self.limits, level=self.level, seed=self.seed)

    def transferred(self, evidence: Evidence, one: _Claimed, here: Condition) -> tuple[Evidence, dict[str, float]]:
        """With the circuit that is found under steering, there and without, and how far circuits overlap."""
        there = self.conditions.unsteered
        new = here.found
        more = {F_CC: here.explained([new], found=True)[0], F_0C: there.explained([new], found=True)[0]}
        told = {"jaccard": overlap(one.mask, new, here), "jaccard_found": overlap(there.found, new, here)}
        told |= {"size": len(members(here.runs.contrast, new))}
        return replace(evidence, explained={**evidence.explained, **more}), told

    def _answers(self, found: _Tables, about: Mapping[str, Any], weights: Weighed) -> None:
        nothing = {"vector": "", "beside": "", "coefficient": 0.0}
        for number, told in ((1, about),) if found.rows["answers"] else ((0, nothing), (1, about)):
            for measure, names in MEASURES.items():
                name = names[number]
                low, high = weights.intervals.get(name, (0.0, 0.0))
                found.add("answers", **told, measure=measure, value=weights.values.get(name, 0.0), low=low, high=high)

    def _templates(self, found: _Tables, told: Mapping[str, Any], evidence: Evidence) -> None:
        names = self.pairs.template
        if len(set(names)) < 2:
            return
        for name in dict.fromkeys(names):
            chosen = np.array([one == name for one in names])
            if chosen.sum() >= LEAST:
                weights = self.weigh(evidence.where(chosen))
                kept = {key: value for key, value in _numbers(weights).items() if key in COLUMNS["templates"]}
                found.add("templates", **told, template=name, prompts=int(chosen.sum()), **_said(weights), **kept)

    def ask_inside_unsteered(self, found: _Tables, stand: Sequence[_Claimed]) -> None:
        for one in stand:
            told = {"vector": "", "beside": "", "coefficient": 0.0, "circuit": one.name}
            self._inside(found, told, one, self.conditions.unsteered)

    def _inside(self, found: _Tables, told: Mapping[str, Any], one: _Claimed, here: Condition) -> None:
        """Roles, edges and looks of a circuit in a condition."""
        about = {key: value for key, value in told.items() if key != "beside"}
        for row in role_rows(one.circuit, one.mask, one.edges, here, self.level):
            found.add("roles", **about, **row)
        for row in edge_rows(one.circuit, here, self.cut, self.level):
            found.add("edges", **about, **row)
        for row in look_rows(one.circuit, here, self.level):
            found.add("looks", **about, **row)


def _said(weights: Weighed) -> dict[str, str]:
    def told(judged: Judged, stem: str) -> dict[str, str]:
        return {stem: judged.verdict, "detail" if stem == "verdict" else f"{stem}_detail": judged.detail}

    return told(weights.judged, "verdict") | told(weights.point, "point") | {"why": "; ".join(weights.judged.why)}


def _numbers(weights: Weighed) -> dict[str, float]:
    """Values with their intervals, by column."""
    found: dict[str, float] = {}
    for column, name in NUMBERS.items():
        low, high = weights.intervals[name]
        found |= {column: weights.values[name], f"{column}_low": low, f"{column}_high": high}
    return found


NUMBERS = {"rho": "rho", "dB": "dB", "neither": "neither", "P": "P_c", "P_0": "P_0", "D": "D_c", "D_0": "D_0"}
NUMBERS |= {"B": "B_c", "B_0": "B_0", "F0": F_0, "Fc": F_C, "Fcc": F_CC, "F0c": F_0C}


# What the manifest says.


def _about(one: _Claimed, state: _State) -> dict[str, Any]:
    runs = state.conditions.unsteered.runs
    told: dict[str, Any] = {"name": one.name, "edges": int(one.mask.sum())}
    if one.circuit is None:
        nodes = list(map(str, members(runs.contrast, one.mask)))
        return told | {"level": state.conditions.units, "nodes": nodes}
    told |= {"level": "edges" if one.edges else "nodes", "nodes": [str(node) for node in one.circuit.nodes]}
    mlps = not one.edges and headed(one.circuit, runs.contrast.model)
    source = {"reported": dict(one.circuit.reported), "sources": list(one.circuit.sources)}
    return told | {"mlps": mlps, "confidence": one.circuit.confidence} | source


def _warnings(stand: Sequence[_Claimed], state: _State) -> list[str]:
    said = []
    for one in stand:
        share = np.nanmean(one.unsteered.part) / np.nanmean(one.unsteered.whole)
        if np.isfinite(share) and not state.limits.explains <= share <= 2 - state.limits.explains:
            said.append(
                f"Without steering the circuit {one.name} explains {max(share, 0):.0%} of what the input decides here, "
                f"by {state.conditions.ablation} ablation: what is said of it under steering is said of a claim that "
                "does not hold well without."
            )
    return said


def _missing(state: _State, randoms: int) -> dict[str, str]:
    found = {}
    if int(state.pairs.groups.max()) < 1:
        found["intervals"] = "one group of prompts gives no interval, and nothing can be judged by bounds; give others"
        found["split"] = "one group of prompts cannot be split: circuits are looked for and measured on the same"
    if not randoms:
        found["randoms"] = "run with randoms=0: verdicts stand without random vectors beside them"
    if len(set(state.pairs.template)) < 2:
        found["templates"] = "prompts of one template, or of none that is known"
    if state.find == "never":
        found["transfer"] = "run with find='never': no circuit was looked for under steering"
    return found
