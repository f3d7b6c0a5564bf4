"""Every command that asks a question of a vector: it saves a result of its kind and writes a page."""

import json
import re
import sys
from pathlib import Path

import pytest
from small_circuits import FILE

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
    "map_effect": [f"--circuit {FILE} --sets 5", f"--circuit {FILE} --sets 0 --no-targeted"],
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
    command: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offline: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        asked(monkeypatch, model, tmp_path, command, "--json")
    said = json.loads(capsys.readouterr().out)
    assert not stopped.value.code
    out = tmp_path / "out"
    result = Result.load(out)
    assert result.kind == said["kind"] == COMMANDS[command]
    assert said["summary"] == result.summary() and not said["checks"] and said["folder"] == str(out)
    assert len(said["rows"]) == len(result.frames[said["table"]]) and list(said["rows"][0]) == list(
        result.columns[said["table"]]
    )
    assert json.loads((out / "manifest.json").read_text())["command"].startswith(f"steerscope {command}")
    page = (out / "report.html").read_bytes()
    assert b"<html" in page and said["report"] == str(out / "report.html")
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["manifest.json", "report.html", *(f"{name}.parquet" for name in result.frames)]
    )
    monkeypatch.setattr(sys, "argv", ["steerscope", "report", str(out)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code and (out / "report.html").read_bytes() == page  # drawn from the folder alone
    assert capsys.readouterr().out.splitlines() == [*said["summary"], f"Report: {out / 'report.html'}"]


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


def called(monkeypatch: pytest.MonkeyPatch, folder: Path, *given: object) -> str | int | None:
    """A command about a difference of means, of texts in files; its exit code."""
    (folder / "prompts.txt").write_text("One day Tom saw a red ball\nOnce upon a time there was a ship\n")
    (folder / "happy.txt").write_text("The party was fun\nWhat a lovely day\nShe smiled\n")
    (folder / "glad.jsonl").write_text('{"text": "He was glad"}\n{"text": "They danced and sang"}\n')
    (folder / "sad.txt").write_text("The dog was lost\n\nHe cried all night\nNobody came\nIt was cold\n")
    names = {path.name: path for path in folder.iterdir()}
    placed = [str(names.get(str(one), one)) for one in given]
    monkeypatch.setattr(sys, "argv", ["steerscope", *placed, "--out", str(folder / "out")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


MEANS = "--recipe mean_difference --positive happy.txt --negative sad.txt --layer 1".split()


def test_a_difference_of_means_is_asked_about_with_two_files(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    more = ("--model", model, "--prompts", "prompts.txt", "--positions", "last", "--completions", 0)
    assert not called(monkeypatch, tmp_path, "localize", *MEANS, *more)
    manifest = Result.load(tmp_path / "out").manifest
    assert manifest["references"]["families"] == {"shuffled": 16, "isotropic": 12}
    [injection] = manifest["injections"]
    assert injection["vector"]["source"]["positive"] == ["The party was fun", "What a lovely day", "She smiled"]
    assert injection["vector"]["source"]["negative"][1:] == ["He cried all night", "Nobody came", "It was cold"]
    assert "16 label-exchanged vectors" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_sweep_takes_several_differences_of_means(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"One day Tom {i} saw a red ball near the ship and played" for i in range(20)))
    more = f"--model {model} --prompts {text} --mode shared --count 4 --tokens 8 --trials 60 --controls 2 --k 1-2"
    given = ("sweep", "run", *MEANS, "--positive", "glad.jsonl", *more.split())
    assert not called(monkeypatch, tmp_path, *given)
    said = (tmp_path / "out" / "manifest.json").read_text(encoding="utf-8")
    assert "The party was fun" in said and "He was glad" in said


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (("--recipe", "mean_difference", "--positive", "happy.txt"), "got neither; expected one of them"),
        ((*MEANS[2:],), "--positive is no option of the recipe prompt_pair; expected --plus, .*--recipe mean_diff"),
        ((*MEANS, "--plus", "x"), "--plus is no option of the recipe mean_difference; expected --positive, --negative"),
        ((*MEANS, "--vector", "v.safetensors"), "got --positive and --negative and --vector; expected one of them"),
        ((*MEANS, "--negative", "nowhere.txt"), "'nowhere.txt' cannot be read"),
        ((*MEANS, "--references", "concepts:4"), "there are no concepts references for .*made from words"),
        ((*MEANS, "--references", "shuffled:40"), "can be exchanged in only 34 different ways; expected 40"),
    ],
)
def test_a_difference_of_means_that_cannot_be_made_is_one_sentence(
    given: tuple[str, ...],
    what: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offline: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = ("--model", model, "--prompts", "prompts.txt", "--positions", "last")
    assert called(monkeypatch, tmp_path, "localize", *given, *more) == 2
    assert re.search(what, capsys.readouterr().err)


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
    assert stopped.value.code == 2 and "steps=0" in capsys.readouterr().err
