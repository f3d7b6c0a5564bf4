"""Self-repair against plain passes with every later node, and the final norm, held."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from reference import plain_pass
from torch import Tensor

from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.engine.plain import plain_hooks
from steerscope.analysis.errors import BadNode
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node, Site, parse_node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import Metric, kl, log_prob, logit_direction
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.routes.repair_terms import PARTS, after
from steerscope.analysis.routes.self_repair import COLUMNS, self_repair
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.vector import SteeringVector

SPLIT = ("nodes", "norm", "remainder", "net")


def experiment(
    model: Model, texts: list[str], metric: Metric | None = None, coefficient: float = 3.0, layer: int = 0
) -> Experiment:
    injection = Injection(prompt_pair(model, " wedding", " ship", layer), coefficient)
    return Experiment(
        model, (injection,), make_prompts(model, texts, groups="each"), metric or logit_direction(), references=2
    )


def on_token_ids(model: Model, metric: Metric | None = None) -> Experiment:
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, model.d_vocab, (n,), generator=generator).tolist() for n in (9, 6, 8)]
    vector = SteeringVector(torch.randn(2, model.d_model, generator=generator), Site("resid_pre", 0))
    return Experiment(
        model, (Injection(vector, 2.0),), make_prompts(model, prompts), metric or logit_direction(), references=1
    )


@pytest.fixture(scope="module")
def result(tiny: Model, stories: list[str]) -> Result:
    return self_repair(experiment(tiny, stories), references_at_most=2)


def run(model: Model, ids: Sequence[int], edits: Sequence[Edit], scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Logits and the final norm's scale of a plain pass; with `scale`, that one instead."""
    seen: dict[str, Tensor] = {}

    def norm(x: Tensor, hook: Any) -> Tensor | None:
        seen["scale"] = x.clone()
        return scale

    hooks = [*plain_hooks(model, edits, len(ids)), ("ln_final.hook_scale", norm)]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
        logits = model.bridge.run_with_hooks(torch.tensor([list(ids)]), fwd_hooks=hooks)[0]
    return logits, seen["scale"]


def setting(node: Node, seen: dict[Any, Tensor]) -> Edit:
    x = seen[node.site.name, node.layer].detach()
    return Edit(node.site, "set", x if node.head is None else x[:, node.head])


@pytest.mark.parametrize("carrier", ["L0M", "L0H1"])
def test_every_part_equals_plain_passes_in_which_the_rest_is_held(
    carrier: str, tiny: Model, stories: list[str]
) -> None:
    target, node = tiny.single_token(" wedding"), parse_node(carrier)
    asked = experiment(tiny, [stories[0], "Tom had a red ball and a ring", stories[5]], log_prob([target]))
    found = self_repair(asked, [carrier], references_at_most=0)
    parts = found.frames["per_prompt"].set_index(["prompt", "part"])["effect"]
    table = found.frames["later"].set_index("node")["effect"]
    sums = dict.fromkeys(table.index, 0.0)
    for p, ids in enumerate(asked.prompts.ids):
        steering, positions = list(asked.edits(0)[p]), list(asked.scored_positions.positions[p])
        clean, steered = plain_pass(tiny, ids), plain_pass(tiny, ids, steering)
        removed = [*steering, setting(node, clean)]
        without = plain_pass(tiny, ids, removed)
        later = [n for n in asked.reachable if after(tiny, node, n)]
        held = [setting(n, steered) for n in later]

        def metric(logits: Tensor, positions: list[int] = positions) -> float:
            return logits[positions].log_softmax(-1)[:, target].mean().item()

        logits, scale = run(tiny, ids, steering)
        base = metric(logits)
        expected = {
            "net": base - metric(run(tiny, ids, removed)[0]),
            "direct": base - metric(run(tiny, ids, [*removed, *held], scale)[0]),
            "direct_live": base - metric(run(tiny, ids, [*removed, *held])[0]),
            "norm": metric(run(tiny, ids, removed)[0]) - metric(run(tiny, ids, removed, scale)[0]),
        }
        repaired = 0.0
        for n in later:
            others = [setting(m, steered) for m in later if after(tiny, n, m)]
            alone = metric(run(tiny, ids, [*steering, setting(n, without), *others], scale)[0]) - base
            sums[str(n)] += alone / 3
            repaired += alone
        expected["nodes"] = repaired
        for part, value in expected.items():
            assert parts[p, part] == pytest.approx(value, abs=3e-5), part
    assert list(table.index) == [str(n) for n in later]
    np.testing.assert_allclose(table.to_numpy(float), [sums[n] for n in table.index], atol=3e-5)


