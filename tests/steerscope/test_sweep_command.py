"""`steerscope sweep` from end to end: run, stop, resume, status, report, and what it refuses."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from steerscope import cli
from steerscope.analysis.sweeps import bench, runner


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(
        "\n\n".join(
            f"One day Tom {i} saw a red ball near the ship and played with Lily, who had a cake" for i in range(40)
        )
    )
    return path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["steerscope", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def arguments(model: Path, text: Path, out: Path, *more: object) -> list[object]:
    return [
        "sweep",
        "run",
        "--model",
        model,
        "--plus",
        " wedding",
        "--minus",
        " ship",
        "--layer",
        1,
        "--prompts",
        text,
        "--count",
        12,
        "--tokens",
        12,
        "--trials",
        240,
        "--controls",
        2,
        "--k",
        "1-3",
        "--out",
        out,
        *more,
    ]


@pytest.fixture(scope="module")
def done(model: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done") / "run"
    with pytest.MonkeyPatch.context() as patch:
        assert (
            call(
                patch,
                *arguments(model, text, out, "--design", "uniform,horizontal,vertical", "--k", "1-2", "--coef", "1,3"),
            )
            == 0
        )
    return out


def rows(out: Path) -> pd.DataFrame:
    return pd.concat(map(pd.read_parquet, sorted((out / "trials").glob("part-*.parquet"))))


def test_a_run_writes_trials_tables_a_manifest_and_a_report(done: Path) -> None:
    assert rows(done)["trial"].tolist() == list(range(240))
    manifest = json.loads((done / "summary" / "manifest.json").read_text())
    assert manifest["trials"] == {"planned": 240, "done": 240, "real": 120, "random": 120, "damaged": []}
    assert manifest["command"].startswith("steerscope sweep run --model")
    assert manifest["checks"][0]["passed"] and manifest["prompts"]["count"] == 12
    page = (done / "report.html").read_text(encoding="utf-8")
    assert "Which nodes respond" in page and "Horizontal against vertical" in page


def test_the_shipped_model_and_text_need_no_network(
    offline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    given = [
        "sweep",
        "run",
        "--model",
        "tinystories-1l",
        "--plus",
        " wedding",
        "--layer",
        0,
        "--trials",
        64,
        "--count",
        8,
    ]
    assert call(monkeypatch, *given, "--tokens", 12, "--out", out) == 0
    assert json.loads((out / "manifest.json").read_text())["prompts"]["source"] == "shipped"


def test_status_says_how_far_a_run_is(
    done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "sweep", "status", done) == 0
    said = capsys.readouterr().out
    assert "240 of 240 (100%)" in said and "0 damaged" in said and "240 trials in" in said


def test_a_run_that_is_stopped_says_how_to_go_on_and_does(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, answer, calls = tmp_path / "run", bench.answer, []

    def stopping(*given: object) -> object:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return answer(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "answer", stopping)
    more = ("--trials", 6000)
    assert call(monkeypatch, *arguments(model, text, out, *more)) == 130
    monkeypatch.setattr(runner, "answer", answer)
    assert f"go on with: steerscope sweep resume {out}" in capsys.readouterr().err
    there = len(rows(out))
    assert 0 < there < 6000
    assert call(monkeypatch, "sweep", "report", out) == 0
    assert "is not finished" in (out / "report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    call(monkeypatch, "sweep", "status", out)
    assert f"{there:,} of 6,000" in capsys.readouterr().out
    assert call(monkeypatch, "sweep", "resume", out) == 0
    assert rows(out)["trial"].tolist() == list(range(6000))


def test_the_same_command_goes_on_and_another_is_refused_with_the_difference(
    done: Path, model: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    same = ("--design", "uniform,horizontal,vertical", "--k", "1-2", "--coef", "1,3")
    assert call(monkeypatch, *arguments(model, text, done, *same)) == 0
    capsys.readouterr()
    assert call(monkeypatch, *arguments(model, text, done, *same, "--seed", 4)) == 2
    assert "design.seed was 0 and is 4" in capsys.readouterr().err


def test_the_general_report_command_knows_sweeps_and_other_commands_leave_them_alone(
    done: Path, model: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (done / "report.html").unlink()
    assert call(monkeypatch, "report", done) == 0 and (done / "report.html").is_file()
    before = (done / "manifest.json").read_bytes()
    stop = call(
        monkeypatch,
        "localize",
        "--model",
        model,
        "--plus",
        " wedding",
        "--layer",
        0,
        "--prompts",
        text,
        "--out",
        done,
        "--overwrite",
    )
    assert stop == 2 and "holds a sweep run, which no result may replace" in capsys.readouterr().err
    assert (done / "manifest.json").read_bytes() == before


def test_saved_vectors_every_line_a_prompt_and_a_metric_of_words(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import steerscope as st

    loaded = st.load(model)
    vector = st.steering_vector(loaded, " wedding", " ship", 1)
    vector.save(tmp_path / "a.safetensors")
    (2 * vector).save(tmp_path / "b.safetensors")
    given = [
        "sweep",
        "run",
        "--model",
        model,
        "--vector",
        tmp_path / "a.safetensors",
        "--vector",
        tmp_path / "b.safetensors",
        "--mode",
        "through",
        "--mixed",
        "--prompts",
        text,
        "--tokens",
        0,
        "--trials",
        40,
        "--k",
        2,
        "--controls",
        0,
        "--metric",
        "log_prob",
        "--targets",
        " wedding, cake",
        "--out",
        tmp_path / "run",
    ]
    assert call(monkeypatch, *given) == 0
    table = rows(tmp_path / "run")
    assert table["vector"].isna().all() and set(table["control"]) == {-1}
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["metric"]["targets"] == [" wedding", " cake"]
    assert set(manifest["sources"]) == {"vector 0", "vector 1", "prompts"}
    vector.save(tmp_path / "b.safetensors")
    assert call(monkeypatch, "sweep", "resume", tmp_path / "run") == 2


BAD = [
    (["--k", "many"], "--k 'many'; expected a number of nodes"),
    (["--k", "99"], "has room for 10"),
    (["--coef", "one"], "--coef 'one'; expected numbers"),
    (["--design", "diagonal"], "unknown design"),
    (["--nodes", "L9H0"], "names nothing that a sweep"),
    (["--positions", "nowhere"], "unknown position"),
    (["--metric", "joy"], "unknown metric"),
    (["--trials", "0"], "trials=0"),
    (["--trials", str(2**63)], "trials=9223372036854775808; expected an integer from 1 to 1,000,000,000"),
    (["--seed", "-1"], "expected"),
    (["--control-every", "1"], "control_every=1; expected an integer from 2"),
    (["--controls", "-1"], "controls=-1; expected an integer from 0"),
    (["--controls", "1000000"], "controls=1000000; expected an integer from 0"),
    (["--coef", "1,nan"], "a finite number"),
    (["--coef", ""], "--coef ''; expected numbers"),
    (["--k", "²"], "--k '²'; expected a number of nodes"),
    (["--k", "9" * 5000], "expected a number of nodes"),
    (["--k", "3-1"], "turn it round"),
    (["--spacing", "²"], "spacing '²'; expected any"),
    (["--scored", ""], "--scored ''"),
    (["--executor", "processes", "--workers", "0"], "workers=0; expected an integer from 1"),
    (["--executor", "processes", "--workers", "1000000"], "workers=1000000; expected an integer from 1"),
    (["--nodes", ""], "names nothing that a sweep"),
    (["--nodes", "L" + "9" * 5000], "names nothing that a sweep"),
    (["--alpha", "0"], "alpha"),
    (["--smallest", "nan"], "smallest"),
    (["--tokens", "999"], "got windows of 999 tokens"),
    (["--prompts", "no/such/set/at/all"], "no/such/set/at/all"),
    (["--workers", "2"], "takes no workers"),
    (["--vector", "x.safetensors"], "--plus and --vector"),
    (["--minus", " a", "--minus", " b"], "1 times --plus and 3 times --minus"),
    (["--positions", "front", "--nodes", "L1"], "none of the chosen nodes can change"),
    (["--model", "tinystories-9l"], "shipped name (tinystories-1l"),
    (["--scored", "some"], "--scored 'some'"),
    (["--level", "2"], "level=2.0"),
]


@pytest.mark.parametrize(("more", "words"), BAD, ids=[" ".join(b[0])[:40] for b in BAD])
def test_bad_input_gives_one_sentence_and_exit_code_2(
    more: list[str],
    words: str,
    model: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, *arguments(model, text, tmp_path / "run", *more)) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said


@pytest.mark.parametrize("verb", ["resume", "status", "report"])
def test_a_folder_without_a_sweep_is_said(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "sweep", verb, tmp_path) == 2
    assert "no run of a sweep" in capsys.readouterr().err
