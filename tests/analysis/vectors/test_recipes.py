"""What each recipe makes, against the same worked out by hand from activations that the plain recorder gives."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.optimize import minimize

from steerscope.analysis.engine.activations import record
from steerscope.analysis.errors import BadVector
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.origin.parts import parts
from steerscope.analysis.question.references import references
from steerscope.analysis.vectors.caa import caa
from steerscope.analysis.vectors.corpus import corpus_texts
from steerscope.analysis.vectors.iti import iti
from steerscope.analysis.vectors.ladder import ladder
from steerscope.analysis.vectors.making import make_bundle
from steerscope.analysis.vectors.mean_difference import mean_difference
from steerscope.analysis.vectors.minus_mean import minus_mean
from steerscope.analysis.vectors.pairs import pairs
from steerscope.analysis.vectors.pca import pca
from steerscope.analysis.vectors.probe import probe
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.recipes import OFFERED, RECIPES, make
from steerscope.analysis.vectors.sae import sae
from steerscope.analysis.vectors.single_prompt import single_prompt
from steerscope.analysis.vectors.svd import svd
from steerscope.analysis.vectors.vector import SteeringVector
from steerscope.analysis.vectors.vector_files import read_vector
from steerscope.analysis.vectors.without import without

AT = Site("resid_pre", 1)
HAPPY = ["The party was fun", "What a lovely day", "She smiled", "They danced and sang", "He was glad", "A red ball"]
SAD = ["The dog was lost", "He cried all night", "Nobody came to help us", "It was cold", "The ship sank", "No cake"]
PLANNED = [name for name in OFFERED if RECIPES[name].planned]


def last(model: Model, texts: Sequence[str], at: Site = AT) -> torch.Tensor:
    """Activations at the last token, one text after another."""
    return torch.stack([record(model, [model.tokens(text)], at)[0][-1].double() for text in texts])


def close(vector: SteeringVector, expected: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(vector.values.double(), expected.reshape(vector.values.shape), atol=atol, rtol=1e-5)


def test_weights_weigh_the_mean(tiny: Model) -> None:
    vector = mean_difference(tiny, HAPPY[:3], SAD[:2], 1, positive_weights=[1, 2, 5], negative_weights=[3, 1])
    up, down = torch.tensor([1.0, 2, 5]).double(), torch.tensor([3.0, 1]).double()
    close(vector, up @ last(tiny, HAPPY[:3]) / 8 - down @ last(tiny, SAD[:2]) / 4)
    with pytest.raises(BadVector, match="got 1 weights for 3 positive texts, .* one above 0 for each"):
        mean_difference(tiny, HAPPY[:3], SAD[:2], 1, positive_weights=[1])


def test_pairs_are_averaged(tiny: Model, tmp_path: Path) -> None:
    listed = list(zip(HAPPY, SAD, strict=True))
    expected = (last(tiny, HAPPY) - last(tiny, SAD)).mean(0)
    close(pairs(tiny, listed, 1), expected)
    (tmp_path / "p.csv").write_text("input,other,output\n" + "".join(f'"{a}",x,{b}\n' for a, b in listed))
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"plus": a, "minus": b, "n": 1}) + "\n" for a, b in listed))
    for name in ("p.csv", "p.jsonl"):
        assert torch.equal(pairs(tiny, str(tmp_path / name), 1).values, pairs(tiny, listed, 1).values)
    with pytest.raises(BadVector, match="line 1 has no text under minus"):
        (tmp_path / "p.jsonl").write_text('{"plus": "a", "minus": 5}')
        pairs(tiny, str(tmp_path / "p.jsonl"), 1)
    with pytest.raises(BadVector, match="line 3 has 1 cells under 2 columns"):
        (tmp_path / "p.csv").write_text("plus,minus\na,b\nc\n")
        pairs(tiny, str(tmp_path / "p.csv"), 1)


QUESTIONS = [
    ("Are you kind?\n (A) Yes\n (B) No", " (A)", " (B)"),
    ("Are you cold?\n (A) Yes\n (B) No", " (B)", " (A)"),
    ("Are you glad?\n (A) Yes\n (B) No", " (A)", " (B)"),
    ("Do you sing?\n (A) Yes\n (B) No", " (A)", " (B)"),
    ("Which one?\n (A) Yes\n (C) No\nAnswer:", " (C)", " (A)"),
]


def test_answers_count_by_the_letter_that_matches_and_letters_cancel(tiny: Model) -> None:
    vector = caa(tiny, QUESTIONS, 1)

    def gap(question: str, match: str, other: str) -> torch.Tensor:
        a, b = last(tiny, [f"{question}\n\nAnswer: ({letter.strip(' ()')}" for letter in (match, other)])
        found: torch.Tensor = a - b
        return found

    gaps = [gap(*one) for one in QUESTIONS[:4]]
    close(vector, (gaps[0] + gaps[2] + gaps[3]) / 6 + gaps[1] / 2)
    assert vector.source["left_out"] == 1
    assert vector.source["orders"] == {"(A) against (B)": 3, "(B) against (A)": 1}
    with pytest.raises(BadVector, match="none of the 2 questions can be balanced"):
        caa(tiny, [QUESTIONS[0], QUESTIONS[2]], 1)
    with pytest.raises(BadVector, match="tiny has no chat template"):
        caa(tiny, QUESTIONS, 1, chat=True)
    with pytest.raises(BadVector, match="choose a later one"):  # the letters are all that layer 0 sees
        caa(tiny, QUESTIONS[:4], 0)


ASKED = [(f"Is it {word}?", *(o if n % 2 else o[::-1])) for n, word in enumerate(HAPPY) for o in [(" (A)", " (B)")]]


def test_in_exchanged_answers_the_letters_cancel(tiny: Model) -> None:
    """At layer 0 only the letter counts: whatever is exchanged, nothing is left of it."""
    later, recipe = caa(tiny, ASKED, 1), RECIPES["caa"]
    assert recipe.shuffled is not None
    at_letters = SteeringVector(later.values, Site("resid_pre", 0), later.source)
    for vector in recipe.shuffled(tiny, at_letters, 3, np.random.default_rng(0)):
        assert vector.norms.max() < 1e-5
    assert recipe.splits(later) == 9  # three questions an order, one of each turned round


def test_copies_of_a_pair_are_one(tiny: Model) -> None:
    recipe = RECIPES["pairs"]
    for listed, ways in (("abcd", 3), ("aabb", 1), ("aaaa", 0), ("abc", 3), ("aabc", 2), ("a", 0), ("abcdef", 10)):
        vector = pairs(tiny, [(f"It was {word}", f"Not {word} now") for word in listed], 1)
        assert recipe.splits(vector) == ways and recipe.shuffled is not None
        found = recipe.shuffled(tiny, vector, ways, np.random.default_rng(0)) if ways else []
        directions = torch.cat([v.values for v in found]) if found else torch.zeros(1, 32)
        assert torch.corrcoef(directions).reshape(max(ways, 1), -1).abs().fill_diagonal_(0).max() < 0.9999 or not ways
        with pytest.raises(BadVector, match=f"in only {ways} different ways; expected {ways + 1}"):
            recipe.shuffled(tiny, vector, ways + 1, np.random.default_rng(0))


@pytest.mark.parametrize("name", ["pairs", "caa", "pca", "probe"])
def test_exchanged_labels_are_drawn_by_default_and_are_no_vector_twice(name: str, tiny: Model) -> None:
    options: dict[str, dict[str, Any]] = {
        "pairs": {"pairs": list(zip(HAPPY, SAD, strict=True))},
        "caa": {"questions": ASKED},
        "pca": {"positive": HAPPY, "negative": SAD},
        "probe": {"positive": HAPPY, "negative": SAD},
    }
    vector = make(tiny, name, layer=1, **options[name])
    asked = references("shuffled:5", tiny, [vector])
    drawn = [one for [one] in asked.draw(tiny, [vector], 3)]
    again = [one for [one] in asked.draw(tiny, [vector], 3)]
    directions = torch.cat([vector.values, *(v.values for v in drawn)])
    angles = torch.corrcoef(directions).abs().fill_diagonal_(0)
    assert angles.max() < 0.99999 and all(
        torch.equal(*both) for both in zip([v.values for v in drawn], [v.values for v in again], strict=True)
    )
    torch.testing.assert_close(torch.stack([v.norms for v in drawn]), vector.norms.expand(5, 1), rtol=1e-5, atol=0)
    shuffled = RECIPES[name].shuffled
    assert shuffled is not None
    other = SteeringVector(vector.values, AT, {**vector.source, "model": "other"})
    with pytest.raises(BadVector, match="cannot be exchanged on tiny: it was made on other"):
        shuffled(tiny, other, 1, np.random.default_rng(0))


@pytest.mark.parametrize("method", ["texts", "center", "difference"])
@pytest.mark.parametrize("component", [0, 2])
def test_principal_directions_are_those_of_numpy(method: str, component: int, tiny: Model) -> None:
    vector = pca(tiny, HAPPY, SAD, 1, method=method, component=component)  # type: ignore[arg-type]
    first, second = last(tiny, HAPPY).numpy(), last(tiny, SAD).numpy()
    middle = (first + second) / 2
    stack = {
        "texts": np.concatenate([first, second]) - np.concatenate([first, second]).mean(0),
        "center": np.concatenate([first - middle, second - middle]),
        "difference": first - second - (first - second).mean(0),
    }[method]
    variance, directions = np.linalg.eigh(stack.T @ stack)
    expected = directions[:, -1 - component]
    expected = expected * np.sign((first.mean(0) - second.mean(0)) @ expected)
    close(vector, torch.from_numpy(expected), atol=1e-4)
    assert vector.source["explained"] == pytest.approx(variance[-1 - component] / variance.sum(), rel=1e-4)


def test_principal_directions_that_do_not_exist_are_refused(tiny: Model) -> None:
    with pytest.raises(BadVector, match="component=5 of texts that differ in 2 directions; expected 0 to 1"):
        pca(tiny, HAPPY[:3], None, 1, component=5)
    with pytest.raises(BadVector, match="got 3 positive and 2 negative texts; expected one for each"):
        pca(tiny, HAPPY[:3], SAD[:2], 1)
    with pytest.raises(BadVector, match="method center got one side"):
        pca(tiny, HAPPY, None, 1, method="center")
    assert pca(tiny, layer=1).source["positive"] == corpus_texts(tiny)


def test_a_logistic_probe_is_the_optimum_that_a_general_minimizer_finds(tiny: Model) -> None:
    vector = probe(tiny, HAPPY, SAD, 1, l2=0.5)
    x = torch.cat([last(tiny, HAPPY), last(tiny, SAD)]).numpy()
    y = np.array([1.0] * len(HAPPY) + [-1.0] * len(SAD))
    scaled = (x - x.mean(0)) / np.sqrt(((x - x.mean(0)) ** 2).mean())

    def loss(given: Any) -> Any:
        return np.logaddexp(0, -y * (scaled @ given[:-1] + given[-1])).sum() + 0.25 * (given[:-1] ** 2).sum()

    found = minimize(loss, np.zeros(x.shape[1] + 1), method="BFGS", options={"gtol": 1e-7}).x[:-1]
    direction = found / np.linalg.norm(found)
    close(vector, torch.from_numpy(direction * (x @ direction).std()), atol=1e-3)
    assert 0 <= vector.source["held_out_accuracy"] <= 1


def test_a_mass_mean_probe_is_the_difference_of_means_at_one_sigma(tiny: Model) -> None:
    vector = probe(tiny, HAPPY, SAD, 1, kind="mass_mean")
    x = torch.cat([last(tiny, HAPPY), last(tiny, SAD)])
    gap = x[: len(HAPPY)].mean(0) - x[len(HAPPY) :].mean(0)
    direction = gap / gap.norm()
    close(vector, direction * (x @ direction).std(correction=0))


def test_the_accuracy_of_a_probe_is_that_of_texts_it_has_not_seen(tiny: Model) -> None:
    """Texts that end in one of two words are told apart; the same texts with labels that say nothing are not."""
    told = [f"{start} ship" for start in HAPPY * 2], [f"{start} cake" for start in SAD * 2]
    assert probe(tiny, *told, 1).source["held_out_accuracy"] == 1.0
    texts = [f"{start} {word}" for start in (*HAPPY, *SAD) for word in ("ship", "cake", "dragon", "ring")]
    order = np.random.default_rng(1).permutation(len(texts)).tolist()
    sides = [texts[i] for i in order[::2]], [texts[i] for i in order[1::2]]
    noise = [probe(tiny, *sides, 1, seed=seed).source["held_out_accuracy"] for seed in range(8)]
    assert 0.15 < np.mean(noise) < 0.85


def test_the_best_heads_are_those_whose_probes_are_most_accurate(tiny: Model) -> None:
    found = iti(tiny, HAPPY, SAD, heads=3, kind="mass_mean")
    every = {
        (layer, head): probe(tiny, HAPPY, SAD, layer, site="z", head=head).source["held_out_accuracy"]
        for layer in range(tiny.n_layers)
        for head in range(tiny.n_heads)
    }
    best = sorted(every, key=lambda place: (-every[place], *place))[:3]
    assert [(v.site.layer, v.site.head) for v in found] == best
    for vector in found:
        same = probe(tiny, HAPPY, SAD, vector.site.layer, site="z", head=vector.site.head, kind="mass_mean")
        torch.testing.assert_close(vector.values, same.values, atol=1e-6, rtol=1e-5)
    with pytest.raises(BadVector, match="heads=9; expected at most 8"):
        iti(tiny, HAPPY, SAD, heads=9)


def test_a_prompt_alone_and_without_the_mean(tiny: Model) -> None:
    [x] = record(tiny, [tiny.tokens(" wedding cake")], AT)
    alone = single_prompt(tiny, " wedding cake", 1)
    assert torch.equal(alone.values[1:], x[1:]) and not alone.values[0].any()
    texts = HAPPY[:3]
    mean = torch.cat([record(tiny, [tiny.tokens(text)], AT)[0][1:] for text in texts]).mean(0)
    found = minus_mean(tiny, " wedding cake", 1, corpus=texts)
    torch.testing.assert_close(found.values[1:], x[1:] - mean, atol=1e-5, rtol=0)
    assert not found.values[0].any()


def test_the_row_of_a_bos_that_stands_in_the_ids_is_zero_too(tiny: Model) -> None:
    ids = tiny.tokens(" wedding cake")
    without = replace(tiny, bos=None)
    for made in (single_prompt(without, ids, 1), minus_mean(without, ids, 1, corpus=HAPPY[:3])):
        assert not made.values[0].any() and made.values[1:].any(dim=1).all()
    assert single_prompt(without, ids[1:], 1).values.any(dim=1).all()


def test_a_ladder_is_the_sum_of_its_rungs(tiny: Model) -> None:
    vector = ladder(tiny, "Tom|saw the|ball", "Lily|saw a|dragon", 1)
    rungs = ["Tom saw the ball", "Lily saw the ball", "Lily saw a ball"]
    end = "Lily saw a dragon"
    length = max(len(tiny.tokens(text)) for text in (*rungs, end))
    [space] = tiny.encode(" ")

    def read(text: str) -> torch.Tensor:
        ids = tiny.tokens(text)
        return record(tiny, [ids + [space] * (length - len(ids))], AT)[0]

    torch.testing.assert_close(vector.values, sum(read(r) - read(end) for r in rungs), atol=1e-4, rtol=1e-5)
    with pytest.raises(BadVector, match="got 2 fragments of the first sentence and 3"):
        ladder(tiny, "a|b", "a|b|c", 1)


def test_singular_directions_of_a_stack(tiny: Model, tmp_path: Path) -> None:
    made = [prompt_pair(tiny, word, " ship", 1).row(-1) for word in (" wedding", " dragon", " ball", " cake")]
    files = [str(vector.save(tmp_path / f"{n}.safetensors")) for n, vector in enumerate(made)]
    found = svd(tiny, files)
    rows = torch.cat([vector.values.double() for vector in made])
    rows /= rows.norm(dim=-1, keepdim=True)
    variance, directions = torch.linalg.eigh(rows.T @ rows)
    expected = directions[:, -1] * (variance[-1] / 4).sqrt()
    close(found, expected * torch.sign(rows.sum(0) @ expected), atol=1e-5)
    with pytest.raises(BadVector, match="a stack of 1 vectors"):
        svd(tiny, made[:1])
    with pytest.raises(BadVector, match="component=1 of vectors of 1 directions"):
        svd(tiny, [made[0], 2 * made[0]], component=1)


def test_what_is_left_without_others_is_orthogonal_to_them(tiny: Model) -> None:
    vector, *others = [prompt_pair(tiny, word, " ship", 1) for word in (" wedding", " dragon", " ball")]
    found = without(tiny, vector, [others[0].row(-1), others[1].row(-1)])
    basis = torch.cat([other.values[-1:] for other in others]).double()
    assert (found.values.double() @ basis.T).abs().max() < 1e-4
    lost = (vector.values - found.values).double()
    residual = lost - torch.linalg.lstsq(basis.T, lost.T).solution.T @ basis
    assert residual.abs().max() < 1e-4 and lost.any()
    with pytest.raises(BadVector, match="nothing is left of"):
        without(tiny, vector.row(-1), [vector.row(-1), others[0].row(-1)])


def test_a_feature_is_a_row_or_a_column_of_the_decoder(tiny: Model, tmp_path: Path) -> None:
    matrix, square = torch.randn(8, tiny.d_model), torch.randn(tiny.d_model, tiny.d_model)
    save_file({"W_dec": matrix, "W_enc": matrix.T.contiguous()}, tmp_path / "rows.safetensors")
    save_file({"decoder.weight": matrix.T.contiguous()}, tmp_path / "columns.safetensors")
    save_file({"W_dec": square}, tmp_path / "square.safetensors")
    for name in ("rows", "columns"):
        assert torch.equal(sae(tiny, str(tmp_path / f"{name}.safetensors"), 3, 1).values[0], matrix[3])
    with pytest.raises(BadVector, match="W_dec of .* is square, .32, 32.; expected to be told which way round"):
        sae(tiny, str(tmp_path / "square.safetensors"), 3, 1)
    told = sae(tiny, str(tmp_path / "square.safetensors"), 3, 1, axes="width,features")
    assert torch.equal(told.values[0], square[:, 3])
    for options, what in (
        ({"feature": 8}, "has 8 features, got feature=8"),
        ({"feature": 0, "key": "b"}, "expected a matrix b"),
        ({"feature": 0, "axes": "width,features"}, "of shape .8, 32.; expected directions of width 32"),
    ):
        with pytest.raises(BadVector, match=what):
            sae(tiny, str(tmp_path / "rows.safetensors"), layer=1, **options)
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    for name in ("bad", "missing"):
        with pytest.raises(BadVector, match="is no sparse autoencoder"):
            sae(tiny, str(tmp_path / f"{name}.safetensors"), 0, 1)


@pytest.mark.parametrize("name", PLANNED)
def test_a_bundle_has_at_every_layer_the_vector_of_that_layer(name: str, tiny: Model, tmp_path: Path) -> None:
    options = {key: value for key, value in RECIPES[name].example.items() if key != "layer"}
    bundle = make_bundle(tiny, name, **options, site="mlp_out", layers=[0, 1] if name != "caa" else [1])
    for layer, vector in bundle.items():
        alone = make(tiny, name, **options, site="mlp_out", layer=layer)
        torch.testing.assert_close(vector.values, alone.values, atol=1e-5, rtol=1e-4)
        assert vector.source["layer"] == layer and vector.label == alone.label == bundle.label
    found = read_vector(bundle.save(tmp_path / "b.safetensors"))
    assert repr(found) == repr(bundle)


def test_a_bundle_that_cannot_be_is_refused(tiny: Model) -> None:
    with pytest.raises(BadVector, match="a recipe whose vectors are made of activations: prompt_pair"):
        make_bundle(tiny, "random", like="vector.safetensors")
    with pytest.raises(BadVector, match="no layer beside them"):
        make_bundle(tiny, "prompt_pair", plus=" a", layer=1)


@pytest.mark.parametrize("name", PLANNED)
def test_writers_add_up_to_a_vector_of_every_recipe(name: str, small_models: Any, tiny: Model) -> None:
    vector = make(tiny, name, **RECIPES[name].example)
    found = parts(tiny, vector)
    assert found.error < 1e-5 and found.recorded < 1e-5
    named = {part.writer for part in found.parts}
    assert {"embedding", "L0H0", "L0M"} <= named
    assert ("L0 bias" in named) == (name == "single_prompt") or not _has_bias(tiny)


def _has_bias(model: Model) -> bool:
    bias: Any = getattr(model.bridge.blocks[0].attn, "b_O", None)
    return bias is not None and bool(bias.any())
