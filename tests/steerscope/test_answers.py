"""What commands say, to people and to programs, and with which exit status."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tqdm.auto import tqdm

from steerscope import cli
from steerscope.analysis import progress
from steerscope.analysis.carriers import exact as question
from steerscope.analysis.errors import SteerscopeError
from steerscope.analysis.results.result import Result
from steerscope.commands.finish import FAILED, as_text, check_out

GROUPS = (cli.app, *(one.typer_instance for one in cli.app.registered_groups))
EVERY = [info for group in GROUPS if group is not None for info in group.registered_commands]


def status(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Any:
    monkeypatch.setattr(sys, "argv", ["steerscope", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def localize(monkeypatch: pytest.MonkeyPatch, model: Path, folder: Path, *more: object) -> Any:
    (folder / "prompts.txt").write_text("One day Tom saw a red ball\nOnce upon a time there was a ship\n")
    asked = ("localize", "--model", model, "--plus", " wedding", "--layer", 0, "--coef", 3, "--references", 0)
    known = ("--prompts", folder / "prompts.txt", "--completions", 0, "--no-writers", "--no-attention", "--no-growing")
    return status(monkeypatch, *asked, *known, "--out", folder / "out", *more)


@pytest.mark.parametrize("info", EVERY, ids=lambda info: str(info.name or info.callback.__name__))
def test_every_command_answers_programs_too(info: Any) -> None:
    assert "as_json" in inspect.signature(info.callback).parameters


def test_models_are_listed_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(monkeypatch, "models", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["command"] == "steerscope models --json"
    assert {("tinystories-1l", 1), ("tinystories-2l", 2)} <= {(one["name"], one["layers"]) for one in said["models"]}


def test_numbers_that_are_none_are_null_and_all_is_ascii() -> None:
    import numpy as np

    found = as_text({"a": float("nan"), "b": [np.float64("inf"), np.int64(3)], "c": "é\udcff", "d": np.array([1.5])})
    assert json.loads(found) == {"a": None, "b": [None, 3], "c": "é\udcff", "d": [1.5]} and found.isascii()


def test_a_dry_run_answers_programs(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert localize(monkeypatch, model, tmp_path, "--dry-run", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["dry_run"] and said["kind"] == "exact" and said["prompts"] == 2 and said["passes"] > 10
    assert "2 prompts in 2 groups" in " ".join(said["summary"])


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (["report", "nowhere"], "manifest.json"),
        (["report"], "Missing argument"),
        (["models", "--nothing"], "No such option"),
        (["nothing"], "No such command"),
        (["localize", "--model", "x", "--prompts", "y", "--out", ""], "--out ''"),
    ],
)
def test_an_error_is_an_object_for_programs_and_a_sentence_for_people(
    given: list[str], what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(monkeypatch, *given, "--json") == 2
    said = capsys.readouterr()
    assert what in json.loads(said.out)["error"] and what in said.err
    assert status(monkeypatch, *given) == 2
    said = capsys.readouterr()
    assert what in said.err and not said.out


def failing(*_: object) -> list[dict[str, object]]:
    return [{"name": "two is one", "value": 1.0, "limit": 0.5, "passed": False}]


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_failed_check_stands_on_standard_error_and_in_the_exit_status(
    more: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(question, "checks", failing)
    assert localize(monkeypatch, model, tmp_path, *more) == FAILED == 3
    said = capsys.readouterr()
    assert "A check failed: two is one is off by 1" in said.err and (tmp_path / "out" / "report.html").is_file()
    if more:
        assert [check["name"] for check in json.loads(said.out)["checks"]] == ["two is one"]
    else:
        assert "A check failed" not in said.out
    assert status(monkeypatch, "report", tmp_path / "out", *more) == FAILED  # as it was saved


def test_a_page_that_cannot_be_drawn_costs_no_table(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from steerscope.reports import report

    def broken(result: Result) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(report, "html", broken)
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        localize(monkeypatch, model, tmp_path)
    assert len(Result.load(tmp_path / "out").frames["effects"]) and not (tmp_path / "out" / "report.html").exists()
    assert "the tables are saved" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "x"),
        PermissionError(13, "Permission denied", "x"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        SteerscopeError("x is wrong; expected y; do z"),
    ],
    ids=str,
)
def test_what_the_system_refuses_is_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", refused)
    assert status(monkeypatch, "models") == 2
    said = capsys.readouterr().err
    assert said.startswith("steerscope: ") and said.count("\n") == 1 and said.count(";") >= 2


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "app", broken)
    monkeypatch.setattr(sys, "argv", ["steerscope", "models"])
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main()


PLACES = ["", "/proc/x", "/dev/null", "/dev/full", "/dev/null/x", "n" * 300, "a/" + "n" * 256, "file", "file/x", "a\0b"]


@pytest.mark.parametrize("place", PLACES, ids=repr)
def test_a_folder_that_cannot_be_is_refused_before_any_work(
    place: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import steerscope.loader

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(steerscope.loader, "load", loaded)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    for command in ("localize", "demo"):
        known = ["--plus", "a", "--layer", 0, "--prompts", "general"] if command == "localize" else []
        assert status(monkeypatch, command, "--model", "tinystories-1l", *known, "--out", place) == 2
        assert "expected" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_trial_of_a_folder_leaves_nothing(tmp_path: Path) -> None:
    check_out(tmp_path / "a" / "b", overwrite=False)
    check_out(tmp_path, overwrite=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SteerscopeError, match="cannot be written"):
        check_out(tmp_path / "x", overwrite=False)
    tmp_path.chmod(0o700)


# As a process: standard streams, modules, arguments that are no text.


def called(*arguments: str | bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:
    given: Any = {"capture_output": True, "check": False, "cwd": Path(__file__).parents[2]} | options
    done: subprocess.CompletedProcess[bytes] = subprocess.run([sys.executable, "-m", "steerscope", *arguments], **given)
    return done


def test_python_can_be_asked_for_the_module_and_calls_it_by_its_name() -> None:
    done = called("models", "--help")
    assert done.returncode == 0 and b"Usage: steerscope models" in done.stdout


def test_an_argument_that_is_no_text_is_one_sentence() -> None:
    done = called("report", b"\xff")
    assert done.returncode == 2 and done.stderr.startswith(b"steerscope: the argument") and b"UTF-8" in done.stderr


def test_whoever_reads_may_stop_reading() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for arguments in (["models"], ["models", "--json"], ["--help"]):
        done = called(*arguments, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
        assert done.returncode == 0 and not done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_an_output_that_is_full_is_one_sentence() -> None:
    with Path("/dev/full").open("wb") as full:
        done = called("models", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2 and done.stderr.startswith(b"steerscope: ") and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("arguments", [["report", "é"], ["é"], ["sweep", "run", "--help"], ["models"]], ids=str)
def test_a_terminal_that_lacks_characters_is_no_reason_to_stop(arguments: list[str]) -> None:
    done = called(*arguments, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == (2 if "é" in arguments else 0) and b"Traceback" not in done.stderr


def test_shells_complete_commands_and_the_help_is_not_crowded_with_it() -> None:
    asking = {"_STEERSCOPE_COMPLETE": "complete_bash", "COMP_WORDS": "steerscope mod", "COMP_CWORD": "1"}
    assert called(env={**os.environ, **asking}).stdout.split() == [b"models"]
    assert b"completion" not in called("--help").stdout
    shown = called("--show-completion", env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"})
    assert b"completion" in shown.stdout + shown.stderr


def test_no_bar_is_drawn_where_no_terminal_shows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def at_once(items: Any, **options: Any) -> Any:
        return tqdm(items, **{**options, "delay": 0})

    monkeypatch.setattr(progress, "tqdm", at_once)
    assert list(progress.track(range(3), "things")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress.track(range(3), "things")) == [0, 1, 2]
    assert "things" in capsys.readouterr().err
