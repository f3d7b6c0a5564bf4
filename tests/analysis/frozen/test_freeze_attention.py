"""Frozen attention against plain passes with patterns and values put in by hand; damage; what is missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import checkpoint
from reference import plain_logits, plain_pass
from torch import Tensor
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

from steerscope.analysis.carriers.exact import exact
from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.engine.run import run
from steerscope.analysis.errors import BadArgument, BadInjection, UnsupportedModel
from steerscope.analysis.frozen import freeze_attention as ov_qk
from steerscope.analysis.frozen.freeze_attention import COLUMNS, freeze_attention, tables
from steerscope.analysis.frozen.freezing import Freezing, Lost, clean_edits, lost, reached
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import Metric, log_prob, logit_direction
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.stats import holm, nonzero_p
from steerscope.analysis.results.verdicts import VERDICTS
from steerscope.analysis.tools.ordinary import ordinary
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.reports.pages import freeze_attention as page

IDS = [[3, 4, 5, 6, 7, 8], [9, 8, 7, 6]]  # of different lengths, so that one is padded
PLUS, MINUS = [5, 9], [7, 11]


def asked(
    model: Model, layer: int = 0, texts: Any = None, metric: Metric | None = None, references: int = 0
) -> Experiment:
    plus, minus = (" wedding", " ship") if model.tokenizer else (PLUS, MINUS)
    injection = Injection(prompt_pair(model, plus, minus, layer), 3.0)
    target = model.single_token(" ring") if model.tokenizer else 7
    prompts = make_prompts(model, texts or IDS)
    return Experiment(model, (injection,), prompts, metric or log_prob([target]), references)


def by_hand(model: Model, freezing: Freezing, clean: dict[Any, Tensor]) -> list[Edit]:
    """Patterns are put in as patterns, which is another way than the one that is tested."""
    edits = []
    for layer in range(model.n_layers):
        if freezing.layer not in (None, layer):
            continue
        if freezing.frozen in ("patterns", "both"):
            edits += [
                Edit(Site("pattern", layer, head), "set", clean["pattern", layer][head])
                for head in range(model.n_heads)
                if freezing.head in (None, head)
            ]
        if freezing.frozen in ("values", "both"):
            edits += [
                Edit(Site("v", layer, head), "set", clean["v", layer][:, head])
                for head in range(model.n_kv_heads)
                if freezing.head in (None, head)
            ]
    return edits


@torch.no_grad()
def test_every_freezing_equals_plain_passes(every_architecture: Model) -> None:
    model = every_architecture
    question = asked(model)
    kept = clean_edits(question, patterns=model.n_kv_heads < model.n_heads)
    freezings = [Freezing(name, layer) for name in ("patterns", "values", "both") for layer in (None, 1)]
    freezings += [Freezing("patterns", 0, 3), Freezing("values", 1, 1)]
    found = lost(question, freezings, kept, own=True)
    for p, ids in enumerate(IDS):
        clean, steering = plain_pass(model, ids), list(question.edits(0)[p])
        positions = list(question.scored_positions.positions[p])

        def metric(edits: list[Edit], ids: list[int] = ids, positions: list[int] = positions) -> float:
            logits = plain_logits(model, ids, edits)[positions]
            return float(logits.log_softmax(-1)[:, 7].mean().item())

        steered = metric(steering)
        assert found.total[0, p] == pytest.approx(steered - metric([]), abs=2e-5)
        for row, freezing in enumerate(freezings):
            expected = steered - metric([*by_hand(model, freezing, clean), *steering])
            assert found.along[0, row, p] == pytest.approx(expected, abs=5e-5), freezing
    assert (np.abs(found.along[0]).max(-1) > 1e-4).all()  # each of them does something


@pytest.mark.parametrize("site", ["attn_out", "z", "mlp_out"])
def test_what_is_injected_into_the_frozen_layer_stays(site: str, tiny: Model) -> None:
    """With everything frozen around it, an injection still reaches the logits of its own position."""
    vector = prompt_pair(tiny, " wedding", " ship", 1, site=site, head=2 if site == "z" else None)
    injection = Injection(vector.row(-1), 3.0, positions="last")
    question = Experiment(tiny, (injection,), make_prompts(tiny, STORIES), references=0)
    rows = freeze_attention(question, by=("all",)).frames["attention"]
    effect = rows[rows["outcome"] == "effect"].set_index("frozen")["survives"]
    assert effect["both"] == pytest.approx(1, abs=1e-4)  # of a last layer, attention does nothing more


STORIES = [
    "One day Lily saw a dragon near the ship",
    "Tom had a red ball and a cake",
    "There was a wedding near the park",
    "Once upon a time the bride had a ring",
    "Lily played with the ball near the ship",
]


@pytest.fixture(scope="module")
def result(tiny: Model) -> Result:
    return freeze_attention(asked(tiny, texts=STORIES, metric=logit_direction(), references=3))


def test_the_run_checks_itself(result: Result) -> None:
    checks = result.manifest["checks"]
    assert len(checks) == 8 and all(check["passed"] for check in checks)


def test_both_frozen_leaves_nothing_where_nothing_is_injected(result: Result) -> None:
    table = result.frames["attention"]
    rows = table[(table["frozen"] == "both") & (table["scope"] == "all")]
    assert rows["lost"].tolist() == pytest.approx(rows["total"].tolist(), rel=1e-4)


def test_the_frames_are_as_described_and_survive_saving(result: Result, tmp_path: Path) -> None:
    saved = Result.load(result.save(tmp_path))
    assert {n: list(f.columns) for n, f in saved.frames.items()} == {n: list(c) for n, c in COLUMNS.items()}
    table = saved.frames["attention"]
    assert len(table) == 2 * (3 + 3 * 2 + 2 * 2 * 4)
    means = saved.frames["per_prompt"].groupby(["outcome", "frozen", "node"])["lost"].mean()
    named = table.set_index(["outcome", "frozen", "node"])["lost"]
    np.testing.assert_allclose(means[named.index], named, atol=1e-6)
    clear = table[table["survives"].notna()]
    np.testing.assert_allclose(clear["survives"], 1 - clear["lost"] / clear["total"])
    assert (clear["survives_low"] <= clear["survives"] + 1e-9).all()
    assert (clear["survives"] <= clear["survives_high"] + 1e-9).all()


def test_the_logit_direction_is_the_real_vectors_own_change(result: Result) -> None:
    effect = result.frames["attention"].query("outcome == 'effect'")
    np.testing.assert_allclose(effect["survives"], effect["own_survives"], atol=1e-4)


def test_references_lose_of_their_own(tiny: Model) -> None:
    """A reference's own share, from its own experiment, in which it is the real vector."""
    question = asked(tiny, texts=STORIES, metric=logit_direction(), references=1)
    row = (
        freeze_attention(question, by=("all",))
        .frames["attention"]
        .query("outcome == 'effect' and frozen == 'patterns'")
    )
    reference = Experiment(tiny, question.steering[1], question.prompts, references=0)
    alone = (
        freeze_attention(reference, by=("all",))
        .frames["attention"]
        .query("outcome == 'effect' and frozen == 'patterns'")
    )
    assert row["reference_survives"].item() == pytest.approx(alone["survives"].item(), abs=1e-4)


