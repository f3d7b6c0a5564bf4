"""Vectors at the door: odd values, odd arithmetic, files that are damaged, hostile or no files."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flips import flips
from safetensors.torch import load_file, save, save_file

from steerscope.analysis.errors import BadNode, BadVector, CannotWrite, SteerscopeError
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.references import references
from steerscope.analysis.vectors.mean_difference import mean_difference, splits
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.random import random_like
from steerscope.analysis.vectors.recipes import recipe_of
from steerscope.analysis.vectors.stored import FORMAT
from steerscope.analysis.vectors.vector import SteeringVector

SITE = Site("resid_pre", 0)
ABOUT = {"steerscope": "1", "site": "L0.resid_pre", "source": '{"label": "x"}'}


def vector(values: Any = ((0.0, 0.0), (1.0, 2.0))) -> SteeringVector:
    return SteeringVector(values, SITE, {"label": "x"})


@pytest.mark.parametrize(
    "values",
    [
        np.ones((2, 4)),
        np.ones((2, 4), dtype=np.int64),
        [[1.0] * 4] * 2,
        [np.float32(1)] * 4,
        (x for x in [1.0] * 4),
        torch.ones(4, dtype=torch.float16),
        torch.nn.Parameter(torch.ones(2, 4)),
    ],
    ids=["array", "integers", "lists", "numbers of numpy", "generator", "half", "parameter"],
)
def test_arrays_lists_and_tensors_are_values_and_a_site_may_be_a_text(values: Any) -> None:
    made = SteeringVector(values, "L0.resid_pre")  # type: ignore[arg-type]
    assert made.site == SITE and made.values.shape[1] == 4 and (made.values == 1).all()
    assert made.values.dtype == torch.float32 and not made.values.requires_grad


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (torch.ones(2, 2, 2), r"got the shape \[2, 2, 2\]"),
        (torch.ones(0, 4), r"got the shape \[0, 4\]"),
        (torch.tensor(1.0), r"got the shape \[\]"),
        (torch.ones(1).expand(2**28), r"got the shape \[268435456\]"),
        (torch.ones(2, dtype=torch.complex64), "complex"),
        (torch.ones(2, device="meta"), "no tensor of numbers"),
        (torch.eye(2).to_sparse(), "no tensor of numbers"),
        (torch.tensor([1.0, np.nan]), "nan or infinite"),
        (torch.tensor([1.0, 1e39], dtype=torch.float64), "nan or infinite values, or larger ones than float32"),
        (torch.tensor([1e-300, -1e-300], dtype=torch.float64), "is 0 everywhere once it is float32"),
        ([1.0, float("nan")], "got values="),
        ([[1.0], [1.0, 2.0]], "no tensor of numbers"),
        ([10**300], "nan or infinite"),
        (np.array(["a"]), "no tensor of numbers"),
        (np.array([object()]), "no tensor of numbers"),
        ("abc", "got values="),
        (range(10**12), "got values="),
        (None, "got values=None"),
    ],
)
def test_values_that_are_none_are_refused(values: Any, what: str) -> None:
    with pytest.raises(BadVector, match=f"{what}.*; expected "):
        SteeringVector(values, SITE)


@pytest.mark.parametrize(
    "source", [{"a": {1}}, {"a": float("nan")}, {"a": ["\ud800"]}, {"a": np.float32(1)}, {1: 2}, [1], "x"]
)
def test_a_source_that_no_file_can_hold_is_refused(source: Any) -> None:
    with pytest.raises(BadVector, match="expected"):
        SteeringVector(torch.ones(4), SITE, source)


def test_a_site_that_is_none_is_refused() -> None:
    with pytest.raises(BadNode, match="is no site"):
        SteeringVector(torch.ones(4), "resid")  # type: ignore[arg-type]
    with pytest.raises(BadVector, match="got site=3"):
        SteeringVector(torch.ones(4), 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "odd",
    [
        lambda v: v * float("nan"),
        lambda v: v * float("inf"),
        lambda v: v * "x",
        lambda v: "x" * v,
        lambda v: v * None,
        lambda v: v * True,
        lambda v: v * v,
        lambda v: v * 1e308,
        lambda v: v * 10**400,
        lambda v: v * 1e-60,
        lambda v: np.ones(2) * v,
        lambda v: torch.ones(2) * v,
        lambda v: v / 0,
        lambda v: 1 / v,
        lambda v: v @ v,
        lambda v: torch.ones(2, 2) @ v,
        lambda v: v + 1,
        lambda v: 1 + v,
        lambda v: 1 - v,
        lambda v: v - torch.ones(2, 2),
        lambda v: v + SteeringVector(torch.ones(2, 2), Site("resid_pre", 1)),
        lambda v: v**2,
        lambda v: v % 2,
        lambda v: v // 2,
        lambda v: v.row(2),
        lambda v: v.row("a"),
        lambda v: v.row(10**30),
        lambda v: random_like(v, -1),
        lambda v: random_like(v, 2**64),
        lambda v: random_like(v.values, 1),
        lambda v: sum([v, v]),
    ],
)
def test_odd_arithmetic_is_refused_in_a_sentence(odd: Callable[[SteeringVector], Any]) -> None:
    with pytest.raises(BadVector, match="; expected .+; "):
        odd(vector())


def test_numbers_of_any_kind_multiply() -> None:
    numbers: list[Any] = [2, 2.0, np.float32(2), np.int64(2), torch.tensor(2.0)]
    for two in numbers:
        assert torch.equal((two * vector()).values, 2 * vector().values)
        assert torch.equal((vector() * two).values, 2 * vector().values)
    assert torch.equal((vector() / 2).values, vector().values / 2)


def test_norms_are_those_of_the_values_however_large_or_small() -> None:
    for size in (1e-42, 1e-30, 1.0, 1e19, 1e30, 3e37):
        made = SteeringVector(torch.tensor([[3.0, 4.0]], dtype=torch.float64) * size, SITE)
        expected = made.values.double().square().sum().sqrt()
        assert made.norms.item() == pytest.approx(expected.item(), rel=1e-12) and made.norms.item() > 0
        assert made.describe()["norm"] == [pytest.approx(expected.item(), rel=1e-6)]
        assert made.body.rows == 1 and made.mean().values.isfinite().all() and repr(made)
        rounding = 1e-2 if size < 1e-40 else 1e-6
        assert random_like(made, 1).norms.item() == pytest.approx(expected.item(), rel=rounding)


# Files.


def test_every_flipped_bit_and_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    path = vector().save(tmp_path / "v.safetensors")
    whole = path.read_bytes()
    for _ in flips(path):
        with pytest.raises(BadVector, match="expected"):
            SteeringVector.load(path)
    for place in range(len(whole)):
        path.write_bytes(whole[:place])
        with pytest.raises(BadVector, match="expected"):
            SteeringVector.load(path)
    path.write_bytes(whole)
    assert torch.equal(SteeringVector.load(path).values, vector().values)


def test_files_of_others_and_of_before_need_no_checksum_and_ours_do(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    values = {"values": torch.ones(2, 4)}
    for about in (ABOUT, {k: v for k, v in ABOUT.items() if k != "steerscope"} | {"format": "pt"}):
        save_file(values, path, about)
        assert SteeringVector.load(path).label == "x"
    save_file(values, path, ABOUT | {"steerscope": FORMAT, "checksun": "0"})
    with pytest.raises(BadVector, match="has changed since it was written"):
        SteeringVector.load(path)
    save_file(load_file(vector().save(path)), path, ABOUT | {"checksum": "0"})
    with pytest.raises(BadVector, match="expected"):
        SteeringVector.load(path)


@pytest.mark.parametrize(
    "about",
    [
        {"site": ""},
        {"site": "L0"},
        {"site": "L" + "9" * 5000 + ".resid_pre"},
        {"source": ""},
        {"source": "[]"},
        {"source": "3"},
        {"source": "[" * 100_000},
        {"source": '{"a": NaN}'},
        {"source": '{"a": ' + "9" * 5000 + "}"},
        {"source": '{"a": "\\ud800"}'},
        {"source": None},
        {"site": None},
    ],
)
def test_a_file_that_says_nonsense_of_itself_is_refused(about: dict[str, str | None], tmp_path: Path) -> None:
    said = {k: v for k, v in (ABOUT | about).items() if v is not None}
    save_file({"values": torch.ones(2, 4)}, tmp_path / "v", said)
    with pytest.raises(BadVector, match="is no steering vector"):
        SteeringVector.load(tmp_path / "v")


@pytest.mark.parametrize(
    "tensors",
    [
        {"value": torch.ones(4)},
        {"values": torch.ones(1, 2, 3)},
        {"values": torch.ones(0)},
        {"values": torch.tensor([float("nan")])},
        {"values": torch.tensor([1e308], dtype=torch.float64)},
        {"values": torch.ones(4, dtype=torch.complex64)},
    ],
    ids=["name", "shape", "empty", "nan", "large", "complex"],
)
def test_a_file_of_other_tensors_is_refused(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "v", ABOUT)
    with pytest.raises(BadVector, match="is no steering vector"):
        SteeringVector.load(tmp_path / "v")


def test_what_is_no_plain_safetensors_file_is_refused(tmp_path: Path) -> None:
    torch.save({"values": torch.ones(4)}, tmp_path / "v.pt")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    (tmp_path / "to-zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    header = json.dumps({"values": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "shape").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**34)
    for name in (
        "v.pt",
        "pipe",
        "empty",
        "to-zero",
        "loop",
        "shape",
        "huge",
        "",
        "nowhere",
        "n" * 300,
        "a\0b",
        "v.pt/x",
    ):
        with pytest.raises(BadVector, match="expected"):
            SteeringVector.load(f"{tmp_path}/{name}")


def test_a_link_is_read_through_and_written_over(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(save({"values": torch.ones(4)}, ABOUT))
    (tmp_path / "v").symlink_to(secret)
    assert SteeringVector.load(tmp_path / "v").label == "x"
    before = secret.read_bytes()
    vector().save(tmp_path / "v")
    assert secret.read_bytes() == before and SteeringVector.load(tmp_path / "v").values.shape == (2, 2)


@pytest.mark.parametrize("name", [".", "n" * 300, "file/v", "a\0b"])
def test_a_vector_that_cannot_be_written_says_so(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SteerscopeError, match="expected") as caught:
        vector().save(f"{tmp_path}/{name}")
    assert isinstance(caught.value, CannotWrite) or "got path" in str(caught.value)


# Recipes.


@pytest.mark.parametrize(
    "source",
    [
        {"recipe": "prompt_pair"},
        {"recipe": "prompt_pair", "plus": 5},
        {"recipe": "prompt pair", "plus": " a", "minus": [1.5]},
        {"recipe": "prompt_pair", "plus": " a", "minus": {}, "model": "tiny"},
        {"recipe": "mean_difference", "positive": "a", "negative": ["b"]},
        {"recipe": "mean_difference", "positive": [1], "negative": ["b"]},
        {"recipe": "mean_difference", "positive": ["a"]},
        {"recipe": "random"},
    ],
)
def test_a_source_that_does_not_fit_its_recipe_is_refused_where_it_is_used(source: dict[str, Any], tiny: Model) -> None:
    made = SteeringVector(torch.ones(1, tiny.d_model), SITE, {**source, "label": "x"})
    with pytest.raises(BadVector, match=r"made by .* with \w+=.*; expected "):
        recipe_of(made)
    with pytest.raises(BadVector, match="; expected "):
        references("shuffled:2" if "positive" in source else "concepts:2", tiny, [made])


@pytest.mark.parametrize("recipe", [["prompt_pair"], 5, None, {"a": 1}, "constructor"])
def test_a_recipe_that_is_none_is_a_given_vector(recipe: Any) -> None:
    assert recipe_of(SteeringVector(torch.ones(4), SITE, {"recipe": recipe})) is None


@pytest.mark.parametrize(
    "options",
    [
        {"plus": 5},
        {"plus": None},
        {"plus": [1.5]},
        {"plus": [True]},
        {"plus": "\ud800"},
        {"plus": "a" * 10**5},
        {"plus": [10**9]},
        {"plus": [-1]},
        {"plus": " ship"},
        {"layer": -1},
        {"layer": 2},
        {"layer": 1.5},
        {"layer": 10**30},
        {"site": "q"},
        {"site": 3},
        {"site": "x" * 10**5},
        {"site": "z"},
        {"site": "z", "head": 9},
        {"head": 0},
        {"pad": "wedding cake"},
        {"pad": 10**9},
        {"pad": None},
        {"model": "tiny"},
        {"tones": 3},
    ],
    ids=repr,
)
def test_odd_options_of_a_pair_are_refused_in_a_sentence(options: dict[str, Any], tiny: Model) -> None:
    given: dict[str, Any] = {"model": tiny, "plus": "One day Tom", "minus": " ship", "layer": 1} | options
    with pytest.raises(SteerscopeError) as caught:
        prompt_pair(**given)
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"positive": "a"}, {"positive": 3}, {"positive": [3]}, {"positive": ["a", [1]]}, {"negative": [[10**9]]}]
    + [{"positive": []}, {"positive": ["\n"]}, {"positive": [[]]}, {"layer": -1}, {"site": "q"}, {"head": 1}],
    ids=repr,
)
def test_odd_options_of_a_difference_are_refused_in_a_sentence(options: dict[str, Any], tiny: Model) -> None:
    given: dict[str, Any] = {"positive": ["a cake"], "negative": ["a dog"], "layer": 1} | options
    with pytest.raises(SteerscopeError) as caught:
        mean_difference(tiny, **given)
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


def test_generators_and_numbers_of_numpy_are_taken(tiny: Model) -> None:
    ids = np.array(tiny.encode(" wedding"))
    assert torch.equal(
        prompt_pair(tiny, ids, " ship", np.int64(1)).values,  # type: ignore[arg-type]
        prompt_pair(tiny, " wedding", " ship", 1).values,
    )
    texts = ["a cake", "a dog"]
    made = mean_difference(tiny, (t for t in texts), ["a ship"], 1)  # type: ignore[arg-type]
    assert torch.equal(made.values, mean_difference(tiny, texts, ["a ship"], 1).values)


def test_a_million_copies_of_a_text_are_counted_at_once() -> None:
    assert splits({"positive": ["a"] * 100_000, "negative": ["b"] * 100_000}) > 1000
