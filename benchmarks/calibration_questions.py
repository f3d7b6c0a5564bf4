"""Every other question with a random vector as the injection, sweeps, and what pages say of it in words.

A question works out its effects for many random vectors once; then each of them plays the injection among the others,
through the very call that its table is made with.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.calibration_pool import asked, drawn, model, prompts, vector
from benchmarks.calibration_rows import ALPHA, Cell, Row, Size, rates
from benchmarks.calibration_vectors import said
from steerscope.analysis.carriers import attribute, effect_table, shapley
from steerscope.analysis.carriers.exact import exact
from steerscope.analysis.carriers.screen import screen
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.effects import Statistics, estimates, partial_estimates
from steerscope.analysis.results.verdicts import LEAST, TOLD, Basis
from steerscope.analysis.routes import by_position, edges, path_effect, self_repair
from steerscope.analysis.sweeps import tables
from steerscope.analysis.sweeps.rows import Rows
from steerscope.analysis.sweeps.units import of_node
from steerscope.analysis.vectors.random import random_like

Values = NDArray[np.float64]
SMALL = "tinystories-1l"  # where a question is asked whole
FEW = 5  # prompts of these
SOME = 12  # references of a vector
Ask = Callable[[Experiment], Any]


def rows(size: Size) -> list[Row]:
    """All lines about other questions, sweeps and words."""
    return [*_questions(size), *_sweeps(size), *_words(size)]


def _nodes(experiment: Experiment) -> list[str]:
    """Some heads and the last MLP."""
    heads = [str(node) for node in experiment.reachable if node.head is not None]
    return [*heads[:3], str(experiment.model.nodes[-1])]


QUESTIONS: dict[str, tuple[Any, str, Ask]] = {
    "edges": (edges, "estimates", lambda e: edges.edges(e, verify=1, sample=2, references_at_most=99)),
    "by_position": (
        by_position,
        "partial_estimates",
        lambda e: by_position.by_position(e, nodes=_nodes(e), references_at_most=99),
    ),
    "self_repair": (
        self_repair,
        "estimates",
        lambda e: self_repair.self_repair(e, nodes=_nodes(e), references_at_most=99),
    ),
    "path_effect": (
        path_effect,
        "estimates",
        lambda e: path_effect.path_effect(e, ["injection", *_nodes(e)[:-1]], ["logits"]),
    ),
    "shapley": (
        effect_table,
        "estimates",
        lambda e: shapley.shapley(e, nodes=_nodes(e), interactions=False, references_at_most=99),
    ),
    "attribute": (effect_table, "estimates", lambda e: attribute.attribute(e, sample=2)),
}


def _questions(size: Size) -> list[Row]:
    real, *others = drawn(SMALL, "isotropic", size.of, seed=7)
    lines = []
    for name, (home, function, ask) in QUESTIONS.items():
        found = recorded(home, function, lambda ask=ask: ask(asked(SMALL, real, FEW, others)))  # type: ignore[misc]
        # By vector, the share of the tables in which it is told.
        hits = np.mean([played(*call, seed=size.of) for call in found], axis=0)
        where = "random vector, among random vectors"
        lines.append(rates(f"any row of a table of {name} told", where, [("", float(hits.mean()), len(hits))]))
    return lines


def recorded(home: Any, function: str, ask: Callable[[], Any]) -> list[tuple[Callable[..., Any], Any, Any, Any, Any]]:
    """The calls of a function of results that a question makes: the function, basis, effects of all vectors, and the
    rest.
    """
    original: Callable[..., Any] = {"estimates": estimates, "partial_estimates": partial_estimates}[function]
    calls: list[tuple[Callable[..., Any], Any, Any, Any, Any]] = []

    def kept(basis: Basis, values: Values, own: Values, *rest: Any, **more: Any) -> Any:
        calls.append((original, basis, own, rest, more))
        return original(basis, values, own, *rest, **more)

    with patch.object(home, function, kept):
        ask()
    return calls


def played(function: Callable[..., Any], basis: Basis, own: Values, rest: Any, more: Any, seed: int) -> list[bool]:
    """Whether anything is told in a table when each vector in turn plays the injection, some of the others its
    references.
    """
    generator, told = np.random.default_rng(seed), []
    for v in range(len(own)):
        others = generator.permutation([other for other in range(len(own)) if other != v])[:SOME]
        order = [v, *others.tolist()]
        families = ("", *["isotropic"] * len(others))
        turned = replace(basis, total=basis.own[v], own=basis.own[order], families=families)
        found = function(turned, own[v], own[order], *rest, **more)
        told.append(bool(np.isin(found["verdict"].astype(str), TOLD).any()))
    return told


def _sweeps(size: Size) -> list[Row]:
    """A response that saturates, with nodes that do nothing; and a random vector among random vectors."""
    tries = max(10, size.draws // 8)
    settings = {"k = 1 to 4": (1, 4), "k = 3 alone": (3, 3)}
    inert, p, random = [], [], []
    for name, k in settings.items():
        tables_ = [_swept(seed, k, inert=8) for seed in range(tries)]
        idle = [table[table["node"].isin(_names(2, 8))] for table in tables_]
        inert.append((name, float(np.mean([one["verdict"].isin(TOLD).any() for one in idle])), tries))
        p.append((name, float(np.mean([(one["p"] < ALPHA).mean() for one in idle])), tries))
        all_ = [_swept(seed, k, inert=0) for seed in range(tries)]
        random.append((name, float(np.mean([one["verdict"].isin(TOLD).any() for one in all_])), tries))
    where = "sweep, saturating response, 2 active and 8 inert nodes"
    return [
        rates("an inert node's contribution is not zero", where, p, "nodes a trial"),
        rates("any inert node told from noise", where, inert, "nodes a trial"),
        rates("any node told from noise", "sweep, random vector, saturating response", random, "nodes a trial"),
    ]


def _names(first: int, count: int) -> list[str]:
    return [str(node) for node in model("tinystories-2l").nodes[first : first + count]]


def _swept(
    seed: int, k: tuple[int, int], inert: int, active: int = 2, prompts_: int = 12, each: int = 96
) -> pd.DataFrame:
    """The rows `effect` of a sweep's table, over made-up trials; half of them of 12 random vectors."""
    generator = np.random.default_rng(seed)
    units = active + inert if inert else 10
    carry = generator.lognormal(0.0, 0.4, size=(13, prompts_, units))  # by vector: the real one is one of them
    carry *= generator.lognormal(0.0, 0.4, size=(13, 1, units)) * np.linspace(0.3, 1.5, units)
    if inert:
        carry[:, :, active:] = 0.0
        carry[0, :, :active] *= 2.0
    trials = prompts_ * each
    prompt = np.repeat(np.arange(prompts_), each)
    number = generator.integers(k[0], k[1] + 1, trials)
    x = generator.random((trials, units)).argsort(axis=1).argsort(axis=1) < number[:, None]
    who = np.where(np.arange(trials) % 2 == 0, 0, generator.integers(1, 13, trials))
    noise = 0.05 * generator.normal(size=trials)
    y = np.tanh((x * carry[who, prompt]).sum(axis=1)) + noise
    whole = np.tanh(carry[who, prompt].sum(axis=1))
    four = np.column_stack([y, y * y, 0.1 * y * y, y])
    wholes = np.column_stack([whole, whole * whole, 0.1 * whole * whole, whole])
    nothing, ones = np.zeros(trials, dtype=np.int64), np.ones(trials)
    nodes = [of_node(node) for node in model("tinystories-2l").nodes[:units]]
    rows_ = Rows(x, four, wholes, prompt, number, nothing, nothing, ones, who - 1, ones, ones, prompt, nodes, "any")
    found = tables.nodes(tables.Table(rows_, nodes, Statistics(), "logits"))
    return found[found["outcome"] == "effect"]


