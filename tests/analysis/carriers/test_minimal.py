"""The growing set against plain passes, planted truth and small games, and the search for its order."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.planted import OTHER, TARGET, plant
from steerscope.analysis.carriers.minimal import MINIMAL, _drawn, _halves, _Joint, _orders, _reached, _sizes, minimal
from steerscope.analysis.carriers.order import ENOUGH, search
from steerscope.analysis.engine.plain import plain_logits
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import log_prob
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.tools.patching import MEASURES, effects, together
from steerscope.analysis.vectors.prompt_pair import prompt_pair

OPTIONS = Statistics()


def found(experiment: Experiment) -> tuple[pd.DataFrame, dict[str, Any]]:
    raw = effects(experiment)
    return minimal(experiment, raw.along, raw.nodes, OPTIONS, own=raw.own)


def rows(table: pd.DataFrame, measure: str, name: str) -> pd.DataFrame:
    return table[(table["measure"] == measure) & (table["set"] == name)].set_index("size")


def test_shares_equal_plain_passes_with_all_the_edits_at_once(tiny: Model) -> None:
    """Three prompts, so nobody is held out and best is what all prompts chose; the shares of best and of the rest."""
    texts = ["One day Lily saw a dragon near the ship", "Tom had a red ball", "There was a wedding near the"]
    target = tiny.single_token(" wedding")
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 1), 3.0)
    prompts = make_prompts(tiny, texts, groups=["one"] * 3)
    asked = Experiment(tiny, (injection,), prompts, log_prob([target]), references=2)
    table, about = found(asked)
    assert not about["halved"]
    nodes = {str(node): node for node in asked.reachable}
    for measure in MEASURES:
        order = rows(table, measure, "chosen")["node"].tolist()
        sources = asked.patches(None if measure == "necessity" else 0, asked.reachable)
        for name in ("best", "rest"):
            for size in (1, 3):
                members = [nodes[n] for n in order[:size]]
                members = members if name == "best" else [n for n in asked.reachable if n not in members]
                changes, wholes = [], []
                for p, ids in enumerate(asked.prompts.ids):
                    at, steering = list(asked.scored_positions.positions[p]), list(asked.edits(0)[p])
                    edits = [sources[node][p] for node in members]

                    def metric(edits: Any, ids: Any = ids, at: Any = at) -> float:
                        logits = plain_logits(tiny, ids, edits)[at]
                        return logits.log_softmax(-1)[:, target].mean().item()

                    clean, steered = metric([]), metric(steering)
                    lost = steered - metric([*steering, *edits])
                    changes.append(lost if measure == "necessity" else metric(edits) - clean)
                    wholes.append(steered - clean)
                share = np.mean(changes) / np.mean(wholes)
                assert rows(table, measure, name)["share"][size] == pytest.approx(share, rel=3e-4, abs=3e-4)


def test_one_node_has_its_single_share_and_all_nodes_what_all_have_together(tiny: Model, stories: list[str]) -> None:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 0), 3.0)
    asked = Experiment(tiny, (injection,), make_prompts(tiny, stories, groups=["one"] * len(stories)), references=0)
    raw = effects(asked)
    table, _ = minimal(asked, raw.along, raw.nodes, OPTIONS)
    joint = together(asked, [(m, raw.nodes) for m in MEASURES]).mean(-1) / asked.effect().mean()
    for m, measure in enumerate(MEASURES):
        first, best = rows(table, measure, "chosen")["node"][1], rows(table, measure, "best")["share"]
        single = raw.along[m, [str(n) for n in raw.nodes].index(first)].mean() / asked.effect().mean()
        assert best[1] == pytest.approx(single, abs=1e-5)
        assert best[len(raw.nodes)] == pytest.approx(joint[m], abs=1e-5)
        assert rows(table, measure, "rest")["share"][len(raw.nodes)] == 0


@pytest.mark.parametrize(("case", "size"), [("direct", 1), ("mlp", 1), ("backup", 2), ("suppressor", 1)])
def test_planted_carriers_are_the_set_and_without_them_random_nodes_do_nothing(case: str, size: int) -> None:
    """Of the backup no single node is necessary; the two heads are, jointly, and no order of single effects sees it."""
    planted = plant(case, layers=3, prompts=8)
    table, about = found(planted.experiment)
    assert about["reached"]["necessity"]["size"] == size
    names = set(rows(table, "necessity", "chosen")["node"][:size])
    assert names <= {str(node) for node in planted.roles}
    assert rows(table, "necessity", "best")["share"][size] > 0.99
    if case == "backup":
        assert rows(table, "necessity", "own")["share"][2] < 0.05
    if case == "direct":
        assert rows(table, "necessity", "rest")["share"][1] == pytest.approx(0, abs=0.02)
        assert rows(table, "necessity", "own")["share"][1] > 0.95
        assert rows(table, "necessity", "random")["share"][1] < 0.7  # one of six is the carrier itself


def test_with_the_metric_negated_shares_are_the_same() -> None:
    asked = plant("suppressor", idle=2, prompts=8).experiment
    turned = replace(asked, metric=log_prob([OTHER], [TARGET]))
    assert turned.effect().mean() < 0 < asked.effect().mean()
    tables = [found(one)[0] for one in (asked, turned)]
    for name in ("best", "rest", "random"):
        one, other = (rows(table, "necessity", name)[["share", "low", "high"]] for table in tables)
        assert one.to_numpy() == pytest.approx(other.to_numpy(), abs=1e-4, nan_ok=True)


def test_every_prompt_is_measured_by_an_order_that_it_had_no_part_in() -> None:
    asked = plant("direct", layers=3).experiment
    halves = _halves(asked.prompts.by_group)
    singles = effects(asked).along
    places = np.arange(len(asked.reachable))
    _, before = _orders(_Joint(asked, 0), "necessity", singles, places, halves, 0)
    other = singles.copy()
    other[:, :, halves == 0] = -singles[:, :, halves == 0]
    _, after = _orders(_Joint(asked, 0), "necessity", other, places, halves, 0)
    moved = [b != a for b, a in zip(before, after, strict=True)]
    assert moved == [half == 1 for half in halves]


def test_halves_keep_groups_whole_and_are_about_equal() -> None:
    groups = np.array([0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 4])
    halves = _halves(groups)
    assert all(len(set(halves[groups == g])) == 1 for g in groups)
    assert abs(2 * halves.sum() - len(groups)) <= 1
    assert not _halves(np.array([0, 1, 1, 2])).any()  # too few to choose with


def test_random_sets_have_as_many_heads_and_mlps_of_each_layer_and_are_missing_where_there_is_no_other() -> None:
    asked = plant("mlp", layers=3).experiment
    joint, nodes = _Joint(asked, 0), asked.reachable
    heads = [n for n, node in enumerate(nodes) if node.head is not None]
    mlp = next(n for n, node in enumerate(nodes) if node.head is None)
    order = [mlp, heads[0], heads[1], heads[-1]]
    drawn = _drawn(joint, "necessity", [order] * len(asked.prompts), [1, 2, 4], 5, 0)
    assert np.isnan(drawn[0]).all() and np.isfinite(drawn[1:]).all()
    sets = {members for _, _, members in joint._known}
    assert len(sets) > 3

    def profile(members: Sequence[int]) -> list[tuple[int, str]]:
        return sorted((nodes[n].layer, nodes[n].kind) for n in members)

    wanted = [profile(order[:k]) for k in (2, 4)]
    assert all(profile(sorted(members)) in wanted for members in sets)


def test_there_is_no_curve_of_an_effect_that_is_not_told_from_zero(tiny: Model, stories: list[str]) -> None:
    nothing = Injection(prompt_pair(tiny, " wedding", " ship", 0), 0.0)
    table, about = found(Experiment(tiny, (nothing,), make_prompts(tiny, stories), references=1))
    assert table.empty and list(table) == list(MINIMAL) and "zero" in str(about["missing"])
    asked = plant("direct", layers=2, prompts=4).experiment
    asked._runs.fact("effect", 0, lambda: np.array([5.0, -4.0, 4.0, -5.1]))
    table, about = minimal(asked, np.ones((2, len(asked.reachable), 4)), asked.reachable, OPTIONS)
    assert table.empty and "not told from zero" in about["missing"]


def test_one_prompt_has_a_curve_without_an_interval() -> None:
    table, about = found(plant("direct", layers=2, prompts=1).experiment)
    best = rows(table, "necessity", "best")
    assert best["share"][1] == pytest.approx(1, abs=0.02) and best[["low", "high"]].isna().all(axis=None)
    assert about["reached"]["necessity"] == {"size": 1.0, "low": None, "high": None}
    assert not about["halved"]


def test_a_vector_is_compared_with_others_by_the_same_rule() -> None:
    """Played by a reference, the real vector has the reference's own curve."""
    asked = plant("relay", layers=2, idle=2, prompts=8, references=5).experiment
    raw = effects(asked)
    table, about = minimal(asked, raw.along, raw.nodes, OPTIONS, own=raw.own, vectors=1)
    assert about["vectors"] == {"noise": 1, "meaning": 0} and "noise_p" not in about["concentration"]["necessity"]
    other = replace(asked, injections=asked.steering[1])
    other_raw = effects(other)
    played, _ = minimal(other, other_raw.along, other_raw.nodes, OPTIONS, own=other_raw.own, vectors=1)
    for measure in MEASURES:
        one, same = rows(table, measure, "own_noise")["share"], rows(played, measure, "own")["share"]
        assert one.tolist() == pytest.approx(same.tolist(), abs=1e-4)
    _, about = minimal(asked, raw.along, raw.nodes, OPTIONS, own=raw.own)
    assert 0 <= about["concentration"]["necessity"]["noise_p"] <= 1 and about["vectors"]["noise"] == 4


