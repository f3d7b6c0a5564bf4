"""Reference vectors: what a user may say, what is drawn, and what is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from steerscope.analysis.engine.activations import record
from steerscope.analysis.errors import BadArgument, BadVector
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.bundles import bundle, everywhere
from steerscope.analysis.question.corpora import windows
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.question.references import (
    FAMILIES,
    OFFERED,
    TEXTS,
    TOKENS,
    WORDS,
    References,
    in_place,
    references,
)
from steerscope.analysis.results.verdicts import NOISE
from steerscope.analysis.vectors.bundle import VectorBundle
from steerscope.analysis.vectors.prompt_pair import concepts, paired, prompt_pair
from steerscope.analysis.vectors.random import random_like
from steerscope.analysis.vectors.vector import SteeringVector
from steerscope.loader import load

PLAIN = ("isotropic", "covariance", "concepts")  # what any pair of words has
PROMPTS = ["Tom had a red ball", "They saw a big cake and", "Once upon a time"]


@pytest.fixture(scope="module")
def trained() -> Model:
    """Most of our words are a token of it."""
    return load("tinystories-2l", selfcheck=False)


def ask(model: Model, given: Any, vector: SteeringVector | None = None, **options: Any) -> Experiment:
    vector = prompt_pair(model, " wedding", " ship", 1) if vector is None else vector
    return Experiment(model, (Injection(vector, 2.0),), make_prompts(model, PROMPTS), references=given, **options)


def drawn(asked: Experiment) -> list[SteeringVector]:
    """Of the first injection, without the real one."""
    return [group[0].vector for group in asked.steering[1:]]


@pytest.mark.parametrize(
    ("given", "said", "families"),
    [
        ("concepts:2,isotropic:1", "isotropic:1,concepts:2", ("isotropic", "concepts", "concepts")),
        (" covariance:1 , isotropic:2 ,", "covariance:1,isotropic:2", ("covariance", "isotropic", "isotropic")),
        ("concepts:0,isotropic:2", "isotropic:2", ("isotropic", "isotropic")),
        ("3", "isotropic:3", ("isotropic",) * 3),
        (3, "isotropic:3", ("isotropic",) * 3),
        (np.int64(2), "isotropic:2", ("isotropic",) * 2),
        (0, "none", ()),
        ("", "none", ()),
        ("isotropic:0", "none", ()),
    ],
)
def test_a_text_or_a_number_says_which_and_how_many(
    given: Any, said: str, families: tuple[str, ...], tiny: Model
) -> None:
    asked = ask(tiny, given)
    assert (str(asked.beside), asked.beside.families) == (said, families)
    assert asked.vectors == range(1 + len(families)) and len(asked.steering) == 1 + len(families)
    assert asked.basis().families == ("", *families)
    assert asked.describe()["references"]["families"] == {
        name: families.count(name) for name in dict.fromkeys(families)
    }


def test_the_default_is_concepts_beside_noise_where_the_recipe_allows_it(tiny: Model) -> None:
    pair = prompt_pair(tiny, " wedding", " ship", 1)
    mixed = references(None, tiny, [pair])
    assert set(mixed.families) == {"isotropic", "concepts"} and mixed.families.count("concepts") == 12
    for other in (
        2 * pair,
        pair + pair,
        random_like(pair, 3),
        SteeringVector(pair.values, pair.site),
        replace(pair, source={**pair.source, "model": "another"}),
    ):
        assert set(references(None, tiny, [other]).families) == {"isotropic"}
        assert set(references(None, tiny, [pair, other]).families) == {"isotropic"}
        with pytest.raises(BadArgument, match="there are no .*concepts.* expected a vector made from words"):
            references("concepts:4", tiny, [pair, other])
    assert references(None, tiny, [pair.row(-1)]).families == mixed.families


@pytest.mark.parametrize(
    "given",
    ["words:3", "isotropic", "isotropic:x", "isotropic:-1", "isotropic:1,isotropic:2", "given:2", "-3", "1.5", -1],
)
def test_texts_that_say_nothing_known_are_refused_with_what_there_is(given: Any, tiny: Model) -> None:
    expected = rf"expected families and how many, .*; there are {', '.join(OFFERED)}"
    with pytest.raises(BadArgument, match=expected):
        ask(tiny, given)


@pytest.mark.parametrize("given", [True, 2.5, [], {"isotropic": 3}, {}, "isotropic:²", "concepts:1000000000"])
def test_other_things_are_refused(given: Any, tiny: Model) -> None:
    with pytest.raises(BadArgument, match=r"references=.*; expected .*; "):
        ask(tiny, given)


def test_vectors_of_a_user_are_taken_at_the_norms_of_the_real_one(tiny: Model) -> None:
    real = prompt_pair(tiny, " wedding", " ship", 1)
    own = [prompt_pair(tiny, word, " ship", 1) for word in (" ring", " dragon")]
    asked = ask(tiny, own, real)
    assert (str(asked.beside), asked.beside.families) == ("given:2", ("given", "given"))
    for vector, given in zip(drawn(asked), own, strict=True):
        torch.testing.assert_close(vector.norms, real.norms)
        assert torch.cosine_similarity(vector.values[1], given.values[1], dim=0) == pytest.approx(1.0)
        assert vector.label == given.label
    assert asked.basis().families == ("", "given", "given")


def test_vectors_by_layer_stand_in_the_places_of_a_bundle(tiny: Model) -> None:
    def made(word: str) -> VectorBundle:
        return VectorBundle({layer: prompt_pair(tiny, word, " ship", layer).row(-1) for layer in (0, 1)})

    real, other = made(" wedding"), made(" ring")
    asked = Experiment(tiny, bundle(real), make_prompts(tiny, PROMPTS), references=[other])
    [own] = asked.steering[1:]
    for layer, injection in zip((0, 1), own, strict=True):
        assert injection.vector.label == other[layer].label and injection.site.layer == layer
        angle = torch.cosine_similarity(injection.vector.values, other[layer].values, dim=-1)
        torch.testing.assert_close(angle, torch.ones(1), atol=1e-5, rtol=0)
    several = everywhere(tiny, real[1])
    placed = in_place(prompt_pair(tiny, " ring", " ship", 1), [i.vector for i in several])
    assert [v.site for v in placed] == [i.vector.site for i in several]
    assert all(torch.equal(v.values, other[1].values) for v in placed)
    with pytest.raises(BadArgument, match="has no vector for layer 1"):
        Experiment(tiny, bundle(real), make_prompts(tiny, PROMPTS), references=[other.at([0])])


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (lambda v: replace(v, site=Site("resid_pre", 0)), r"\[2, 32\] at L0.resid_pre"),
        (lambda v: v.row(-1), r"\[1, 32\] at"),
        (lambda v: torch.ones(2, 32), "expected SteeringVectors at the site and of the shape"),
        (lambda v: "isotropic:3", "expected SteeringVectors"),
        (lambda v: (v, v), "a tuple of one for each"),
    ],
    ids=["site", "shape", "tensor", "text", "too many"],
)
def test_vectors_that_cannot_stand_in_its_place_are_refused(bad: Any, what: str, tiny: Model) -> None:
    real = prompt_pair(tiny, " wedding", " ship", 1)
    with pytest.raises(BadArgument, match=what):
        ask(tiny, [real, bad(real)], real)


@pytest.mark.parametrize("family", PLAIN)
@pytest.mark.parametrize("words", [(" wedding", " "), ("One day Tom", " ship"), (" dragon", " wedding near the")])
def test_every_family_has_equal_norms_row_by_row_and_directions_of_its_own(
    family: str, words: tuple[str, str], trained: Model
) -> None:
    real = prompt_pair(trained, *words, 1)
    vectors = drawn(ask(trained, f"{family}:4", real))
    for vector in vectors:
        torch.testing.assert_close(vector.norms, real.norms)
        assert vector.site == real.site and vector.norms[0] == 0
    rows = torch.stack([real.values, *(v.values for v in vectors)])[:, 1]
    angles = torch.cosine_similarity(rows[:, None], rows[None], dim=-1)
    assert (angles.triu(1) < 0.999).all()
    again, other = drawn(ask(trained, f"{family}:4", real)), drawn(ask(trained, f"{family}:4", real, seed=1))
    assert all(torch.equal(a.values, b.values) for a, b in zip(vectors, again, strict=True))
    assert not any(torch.allclose(a.values, b.values) for a, b in zip(vectors, other, strict=True))


@pytest.mark.parametrize(
    ("plus", "minus"), [(" wedding", " "), (" wedding", " ship"), ("The wedding", " a dragon"), (" wedding cake", " ")]
)
def test_concepts_are_other_words_of_as_many_tokens_recorded_the_same_way(
    plus: str, minus: str, trained: Model
) -> None:
    real = prompt_pair(trained, plus, minus, 1)
    seen = set()
    for vector in drawn(ask(trained, "concepts:8", real)):
        about = vector.source
        for side, text in (("plus", plus), ("minus", minus)):
            assert len(trained.encode(about[side])) >= len(trained.encode(text))
            if not text.strip():
                assert not about[side].strip()  # blank stays blank
                continue
            words = [word.casefold() for word in about[side].split()]
            assert len(words) == len(text.split())
            assert set(words) <= set(WORDS.read_text(encoding="utf-8").split())
            assert not set(words) & {word.casefold() for word in (plus + " " + minus).split()}
            assert about[side][:1].isspace() == text[:1].isspace()
            assert about[side].strip()[0].isupper() == text.strip()[0].isupper()
        ids = paired(trained, about["plus"], about["minus"])
        a, b = record(trained, list(ids), real.site)
        expected = (a - b)[-real.rows :]
        angle = torch.cosine_similarity(expected[1:], vector.values[1:], dim=-1)
        torch.testing.assert_close(angle, torch.ones_like(angle), atol=1e-4, rtol=0)
        seen.add((about["plus"], about["minus"]))
    assert len(seen) == 8 and (plus, minus) not in seen


@pytest.mark.parametrize(
    "change",
    [lambda v: v.row(-1), lambda v: v.row(1), lambda v: v.body, lambda v: v.mean(), lambda v: v.body.row(0)],
    ids=["last row", "row", "body", "mean", "row of the body"],
)
def test_what_became_of_the_vector_becomes_of_its_concepts(change: Any, trained: Model) -> None:
    pair = prompt_pair(trained, " wedding cake", " ship", 1)
    real = change(pair)
    prompts = make_prompts(trained, PROMPTS)
    asked = Experiment(trained, (Injection(real, 2.0, positions="back"),), prompts, references="concepts:3")
    for whole, changed in zip(drawn(ask(trained, "concepts:3", pair)), drawn(asked), strict=True):
        plain = prompt_pair(trained, whole.source["plus"], whole.source["minus"], 1)
        expected = change(plain)
        angle = torch.cosine_similarity(changed.values, expected.values, dim=-1)
        torch.testing.assert_close(angle, torch.ones_like(angle), atol=1e-4, rtol=0)
        torch.testing.assert_close(changed.norms, real.norms)


def test_a_model_without_a_tokenizer_has_other_tokens_for_concepts(small_models: "dict[str, Model]") -> None:
    model = small_models["native_attention_only"]
    real = prompt_pair(model, [5, 6], [7, 8], 0)
    prompts = make_prompts(model, [[1, 2, 3, 4, 5], [9, 8, 7, 6], [4, 4, 2, 1]])
    asked = Experiment(model, (Injection(real, 2.0),), prompts, references="concepts:3,isotropic:1")
    assert len({vector.label for vector in drawn(asked)}) == 4
    assert references(None, model, [real]).families.count("concepts") == 12
    for vector in drawn(asked)[1:]:
        assert not set(vector.source["plus"].strip("[]").split(", ")) & {"5", "6", "7", "8"}
        torch.testing.assert_close(vector.norms, real.norms)


def test_where_there_are_too_few_other_words_it_says_so(trained: Model) -> None:
    real = prompt_pair(trained, " wedding", " ", 1)
    with pytest.raises(BadVector, match='there are only 2 other concepts for " wedding" - " " in tinystories-2l; exp'):
        concepts(trained, real, ["park", "dog"], 3, np.random.default_rng(0))
    assert len(concepts(trained, real, ["park", "dog"], 2, np.random.default_rng(0))) == 2


def test_covariance_draws_have_the_covariance_of_the_stream(tiny: Model) -> None:
    site = Site("resid_pre", 1)
    like = SteeringVector(torch.ones(600, tiny.d_model), site)  # many rows: each is a draw
    draw = FAMILIES["covariance"].draw
    assert draw is not None
    (found,) = draw(tiny, like, 1, (0,))
    text = windows(tiny, "shipped", count=TEXTS, tokens=min(TOKENS, tiny.n_ctx))
    seen = torch.cat([x[1:] for x in record(tiny, text.ids, site)]).double()
    wanted = torch.cov(seen.T) * (len(seen) - 1)
    made = found.values.double()
    mine = made.T @ made / len(made)
    size = wanted.diagonal().sum()
    assert mine.diagonal().sum() == pytest.approx(float(size), rel=0.1)
    # Along each main direction of the stream, as much variance as the stream has there.
    values, directions = torch.linalg.eigh(wanted)
    along = ((made @ directions) ** 2).mean(dim=0)
    top = values > 0.02 * values.max()
    assert top.sum() > 3
    np.testing.assert_allclose(along[top] / values[top], 1.0, atol=5 * (2 / len(made)) ** 0.5)
    isotropic = FAMILIES["isotropic"].draw
    assert isotropic is not None
    flat = ((isotropic(tiny, like, 1, (0,))[0].values.double() @ directions) ** 2).mean(dim=0)
    assert flat.max() / flat.min() < 2 < values.max() / values.median()


def test_noise_is_what_the_verdicts_take_for_noise() -> None:
    assert {name for name, family in FAMILIES.items() if family.noise} == set(NOISE)
    assert all(family.is_ for family in FAMILIES.values())


def test_fewer_keeps_noise_first_and_the_runs_that_are_there(tiny: Model) -> None:
    asked = ask(tiny, "concepts:3,isotropic:2")
    effects = [asked.own_effect(vector) for vector in asked.vectors]
    few = asked.fewer(3)
    assert few.beside.families == ("isotropic", "isotropic", "concepts") and few.steering == asked.steering[:4]
    assert all(few.own_effect(v) is effects[v] for v in few.vectors)
    assert few.steered is asked.steered
    assert asked.fewer(5) is asked.fewer(9) is asked
    assert ask(tiny, "concepts:3,isotropic:2").fewer(1).beside.families == ("isotropic",)
    assert asked.fewer(0).vectors == range(1)
    own = ask(tiny, [prompt_pair(tiny, word, " ship", 1) for word in (" ring", " dragon")])
    steering = own.steering
    assert own.fewer(1).steering == steering[:2]
    both = References((("isotropic", 2),), own.beside.own)
    assert str(both.first(3)) == "isotropic:2,given:1" and len(both.first(1).own) == 0


def test_a_reference_is_drawn_the_same_however_many_there_are(tiny: Model) -> None:
    for family in ("isotropic", "concepts"):
        few, many = (drawn(ask(tiny, f"{family}:{n}")) for n in (2, 5))
        assert all(torch.equal(a.values, b.values) for a, b in zip(few, many[:2], strict=True))


@pytest.mark.parametrize("family", PLAIN)
def test_two_injections_have_a_reference_each_of_their_own(family: str, tiny: Model) -> None:
    vectors = [prompt_pair(tiny, word, " ship", 1) for word in (" wedding", " dragon")]
    injections = tuple(Injection(v, c) for v, c in zip(vectors, (3.0, -3.0), strict=True))
    asked = Experiment(tiny, injections, make_prompts(tiny, PROMPTS), references=f"{family}:3")
    for first, second in asked.steering[1:]:
        assert not torch.allclose(first.vector.values, second.vector.values)
        torch.testing.assert_close(first.vector.norms, vectors[0].norms)
        torch.testing.assert_close(second.vector.norms, vectors[1].norms)
    pairs = [(vectors[0], vectors[1]), (vectors[1], vectors[0])]
    own = Experiment(tiny, injections, make_prompts(tiny, PROMPTS), references=pairs)
    assert own.beside.families == ("given", "given")
    with pytest.raises(BadArgument, match="for several injections, a tuple of one for each"):
        Experiment(tiny, injections, make_prompts(tiny, PROMPTS), references=vectors)


def test_a_reference_is_read_along_its_own_change(tiny: Model) -> None:
    asked = ask(tiny, "concepts:2,isotropic:2")
    for vector in asked.vectors[1:]:
        alone = replace(asked, injections=asked.steering[vector], references=0)
        assert asked.own_effect(vector) == pytest.approx(alone.effect(), rel=1e-3, abs=1e-4)
        assert asked.basis().own[vector].tolist() == asked.own_effect(vector).tolist()
    assert asked.basis().own[0] == pytest.approx(asked.effect())


def test_one_vector_at_several_sites_has_one_reference_at_all_of_them(tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 1).row(-1)
    several = everywhere(tiny, vector, during="prompt")
    prompts = make_prompts(tiny, ["One day Lily saw a dragon"])
    asked = Experiment(tiny, several, prompts, references="isotropic:2,concepts:2")
    for own in asked.steering[1:]:
        assert [i.site for i in own] == [i.site for i in several]
        assert all(torch.equal(i.vector.values, own[0].vector.values) for i in own)
    alone = Experiment(tiny, (Injection(vector),), prompts, references="isotropic:2,concepts:2")
    for own, (single,) in zip(asked.steering[1:], alone.steering[1:], strict=True):  # recorded where the real one was
        torch.testing.assert_close(own[0].vector.values, single.vector.values)


def test_one_recipe_at_several_layers_is_compared_with_the_same_words(tiny: Model) -> None:
    vectors = {layer: prompt_pair(tiny, " wedding", " ship", layer).row(-1) for layer in (0, 1)}
    prompts = make_prompts(tiny, ["One day Lily saw a dragon"])
    asked = Experiment(tiny, bundle(vectors), prompts, references="concepts:2,isotropic:1")
    for own in asked.steering[1:]:
        one, two = (i.vector for i in own)
        assert one.label == two.label or one.source["recipe"] == "isotropic"
        assert not torch.equal(one.values, two.values)