def test_only_layers_that_the_injection_reaches_are_frozen(tiny: Model) -> None:
    question = asked(tiny, layer=1, texts=STORIES)
    assert reached(question) == [1]
    table = freeze_attention(question).frames["attention"]
    assert set(table["node"]) == {"all", "L1", *(f"L1H{head}" for head in range(4))}


def test_shared_values_are_frozen_by_key_value_head(small_models: Any) -> None:
    table = freeze_attention(asked(small_models["llama"], layer=2)).frames["attention"]
    heads = table[table["scope"] == "head"].groupby("frozen")["node"].apply(list).to_dict()
    assert heads["patterns"] == ["L2H0", "L2H1", "L2H2", "L2H3"]
    assert heads["values"] == ["L2KV0", "L2KV1"]


def without_queries(model: Any) -> None:
    model.transformer.h[0].attn.c_attn.weight.data[:, :32] = 0
    model.transformer.h[0].attn.c_attn.bias.data[:32] = 0


def without_values(model: Any) -> None:
    model.transformer.h[0].attn.c_attn.weight.data[:, 64:] = 0


@pytest.mark.parametrize(("change", "moves"), [(without_queries, True), (without_values, False)])
def test_planted_causes_are_found(change: Callable[[Any], None], moves: bool, tmp_path: Path) -> None:
    """Heads that look everywhere alike lose nothing by frozen patterns; where all positions have one value, no head
    moves anything.
    """
    made = checkpoint("gpt2")
    change(made)
    made.save_pretrained(tmp_path)
    model = load(tmp_path, selfcheck=False)  # it wants patterns that follow their queries
    question = asked(model, texts=[*IDS, [1, 2, 3, 4, 5]], metric=logit_direction())
    rows = freeze_attention(question, by=("layer",)).frames["attention"]
    survives = rows.query("node == 'L0' and outcome == 'effect'").set_index("frozen")["survives"]
    assert survives["patterns"] == pytest.approx(1, abs=1e-5)
    assert (survives["values"] < 0.999) == moves