def test_reached_is_the_first_size_with_enough_and_its_interval_holds_it() -> None:
    generator = np.random.default_rng(0)
    curve = np.array([0.5, 0.79, 0.82, 1.0])[:, None] * 10 + generator.normal(size=(4, 12))
    curve += 0.3 - curve.mean(axis=1, keepdims=True) + np.array([5.0, 7.9, 8.2, 10.0])[:, None] - 0.3
    found = _reached(curve, np.full(12, 10.0), np.arange(12), [1, 2, 3, 4], 0.95)
    low, high = found["low"], found["high"]
    assert found["size"] == 3 and low is not None and high is not None and 2 <= low <= 3 <= high <= 4
    never = _reached(curve / 2, np.full(12, 10.0), np.arange(12), [1, 2, 3, 4], 0.95)
    assert never == {"size": None, "low": None, "high": None}


def test_sizes_are_dense_first_then_geometric_and_end_with_all() -> None:
    assert _sizes(3) == [1, 2, 3]
    assert _sizes(240) == [*range(1, 17), 24, 32, 48, 64, 96, 128, 192, 240]


class Game:
    """Shares of sets, counted."""

    def __init__(self, value: Callable[[frozenset[int]], float]) -> None:
        self.value, self.asked = value, 0

    def __call__(self, sets: Sequence[Sequence[int]]) -> Any:
        self.asked += len(sets)
        return np.array([self.value(frozenset(members)) for members in sets])

    def singles(self, nodes: int) -> Any:
        return np.array([self.value(frozenset([n])) for n in range(nodes)])


