"""`steerscope vectors` from end to end: made, converted, built, compared."""

import sys
from pathlib import Path

import pytest

from steerscope import cli
from steerscope.analysis.results.result import Result
from steerscope.analysis.vectors.bundle import VectorBundle
from steerscope.analysis.vectors.vector_files import read_vector


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    monkeypatch.setattr(sys, "argv", ["steerscope", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def test_vectors_are_made_converted_built_and_compared(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("up.txt").write_text("A red ball\nA big cake\n")
    Path("down.txt").write_text("One day Tom\nThe ship\n")
    Path("t.csv").write_text("name,plus,minus\na, wedding, ship\nb, ball, ball\n")
    sides = ("positive=up.txt", "negative=down.txt")
    made = ("vectors", "make", "mean_difference", *sides, "site=mlp_out", "--model", model)
    assert call(monkeypatch, *made, "--layers", "0-1", "--out", "b.safetensors") == 0
    assert call(monkeypatch, *made, "--layer", 1, "--out", "v.gguf") == 0
    assert isinstance(read_vector("b.safetensors"), VectorBundle)
    assert call(monkeypatch, "vectors", "convert", "b.safetensors", "--layer", 1, "--out", "c.gguf") == 0
    assert repr(read_vector("c.gguf")) == repr(read_vector("v.gguf"))
    assert call(monkeypatch, "vectors", "build", "t.csv", "--model", model, "--out", "built") == 0
    assert "1 row could not be built" in capsys.readouterr().out
    compared = ("vectors", "compare", "v.gguf", "built/a.safetensors", "--model", model, "--prompts", "up.txt")
    assert call(monkeypatch, *compared, "--out", "compared") == 0
    assert list(Result.load("compared").frames["pairs"]["by"]) == ["direction", "effects", "carriers"]
    for wrong, what in (
        (("--layer", 1, "--out", "v.gguf"), "v.gguf' is there; expected a new file"),
        (("--layer", 1, "--layers", "1", "--out", "x.gguf"), "got --layer and --layers"),
        (("--layers", "3-1", "--out", "x.gguf"), "expected for example 8,9 or 8-16 or all"),
        (("tones=3", "--out", "x.gguf"), "the recipe mean_difference got tones; expected positive=..."),
    ):
        assert call(monkeypatch, *made, *wrong) == 2
        assert what in capsys.readouterr().err
