"""Designs: what each kind draws, and that a trial depends on nothing but the seed and its number."""

from collections import Counter
from typing import Any

import pytest
from scipy import stats

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.sweeps.design import KINDS, Design
from steerscope.analysis.sweeps.units import Unit, of_node

UNITS = [of_node(Node(layer, head)) for layer in range(4) for head in (0, 1, 2, None)]  # 4 layers of 3 heads and an MLP


def design(trials: int = 400, prompts: int = 10, **more: Any) -> Design:
    if isinstance(more.get("k"), int):
        more["k"] = (more["k"], more["k"])
    made = Design(trials=trials, prompts=prompts, **more)
    made.check(UNITS)
    return made


def layers(units: tuple[int, ...]) -> list[int]:
    return [UNITS[i].layer for i in units]


def test_a_trial_depends_on_the_seed_and_its_number_alone() -> None:
    forward = [design(seed=7).trial(i, UNITS) for i in range(400)]
    backward = [design(seed=7).trial(i, UNITS) for i in reversed(range(400))]
    assert forward == backward[::-1]
    longer = design(trials=100_000, seed=7, visit=design().visit)
    assert [longer.trial(i, UNITS) for i in range(400)] == forward
    assert [design(seed=8).trial(i, UNITS).units for i in range(400)] != [t.units for t in forward]


def test_the_numbers_of_a_seed_never_change() -> None:
    drawn = [design(seed=3, kinds=KINDS, k=(1, 3)).trial(i, UNITS) for i in (0, 1, 3, 17, 100, 399)]
    assert [(t.kind, t.units, t.control) for t in drawn] == [
        ("vertical", (10, 14), -1),
        ("vertical", (10, 14), 5),
        ("horizontal", (12, 14), 5),
        ("uniform", (1, 6, 7), 5),
        ("uniform", (2, 8), -1),
        ("stratified", (7, 10), 14),
    ]


def test_uniform_sets_have_every_size_and_every_node_equally_often() -> None:
    made = design(trials=8000, k=(1, 4), controls=0)
    sets = [made.trial(i, UNITS).units for i in range(8000)]
    assert all(len(set(s)) == len(s) and list(s) == sorted(s) for s in sets)
    assert stats.chisquare(list(Counter(map(len, sets)).values())).pvalue > 0.001
    counts = Counter(unit for s in sets for unit in s)
    assert len(counts) == len(UNITS) and stats.chisquare(list(counts.values())).pvalue > 0.001


def test_horizontal_sets_stay_in_one_layer_and_vertical_ones_take_one_node_a_layer() -> None:
    across = design(kinds=("horizontal",), k=3)
    assert all(len(set(layers(across.trial(i, UNITS).units))) == 1 for i in range(400))
    along = design(kinds=("vertical",), k=3)
    assert all(len(set(layers(along.trial(i, UNITS).units))) == 3 for i in range(400))


@pytest.mark.parametrize(("spacing", "k", "step"), [("consecutive", 3, 1), ("2", 2, 2)])
def test_vertical_layers_are_spaced_as_asked(spacing: str, k: int, step: int) -> None:
    made = design(kinds=("vertical",), k=k, spacing=spacing)
    found = {tuple(layers(made.trial(i, UNITS).units)) for i in range(400)}
    starts = {row[0] for row in found}
    assert found == {tuple(s + step * i for i in range(k)) for s in starts} and len(starts) == 2


def test_stratified_sets_spread_over_layers_and_kinds() -> None:
    made = design(kinds=("stratified",), k=10)
    for i in range(200):
        strata = Counter((UNITS[u].layer, UNITS[u].kind) for u in made.trial(i, UNITS).units)
        assert len(strata) == 8  # every stratum has one, the two others fell on heads
        assert all(n == 1 for (_, kind), n in strata.items() if kind == "mlp")


@pytest.mark.parametrize("kind", ["uniform", "stratified", "horizontal"])
def test_antithetic_trials_are_the_complements_of_those_before_them(kind: str) -> None:
    made = design(kinds=(kind,), antithetic=True, k=(1, 3))
    for i in range(0, 200, 2):
        first, second = made.trial(i, UNITS), made.trial(i + 1, UNITS)
        assert second.antithetic and not first.antithetic and first.control == second.control
        everything = set(range(len(UNITS)))
        if kind == "horizontal":
            everything = {u for u in everything if UNITS[u].layer == layers(first.units)[0]}
        assert set(first.units) | set(second.units) == everything
        assert not set(first.units) & set(second.units)


