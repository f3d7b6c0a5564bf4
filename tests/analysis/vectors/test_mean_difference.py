"""Differences of means: equal to plain means of activations; and their labels exchanged."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import steerscope as st
from steerscope.analysis.carriers.effect_table import carrier_table
from steerscope.analysis.engine.run import run
from steerscope.analysis.errors import BadArgument, BadNode, BadVector
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.corpora import windows
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.question.references import EXCHANGED, FAMILIES, MIXED, NOISE_ONLY, references
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.results.verdicts import NOISE
from steerscope.analysis.tools.patching import MEASURES, effects
from steerscope.analysis.vectors import plans
from steerscope.analysis.vectors.mean_difference import EXAMPLE, mean_difference, shuffled, splits
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.recipes import make
from steerscope.analysis.vectors.vector import SteeringVector

HAPPY = ["The party was fun", "What a lovely day", "She smiled", "They danced and sang", "He was glad"]
SAD = ["The dog was lost", "He cried all night", "Nobody came to help us", "It was cold"]


def by_hand(folder: Path, model: Model, texts: Sequence[str], layer: int) -> torch.Tensor:
    """The mean of the stream at the last tokens, by the plain model in float64, one text after another."""
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    with torch.no_grad():
        found = [
            plain(torch.tensor([model.tokens(text)]), output_hidden_states=True).hidden_states[layer][0, -1]
            for text in texts
        ]
    return torch.stack(found).mean(dim=0)


@pytest.mark.parametrize("layer", [0, 1])
def test_it_is_the_mean_over_one_kind_minus_that_over_the_other(layer: int, tiny: Model, tiny_folder: Path) -> None:
    vector = mean_difference(tiny, HAPPY, SAD, layer)
    expected = by_hand(tiny_folder, tiny, HAPPY, layer) - by_hand(tiny_folder, tiny, SAD, layer)
    assert vector.rows == 1 and vector.site.layer == layer
    torch.testing.assert_close(vector.values[0].double(), expected, atol=1e-5, rtol=0)


def test_many_texts_are_recorded_in_batches(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mean_difference(tiny, HAPPY, SAD, 1)
    monkeypatch.setattr(plans, "BATCH", 2)
    torch.testing.assert_close(mean_difference(tiny, HAPPY, SAD, 1).values, whole.values, atol=1e-5, rtol=0)


def test_a_head_has_its_own(tiny: Model) -> None:
    ids = [tiny.tokens(text) for text in (*HAPPY, *SAD)]
    last = [tiny.bridge.run_with_cache(torch.tensor([row]))[1]["blocks.1.attn.hook_z"][0, -1, 2] for row in ids]
    expected = torch.stack(last[:5]).mean(dim=0) - torch.stack(last[5:]).mean(dim=0)
    vector = mean_difference(tiny, HAPPY, SAD, 1, site="z", head=2)
    torch.testing.assert_close(vector.values[0], expected, atol=1e-5, rtol=0)


def test_exchanged_sides_flip_the_sign_and_token_ids_do_as_well_as_texts(tiny: Model) -> None:
    vector = mean_difference(tiny, HAPPY, SAD, 1)
    assert torch.equal(vector.values, -mean_difference(tiny, SAD, HAPPY, 1).values)
    first, second = [tiny.tokens(text) for text in HAPPY], [tiny.encode(text) for text in SAD]  # with BOS, and without
    assert torch.equal(vector.values, mean_difference(tiny, first, second, 1).values)


@pytest.mark.parametrize(
    ("positive", "negative", "what"),
    [
        ([], SAD, "there are no positive texts; expected at least one"),
        (HAPPY, [], "there are no negative texts"),
        (HAPPY, "The dog was lost", "got negative='The dog was lost'; expected a sequence"),
        (
            [*HAPPY, " "],
            ["", "a", "\n"],
            "positive text 6 is empty or blank; negative text 1 is .*; negative text 3 is",
        ),
        ([*HAPPY, "day " * 80], SAD, "positive text 6 has [0-9]+ tokens, tiny reads at most 64; .* mend or remove"),
        ([[1, 2]], [[3, 10**6]], "negative text 1 has token ids outside of 0.*: .1000000"),
        (HAPPY, HAPPY[::-1], "have the same mean activation at L0.resid_pre; .* choose a later one"),
        (["a cake", "Tom had a cake"], ["a cake", "Tom saw a cake"], "have the same mean activation"),
    ],
)
def test_texts_that_make_no_vector_are_refused(
    positive: list[str], negative: list[str], what: str, tiny: Model
) -> None:
    with pytest.raises(BadVector, match=what):
        mean_difference(tiny, positive, negative, 0)


def test_places_that_the_model_does_not_have_are_refused(tiny: Model) -> None:
    with pytest.raises(BadNode, match="layers 0 to 1"):
        mean_difference(tiny, HAPPY, SAD, 7)
    with pytest.raises(BadNode, match="cannot be recorded at 'pattern'"):
        mean_difference(tiny, HAPPY, SAD, 1, site="pattern")


def test_exchanged_labels_are_differences_of_means_of_the_same_texts(tiny: Model) -> None:
    """Each is a split by size, none the real one, none twice; and all are found again among all splits."""
    vector = mean_difference(tiny, HAPPY[:3], SAD[:3], 1)
    made = shuffled(tiny, vector, 9, np.random.default_rng(0))
    texts, left = HAPPY[:3] + SAD[:3], [one.values for one in made]
    for chosen in combinations(range(1, 6), 2):  # with the first text on the positive side: each direction once
        positive = [texts[0], *(texts[i] for i in chosen)]
        split = mean_difference(tiny, positive, [text for text in texts if text not in positive], 1).values
        same = [n for n, x in enumerate(left) if min((x - split).norm(), (x + split).norm()) < 1e-4 * split.norm()]
        assert len(same) == (positive != HAPPY[:3])
        for n in same:
            del left[n]
    assert not left


def test_exchanged_labels_are_those_of_the_seed_and_of_a_saved_vector(tiny: Model, tmp_path: Path) -> None:
    vector = mean_difference(tiny, HAPPY, SAD, 1)
    saved = SteeringVector.load(vector.save(tmp_path / "v.safetensors"))
    first, again, other = (
        torch.cat([one.values for one in shuffled(tiny, v, 6, np.random.default_rng(seed))])
        for v, seed in ((vector, 1), (saved, 1), (vector, 2))
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert (torch.corrcoef(torch.cat([vector.values, first])).fill_diagonal_(0).abs() < 0.999).all()


def test_the_texts_are_recorded_once_for_all_draws(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    vector = mean_difference(tiny, HAPPY, SAD, 1)
    seen: list[int] = []

    def counted(model: Model, prompts: Sequence[Sequence[int]], *given: Any, **options: Any) -> Any:
        seen.append(len(prompts))
        return run(model, prompts, *given, **options)

    monkeypatch.setattr(plans, "run", counted)
    shuffled(tiny, vector, 12, np.random.default_rng(0))
    assert seen == [9]


@pytest.mark.parametrize(
    "sides", ["abc def", "aab bcc", "aabb cdde", "abc defg", "a b", "ab aacc", "aabbx aabb", "bbb aaabbb"]
)
def test_the_splits_are_counted_as_one_would_by_hand(sides: str) -> None:
    """Copies are one text, a split turned round is the same where sizes are equal, one with equal sides is none."""
    positive, negative = map(list, sides.split())
    pool, size = np.array(positive + negative), len(positive)
    kinds = np.unique(pool)

    def direction(chosen: Sequence[int]) -> frozenset[tuple[float, ...]]:
        means = [(x[:, None] == kinds).mean(axis=0) for x in (pool[list(chosen)], np.delete(pool, chosen))]
        found = np.round(means[0] - means[1], 6)
        both = [found, -found] if 2 * size == len(pool) else [found]
        return frozenset(tuple((x + 0.0).tolist()) for x in both)

    zero = frozenset([(0.0,) * len(kinds)])
    ways = {direction(chosen) for chosen in combinations(range(len(pool)), size)} - {zero, direction(range(size))}
    assert splits({"positive": positive, "negative": negative}) == len(ways)


def test_no_more_exchanged_labels_than_there_are(tiny: Model) -> None:
    vector = mean_difference(tiny, HAPPY[:3], SAD[:3], 1)
    with pytest.raises(BadVector, match="can be exchanged in only 9 different ways; expected 10; give more texts"):
        shuffled(tiny, vector, 10, np.random.default_rng(0))
    foreign = SteeringVector(vector.values, vector.site, {**vector.source, "model": "other"})
    with pytest.raises(BadVector, match="cannot be exchanged on tiny: it was made on other"):
        shuffled(tiny, foreign, 2, np.random.default_rng(0))


def test_exchanged_labels_are_the_default_where_there_are_enough(tiny: Model) -> None:
    many, few = make(tiny, "mean_difference", **EXAMPLE), mean_difference(tiny, HAPPY[:3], SAD[:3], 1)
    pair = prompt_pair(tiny, " wedding", " ship", 1)
    given = SteeringVector(many.values, many.site)
    for vectors, expected in (
        ([many], EXCHANGED),
        ([many, many], EXCHANGED),
        ([few], NOISE_ONLY),
        ([given], NOISE_ONLY),
        ([pair], MIXED),
        ([pair, many], NOISE_ONLY),
    ):
        assert references(None, tiny, vectors).families == references(expected, tiny, vectors).families
    with pytest.raises(BadArgument, match="can be exchanged in only 9 different ways; expected 10; .* ask for fewer"):
        references("shuffled:10", tiny, [few])
    for vector in (given, pair):
        with pytest.raises(BadArgument, match=r"no shuffled references for .*from labelled texts \(mean_difference"):
            references("shuffled:4", tiny, [vector])
    with pytest.raises(
        BadArgument, match=r"no concepts references for .*from words \(prompt_pair, single_prompt, minus_mean\) on tiny"
    ):
        references("concepts:4", tiny, [many])


def test_references_with_exchanged_labels_have_the_norm_of_the_real_one(tiny: Model, stories: list[str]) -> None:
    vector, prompts = mean_difference(tiny, HAPPY, SAD, 1), make_prompts(tiny, stories[:2])
    asked = [
        Experiment(tiny, (Injection(vector, 2.0, positions="last"),), prompts, references="shuffled:6", seed=seed)
        for seed in (0, 0, 1)
    ]
    drawn = [torch.cat([one.vector.values for own in a.steering[1:] for one in own]) for a in asked]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    torch.testing.assert_close(drawn[0].norm(dim=-1), vector.norms.float().expand(6))
    assert asked[0].beside.families == ("shuffled",) * 6


def test_what_is_noise_is_the_same_for_references_and_for_verdicts() -> None:
    assert set(NOISE) == {name for name, family in FAMILIES.items() if family.noise}


def test_two_random_halves_are_not_told_from_their_exchanged_labels() -> None:
    """And a node that does stand out is told by the same test: it is not blind."""
    model = st.load("tinystories-2l", selfcheck=False)
    texts = windows(model, "shipped", count=24, tokens=12, seed=1).ids
    prompts = windows(model, "shipped", count=6, tokens=10, seed=2)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(texts)).tolist()
        first, second = ([texts[i] for i in half] for half in (order[:12], order[12:]))
        injection = Injection(mean_difference(model, first, second, 1), 1.0, positions="last")
        asked = Experiment(model, (injection,), prompts, references="shuffled:12", seed=seed)
        found = effects(asked)
        table, about = carrier_table(asked, found, Statistics())
        assert set(table["verdict"]) <= {"shared", "small", "untested"}
        assert max(about["leave_one_out"].values()) <= 0.1
    more = 0.5 * found.basis.own[0]
    raised = [np.array(values) for values in (found.along, found.own)]
    raised[0][:, 0] += 0.5 * found.basis.total
    raised[1][0, :, 0] += more
    table, _ = carrier_table(asked, replace(found, along=raised[0], own=raised[1]), Statistics())
    assert table["verdict"][table["node"] == str(found.nodes[0])].tolist() == ["concept"] * len(MEASURES)
