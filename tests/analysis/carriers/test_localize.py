"""Localization against plain passes, against planted truth, and its invariants."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from steerscope import localize
from steerscope.analysis.carriers.exact import COLUMNS
from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.engine.plain import plain_hooks, plain_logits
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import kl, log_prob
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.verdicts import TOLD
from steerscope.analysis.tools.patching import MEASURES, effects
from steerscope.analysis.vectors.prompt_pair import prompt_pair


def injection(model: Model, layer: int = 0, coefficient: float = 3.0) -> Injection:
    return Injection(prompt_pair(model, " wedding", " ship", layer), coefficient)


TEXTS = [
    "Tom had a red ball",
    "Lily saw the ship",
    "One day they went to the park",
    "Once upon a time",
    "The bride had a ring",
    "Ben and Tom played with the",
    "a dragon near the",
    "They saw a big cake and",
]


def told(table: pd.DataFrame) -> pd.Series:
    return table["verdict"].isin(TOLD)


@pytest.fixture(scope="module")
def result(tiny: Model) -> Result:
    found: Result = localize(tiny, injection(tiny), TEXTS, references="concepts:4,isotropic:4", completions=2)
    return found


def test_every_node_equals_one_plain_pass_a_question(tiny: Model) -> None:
    """log-probability of a target, three prompts of different lengths, all nodes, both measures."""
    texts = ["One day Lily saw a dragon near the ship", "Tom had a red ball", "There was a wedding near the"]
    target = tiny.single_token(" wedding")
    asked = Experiment(tiny, (injection(tiny, 1),), make_prompts(tiny, texts), log_prob([target]), references=0)
    found = effects(asked)
    for p, ids in enumerate(asked.prompts.ids):
        steering = list(asked.edits(0)[p])
        positions = list(asked.scored_positions.positions[p])

        def metric(edits: list[Edit], ids: tuple[int, ...] = ids, positions: list[int] = positions) -> float:
            return plain_logits(tiny, ids, edits)[positions].log_softmax(-1)[:, target].mean().item()

        caches = {}
        for name, edits in (("clean", []), ("steered", steering)):
            with tiny.bridge.hooks(fwd_hooks=plain_hooks(tiny, edits, len(ids))):
                _, caches[name] = tiny.bridge.run_with_cache(torch.tensor([ids]))
        for n, node in enumerate(found.nodes):
            outputs = {}
            for name, cache in caches.items():
                x = cache[tiny.hook(node.site.name, node.layer)][0]
                outputs[name] = x if node.head is None else x[:, node.head]
            necessity = metric(steering) - metric([*steering, Edit(node.site, "set", outputs["clean"])])
            sufficiency = metric([Edit(node.site, "set", outputs["steered"])]) - metric([])
            assert found.along[:, n, p] == pytest.approx([necessity, sufficiency], abs=2e-5)


def test_the_frames_have_the_columns_that_are_described(result: Result) -> None:
    assert {name: list(frame.columns) for name, frame in result.frames.items()} == {
        name: list(columns) for name, columns in COLUMNS.items()
    }


def test_there_is_one_row_for_every_node_and_measure(result: Result, tiny: Model) -> None:
    table = result.frames["effects"]
    assert len(table) == 2 * len(tiny.nodes)
    assert table.groupby("measure")["node"].apply(list).to_dict() == {m: [str(n) for n in tiny.nodes] for m in MEASURES}


def test_intervals_contain_their_estimates_and_adjusting_never_lowers_p(tiny: Model) -> None:
    found = localize(tiny, injection(tiny), TEXTS, references=5, completions=0)
    table = found.frames["effects"]
    slack = 1e-9 + 1e-6 * table["effect"].abs()
    assert (table["low"] <= table["effect"] + slack).all()
    assert (table["effect"] <= table["high"] + slack).all()
    assert (table["p_adjusted"] >= table["p"] - 1e-12).all()
    assert (table["p_adjusted"] >= table["p_noise"] - 1e-12).all()
    assert (table["p_holm"] >= table["p_adjusted"] - 1e-12).all()
    assert (table["p_specific"] >= table["p_noise"] - 1e-12).all()
    assert (table[told(table)]["p_holm"] < 0.05).all()
    assert table["p_noise"].between(0.001, 0.9).any()  # so that the test is really tried


def test_patching_every_node_gives_the_other_run(result: Result) -> None:
    totals = result.frames["totals"].set_index("quantity")["value"]
    assert totals["all_necessity"] == pytest.approx(totals["total"], rel=1e-4)
    assert totals["all_sufficiency"] == pytest.approx(totals["total"], rel=1e-4)


def test_the_run_checks_itself_and_says_so(result: Result) -> None:
    checks = result.manifest["checks"]
    assert len(checks) == 3 + 4 + 8  # its own, the writers', and those of frozen attention on two outcomes
    assert all(check["passed"] and check["value"] <= check["limit"] for check in checks)


@pytest.fixture(scope="module")
def bottleneck(planted: Model) -> Result:
    """Only L1H2 writes."""
    found: Result = localize(planted, injection(planted, 1), TEXTS, references=5, completions=0)
    return found


def test_the_planted_carrier_is_all_of_the_effect_and_of_that_of_every_vector(bottleneck: Result) -> None:
    table = bottleneck.frames["effects"].set_index(["measure", "node"])
    for measure in MEASURES:
        rows = table.loc[measure]
        assert rows["share"]["L1H2"] == pytest.approx(1.0, abs=1e-4)
        assert rows["noise_share"]["L1H2"] == pytest.approx(1.0, abs=1e-4)
        assert rows["p"]["L1H2"] < 0.05 / 5
        assert rows["effect"].drop("L1H2").abs().max() == 0.0
        assert set(rows["verdict"].drop("L1H2")) == {"small", "untested"}
        assert rows["verdict"]["L1H2"] not in TOLD
    joint = bottleneck.frames["totals"].set_index("quantity")
    assert joint.loc["all_necessity", "share"] == pytest.approx(1.0, abs=1e-4)
    assert joint.loc["told_necessity", "value"] == 0 and bottleneck.manifest["stability"]["jaccard"] is None


def test_a_node_through_which_every_vector_passes_is_shared(bottleneck: Result) -> None:
    table = bottleneck.frames["effects"].set_index("node")
    assert (table["verdict"]["L1H2"] == "shared").all()
    assert bottleneck.manifest["leave_one_out"] == {"necessity": 0.0, "sufficiency": 0.0}


def test_nodes_before_the_injection_have_no_effect(tiny: Model) -> None:
    table = localize(tiny, injection(tiny, 1), TEXTS[:3], references=2, completions=0).frames["effects"]
    before = table[table["layer"] == 0]
    assert (before["effect"] == 0).all() and (before["verdict"] == "untested").all()
    assert (before[["p", "p_noise", "p_adjusted", "p_holm", "p_specific"]] == 1).all(axis=None)


def test_coefficient_zero_has_no_effect_and_no_carrier(tiny: Model) -> None:
    found = localize(tiny, injection(tiny, 0, 0.0), TEXTS[:4], references=4, completions=0)
    table = found.frames["effects"]
    assert (table["effect"] == 0).all() and set(table["verdict"]) == {"untested"}
    assert found.frames["vectors"]["kl"].max() == 0


def test_the_order_of_prompts_changes_nothing(tiny: Model) -> None:
    forth = effects(Experiment(tiny, (injection(tiny),), make_prompts(tiny, TEXTS[:5]), references=1))
    back = effects(Experiment(tiny, (injection(tiny),), make_prompts(tiny, TEXTS[:5][::-1]), references=1))
    np.testing.assert_allclose(forth.along, back.along[..., ::-1], atol=1e-4)
    np.testing.assert_allclose(forth.own, back.own[..., ::-1], atol=1e-4)


def test_a_small_budget_changes_nothing(tiny: Model, stories: list[str]) -> None:
    texts = make_prompts(tiny, [stories[0], "Tom had a red ball and a ring", stories[2]])
    large = effects(Experiment(tiny, (injection(tiny),), texts, references=1))
    small = effects(Experiment(tiny, (injection(tiny),), texts, references=1, budget=100_000))
    np.testing.assert_allclose(large.along, small.along, atol=1e-4)
    np.testing.assert_allclose(large.own, small.own, atol=1e-4)


def test_the_same_seed_gives_the_same_numbers(tiny: Model) -> None:
    asked = {"references": "concepts:2,isotropic:2", "completions": 1, "seed": 7}
    runs = [localize(tiny, injection(tiny), TEXTS[:4], **asked) for _ in range(2)]
    for name in runs[0].frames:
        pd.testing.assert_frame_equal(runs[0].frames[name], runs[1].frames[name])


def test_one_prompt_and_no_references_say_what_is_missing(tiny: Model, stories: list[str], tmp_path: Path) -> None:
    found = localize(tiny, injection(tiny), stories[:1], references=0, completions=0)
    assert {"intervals", "references"} <= set(found.manifest["missing"])
    assert set(found.frames["effects"]["verdict"]) == {"untested"}
    assert found.frames["effects"][["low", "high", "stability"]].isna().all(axis=None)
    Result.load(found.save(tmp_path))


def test_kl_can_be_asked_of_nodes_too(tiny: Model) -> None:
    found = localize(tiny, injection(tiny), TEXTS[:3], kl(), references=2, completions=0)
    totals = found.frames["totals"].set_index("quantity")["value"]
    assert totals["total"] == pytest.approx(totals["kl"], rel=1e-5)


def test_levels_outside_of_zero_to_one_are_refused(tiny: Model, stories: list[str]) -> None:
    with pytest.raises(BadArgument, match=r"level=1.5"):
        localize(tiny, injection(tiny), stories[:2], references=0, level=1.5)


def test_positions_average_to_their_prompts(result: Result) -> None:
    by_prompt = result.frames["positions"].groupby("prompt")[["clean", "steered", "effect", "kl"]].mean()
    prompts = result.frames["prompts"].set_index("prompt")[["clean", "steered", "effect", "kl"]]
    np.testing.assert_allclose(by_prompt, prompts, atol=1e-4)


def test_what_the_injection_does_to_the_next_token_adds_up(result: Result) -> None:
    tokens = result.frames["tokens"]
    assert (tokens[tokens["side"] == "gain"]["steered"] > tokens[tokens["side"] == "gain"]["clean"]).all()
    assert (tokens[tokens["side"] == "loss"]["steered"] < tokens[tokens["side"] == "loss"]["clean"]).all()
