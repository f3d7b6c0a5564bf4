"""`--executor`, `--workers`, `--address` of every question: the words of sweeps, and the rows of a local run."""

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from posted import posted

from steerscope import cli
from steerscope.analysis.executors import executors
from steerscope.analysis.results.result import Result


def call(monkeypatch: pytest.MonkeyPatch, model: Path, folder: Path, out: str, *more: str) -> Any:
    (folder / "prompts.txt").write_text("One day Tom saw a red ball\nOnce upon a time there was a ship\n")
    asked = ("localize", "--model", str(model), "--plus", " wedding")
    known = ("--layer", "0", "--references", "1", "--prompts", str(folder / "prompts.txt"), "--out", str(folder / out))
    short = ("--no-selfcheck", "--no-growing", "--no-writers", "--no-attention", "--completions", "0")
    monkeypatch.setattr(sys, "argv", ["steerscope", *asked, *known, *short, *more])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def test_a_command_has_its_passes_run_elsewhere(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def processes(workers: Any = None, address: Any = None) -> Any:
        given.append(workers)
        return posted

    monkeypatch.setitem(executors.EXECUTORS, "processes", processes)
    monkeypatch.setattr("steerscope.analysis.engine.run.CPU_TOKENS", 256)
    assert not call(monkeypatch, model, tmp_path, "here")
    assert not call(monkeypatch, model, tmp_path, "there", "--executor", "processes", "--workers", "3")
    here, there = (Result.load(tmp_path / name) for name in ("here", "there"))
    assert set(given) == {3}
    assert (here.manifest["executor"], there.manifest["executor"]) == ("local", "posted")
    for name, frame in there.frames.items():
        pd.testing.assert_frame_equal(frame, here.frames[name], check_exact=True)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--workers", "2"), "takes no workers"),
        (("--executor", "processes", "--address", "auto"), "takes no address"),
        (("--executor", "processes", "--workers", "0"), "from 1 to"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_a_model_is_loaded(
    more: tuple[str, ...],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, tmp_path / "no such model", tmp_path, "out", *more) == 2
    assert words in " ".join(capsys.readouterr().err.split())
