"""Every command that asks a question of a vector: it saves a result of its kind and writes a page."""

import json
import sys
from pathlib import Path

import pytest
from checkpoints import save_gpt2

from steerscope import cli
from steerscope.analysis.results.result import Result
from steerscope.questions import QUESTIONS

ARGUMENTS = {  # beyond model, vector, prompts and folder
    "edges": ["--verify 2"],
    "path_effect": ["--senders injection,L0H1 --receivers L1H2.q,logits"],
    "by_position": ["--nodes L0M,L1H1"],
    "sparsify": ["--keep 0.5"],
    "trace": ["--lens logit"],
    "breakdown": ["--coefficients 0,1,10,10000"],
    "freeze_attention": ["--by all,layer"],
    "exact": ["--completions 0"],
    "screen": ["--method screen --top 3"],
    "attribute": ["--method gradient", "--method ig --steps 4 --sample 3"],
    "shapley": ["--method shapley --passes 30"],
}
COMMANDS = {
    f"{question.command} {more}".strip(): question.name
    for question in QUESTIONS.values()
    if question.experiment and question.columns is not None
    for more in ARGUMENTS.get(question.name, [""])
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_gpt2(folder)
    return folder


def asked(monkeypatch: pytest.MonkeyPatch, model: Path, folder: Path, command: str, *more: str) -> None:
    (folder / "prompts.txt").write_text("One day Tom saw a red ball\nOnce upon a time there was a ship\n")
    layer = 1 if command.startswith("writers") else 0
    arguments = (
        *command.split(),
        "--model",
        model,
        "--plus",
        " wedding",
        "--minus",
        " ship",
        "--layer",
        layer,
        "--coef",
        3,
        "--prompts",
        folder / "prompts.txt",
        "--out",
        folder / "out",
        "--references",
        2,
        *more,
    )
    monkeypatch.setattr(sys, "argv", ["steerscope", *map(str, arguments)])
    cli.main()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_question_is_answered_in_a_folder(
    command: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    with pytest.raises(SystemExit) as stopped:
        asked(monkeypatch, model, tmp_path, command)
    assert not stopped.value.code
    out = tmp_path / "out"
    assert Result.load(out).kind == COMMANDS[command]
    assert json.loads((out / "manifest.json").read_text())["command"].startswith(f"steerscope {command}")
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")


def test_references_groups_and_the_smallest_effect_are_as_given(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    given = "--references concepts:3,isotropic:2 --groups each --smallest 0.1 --prompts off_topic".split()
    with pytest.raises(SystemExit) as stopped:
        asked(monkeypatch, model, tmp_path, "path-effect --senders L0H1 --receivers logits", *given)
    assert not stopped.value.code
    manifest = Result.load(tmp_path / "out").manifest
    assert manifest["references"]["families"] == {"isotropic": 2, "concepts": 3}
    assert manifest["prompts"]["groups"] == manifest["prompts"]["count"] == 40
    assert manifest["smallest"] == 0.1


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("by-position --nodes L7M", "layers 0 to 1"),
        ("self-repair --nodes L0H99", "L0H99"),
        ("path-effect --senders L1M --receivers L0H1.q", "L1M"),
        ("sparsify --keep 2", "keep"),
        ("breakdown --coefficients 1,x", "numbers separated by commas"),
        ("breakdown --loss 0", "loss=0"),
        ("trace --lens nowhere", "holds no lens"),
        ("localize --method gradient --metric kl", "ig"),
        ("localize --method screen --completions 3", "completions"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    command: str,
    what: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offline: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        asked(monkeypatch, model, tmp_path, command)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.startswith("steerscope: ") and what in said, said


def test_a_lens_is_trained_reported_and_used(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("One day Tom saw a red ball and Lily saw a ship near the big wedding\n" * 60)
    train = (
        "lens",
        "train",
        "--model",
        model,
        "--text",
        text,
        "--tokens",
        8,
        "--steps",
        4,
        "--batch",
        4,
        "--held-out",
        4,
    )
    monkeypatch.setattr(sys, "argv", ["steerscope", *map(str, train), "--out", str(tmp_path / "lens")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    assert Result.load(tmp_path / "lens").kind == "train_lens"
    page = (tmp_path / "lens" / "report.html").read_text(encoding="utf-8")
    assert "held-out text" in page and "tuned lens" in page
    with pytest.raises(SystemExit):
        asked(monkeypatch, model, tmp_path, f"trace --lens {tmp_path / 'lens'}")
    assert Result.load(tmp_path / "out").manifest["lens"]["name"] == "tuned lens"
    monkeypatch.setattr(sys, "argv", ["steerscope", *map(str, train), "--out", str(tmp_path / "other"), "--steps", "0"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2 and "at least one step" in capsys.readouterr().err
