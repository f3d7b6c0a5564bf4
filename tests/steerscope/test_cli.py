"""The command line from end to end, on small models, without a network."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from steerscope import __version__, cli
from steerscope.packaged import Packaged


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["steerscope", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stop:
        if stop.code not in (0, None):
            raise


def localize(monkeypatch: pytest.MonkeyPatch, model: Path, folder: Path, *more: object) -> Path:
    prompts = folder / "prompts.txt"
    prompts.write_text(
        "One day Tom saw a red ball\nLily went to the park with a ball\nOnce upon a time there was a ship\n"
    )
    call(
        monkeypatch,
        "localize",
        "--model",
        model,
        "--plus",
        " wedding",
        "--minus",
        " ship",
        "--layer",
        0,
        "--coef",
        3,
        "--prompts",
        prompts,
        "--out",
        folder / "out",
        "--references",
        2,
        "--completions",
        1,
        *more,
    )
    return folder / "out"


def test_a_run_writes_tables_manifest_and_report_and_names_its_command(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = localize(
        monkeypatch, model, tmp_path, "--metric", "log_prob", "--targets", " wedding, bride", "--against", " ship"
    )
    effects = pd.read_parquet(out / "effects.parquet")
    manifest = json.loads((out / "manifest.json").read_text())
    assert len(effects) == 2 * 2 * 5
    assert manifest["metric"]["targets"] == [" wedding", " bride"] and manifest["metric"]["against"] == [" ship"]
    assert manifest["command"].startswith("steerscope localize --model") and "' wedding, bride'" in manifest["command"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<html" in page and "L0M" in page
    assert str(out / "report.html") in capsys.readouterr().out


def test_a_second_run_into_the_folder_refuses_and_overwrite_replaces_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = localize(monkeypatch, model, tmp_path)
    with pytest.raises(SystemExit) as stop:
        localize(monkeypatch, model, tmp_path)
    assert stop.value.code == 2
    before = (out / "manifest.json").stat().st_mtime_ns
    localize(monkeypatch, model, tmp_path, "--overwrite", "--seed", 1)
    assert (out / "manifest.json").stat().st_mtime_ns > before


def test_tables_alone_are_written_without_a_report(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = localize(monkeypatch, model, tmp_path, "--no-report")
    assert (out / "effects.parquet").is_file() and not (out / "report.html").exists()
    assert f"Tables: {out}" in capsys.readouterr().out


def test_the_demo_replaces_no_result_but_its_own(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = localize(monkeypatch, model, tmp_path, "--no-report")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "demo", "--out", out)
    assert stop.value.code == 2 and "holds a result already" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("positions", ["last", "all", "middle", "2,-1"])
def test_all_positions_work_from_the_command_line(
    positions: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = localize(monkeypatch, model, tmp_path, f"--positions={positions}")
    assert json.loads((out / "manifest.json").read_text())["injections"][0]["positions"] == positions


def test_a_report_is_written_again_from_the_folder_alone(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = localize(monkeypatch, model, tmp_path)
    first = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    call(monkeypatch, "report", out)
    assert (out / "report.html").read_bytes() == first


def test_a_damaged_folder_is_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "report", tmp_path)
    assert stop.value.code == 2 and "no manifest.json" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_names_the_carriers_on_an_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("demo", "--out", tmp_path / "demo", "--model", "tinystories-1l")
    call(monkeypatch, *small, "--references", "isotropic:5")
    said = capsys.readouterr().out
    call(monkeypatch, *small, "--references", 2)  # replaces its own
    effects = pd.read_parquet(tmp_path / "demo" / "effects.parquet")
    assert (effects["verdict"] != "untested").any() and (tmp_path / "demo" / "report.html").is_file()
    assert "random vectors" in said and "Nothing is specific to" in said  # no other concepts were run


def test_models_and_version_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    call(monkeypatch, "models")
    assert {"tinystories-1l", "tinystories-2l"} <= set(capsys.readouterr().out.split())
    call(monkeypatch, "--version")
    assert capsys.readouterr().out.strip() == f"steerscope {__version__}"


@pytest.mark.parametrize("columns", ["1", "40", "80"])
def test_no_name_is_cut_in_a_narrow_terminal_whatever_is_installed(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(Packaged, "path", None)
    call(monkeypatch, "models")
    out = capsys.readouterr().out
    assert {"tinystories-1l", "tinystories-2l", "smollm2", "134,515,008", "installed"} <= set(out.split())
    assert "\u2026" not in out


def test_an_interrupted_run_says_so_in_one_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import steerscope.loader

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(steerscope.loader, "load", interrupt)
    with pytest.raises(SystemExit) as stop:
        localize(monkeypatch, model, tmp_path)
    assert stop.value.code == 130 and capsys.readouterr().err == "steerscope: stopped\n"


@pytest.mark.parametrize(
    ("command", "table"),
    [
        ("localize --plus a --layer 0 --prompts {prompts} --method screen", "estimates"),
        ("sparsify --plus a --layer 0 --prompts {prompts}", "curves"),
        ("demo", "effects"),
        ("lens train", "steps"),
    ],
)
def test_somebody_elses_table_is_refused_before_a_model_is_loaded(
    command: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import steerscope.loader

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(steerscope.loader, "load", loaded)
    (tmp_path / "prompts.txt").write_text("Tom had a ball\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{table}.parquet").write_text("mine")
    words = command.format(prompts=tmp_path / "prompts.txt").split()
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *words, "--model", "tinystories-1l", "--out", tmp_path / "out")
    assert stop.value.code == 2 and f"holds {table}.parquet" in capsys.readouterr().err
