"""Patching by position against plain passes, the names of places, and how heads read."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from questions import one
from reference import plain_pass

from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.errors import BadArgument, BadNode
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node, Site, parse_node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import kl, log_prob, own_direction
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.stats import prediction_p
from steerscope.analysis.results.verdicts import TOLD
from steerscope.analysis.routes.by_position import COLUMNS, by_position
from steerscope.analysis.tools import strongest as chosen_module
from steerscope.analysis.tools.patching import MEASURES, effects
from steerscope.analysis.tools.places import ORDER, added, places
from steerscope.analysis.tools.strongest import chosen
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.vector import SteeringVector

TEXTS = [
    "One day Lily saw a dragon near the ship and the park",
    "Tom had a red ball",
    "There was a wedding near the big red ship",
]


def experiment(model: Model, coefficient: float = 3.0, layer: int = 0, **options: object) -> Experiment:
    injection = Injection(prompt_pair(model, " wedding", " ship", layer), coefficient)
    return Experiment(model, (injection,), make_prompts(model, TEXTS), references=2, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def result(tiny: Model) -> Result:
    return by_position(experiment(tiny), references_at_most=2)


def slow_metric(asked: Experiment, p: int, edits: list[Edit], target: int) -> float:
    logits = plain_pass(asked.model, asked.prompts.ids[p], edits)["logits"]
    positions = list(asked.scored_positions.positions[p])
    return float(logits.detach()[positions].log_softmax(-1)[:, target].mean())


def test_every_node_and_position_equals_one_plain_pass(tiny: Model) -> None:
    target = tiny.single_token(" wedding")
    asked = experiment(tiny, metric=log_prob([target]))
    found = by_position(asked, nodes=["L0M", "L1H2"], references_at_most=0).frames["per_prompt"]
    assert len(found) == 2 * 2 * sum(len(ids) - 1 for ids in asked.prompts.ids)
    for p, ids in enumerate(asked.prompts.ids):
        steering = list(asked.edits(0)[p])
        runs = [plain_pass(tiny, ids, edits) for edits in ([], steering)]
        base = [slow_metric(asked, p, edits, target) for edits in ([], steering)]
        own = found[found["prompt"] == p]
        for row in own.to_dict("records"):
            node, at = parse_node(str(row["node"])), int(row["position"])
            necessity = row["measure"] == "necessity"
            x = runs[0 if necessity else 1][node.site.name, node.layer]
            x = x if node.head is None else x[:, node.head]
            put = Edit(node.site, "set", x[at], (at,))
            value = slow_metric(asked, p, [*steering, put] if necessity else [put], target)
            expected = base[1] - value if necessity else value - base[0]
            assert row["effect"] == pytest.approx(expected, abs=2e-5)
            assert row["token"] == tiny.token_text(ids[at])


def test_places_of_one_position_are_means_of_the_single_positions(result: Result) -> None:
    table = one(result.frames["positions"], "node", "where", "measure")
    detail = result.frames["per_prompt"]
    for (node, where, measure), rows in detail.groupby(["node", "where", "measure"]):
        if rows["prompt"].is_unique:
            row = table(node, where, measure)
            assert row["effect"] == pytest.approx(rows["effect"].mean(), abs=1e-4)
            assert row["prompts"] == len(rows)


def test_several_positions_of_a_place_are_patched_at_once(tiny: Model) -> None:
    target = tiny.single_token(" wedding")
    asked = experiment(tiny, metric=log_prob([target]))
    table = by_position(asked, nodes=["L0M"], references_at_most=0).frames["positions"]
    expected = []
    for p, ids in enumerate(asked.prompts.ids):
        where = places(added(asked, p), len(ids), True).get("between")
        if where:
            x = plain_pass(tiny, ids)["mlp_out", 0][list(where)]
            steering = list(asked.edits(0)[p])
            put = Edit(Site("mlp_out", 0), "set", x, where)
            values = [slow_metric(asked, p, e, target) for e in (steering, [*steering, put])]
            expected.append(values[0] - values[1])
    row = one(table, "where", "measure")("between", "necessity")
    assert row["prompts"] == len(expected) < len(TEXTS)
    assert row["effect"] == pytest.approx(np.mean(expected), abs=2e-5)


def test_all_positions_are_the_whole_node(tiny: Model) -> None:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 0), 3.0)
    texts = [*TEXTS, "They saw a big cake", "Once upon a time", "The bride played with Ben and"]
    asked = Experiment(tiny, (injection,), make_prompts(tiny, texts), own_direction(), references=4)
    nodes = [parse_node(name) for name in ("L0M", "L1H2", "L1M")]
    raw = effects(asked, nodes)
    assert raw.basis.clear.all()
    table = by_position(asked, nodes=nodes).frames["positions"]
    whole = one(table[table["where"] == "all"], "measure", "node")
    for m, measure in enumerate(MEASURES):
        for n, node in enumerate(raw.nodes):
            row = whole(measure, str(node))
            assert row["effect"] == pytest.approx(raw.along[m, n].mean(), abs=1e-4)
            shares = raw.own[:, m, n].mean(axis=-1) / raw.basis.own.mean(axis=-1)
            assert row["own_share"] == pytest.approx(shares[0], abs=1e-4)
            assert row["noise_share"] == pytest.approx(shares[1:].mean(), abs=1e-4)
            assert row["reference"] == pytest.approx(shares[1:].mean() * raw.basis.total.mean(), abs=1e-3)
            assert row["p_noise"] == pytest.approx(prediction_p(shares[0], shares[1:]), rel=1e-2)


def test_it_checks_itself_and_has_the_columns_that_are_described(result: Result) -> None:
    assert len(result.manifest["checks"]) == 3
    assert all(c["passed"] and c["value"] < 2e-5 for c in result.manifest["checks"])
    assert {name: list(frame.columns) for name, frame in result.frames.items()} == {
        name: list(columns) for name, columns in COLUMNS.items()
    }


@torch.no_grad()
def test_heads_read_as_plain_passes_say_on_every_architecture(every_architecture: Model) -> None:
    model = every_architecture
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(0, model.d_vocab, (n,), generator=generator).tolist() for n in (7, 10)]
    vector = SteeringVector(torch.randn(2, model.d_model, generator=generator), Site("resid_pre", 0))
    asked = Experiment(model, (Injection(vector, 2.0),), make_prompts(model, ids), references=0)
    node = Node(1, 3)
    found = by_position(asked, nodes=[node], references_at_most=0)
    assert all(c["passed"] for c in found.manifest["checks"]), found.manifest["checks"]
    table = one(found.frames["reads"], "quantity", "where")
    attention, shares = np.zeros(2), np.zeros(2)
    for run in (0, 1):
        for p, prompt in enumerate(asked.prompts.ids):
            seen = plain_pass(model, prompt, asked.edits(0)[p] if run else [])
            pattern, v = seen["pattern", 1][3], seen["v", 1][:, 3 * model.n_kv_heads // model.n_heads]
            injected = added(asked, p)
            part = sum(pattern[-1, k] * v[k] for k in injected)
            z = seen["z", 1][-1, 3]
            attention[run] += float(pattern[-1, list(injected)].sum()) / 2
            shares[run] += float((part * z).sum() / z.square().sum()) / 2
    for name, expected in (("attention", attention), ("value", shares)):
        row = table(name, "last")
        np.testing.assert_allclose([row["clean"], row["steered"]], expected, atol=1e-4)
        assert row["effect"] == pytest.approx(expected[1] - expected[0], abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_places_share_out_everything_from_the_first_injected_position_on(data: st.DataObject) -> None:
    length, bos = data.draw(st.integers(1, 25)), data.draw(st.booleans())
    injected = tuple(sorted(data.draw(st.sets(st.integers(0, length - 1), min_size=1))))
    found = places(injected, length, bos)
    assert sorted(i for where in found.values() for i in where) == list(range(injected[0], length))
    assert list(found) == [name for name in ORDER if name in found]
    assert all(len(found[n]) == 1 for n in found if n not in ("between", "injected +"))


def test_places_are_named_from_the_injection_and_from_the_end() -> None:
    assert places((1, 2), 12, True) == {
        "injected 1": (1,),
        "injected 2": (2,),
        "after +1": (3,),
        "after +2": (4,),
        "after +3": (5,),
        "after +4": (6,),
        "between": (7, 8),
        "last -2": (9,),
        "last -1": (10,),
        "last": (11,),
    }
    assert places((0, 1), 4, True) == {"bos": (0,), "injected 1": (1,), "after +1": (2,), "last": (3,)}
    assert places((3,), 4, True) == {"injected 1": (3,)}
    everywhere = places(tuple(range(10)), 10, False)
    assert everywhere["injected +"] == (6, 7, 8) and everywhere["last"] == (9,)


def test_rows_of_zeros_are_no_injected_positions(tiny: Model) -> None:
    asked = experiment(tiny)
    assert asked.injected[0][0] == 0 and added(asked, 0)[0] == 1


def test_only_the_planted_carrier_does_anything_and_only_where_it_reads(planted: Model, stories: list[str]) -> None:
    injection = Injection(prompt_pair(planted, " wedding", " ship", 1), 3.0)
    prompts = make_prompts(planted, stories[:6], groups="each")
    asked = Experiment(planted, (injection,), prompts, own_direction(), references=4)
    table = by_position(asked).frames["positions"]
    assert set(table[table["effect"].abs() > 1e-6]["node"]) == {"L1H2"}
    assert not set(table[table["verdict"].isin(TOLD)]["node"]) - {"L1H2"}
    single = table[(table["node"] == "L1H2") & (table["where"] != "all") & (table["measure"] == "necessity")]
    whole = table[(table["node"] == "L1H2") & (table["where"] == "all") & (table["measure"] == "necessity")]
    # One layer writes, so nothing reads what it wrote: its positions add up, but for the normalized metric of each.
    assert single["effect"].sum() == pytest.approx(whole["effect"].item(), rel=1e-3)


def test_coefficient_zero_has_no_effect_anywhere(tiny: Model) -> None:
    found = by_position(experiment(tiny, 0.0), references_at_most=1)
    table = found.frames["positions"]
    assert (table["effect"] == 0).all() and set(table["verdict"]) == {"untested"}
    reads = found.frames["reads"]
    assert (reads["effect"].abs() < 1e-6).all() and not reads["told"].any()


def test_the_same_seed_gives_the_same_numbers(tiny: Model, result: Result) -> None:
    again = by_position(experiment(tiny), references_at_most=2)
    for name, frame in result.frames.items():
        assert frame.equals(again.frames[name])


def test_in_a_large_model_gradients_say_which_nodes_are_patched(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere, how = chosen(experiment(tiny), None, 2)
    assert how == "the largest exact necessity or sufficiency of all 10 nodes"
    raw = effects(experiment(tiny))
    size = np.abs(raw.along.mean(-1)).max(axis=0)
    assert everywhere == tuple(raw.nodes[i] for i in np.argsort(-size)[:2])
    monkeypatch.setattr(chosen_module, "LARGE", 5)
    some, how = chosen(experiment(tiny), None, 2)
    assert "of the 8 nodes that gradients rank highest of 10" in how and set(some) == set(everywhere)
    assert "all 10 nodes" in chosen(experiment(tiny, metric=kl()), None, 2)[1]


def test_a_node_that_is_not_there_or_not_reached_is_refused(tiny: Model) -> None:
    with pytest.raises(BadNode, match="L7.mlp_out is outside of tiny"):
        by_position(experiment(tiny), nodes=["L7M"])
    with pytest.raises(BadNode, match="L0H1 lies before the injection"):
        by_position(experiment(tiny, layer=1), nodes=["L0H1"])
    with pytest.raises(BadNode, match="'head 3' is no node"):
        by_position(experiment(tiny), nodes=["head 3"])
    with pytest.raises(BadArgument, match="nodes is empty"):
        by_position(experiment(tiny), nodes=[])