def smallest(game: Game, nodes: int) -> int:
    every = (frozenset(c) for k in range(1, nodes + 1) for c in combinations(range(nodes), k))
    return next(len(members) for members in every if game.value(members) >= ENOUGH)


def reached(game: Game, order: list[int]) -> int:
    return next(k for k in range(1, len(order) + 1) if game.value(frozenset(order[:k])) >= ENOUGH)


def test_where_nodes_add_up_the_order_is_that_of_single_effects() -> None:
    weights = np.random.default_rng(0).dirichlet(np.full(12, 0.5))
    game = Game(lambda members: sum(weights[n] for n in members))
    assert search(game, weights, weights, 10_000) == np.argsort(-weights, kind="stable").tolist()


def test_where_nodes_stand_in_for_each_other_the_second_of_a_kind_comes_late() -> None:
    """Kinds of three copies each: single effects take copies first, the search one of each kind."""
    weights = np.repeat([0.5, 0.3, 0.2], 3)

    def value(members: frozenset[int]) -> float:
        return float(sum({n // 3: weights[n] for n in members}.values()))

    game = Game(value)
    order = search(game, weights, weights, 1000)
    assert reached(game, order) == smallest(game, 9) == 2
    assert reached(game, np.argsort(-weights, kind="stable").tolist()) == 4


def test_what_became_needless_is_dropped() -> None:
    """The strongest node alone does nothing that the other two together do not."""
    table = {frozenset([0]): 0.5, frozenset([1]): 0.4, frozenset([2]): 0.4, frozenset([1, 2]): 0.9}
    game = Game(lambda m: 1.0 if len(m) > 3 else table.get(m, 0.9 if {1, 2} <= m else 0.55 if 0 in m else 0.1))
    order = search(game, game.singles(5), game.singles(5), 1000)
    assert set(order[:2]) == {1, 2} and reached(game, order) == smallest(game, 5)


def test_the_search_stays_within_its_budget_and_without_one_keeps_the_given_order() -> None:
    generator = np.random.default_rng(1)
    noise: dict[frozenset[int], float] = {}
    game = Game(lambda m: noise.setdefault(m, float(generator.normal())))
    singles = generator.normal(size=40)
    for budget in (0, 1, 7, 50, 400):
        game.asked = 0
        order = search(game, singles, singles[::-1], budget)
        assert sorted(order) == list(range(40)) and game.asked <= budget
    assert search(game, singles, singles, 0) == np.argsort(-singles, kind="stable").tolist()
