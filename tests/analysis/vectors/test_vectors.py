"""One life cycle over every recipe, and what each recipe promises."""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from steerscope.analysis.engine.activations import record
from steerscope.analysis.errors import BadNode, BadVector
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.random import random_like
from steerscope.analysis.vectors.recipes import OFFERED, RECIPES, make, recipe_of
from steerscope.analysis.vectors.vector import SteeringVector

# What is not made from options.
OTHERS: dict[str, Callable[[Model], SteeringVector]] = {
    "sum": lambda model: prompt_pair(model, " wedding", " ship", 1) + prompt_pair(model, " ring", " ship", 1),
    "multiple": lambda model: 2 * prompt_pair(model, " wedding", " ship", 1),
    "given": lambda model: SteeringVector(torch.ones(model.d_model), Site("resid_pre", 1)),
}


@pytest.fixture(params=[*RECIPES, "given"])
def made(
    request: pytest.FixtureRequest, tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SteeringVector:
    """A vector by every recipe: by its own example, or by arithmetic."""
    monkeypatch.chdir(tmp_path)
    prompt_pair(tiny, " wedding", " ship", 1).save("vector.safetensors")
    prompt_pair(tiny, " dragon", " ball", 1).save("other.safetensors")
    save_file({"W_dec": torch.randn(8, tiny.d_model), "b": torch.zeros(3)}, "sae.safetensors")
    vector = (
        OTHERS[request.param](tiny)
        if request.param in OTHERS
        else make(tiny, request.param, **RECIPES[request.param].example)
    )
    recipe = recipe_of(vector)
    assert request.param == (recipe.name if recipe else "given")
    return vector


def test_a_vector_is_made_saved_and_read_back(made: SteeringVector, tmp_path: Path) -> None:
    again = SteeringVector.load(made.save(tmp_path / "v.safetensors"))
    assert torch.equal(made.values, again.values)
    assert (made.site, made.label, dict(made.source)) == (again.site, again.label, dict(again.source))
    assert made.describe() == again.describe() and repr(made) == repr(again)


def test_arithmetic_is_that_of_the_values(made: SteeringVector) -> None:
    assert torch.equal((made + made).values, (2 * made).values)
    assert (made - made).values.abs().max() == 0
    assert torch.equal((-made).values, -made.values)


def test_where_a_vector_is_made_of_activations_its_runs_are_made_again(made: SteeringVector, tiny: Model) -> None:
    """One run after another, by the plain recorder; as written down with the vector, and read back."""
    recipe = recipe_of(made)
    if recipe is None or not recipe.planned:
        assert made.source.get("recipe") not in OFFERED or made.source["recipe"] in ("random", "svd", "sae", "without")
        return
    plan = recipe.plan(tiny, json.loads(json.dumps(dict(made.source))))
    kept = torch.cat([record(tiny, [run.ids], made.site)[0][list(run.positions)].double() for run in plan.runs])
    torch.testing.assert_close(made.values.double(), plan.weigh(kept).weights @ kept, atol=1e-5, rtol=0)


def test_where_other_concepts_can_stand_in_its_place_they_are_alike_but_for_the_words(
    made: SteeringVector, tiny: Model
) -> None:
    recipe = recipe_of(made)
    if recipe is None or recipe.concepts is None:
        assert made.source.get("recipe") not in ("prompt_pair", "single_prompt", "minus_mean")
        return
    words = ["park", "dragon", "ring", "cake", "ball", "red"]
    found = recipe.concepts(tiny, made, words, 4, np.random.default_rng(1))
    again = recipe.concepts(tiny, made, words, 4, np.random.default_rng(1))
    assert len({vector.label for vector in found}) == len(found) == 4
    for vector, same in zip(found, again, strict=True):
        assert (vector.site, vector.values.shape) == (made.site, made.values.shape)
        assert torch.equal(vector.values, same.values) and not torch.allclose(vector.values, made.values)
        assert vector.label != made.label and recipe_of(vector) == recipe


@pytest.mark.parametrize("name", OFFERED)
def test_every_option_of_a_recipe_is_explained_where_the_command_line_reads_it(name: str) -> None:
    function = RECIPES[name].function
    _, *options = inspect.signature(function).parameters.values()
    section = (function.__doc__ or "").split("Args:")[1]
    for option in options:
        assert f" {option.name}: " in section and option.annotation is not option.empty
    assert set(RECIPES[name].example) <= {option.name for option in options}
    assert f"def {name}(" in RECIPES[name].source.read_text(encoding="utf-8")


def test_what_recipes_there_are_is_known_without_torch() -> None:
    code = (
        "import sys; from steerscope.analysis.vectors.recipes import RECIPES; print(*RECIPES, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [*RECIPES, "False"]


def test_options_that_make_no_vector_are_refused(tiny: Model) -> None:
    with pytest.raises(BadVector, match=f"'study' is no recipe .*; expected {' or '.join(OFFERED)}; choose one"):
        make(tiny, "study")
    with pytest.raises(BadVector, match=r"'sum' is no recipe .* write for example a \+ b"):
        make(tiny, "sum")
    with pytest.raises(
        BadVector,
        match="prompt_pair does not have tones and needs plus; expected plus, minus, layer, site, head, pad; give for "
        "example plus=' wedding'",
    ):
        make(tiny, "prompt_pair", tones=3)


def test_a_vector_saved_before_names_had_underscores_knows_its_recipe(tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 1)
    old = SteeringVector(vector.values, vector.site, {**vector.source, "recipe": "prompt pair"})
    assert recipe_of(old) == recipe_of(vector) == RECIPES["prompt_pair"]


def test_swapping_plus_and_minus_flips_the_sign(tiny: Model) -> None:
    forth, back = (prompt_pair(tiny, " wedding", " ship", 1), prompt_pair(tiny, " ship", " wedding", 1))
    assert torch.equal(forth.values, -back.values)


def test_the_row_at_bos_is_zero_and_the_shorter_prompt_is_padded_with_a_space(tiny: Model) -> None:
    vector = prompt_pair(tiny, "One day Tom", " ship", 1)
    assert vector.norms[0] == 0 and (vector.norms[1:] > 0).all()
    space = tiny.encode(" ")
    plus, minus = tiny.tokens("One day Tom"), tiny.tokens(" ship")
    minus += space * (len(plus) - len(minus))
    _, cache = tiny.bridge.run_with_cache(torch.tensor([plus, minus]))
    expected = cache["blocks.1.hook_resid_pre"]
    torch.testing.assert_close(vector.values, expected[0] - expected[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("site", "head", "hook"),
    [("attn_out", None, "hook_attn_out"), ("mlp_out", None, "hook_mlp_out"), ("z", 2, "attn.hook_z")],
)
def test_other_sites_are_recorded_too(site: str, head: int | None, hook: str, tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 1, site=site, head=head)
    _, cache = tiny.bridge.run_with_cache(torch.tensor([tiny.tokens(" wedding"), tiny.tokens(" ship")]))
    found = cache[f"blocks.1.{hook}"]
    found = found if head is None else found[:, :, head]
    torch.testing.assert_close(vector.values, found[0] - found[1], atol=1e-5, rtol=0)


def test_token_ids_do_as_well_as_text(tiny: Model) -> None:
    ids = prompt_pair(tiny, tiny.encode(" wedding"), tiny.encode(" ship"), 1)
    assert torch.equal(ids.values, prompt_pair(tiny, " wedding", " ship", 1).values)


def test_references_have_equal_norms_position_by_position_and_their_own_direction(tiny: Model) -> None:
    vector = prompt_pair(tiny, "One day Tom", " ship", 1)
    first, again, other = random_like(vector, 1), random_like(vector, 1), random_like(vector, 2)
    torch.testing.assert_close(first.norms, vector.norms)
    assert torch.equal(first.values, again.values) and not torch.equal(first.values, other.values)
    assert torch.cosine_similarity(first.values[1], vector.values[1], dim=0).abs() < 0.6


def test_body_leaves_the_bos_row_out_and_row_takes_one(tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 1)
    assert torch.equal(vector.body.values, vector.values[1:])
    assert torch.equal(vector.row(-1).values, vector.values[-1:])
    torch.testing.assert_close(vector.mean().values[0], vector.values.mean(0))


def test_bad_vectors_are_refused(tiny: Model, tmp_path: Path) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 1)
    with pytest.raises(BadVector, match="same activations"):
        prompt_pair(tiny, " ship", " ship", 1)
    with pytest.raises(BadVector, match="both empty"):
        prompt_pair(tiny, "", "", 1)
    with pytest.raises(BadVector, match="padding 'wedding cake' is not a single token"):
        prompt_pair(tiny, "One day Tom", " ship", 1, pad="wedding cake")
    with pytest.raises(BadNode, match="layers 0 to 1"):
        prompt_pair(tiny, " wedding", " ship", 7)
    with pytest.raises(BadNode, match="cannot be recorded at 'pattern'"):
        prompt_pair(tiny, " wedding", " ship", 1, site="pattern")
    with pytest.raises(BadVector, match="cannot combine"):
        vector - prompt_pair(tiny, " wedding", " ship", 0)
    with pytest.raises(BadVector, match="nan or infinite"):
        SteeringVector(torch.tensor([float("nan")]), Site("resid_pre", 0))
    with pytest.raises(BadVector, match="is no steering vector .there is no such plain file"):
        SteeringVector.load(tmp_path / "nowhere.safetensors")
    (tmp_path / "v.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(BadVector, match="is no steering vector"):
        SteeringVector.load(tmp_path / "v.safetensors")