def _words(size: Size) -> list[Row]:
    """Whole runs: a random vector, one prompt, copies of a prompt; what the table and the sentences claim."""
    told: dict[str, list[float]] = {"exact": [], "screen": []}
    claims: dict[str, list[bool]] = {"exact": [], "screen": []}
    concentrated = []
    for run in range(size.runs):
        real = random_like(vector(SMALL), 500 + run)
        experiment = asked(SMALL, real, FEW, f"isotropic:{SOME}", seed=run)
        quiet = exact(experiment, completions=0, writers=False, attention=False)
        for name, result in (("exact", quiet), ("screen", screen(experiment))):
            table = result.frames["effects"]
            told[name].append(said(table, TOLD))
            claims[name].append(claimed(result.summary(), set(table["node"])))
        concentrated.append(any(f"{way} concentrated than" in s for s in quiet.summary() for way in ("more", "less")))
    lines = [
        rates(
            f"any node of a table of {name} told",
            "random vector, whole run",
            [("", float(np.mean(told[name])), size.runs)],
        )
        for name in told
    ] + [
        rates(
            f"a node named as specific, beyond or less in the summary of {name}",
            "random vector, whole run",
            [("", float(np.mean(claims[name])), size.runs)],
        )
        for name in claims
    ]
    cells = [("", float(np.mean(concentrated)), size.runs)]
    # By two measures, each at the stated level.
    lines.append(
        rates("called more or less concentrated in the summary", "random vector, whole run", cells, stated=2 * ALPHA)
    )
    for name, count in (("one prompt", 1), ("12 copies of one prompt", 12)):
        one = make_prompts(model(SMALL), [prompts(SMALL, 1).texts[0]] * count)
        result = exact(
            replace(asked(SMALL, vector(SMALL), 1, LEAST), prompts=one), completions=0, writers=False, attention=False
        )
        table = result.frames["effects"]
        some = (
            (table["verdict"] != "untested") | np.isfinite(table["low"]) & (table["low"] != 0) | (table["p_holm"] < 1)
        )
        lines += [
            Row(
                "a verdict, an interval or a p below 1",
                f"a concept, {name}",
                "never",
                (Cell("", float(some.mean()), len(table)),),
            ),
            Row(
                "a node named as specific, beyond or less in the summary",
                f"a concept, {name}",
                "never",
                (Cell("", float(claimed(result.summary(), set(table["node"]))), 1),),
            ),
        ]
    return lines


CLAIMS = ("Specific to ", "Beyond ", "Less than of ")


def claimed(sentences: Sequence[str], nodes: set[str]) -> bool:
    """Whether a sentence names a node as something that it is not for a random vector: specific, beyond or less."""
    return any(sentence.startswith(CLAIMS) and any(node in sentence for node in nodes) for sentence in sentences)