# The ordinary text.


def test_damage_is_the_rise_of_the_loss_on_ordinary_text(tiny: Model) -> None:
    question = asked(tiny, texts=STORIES)
    texts = ["Tom saw a red ball near the park", "The bride had a big cake and a ring"]
    found = freeze_attention(question, text=texts, by=("all",))
    frame = found.frames["texts"].query("outcome == 'damage'")
    for p, text in enumerate(texts):
        ids, row = tiny.tokens(text), frame.iloc[p]
        steering = ordinary(question, texts).edits(0)[p]
        losses = []
        for edits in ((), steering):
            logp = plain_logits(tiny, ids, edits).log_softmax(-1)
            at = range(2, len(ids) - 1)  # BOS and " wedding" are injected, the last has no token after it
            losses.append(-np.mean([logp[i, ids[i + 1]].item() for i in at]))
        assert row[["clean", "steered"]].tolist() == pytest.approx(losses, abs=1e-5)
    rows = found.frames["attention"].query("outcome == 'damage'")
    assert rows["total"].iloc[0] == pytest.approx((frame["steered"] - frame["clean"]).mean())
    assert set(rows["unit"]) == {"nats per token"}


@pytest.mark.parametrize(
    ("positions", "scored"),
    [
        ("front", range(2, 7)),
        ("middle", range(6, 7)),
        ((2,), range(3, 7)),
        ("all", range(3, 7)),
        ("last", range(3, 7)),
        ("back", range(3, 7)),
    ],
)
def test_the_loss_is_read_after_the_injected_positions(positions: Any, scored: range, tiny: Model) -> None:
    """Where an injection leaves no room, the second half of a text is what follows the first."""
    vector = prompt_pair(tiny, " wedding", " ship", 0)
    vector = vector.row(-1) if positions in ("all", "last") else vector
    question = Experiment(tiny, (Injection(vector, positions=positions),), make_prompts(tiny, STORIES), references=0)
    text = [[0, *range(10, 17)]]
    asked = ordinary(question, text)
    assert asked.prompts.full == (tuple(text[0]),)
    if positions != "middle":
        assert asked.scored_positions.positions == (tuple(scored),)
    assert all(
        p not in asked.injected[0] or positions in ("all", "last", "back") for p in asked.scored_positions.positions[0]
    )
    assert max(asked.injected[0]) < max(asked.scored_positions.positions[0])


