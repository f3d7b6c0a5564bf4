"""`--inject`: what it asks for is what is injected, and nothing is dropped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import save_gpt2
from safetensors.torch import save_file

import steerscope as st
from steerscope.analysis.errors import BadInjection, SteerscopeError
from steerscope.analysis.model.models import Model
from steerscope.analysis.vectors.caa import FIELDS
from steerscope.analysis.vectors.random import random_like
from steerscope.analysis.vectors.recipes import OFFERED, RECIPES
from steerscope.commands.inject import wanted


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("model")
    save_gpt2(folder)
    found: Model = st.load(folder, name="tiny", selfcheck=False)
    return found


@pytest.fixture
def saved(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> st.SteeringVector:
    monkeypatch.chdir(tmp_path)
    vector = st.steering_vector(model, " wedding", " ship", layer=1)
    vector.save("v.safetensors")
    return vector


def made(model: Model, *specs: str) -> list[st.Injection]:
    return [injection for one in wanted(specs, 0) for injection in one.make(model)]


def facts(injection: st.Injection) -> tuple[Any, ...]:
    place = str(injection.place)
    return str(injection.site), injection.coefficient, place, injection.operation, injection.during


def test_a_saved_vector_and_a_recipe_stand_side_by_side(model: Model, saved: st.SteeringVector) -> None:
    one, two, three = made(
        model,
        "vector=v.safetensors,layer=0,coef=10,positions=last,operation=rotate,during=both",
        'plus=" wedding", minus=" ship", layer=1, coef=-2.5, positions="3,4"',
        json.dumps({"vector": "v.safetensors", "positions": [3, -1], "coef": 1, "operation": "ablate"}),
    )
    assert facts(one) == ("L0.resid_pre", 10.0, "last", "rotate", "both") and one.vector.body.rows == 1
    assert facts(two) == ("L1.resid_pre", -2.5, "3,4", "add", "prompt")
    assert torch.equal(two.vector.values, saved.values)
    assert facts(three) == ("L1.resid_pre", 1.0, "3,-1", "ablate", "prompt")


def test_a_toml_file_and_everywhere(model: Model, saved: st.SteeringVector) -> None:
    Path("s.toml").write_text(
        '[[inject]]\nvector = "v.safetensors"\noperation = "ablate"\neverywhere = true\npositions = "all"\n'
        '[[inject]]\nplus = " dog"\nminus = " cat"\nlayer = 1\ncoef = 2\n'
    )
    several = made(model, "s.toml")
    assert [facts(i) for i in several[:-1]] == [facts(i) for i in st.everywhere(model, saved.row(-1), during="prompt")]
    assert facts(several[-1]) == ("L1.resid_pre", 2.0, "front", "add", "prompt")


def test_vectors_by_layer_are_injected_at_all_of_them(model: Model, saved: st.SteeringVector) -> None:
    st.VectorBundle({1: saved.row(-1), 2: -1 * saved.row(-1)}).save("control.safetensors")
    several = made(model, "vector=control.safetensors,coef=2")
    assert [facts(i)[1:3] for i in several] == [(2.0, "all")] * 2 and len({i.site.layer for i in several}) == 2


@pytest.mark.parametrize("recipe", OFFERED)
def test_every_recipe_is_asked_for_by_its_own_options(
    recipe: str, model: Model, saved: st.SteeringVector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As typed, with files for lists, it is the vector that Python makes of the example of the recipe."""
    options = {**RECIPES[recipe].example}
    for seed, name in enumerate(("vector", "other")):
        random_like(saved, seed).save(f"{name}.safetensors")
    save_file({"W_dec": torch.randn(8, model.d_model)}, options.get("file", "sae.safetensors"))
    expected = st.make_vector(model, recipe, **options)
    settings = {"recipe": recipe, "coef": "2", "positions": "last", **{k: typed(k, v) for k, v in options.items()}}
    [found] = made(model, ",".join(f"{name}={json.dumps(value)}" for name, value in settings.items()))
    torch.testing.assert_close(found.vector.values[-1], expected.values[-1])
    assert found.vector.source["recipe"] == recipe and found.coefficient == 2
    if RECIPES[recipe].planned:
        settings["layers"] = "1"
        del settings["layer"], settings["positions"]
        several = made(model, json.dumps(settings))
        assert [facts(i)[:3] for i in several] == [("L1.resid_pre", 2.0, "all")]
        torch.testing.assert_close(several[0].vector.values, expected.values[-1:])


