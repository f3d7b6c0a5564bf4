"""`--dry-run` of every question: what can be told and what it takes, and nothing is run or written."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import pytest
from small_circuits import FILE

from steerscope import cli
from steerscope.analysis.question import cost
from steerscope.analysis.question.references import MIXED, NOISE_ONLY
from steerscope.commands.asked import REFERENCES
from steerscope.questions import QUESTIONS, Question

NEEDED = {"path_effect": ["--senders", "injection", "--receivers", "logits"]}
NEEDED["map_effect"] = ["--circuit", str(FILE)]
OWN = [question for question in QUESTIONS.values() if question.experiment and not question.door]


def asked(monkeypatch: pytest.MonkeyPatch, model: Path, folder: Path, *more: object, layer: int = 0) -> object:
    (folder / "prompts.jsonl").write_text(
        '{"prompt": "One day Tom saw a red ball", "group": "a"}\n'
        '{"prompt": "Lily had a ship near the park", "group": "a"}\n'
        '{"prompt": "There was a big dragon with a ring", "group": "b"}\n'
    )
    vector = ("--plus", " wedding", "--minus", " ship", "--layer", layer, "--coef", 3)
    places = ("--model", model, "--prompts", folder / "prompts.jsonl", "--out", folder / "out")
    monkeypatch.setattr(sys, "argv", ["steerscope", *map(str, (*more, *vector, *places))])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


@pytest.mark.parametrize("question", OWN, ids=lambda question: question.command)
def test_every_question_says_what_it_takes_and_stops_there(
    question: Question,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offline: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the question was asked")

    monkeypatch.setattr(Question, "function", _kept(question, never))
    more = (*question.command.split(), *NEEDED.get(question.name, ()), "--dry-run", "--references", "isotropic:5")
    assert not asked(monkeypatch, model, tmp_path, *more, layer=int(question.name == "writers"))
    said = capsys.readouterr().out
    assert "5 random vectors" in said or "4 random vectors" in said  # some take at most 4
    assert "3 prompts in 2 groups" in said and "forward passes" in said and "beside the model" in said
    assert not (tmp_path / "out").exists()


def _kept(question: Question, function: Callable[..., None]) -> property:
    """The function of a question with its signature, which fails when it is called."""
    own = question.function
    return property(lambda asked: wraps(own)(function) if asked.name == question.name else own)


def test_prompts_that_the_file_groups_can_be_taken_as_independent(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not asked(monkeypatch, model, tmp_path, "localize", "--dry-run", "--groups", "each", "--references", 5)
    assert "3 prompts in 3 groups" in capsys.readouterr().out


def test_the_default_references_are_other_concepts_and_random_vectors(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not asked(monkeypatch, model, tmp_path, "localize", "--dry-run")
    number = {name: part.split(":")[1] for part in MIXED.split(",") for name in [part.split(":")[0]]}
    said = f"{number['isotropic']} random vectors and {number['concepts']} other concepts"
    assert said in capsys.readouterr().out
    assert MIXED in REFERENCES and NOISE_ONLY in REFERENCES  # what the help says


def test_the_dry_run_of_a_method_is_that_of_the_method(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passes = []
    for coalitions in (100, 1000):
        more = ("--method", "shapley", "--passes", coalitions, "--references", 4)
        assert not asked(monkeypatch, model, tmp_path, "localize", "--dry-run", *more)
        passes.append(capsys.readouterr().out.split(" forward passes")[0].split()[-1])
    assert [float(number.replace(",", "")) for number in passes] == [pytest.approx(n, rel=0.2) for n in (1500, 15000)]


def test_a_long_run_says_how_long_before_it_starts_and_a_short_one_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("path-effect", *NEEDED["path_effect"], "--references", 5)
    assert not asked(monkeypatch, model, tmp_path, *more)
    assert "forward passes" not in capsys.readouterr().err
    monkeypatch.setattr(cost, "LONG", 0.0)
    assert not asked(monkeypatch, model, tmp_path, *more, "--overwrite")
    captured = capsys.readouterr()
    assert "forward passes" in captured.err and "forward passes" not in captured.out
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_what_cannot_be_run_is_refused_in_a_dry_run_as_well(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(monkeypatch, model, tmp_path, "localize", "--dry-run", "--references", "words:4") == 2
    assert "words:4" in capsys.readouterr().err
    assert asked(monkeypatch, model, tmp_path, "localize", "--dry-run", "--smallest", 2) == 2
    assert "smallest=2" in capsys.readouterr().err