def test_windows_of_the_shipped_text_are_the_default(tiny: Model) -> None:
    asked_ = ordinary(asked(tiny, texts=STORIES))
    assert len(asked_.prompts) == 16 and {len(ids) for ids in asked_.prompts.ids} == {48}
    assert asked_.prompts.source == "shipped"


def test_no_damage_has_no_shares(tiny: Model) -> None:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 0), 0.0)
    question = Experiment(tiny, (injection,), make_prompts(tiny, STORIES), references=0)
    found = freeze_attention(question, by=("all",))
    for outcome in ("effect", "damage"):
        assert found.manifest["missing"][f"shares of the {outcome}"].startswith(f"the {outcome} is 0 [0, 0]")
    rows = found.frames["attention"]
    assert rows[["survives", "survives_low", "own_survives"]].isna().all(axis=None)
    assert (rows["lost"] == 0).all() and (rows["verdict"] == "untested").all() and (rows["p_holm"] == 1).all()


def test_a_damage_below_zero_has_no_shares(tiny: Model) -> None:
    """Helpful steering: the loss is that of the token that the steered model likes best."""
    question = asked(tiny, texts=STORIES)
    ids = tiny.tokens(STORIES[0])[:4]
    edits = ordinary(question, [[*ids, 1]]).edits(0)[0]
    best = int((plain_logits(tiny, ids, edits) - plain_logits(tiny, ids))[-1].argmax())
    texts = [[*ids, best]] * 3  # three times the same: no standard error at all
    found = freeze_attention(question, text=texts, by=("all",))
    rows = found.frames["attention"].query("outcome == 'damage'")
    assert (rows["total"] < 0).all() and rows["survives"].isna().all()
    assert "not 3 standard errors above zero" in found.manifest["missing"]["shares of the damage"]


@pytest.mark.parametrize("clear", [1, 2])
def test_a_few_random_vectors_with_a_total_do_not_speak_for_all(clear: int, tiny: Model) -> None:
    """Three references that lose half: those with a total over zero count, if they are at least half."""
    question = asked(tiny, texts=STORIES, references=3)
    total = np.tile([1.0, 1.1, 0.9, 1.0, 1.0], (4, 1))
    total[1 + clear :] = [3.0, -3.0, 1.0, -1.0, 0.1]
    raw = Lost((Freezing("values"),), total[:, None] / 4, total[:, None] / 2, total, total)
    frames, missing = tables({"effect": question}, {"effect": raw}, Statistics())
    row = frames["attention"].iloc[0]
    assert row["survives"] == pytest.approx(0.75) and row["own_survives"] == pytest.approx(0.5)
    if clear == 1:
        assert np.isnan(row["reference_survives"]) and row["verdict"] == "untested"
        assert "of 3 random vectors 1 have one" in missing["random vectors' shares of the effect"]
    else:
        assert row["reference_survives"] == pytest.approx(0.5) and not missing


def test_a_model_without_a_tokenizer_has_its_effect_all_the_same(small_model: Model) -> None:
    found = freeze_attention(asked(small_model), by=("all",))
    assert set(found.frames["attention"]["outcome"]) == {"effect"}
    assert "has no tokenizer" in found.manifest["missing"]["damage"]
    given = freeze_attention(asked(small_model), text=[[*range(12)], [*range(20, 30)]], by=("all",))
    assert set(given.frames["attention"]["outcome"]) == {"effect", "damage"}


def test_a_text_that_was_asked_for_is_not_passed_over(tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 0)
    injection = Injection(vector, positions=(9,))
    question = Experiment(tiny, (injection,), make_prompts(tiny, STORIES), references=0)
    with pytest.raises(BadInjection):
        freeze_attention(question, text=[[0, 5, 6]], by=("all",))


def test_an_injection_that_leaves_no_token_to_predict_is_refused(tiny: Model) -> None:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 0).row(-1), positions=(6,))
    question = Experiment(tiny, (injection,), make_prompts(tiny, [[0, *range(10, 19)]]), references=0)
    with pytest.raises(BadInjection):  # and 6 is not in the first half either
        ordinary(question, [[0, *range(10, 17)]])