@pytest.mark.parametrize("metric", [logit_direction(), log_prob([3, 5]), kl()], ids=["direction", "log_prob", "kl"])
def test_parts_add_up_on_every_architecture_and_equal_frozen_runs(metric: Metric, every_architecture: Model) -> None:
    asked = on_token_ids(every_architecture, metric)
    first = [Node(0, 1), Node(1, 2), Node(0)] if every_architecture.has_mlp else [Node(0, 1), Node(1, 2)]
    found = self_repair(asked, first, references_at_most=1)
    checks = found.manifest["checks"]
    assert len(checks) == 5 and all(c["value"] < 5e-5 for c in checks), checks
    parts = found.frames["carriers"].pivot(index="node", columns="part", values="effect")
    np.testing.assert_allclose(parts[list(SPLIT)].sum(axis=1), parts["direct"], atol=1e-5)
    assert parts["nodes"].abs().max() > 0
    linear = metric.name == "logit_direction" and not every_architecture.softcap
    assert (parts["remainder"] == 0).all() == linear


def test_without_a_final_norm_there_is_nothing_for_it_to_repair(small_models: "dict[str, Model]") -> None:
    found = self_repair(on_token_ids(small_models["native_without_norm"]), references_at_most=0)
    parts = found.frames["carriers"].pivot(index="node", columns="part", values="effect")
    assert parts["norm"].abs().max() < 1e-5 * parts["net"].abs().max()
    np.testing.assert_allclose(parts["direct"], parts["direct_live"])


def test_the_strongest_carriers_are_taken_and_their_repair_is_the_sum_over_later_nodes(result: Result) -> None:
    table = result.frames["carriers"]
    net = table[table["part"] == "net"]["effect"].abs()
    assert len(net) == 6 and net.is_monotonic_decreasing
    sums = result.frames["later"].groupby("carrier")["effect"].sum()
    nodes = table[table["part"] == "nodes"].set_index("node")["effect"]
    for node, value in nodes.items():
        assert value == pytest.approx(sums.get(node, 0.0), abs=1e-5)


def test_it_has_the_columns_that_are_described(result: Result) -> None:
    assert {name: list(frame.columns) for name, frame in result.frames.items()} == {
        name: list(columns) for name, columns in COLUMNS.items()
    }
    assert tuple(result.frames["carriers"]["part"][:6]) == PARTS


def test_shares_are_of_the_whole_effect_and_of_a_direct_loss_that_is_worth_it(result: Result) -> None:
    table, total = result.frames["carriers"], result.manifest["total"]
    np.testing.assert_allclose(table["share"], table["effect"] / total)
    np.testing.assert_allclose(
        table["own_share"], table["share"], rtol=1e-4, atol=1e-6
    )  # the metric is its own direction
    direct = table[table["part"] == "direct"].set_index("node")
    said = direct["effect"].abs() > 0.05 * abs(total)
    assert said.any() and not said.all()
    assert direct["of_direct"].notna().equals(said)


def test_nodes_of_the_last_layer_have_nobody_after_them(tiny: Model, stories: list[str]) -> None:
    found = self_repair(experiment(tiny, stories[:3]), ["L1M"], references_at_most=0)
    assert found.frames["later"].empty
    parts = found.frames["carriers"].set_index("part")["effect"]
    assert parts["nodes"] == 0
    assert parts["direct"] == pytest.approx(parts["norm"] + parts["net"], abs=1e-5)


def test_what_can_see_a_carrier_depends_on_the_architecture(small_models: "dict[str, Model]") -> None:
    head, mlp, later = Node(1, 0), Node(1), Node(2, 0)
    for name, sees in (("gpt2", True), ("gpt_neox", False), ("gptj", False), ("gemma2", True)):
        assert after(small_models[name], head, mlp) == sees
        assert after(small_models[name], head, later) and not after(small_models[name], later, head)
        assert not after(small_models[name], mlp, head) and not after(small_models[name], head, head)
    assert after(small_models["gemma2"], head, Node(1, 1))
    assert not after(small_models["llama"], head, Node(1, 1))


def test_coefficient_zero_loses_and_repairs_nothing(tiny: Model, stories: list[str]) -> None:
    found = self_repair(experiment(tiny, stories[:4], coefficient=0.0), references_at_most=1)
    for name in ("carriers", "later"):
        assert (found.frames[name]["effect"] == 0).all() and set(found.frames[name]["verdict"]) == {"untested"}
    assert found.frames["carriers"]["of_direct"].isna().all()


def test_the_same_seed_gives_the_same_numbers(result: Result, tiny: Model, stories: list[str]) -> None:
    again = self_repair(experiment(tiny, stories), references_at_most=2)
    for name, frame in result.frames.items():
        assert frame.equals(again.frames[name])


def test_a_node_that_the_injection_cannot_reach_is_refused(tiny: Model, stories: list[str]) -> None:
    with pytest.raises(BadNode, match="L0M lies before the injection"):
        self_repair(experiment(tiny, stories[:2], layer=1), ["L0M"])
