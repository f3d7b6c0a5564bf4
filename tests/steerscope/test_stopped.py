"""A question that is stopped or killed goes on behind the vectors that are done, to the rows of one that was not."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from steerscope import cli
from steerscope.analysis.results.result import Result
from steerscope.analysis.tools import keeping, patching

REFERENCES = 4


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "SECONDS", -1.0)


def command(model: Path, folder: Path, out: str, *more: object) -> list[str]:
    (folder / "prompts.txt").write_text("One day Tom saw a red ball\nOnce upon a time there was a ship\nA dog ran\n")
    plus = () if "--plus" in more else ("--plus", " wedding")
    asked = ("localize", "--model", model, *plus, "--layer", 0, "--coef", 3, "--references", REFERENCES)
    known = ("--prompts", folder / "prompts.txt", "--out", folder / out, "--no-selfcheck", "--completions", 0)
    short = ("--no-growing", "--no-writers", "--no-attention")
    return [str(one) for one in ("steerscope", *asked, *known, *short, *more)]


def call(monkeypatch: pytest.MonkeyPatch, *given: Any) -> Any:
    monkeypatch.setattr(sys, "argv", command(*given))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def counted(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[int]:
    """The vectors whose nodes are patched; at the `stop_at`th somebody presses Ctrl-C."""
    seen: list[int] = []
    own = patching._one

    def one(experiment: Any, vector: int, nodes: Any, coarse: bool) -> Any:
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        seen.append(vector)
        return own(experiment, vector, nodes, coarse)

    monkeypatch.setattr(patching, "_one", one)
    return seen


def same(one: Path, other: Path) -> None:
    left, right = Result.load(one), Result.load(other)
    assert left.frames.keys() == right.frames.keys()
    for name, frame in left.frames.items():
        pd.testing.assert_frame_equal(frame, right.frames[name], check_exact=True)


def test_a_stopped_question_goes_on_to_the_same_rows(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not call(monkeypatch, model, tmp_path, "whole")
    with monkeypatch.context() as patch:
        assert counted(patch, stop_at=3) == [] and call(patch, model, tmp_path, "out") == 130
    said = capsys.readouterr().err.splitlines()
    assert said == ["steerscope: stopped after 3 of 5 vectors, which are kept; the same command goes on"]
    kept = tmp_path / "out" / keeping.FOLDER
    assert len(list(kept.iterdir())) == 3 and not (tmp_path / "out" / "manifest.json").exists()
    with monkeypatch.context() as patch:
        read = counted(patch)
        assert not call(patch, model, tmp_path, "out")
    assert read == [3, 4] and not kept.exists()
    same(tmp_path / "whole", tmp_path / "out")


def test_a_stopped_question_leaves_the_result_that_it_would_replace(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert not call(monkeypatch, model, tmp_path, "out")
    old = {path.name: path.read_bytes() for path in out.iterdir()}
    with monkeypatch.context() as patch:
        counted(patch, stop_at=1)
        assert call(patch, model, tmp_path, "out", "--overwrite", "--seed", 1) == 130
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == old
    assert not call(monkeypatch, model, tmp_path, "out", "--overwrite", "--seed", 1)
    assert Result.load(out).manifest["seed"] == 1 and not (out / keeping.FOLDER).exists()


@pytest.mark.parametrize(
    ("more", "read"),
    [
        (["--coef", "4"], [0, 1, 2, 3, 4]),
        (["--metric", "own_direction"], [0, 1, 2, 3, 4]),
        (["--groups", "each", "--positions", "last"], [0, 1, 2, 3, 4]),
        (["--plus", " ring"], [0, 1, 2, 3, 4]),
        (["--dtype", "float64"], [0, 1, 2, 3, 4]),
        (["--level", "0.9"], [3, 4]),  # the numbers are the same, what is made of them is not
        (["--references", "5"], [3, 4, 5]),
    ],
    ids=str,
)
def test_another_question_finds_nothing_that_is_not_its_own(
    more: list[str], read: list[int], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        counted(patch, stop_at=3)
        assert call(patch, model, tmp_path, "out") == 130
    with monkeypatch.context() as patch:
        seen = counted(patch)
        assert not call(patch, model, tmp_path, "out", *more)
    assert seen == read and not (tmp_path / "out" / keeping.FOLDER).exists()
    assert not call(monkeypatch, model, tmp_path, "whole", *more)
    same(tmp_path / "whole", tmp_path / "out")


@pytest.mark.parametrize("damage", ["flipped", "empty", "exchanged"])
def test_a_part_that_is_damaged_or_renamed_is_read_again(
    damage: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not call(monkeypatch, model, tmp_path, "whole")
    with monkeypatch.context() as patch:
        counted(patch, stop_at=3)
        assert call(patch, model, tmp_path, "out") == 130
    first, second, _ = sorted((tmp_path / "out" / keeping.FOLDER).iterdir())
    content = first.read_bytes()
    if damage == "flipped":
        first.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    elif damage == "empty":
        first.write_bytes(b"")
    else:
        first.write_bytes(second.read_bytes())
    with monkeypatch.context() as patch:
        read = counted(patch)
        assert not call(patch, model, tmp_path, "out")
    assert len(read) == 3
    same(tmp_path / "whole", tmp_path / "out")


def test_nothing_is_written_through_a_link(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / keeping.FOLDER).symlink_to(tmp_path / "theirs")
    assert call(monkeypatch, model, tmp_path, "out") == 2
    assert "is a link" in capsys.readouterr().err and not list((tmp_path / "theirs").iterdir())


def test_a_short_question_writes_nothing_before_its_result(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SECONDS", 600.0)
    with monkeypatch.context() as patch:
        patch.setattr(keeping._Place, "write", lambda self: (_ for _ in ()).throw(AssertionError))
        assert not call(patch, model, tmp_path, "out")
    with monkeypatch.context() as patch:  # but a stop keeps what is done, however soon
        counted(patch, stop_at=2)
        assert call(patch, model, tmp_path, "other") == 130
    assert len(list((tmp_path / "other" / keeping.FOLDER).iterdir())) == 2


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run behind a shell
from steerscope.analysis.tools import keeping, patching
from steerscope import cli
keeping.SECONDS, own = -1.0, patching._one
def slow(*given):
    time.sleep(0.3)
    return own(*given)
patching._one = slow
cli.main()
"""


@pytest.mark.parametrize(
    "how", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGINT], ids=lambda how: how.name
)
def test_a_killed_process_goes_on_behind_what_it_wrote(
    how: signal.Signals, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not call(monkeypatch, model, tmp_path, "whole")
    kept = tmp_path / "out" / keeping.FOLDER
    run = subprocess.Popen(
        [sys.executable, "-c", SLOW, *command(model, tmp_path, "out")[1:]],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
    )
    until = time.monotonic() + 120
    while len(list(kept.glob("*.safetensors"))) < 2 and run.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    run.send_signal(how)
    _, said = run.communicate(timeout=60)
    assert run.returncode == (130 if how == signal.SIGINT else -how), said
    assert how == signal.SIGKILL or b"vectors, which are kept; the same command goes on" in said
    with monkeypatch.context() as patch:
        read = counted(patch)
        assert not call(patch, model, tmp_path, "out")
    assert 0 < len(read) <= REFERENCES - 1
    same(tmp_path / "whole", tmp_path / "out")