# What cannot be.


def test_a_bridge_that_refuses_edited_patterns_is_frozen_by_its_queries_and_keys() -> None:
    """A GPT-J that the user holds: TransformerLens shows its patterns only after their use."""
    made = checkpoint("gptj")
    model = load(build_bridge_from_module(made, "GPTJForCausalLM", hf_config=made.config), name="toy")
    found = freeze_attention(asked(model), by=("all", "head"))
    assert set(found.frames["attention"]["scope"]) == {"all", "head"}
    assert all(check["passed"] for check in found.manifest["checks"])


def test_patterns_of_single_heads_are_missing_where_keys_are_shared_and_edits_refused(
    small_models: Any, monkeypatch: Any
) -> None:
    def refusing(model: Model, prompts: Any, variants: Any, *rest: Any, **options: Any) -> Any:
        if any(edit.site.name == "pattern" for variant in variants for edit in variant.edits):
            raise UnsupportedModel("llama shows its attention patterns only after their use")
        return run(model, prompts, variants, *rest, **options)

    monkeypatch.setattr(ov_qk, "run", refusing)
    found = freeze_attention(asked(small_models["llama"]), by=("all", "head"))
    reason = found.manifest["missing"]["attention patterns of single heads"]
    assert reason.startswith("llama shows its attention patterns only after") and "share keys" in reason
    heads = found.frames["attention"].query("scope == 'head'")
    assert set(heads["frozen"]) == {"values"}


@pytest.mark.parametrize("by", [(), ("heads",), ("all", "neurons")])
def test_unknown_scopes_are_refused(by: Any, small_model: Model) -> None:
    with pytest.raises(BadArgument, match=r"expected (some|a sequence, each one) of all, layer, head"):
        freeze_attention(asked(small_model), by=by)


def test_a_damage_that_any_vector_does_is_tested_against_zero_by_group(tiny: Model) -> None:
    question = asked(tiny, texts=STORIES, references=4)
    found = freeze_attention(question, by=("all", "head"))
    asked_, rows = ordinary(question), found.frames["attention"].query("outcome == 'damage'")
    lost_ = found.frames["per_prompt"].query("outcome == 'damage'").groupby(["frozen", "node"], sort=False)["lost"]
    p = np.array([nonzero_p(own.to_numpy(), asked_.prompts.by_group) for _, own in lost_])
    np.testing.assert_allclose(rows["p_holm"], holm(p), atol=1e-12)
    assert set(rows["verdict"]) <= set(VERDICTS)


def test_copies_of_one_prompt_give_shares_and_no_interval(tiny: Model) -> None:
    """Twelve copies know no more than one prompt does."""
    rows = freeze_attention(asked(tiny, texts=[STORIES[0]] * 12), by=("all",)).frames["attention"]
    effect = rows.query("outcome == 'effect'")
    assert effect["survives"].notna().all() and effect[["survives_low", "low", "total_low"]].isna().all(axis=None)
    assert (effect["p"] == 1).all() and (effect["verdict"] == "untested").all()


def test_a_check_says_in_which_section_it_stands(result: Result) -> None:
    assert {check["section"] for check in result.manifest["checks"]} == {page.TITLE}


def test_the_text_is_named(result: Result) -> None:
    text = result.manifest["text"]
    assert (
        text["source"] == "shipped" and text["name"] == "the text that comes with steerscope (16 pieces of 48 tokens)"
    )


def test_exact_has_the_same_numbers(tiny: Model) -> None:
    question = asked(tiny, texts=STORIES, references=2)
    found = exact(question, completions=0, writers=False)
    alone = freeze_attention(question, by=("all",)).frames["attention"]
    assert found.frames["attention"].equals(alone)
    assert found.manifest["ends"]["text"]["source"] == "shipped"