def typed(name: str, value: Any) -> str:
    """An option as one types it; what is a list, as a file of it or with commas."""
    if isinstance(value, list | tuple) and name in ("positive", "negative", "corpus"):
        Path(f"{name}.txt").write_text("\n".join(value))
        return f"{name}.txt"
    if isinstance(value, list | tuple) and isinstance(value[0], list | tuple):
        names = ("plus", "minus") if len(value[0]) == 2 else FIELDS
        Path(f"{name}.jsonl").write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in value))
        return f"{name}.jsonl"
    return ("|" if name in ("first", "second") else ",").join(value) if isinstance(value, list | tuple) else str(value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "what cannot be read"),
        ("vector", "what cannot be read"),
        ("vector=v.safetensors,", "what cannot be read"),
        ("vector=v.safetensors,coef=1,coef=2", "coef twice"),
        ('{"coef": 1, "coef": 2}', "twice"),
        ('{"coef": [1.5]}', "expected a text or a number"),
        ("vector=v.safetensors,strength=2", "expected some of vector, recipe"),
        ("vector=v.safetensors,coef=much", "expected a number"),
        ("vector=v.safetensors,coef=nan", "finite"),
        ("vector=v.safetensors,operation=turn", "expected one of add, ablate"),
        ("vector=v.safetensors,everywhere=yes", "expected true or false"),
        ("vector=none.safetensors", "none.safetensors"),
        ("coef=2,layer=0", "the recipe prompt_pair needs plus; expected plus=..., minus=..., site="),
        ("plus= dog", "holds no layer; expected one to record at, such as layer=6"),
        ("vector=v.safetensors,plus= dog,layer=0", "expected one of them"),
        ("vector=v.safetensors,layers=0-1", "expected layer, or layers of a recipe"),
        ("recipe=caa,questions=q.csv,layer=0,layers=0-1", "expected layer, or layers of a recipe"),
        ("recipe=caa,questions=q.csv,layers=some", "expected for example 8,9 or 8-16 or all"),
        ("recipe=caa,layer=1", "the recipe caa needs questions; expected questions=..., site=..., head=..., chat="),
        ("recipe=caa,questions=q.csv,layer=1,chat=perhaps", "got chat='perhaps'; expected true or false"),
        ("recipe=caa,questions=q.csv,layer=1,plus= dog", "holds plus; expected some of .*questions, "),
        ("recipe=probe,positive=v.txt,layer=1", "the recipe probe needs negative; expected positive=..., negative"),
        ("recipe=magic,layer=1", "expected one of prompt_pair, mean_difference, pairs, caa"),
        ("absent.toml", "cannot be read"),
        ("odd.toml", r"holds no \[\[inject\]\]"),
    ],
)
def test_what_makes_no_sense_is_refused(spec: str, said: str, model: Model, saved: st.SteeringVector) -> None:
    Path("odd.toml").write_text('inject = "v.safetensors"\n')
    with pytest.raises(SteerscopeError, match=said):
        made(model, spec)


def test_nothing_is_dropped(saved: st.SteeringVector) -> None:
    """Two vectors, or one beside --inject, are refused; two injections are both there."""
    from steerscope.commands.asked import command
    from steerscope.questions import QUESTIONS

    ask: Any = command(QUESTIONS["trace"])
    usual = {p.name: p.default for p in ask.__signature__.parameters.values() if p.default is not p.empty}
    given: dict[str, Any] = usual | {"model": "tinystories-1l", "prompts": "general", "out": Path("out")}
    with pytest.raises(BadInjection, match="2 vectors; expected one"):
        ask(**given | {"vector": [Path("v.safetensors")] * 2})
    with pytest.raises(BadInjection, match="--coef beside --inject"):
        ask(**given | {"inject": ["vector=v.safetensors"], "coef": 3.0})
    with pytest.raises(BadInjection, match="--vector beside --inject"):
        ask(**given | {"inject": ["vector=v.safetensors"], "vector": [Path("v.safetensors")]})