@pytest.mark.parametrize("antithetic", [False, True])
def test_a_control_has_the_nodes_prompt_and_coefficient_of_a_real_trial(antithetic: bool) -> None:
    made = design(trials=1600, coefficients=(1.0, 2.0), antithetic=antithetic, k=(1, 3))
    trials = [made.trial(i, UNITS) for i in range(1600)]
    controls = [t for t in trials if t.control >= 0]
    assert len(controls) == 800
    back = 2 if antithetic else 1
    for t in controls:
        twin = trials[t.index - back]
        assert twin.control == -1
        assert (twin.units, twin.prompt, twin.coefficient) == (t.units, t.prompt, t.coefficient)
    assert {t.control for t in controls} == set(range(20))
    by_visit = {(t.visit, t.control) for t in controls}
    assert len(by_visit) == made.visits  # one random vector a visit


def test_every_random_vector_meets_every_coefficient_and_as_many_prompts() -> None:
    made = design(trials=40 * 60 * 4, prompts=60, coefficients=(1.0, 2.0, 4.0), visit=4)
    of = [made.control_of(visit) for visit in range(made.visits)]
    assert set(Counter(of).values()) == {len(of) // 20}
    assert len({(c, made.of_visit(v)[2]) for v, c in enumerate(of)}) == 20 * 3
    prompts = [len({made.of_visit(v)[0] for v, c in enumerate(of) if c == vector}) for vector in range(20)]
    assert min(prompts) > 40


def test_every_prompt_meets_every_vector_and_coefficient() -> None:
    made = design(trials=4 * 3 * 2 * 10 * 5, coefficients=(1.0, 2.0, 4.0), vectors=2, visit=4)
    visits = [made.of_visit(v) for v in range(made.visits)]
    assert set(Counter(visits).values()) == {5} and len(set(visits)) == 10 * 2 * 3
    first_round = Counter(visit[1:] for visit in visits[:10])
    assert max(first_round.values()) - min(first_round.values()) <= 1


def test_with_mixed_vectors_every_node_draws_its_own() -> None:
    made = design(mixed=True, vectors=3, k=4)
    drawn = [made.trial(i, UNITS).vectors for i in range(200)]
    assert set(map(len, drawn)) == {4} and {v for row in drawn for v in row} == {0, 1, 2}
    assert any(len(set(row)) > 1 for row in drawn)
    assert made.of_visit(0)[1] is None


def test_a_visit_holds_whole_groups_and_short_runs_still_see_many_prompts() -> None:
    assert design(trials=100, prompts=25).visit == 4
    assert design(trials=100_000, prompts=200).visit == 32
    assert design(trials=800, prompts=10, antithetic=True, k=1).visit % 8 == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kinds": ("diagonal",)}, "unknown design"),
        ({"k": (0, 2)}, "from 1 to"),
        ({"k": (3, 2)}, "turn it round"),
        ({"k": 17}, "room for 16"),
        ({"k": 5, "kinds": ("horizontal",)}, "room for 4"),
        ({"k": 5, "kinds": ("vertical",)}, "room for 4"),
        ({"k": 3, "kinds": ("vertical",), "spacing": "2"}, "room for 2"),
        ({"kinds": ("vertical",), "antithetic": True}, "no complement"),
        ({"spacing": "wide"}, "expected any, consecutive"),
        ({"spacing": "²"}, "expected any, consecutive"),
        ({"spacing": "9" * 5000}, "expected any, consecutive"),
        ({"mixed": True}, "two or more"),
        ({"coefficients": ()}, "at least one of each"),
        ({"coefficients": (1.0, float("nan"))}, "a finite number"),
        ({"coefficients": (10**400,)}, "a finite number"),
        ({"control_every": 1}, "from 2 to"),
        ({"controls": -1}, "from 0 to"),
        ({"controls": 10**6}, "from 0 to"),
        ({"visit": -4}, "from 0 to"),
        ({"visit": 10**6}, "from 0 to"),
        ({"seed": -1}, "from 0 to"),
        ({"trials": 0}, "trials=0"),
        ({"trials": True}, "trials=True"),
        ({"trials": 2**63}, "trials=9223372036854775808"),
        ({"trials": 10**9 + 1}, "from 1 to 1,000,000,000"),
    ],
)
def test_a_design_that_cannot_be_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(BadArgument, match=words):
        design(**arguments)


def test_a_unit_has_the_layer_of_its_site() -> None:
    assert isinstance(UNITS[5], Unit) and UNITS[5].layer == 1
