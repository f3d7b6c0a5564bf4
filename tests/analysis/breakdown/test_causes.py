"""Causes on planted models in which one mechanism breaks the output, and each undoing against plain passes."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from questions import experiment as question
from questions import one
from reference import plain_pass

from benchmarks.planted import WIDTH, N, plant
from steerscope.analysis.breakdown.causes import NODES, causes, halves
from steerscope.analysis.breakdown.mechanisms import Undo
from steerscope.analysis.breakdown.outcomes import Asked, of_text
from steerscope.analysis.breakdown.strength import rows
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.model.norms import readers, sites, stream
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import kl, perplexity
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.tools.ordinary import ordinary
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.vector import SteeringVector


def greedy(model: Model, count: int, length: int) -> list[list[int]]:
    """Prompts that the model itself predicts, so that any disturbance raises their loss."""
    found = []
    for first in range(3, 3 + count):
        ids = [first]
        while len(ids) < length:
            ids.append(int(plain_pass(model, ids)["logits"][-1].argmax()))
        found.append(ids)
    return found


def sharpened(model: Model) -> Model:
    """The same model, ten times as sure of what it says."""
    with torch.no_grad():
        dict(model.bridge.named_parameters())["head._original_component.weight"][3:] *= 10
    return model


def itself(asked: Experiment) -> Asked:
    """Damage on the same prompts as the effect, at the same positions."""
    return Asked(asked, replace(asked, metric=perplexity()))


def of(found: Experiment, coefficient: float) -> "dict[str, dict[str, float]]":
    table, gap, _ = causes(itself(found), coefficient, 0.95)
    assert gap < 1e-6
    row = one(table[table["kind"] != "node"], "cause")
    return {name: row(name) for name in table[table["kind"] != "node"]["cause"]}


@torch.no_grad()
def planted(case: str) -> Experiment:
    """The case on prompts that the model predicts; its effect is on the target, its damage on everything else."""
    asked = plant(case, norm="RMS", idle=2, references=0).experiment
    model = sharpened(asked.model)
    return replace(asked, prompts=make_prompts(model, greedy(model, 8, 9)))


def test_a_pure_ov_model_breaks_by_what_heads_move() -> None:
    found = of(planted("direct"), 4.0)
    assert found["values"]["gone"] > 0.95 and found["values"]["effect"] < 0.05
    assert abs(found["patterns"]["gone"]) < 0.02 and abs(found["patterns"]["shapley"]) < 0.02
    best = max(("patterns", "values", "scales", "norm", "mean", "rogue"), key=lambda m: found[m]["shapley"])
    assert best == "values"


def test_a_pure_qk_hijack_breaks_by_where_heads_look() -> None:
    found = of(planted("attention"), 4.0)
    assert found["patterns"]["gone"] > 0.95 and found["patterns"]["effect"] < 0.05
    assert found["values"]["gone"] < 0.05
    best = max(("patterns", "values", "scales", "norm", "mean", "rogue"), key=lambda m: found[m]["shapley"])
    assert best == "patterns"


@torch.no_grad()
def test_a_pure_norm_suppression_breaks_by_what_norms_divide_by() -> None:
    """A vector that nothing reads, at the scored positions: the norm makes all else small."""
    asked = planted("direct")
    for name, weight in asked.model.bridge.named_parameters():
        if weight.ndim == 2 and any(f"attn._original_component.{part}." in name for part in "qkv"):
            weight[:, N] = 0  # idle heads read a little of everything
    values = torch.zeros(1, WIDTH)
    values[0, N] = 1.0
    vector = SteeringVector(values, Site("resid_pre", 0), {"recipe": "given"})
    places = tuple(range(1, 8))
    asked = Experiment(
        asked.model, (Injection(vector, 1.0, positions=places),), asked.prompts, kl(), references=0, scored=places
    )
    found = of(asked, 30.0)
    assert found["scales"]["gone"] > 0.99
    for other in ("patterns", "seen", "values", "norm", "mean", "sink", "rogue"):
        assert other not in found or abs(found[other]["gone"]) < 0.05, other
    assert max(found.items(), key=lambda item: item[1]["shapley"] if item[0] != "all of them" else -1)[0] == "scales"


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj", "gemma2", "native_with_mlp"])
def test_undone_means_what_it_says(small_models: "dict[str, Model]", name: str) -> None:
    model = small_models[name]
    asked = question(model, layer=1)
    undo = Undo(asked, 6.0)
    for p, ids in enumerate(asked.prompts.ids):
        clean, where = plain_pass(model, ids), list(undo.added[p][0])
        later = [i for i in range(min(where), len(ids)) if i not in where]
        frozen = plain_pass(model, ids, undo.edits({"patterns"})[p])
        torch.testing.assert_close(frozen["pattern", 1], clean["pattern", 1], atol=1e-5, rtol=0)
        hidden = plain_pass(model, ids, undo.edits({"seen"})[p])["pattern", 1]
        assert (hidden[:, later][:, :, where] == 0).all()
        torch.testing.assert_close(hidden[:, later].sum(-1), torch.ones(model.n_heads, len(later)))
        moved = plain_pass(model, ids, undo.edits({"values"})[p])["v", 1][where]
        torch.testing.assert_close(moved, clean["v", 1][where], atol=1e-5, rtol=0)
        before = clean["resid_pre", 1][where]
        after = plain_pass(model, ids, undo.edits({"norm"})[p])["resid_pre", 1][where]
        torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1), atol=1e-4, rtol=0)
        steered = plain_pass(model, ids, undo.edits(set())[p])["resid_pre", 1][where]
        assert torch.cosine_similarity(after, steered).min() > 1 - 1e-5


@torch.no_grad()
def test_frozen_scales_keep_what_later_positions_read(small_model: Model) -> None:
    """With the scale frozen, each reading norm at a free position is linear in the stream."""
    asked = question(small_model, layer=1)
    undo = Undo(asked, 6.0)
    p, ids = 0, asked.prompts.ids[0]
    clean, run = (plain_pass(small_model, ids), plain_pass(small_model, ids, undo.edits({"scales"})[0]))
    final = readers(small_model)[-1]
    last = small_model.n_layers - 1
    free = [i for i in range(len(ids)) if i not in undo.added[p][0]]
    kept = {key: clean[key] for key in sites(small_model)}
    scale = final.norm.scale(stream(small_model, final, kept))
    expected = final.norm.part(run["resid_post", last], scale) + final.norm.bias
    torch.testing.assert_close(run["hidden"][free], expected[free], atol=1e-5, rtol=1e-5)


def test_vectors_without_a_part_lose_just_that(tiny: Model, stories: list[str]) -> None:
    asked = Experiment(
        tiny,
        (Injection(prompt_pair(tiny, " wedding", " ship", 1), 3.0),),
        make_prompts(tiny, stories[:4]),
        references=0,
    )
    undo = Undo(asked, 3.0)
    for name in ("mean", "sink"):
        along = undo._directions[name]
        for _, value in undo._vectors({name}):
            assert (value @ along).abs().max() < 1e-5
    kept = [value for _, value in undo._vectors({"rogue"})]
    assert all((value[:, undo._rogue] == 0).all() for value in kept)
    whole = rows(asked, 3.0)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(undo._vectors(set()), whole, strict=True))


def test_shapley_values_are_those_of_all_orders(tiny: Model, stories: list[str]) -> None:
    """Recomputed from the definition: means over all orders of what each adds when it is undone."""
    from itertools import permutations

    from steerscope.analysis.breakdown import causes as module

    asked = Experiment(
        tiny,
        (Injection(prompt_pair(tiny, " wedding", " ship", 0), 30.0),),
        make_prompts(tiny, stories[:3]),
        references=0,
    )
    players = ("patterns", "values", "norm")
    subsets = [frozenset(s) for n in range(4) for s in combinations(players, n)]
    text = ordinary(asked, stories[:3])
    hurt = of_text(text, lambda one: map(Undo(one, 30.0).edits, subsets))["damage"]
    place = {s: i for i, s in enumerate(subsets)}
    for player in players:
        slow = []
        for order in permutations(players):
            before = frozenset(order[: order.index(player)])
            slow.append(hurt[place[before]] - hurt[place[before | {player}]])
        own = module._shapley(hurt, place, players, player)
        np.testing.assert_allclose(own, np.mean(slow, axis=0), atol=1e-12)


def test_halves_part_groups_and_never_one() -> None:
    groups = np.array([7, 7, 3, 3, 3, 9, 1, 1])
    side = halves(groups, 0)
    assert side is not None and {tuple(np.unique(side[groups == g])) for g in groups} == {(0,), (1,)}
    assert sorted(len({g for g in groups[side == half]}) for half in (0, 1)) == [2, 2]
    assert halves(np.array([4, 4, 4]), 0) is None


@pytest.mark.slow
def test_nodes_are_judged_on_the_half_that_did_not_choose_them(tiny: Model, stories: list[str]) -> None:
    """Each number again, from plain means over the half that judges."""
    asked = Experiment(
        tiny,
        (Injection(prompt_pair(tiny, " wedding", " ship", 0), 30.0),),
        make_prompts(tiny, stories[:3]),
        references=0,
    )
    both = Asked(asked, ordinary(asked))
    table, _, missing = causes(both, 30.0, 0.95)
    assert "nodes" not in missing and both.text is not None
    nodes = asked.reachable
    back = both.text.patches(None, nodes)
    steering = both.text.edits(0)
    clean = both.text.value(None)
    whole = both.text.value(0) - clean
    runs = [tuple((*own, back[n][p]) for p, own in enumerate(steering)) for n in nodes]
    gone = whole - of_text(both.text, lambda _: runs)["damage"]
    side = halves(both.groups("damage"), asked.seed)
    best = {h: {str(nodes[i]) for i in np.argsort(-gone[:, side == h].mean(axis=1))[:NODES]} for h in (0, 1)}
    rows = table[table["kind"] == "node"]
    assert set(rows["cause"]) == best[0] | best[1]
    for row in rows.to_dict("records"):
        chose = [h for h in (0, 1) if row["cause"] in best[h]]
        judged = np.ones(len(whole), bool) if len(chose) == 2 else side != chose[0]
        own = gone[[str(n) for n in nodes].index(row["cause"])]
        assert row["halves"] == len(chose)
        assert row["gone"] == pytest.approx(own[judged].mean() / whole[judged].mean(), abs=1e-4)
        assert row["left"] == pytest.approx((whole - own)[judged].mean(), abs=1e-4)


def test_one_group_of_text_chooses_no_nodes(tiny: Model, stories: list[str]) -> None:
    asked = Experiment(
        tiny,
        (Injection(prompt_pair(tiny, " wedding", " ship", 0), 30.0),),
        make_prompts(tiny, stories[:2]),
        references=0,
    )
    table, _, missing = causes(Asked(asked, ordinary(asked, [stories[0]] * 4)), 30.0, 0.95)
    assert not (table["kind"] == "node").any() and missing["nodes"].startswith("one group of text")
    assert table[["gone_low", "shapley_high", "left_low"]].isna().all(axis=None)
    assert "one group gives no interval" in missing["shares of the damage"]


@torch.no_grad()
def test_prompts_shorter_than_the_number_of_heads_keep_all_heads() -> None:
    asked = plant("direct", norm="RMS", idle=10, references=0).experiment
    assert asked.model.n_heads == 12 and min(map(len, asked.prompts.ids)) < 12
    undo = Undo(asked, 4.0)
    for p, ids in enumerate(asked.prompts.ids):
        frozen = plain_pass(asked.model, ids, undo.edits({"patterns"})[p])["pattern", 1]
        assert len(frozen) == 12
        torch.testing.assert_close(frozen, plain_pass(asked.model, ids)["pattern", 1], atol=1e-5, rtol=0)
    seen = asked.activations(None, [("pattern", 1)])
    for p, ids in enumerate(asked.prompts.ids):
        torch.testing.assert_close(seen[p]["pattern", 1], plain_pass(asked.model, ids)["pattern", 1], atol=1e-5, rtol=0)
