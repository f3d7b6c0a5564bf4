"""Planted models: exact patching finds what was planted, with the sign and the share that the construction gives."""

from typing import Any

import numpy as np
import pytest
import torch
from reference import plain_logits

from benchmarks.ground_truth import FINDS, RELAYS, area, first
from benchmarks.planted import CASES, NORMS, OTHER, TARGET, plant
from steerscope.analysis.carriers.shapley import shapley
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.frozen.freeze_attention import freeze_attention
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.tools.gradients import estimate
from steerscope.analysis.tools.patching import effects

SETTINGS: list[dict[str, Any]] = [
    {"norm": norm, "layers": layers, "seed": seed}
    for norm, layers, seed in zip(NORMS, (2, 3, 5), (0, 1, 2), strict=True)
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_exact_patching_ranks_the_carriers_first_with_the_right_sign(case: str, setting: dict[str, Any]) -> None:
    planted = plant(case, references=0, prompts=6, **setting)
    found = effects(planted.experiment)
    for row, truth in enumerate(planted.truth.values()):
        means = found.along[row].mean(-1)
        carries = [n in truth for n in found.nodes]
        if any(carries):
            assert np.abs(means[carries]).min() > np.abs(means[~np.array(carries)]).max()
        for node, sign in truth.items():
            assert np.sign(means[found.nodes.index(node)]) == sign


@torch.no_grad()
def test_the_effect_is_what_the_weights_say() -> None:
    """Without norms a direct carrier adds exactly the injection's size to the target's logit, plus what idle heads
    do.
    """
    planted = plant("direct", idle=0, references=0, prompts=3)
    asked = planted.experiment
    for p, ids in enumerate(asked.prompts.ids):
        clean, steered = (plain_logits(asked.model, ids, e) for e in ([], list(asked.edits(0)[p])))
        change = (steered - clean)[1:]
        assert change[:, TARGET].numpy() == pytest.approx(4.0, abs=4e-2)
        assert change[:, OTHER].numpy() == pytest.approx(0.0, abs=4e-2)
    found = effects(asked)
    assert found.along[:, found.nodes.index(Node(1, 0))] == pytest.approx(
        found.basis.total[None] * np.ones((2, 1)), abs=4e-2
    )


def test_either_of_a_redundant_pair_is_enough() -> None:
    planted = plant("redundant", references=0, prompts=6)
    found = effects(planted.experiment)
    total = found.basis.total.mean()
    pair = [found.nodes.index(Node(0, h)) for h in (0, 1)]
    necessity, sufficiency = found.along.mean(-1)[:, pair]
    assert np.abs(necessity).max() < 1e-2 * total
    assert sufficiency == pytest.approx([total, total], rel=1e-2)
    result = shapley(planted.experiment, nodes=["L0H0", "L0H1", "L1M"], passes=8)
    pairs = result.frames["interactions"].set_index(["node_a", "node_b"])["effect"]
    assert pairs["L0H0", "L0H1"] < -0.3 * total < 0.3 * total < pairs["L0H0", "L1M"]
    shares = result.frames["effects"].set_index("node")["share"]
    assert shares["L0H0"] == pytest.approx(shares["L0H1"], abs=1e-3) and shares["L0H0"] > 0.1


def test_a_backup_acts_when_the_first_is_gone() -> None:
    planted = plant("backup", references=0, prompts=6)
    found = effects(planted.experiment)
    total = found.basis.total.mean()
    means = found.along.mean(-1)
    first = found.nodes.index(Node(0, 0))
    assert abs(means[0, first]) < 0.02 * total and means[1, first] > 0.9 * total
    result = shapley(planted.experiment, nodes=["L0H0", "L1H0"], passes=6)
    assert result.frames["interactions"]["effect"][0] < -0.8 * total


def test_a_carrier_by_attention_alone_dies_with_its_pattern() -> None:
    planted = plant("attention", references=0, prompts=6)
    texts = [list(ids) for ids in planted.experiment.prompts.ids]
    table = freeze_attention(planted.experiment, text=texts, by=("all",)).frames["attention"]
    own = table[(table["outcome"] == "effect") & (table["scope"] == "all")].set_index("frozen")
    assert own["survives"]["patterns"] == pytest.approx(0, abs=0.02)
    assert own["survives"]["values"] == pytest.approx(1, abs=0.02)


def test_a_decoy_is_loud_and_without_a_norm_it_does_nothing() -> None:
    planted = plant("decoy", references=0, prompts=4)
    found = effects(planted.experiment)
    decoy = found.nodes.index(Node(1, 0))
    assert np.abs(found.along[:, decoy]).max() < 1e-4
    with_norm = effects(plant("decoy", norm="LN", references=0, prompts=4).experiment)
    assert with_norm.along[0, decoy].mean() < -0.1 * with_norm.basis.total.mean()


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("case", RELAYS)
@pytest.mark.parametrize("method", FINDS)
def test_no_method_misses_a_relay_that_it_is_said_to_find(method: str, case: str, setting: dict[str, Any]) -> None:
    """And those that it is not said to find it does miss: the list is no shorter than it must be."""
    planted = plant(case, references=0, prompts=6, **setting)
    nodes = planted.experiment.reachable
    found = estimate(planted.experiment, method).values.mean(-1)
    carries = np.array([node in planted.roles for node in nodes])
    head = nodes.index(next(iter(planted.roles)))
    for row, scores in enumerate(found):
        if case in FINDS[method]:
            assert area(np.abs(scores), carries) == 1.0
            assert (scores[carries] > 0).all()
            exact = effects(planted.experiment, [nodes[head]]).along.mean(-1)[:, 0]
            near = exact if method == "ig" else exact[[row]]
            assert 0.4 < scores[head] / near.max() and scores[head] / near.min() < 2.5
        else:
            assert abs(scores[head]) < 0.2 * scores[carries].max()


def test_the_table_of_relays_says_what_share_of_the_exact_effect_is_seen() -> None:
    planted = plant("relay_key", references=0, prompts=6)
    assert first(planted, "atp*, necessity") == pytest.approx(1, abs=0.02)
    assert first(planted, "ig, conductance") == pytest.approx(1, abs=0.02)
    assert abs(first(planted, "gradient, necessity")) < 0.01


def test_the_same_seed_plants_the_same_model() -> None:
    one, two, other = (plant("relay", seed=s, references=0, prompts=2) for s in (3, 3, 4))
    assert one.model.weights_hash == two.model.weights_hash != other.model.weights_hash
    assert one.experiment.prompts.ids == two.experiment.prompts.ids
    assert torch.equal(one.experiment.injections[0].vector.values, two.experiment.injections[0].vector.values)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"case": "magic"}, "case='magic'"),
        ({"norm": "batch"}, "norm='batch'"),
        ({"layers": 1}, "expected 2 to 6 layers"),
        ({"idle": -1}, "0 or more idle heads"),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadArgument, match=sentence):
        plant(**({"case": "direct"} | options))
