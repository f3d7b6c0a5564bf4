import json
from pathlib import Path

import pandas as pd
import pytest

from steerscope.analysis.errors import BadArgument, DamagedRun, OutputExists
from steerscope.analysis.results.result import Result, check_folder
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.seals import sealed

COLUMNS: Frames = {
    "effects": {
        "node": Column("a node", role="node"),
        "head": Column("its head", role="head"),
        "effect": Column("what it does", "{metric}", "estimate"),
    }
}


@pytest.fixture
def result() -> Result:
    frame = pd.DataFrame(
        {"node": ["L0H0", "L0M"], "head": pd.array([0, None], dtype="Int64"), "effect": [1.0, float("nan")]}
    )
    return Result("exact", {"effects": frame}, COLUMNS, {"seed": 3, "text": "<ü>"})


def test_a_saved_result_reads_back_whole(result: Result, tmp_path: Path) -> None:
    loaded = Result.load(result.save(tmp_path / "run"))
    assert loaded.kind == "exact" and loaded.columns == COLUMNS and dict(loaded.manifest) == dict(result.manifest)
    pd.testing.assert_frame_equal(loaded.frames["effects"], result.frames["effects"])


def test_a_folder_with_a_result_is_not_overwritten_unasked(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path)
    with pytest.raises(OutputExists, match="--overwrite"):
        result.save(tmp_path)
    result.save(tmp_path, overwrite=True)


def test_files_of_others_are_neither_removed_nor_replaced(result: Result, tmp_path: Path) -> None:
    (tmp_path / "mine.parquet").write_text("mine")
    (tmp_path / "report.html").write_text("mine")
    result.save(tmp_path)
    result.save(tmp_path, overwrite=True)
    assert {(tmp_path / name).read_text() for name in ("mine.parquet", "report.html")} == {"mine"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "effects.parquet").write_text("mine")
    with pytest.raises(OutputExists, match="holds effects.parquet, which no saved result lists"):
        result.save(tmp_path / "other", overwrite=True)


def test_a_changed_file_is_named(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path)
    (tmp_path / "effects.parquet").write_bytes(b"torn")
    with pytest.raises(DamagedRun, match="effects.parquet"):
        Result.load(tmp_path)


def test_a_missing_file_a_missing_manifest_and_a_broken_one_are_told_apart(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "a")
    (tmp_path / "a" / "effects.parquet").unlink()
    with pytest.raises(DamagedRun, match="cannot be read"):
        Result.load(tmp_path / "a")
    with pytest.raises(DamagedRun, match="no manifest.json"):
        Result.load(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DamagedRun, match="is no manifest"):
        Result.load(tmp_path)


def test_a_run_of_a_newer_format_is_refused(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path)
    _rewrite(tmp_path, {"format": 99})
    with pytest.raises(DamagedRun, match="update steerscope"):
        Result.load(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_refused(result: Result, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(OutputExists, match="is a file"):
        result.save(tmp_path / "run")


def test_frames_and_columns_must_agree(result: Result) -> None:
    frame = result.frames["effects"]
    for frames, columns, what in (
        ({"effects": frame.drop(columns="head")}, COLUMNS, "effects: ['head']"),
        ({"effects": frame.assign(more=1)}, COLUMNS, "effects: ['more']"),
        ({}, COLUMNS, "effects: no such frame"),
        ({"effects": frame, "other": frame}, COLUMNS, "other: "),
        ({"effects": pd.concat([frame, frame[["node"]]], axis=1)}, COLUMNS, "effects: []"),
    ):
        with pytest.raises(BadArgument) as refused:
            Result("exact", frames, columns)
        assert what in str(refused.value) and "add them to its COLUMNS" in str(refused.value)


@pytest.mark.parametrize("columns", [3, {"effects": {"node": ["a", "b"]}}, {"effects": {"node": ["a", "", "king"]}}])
def test_a_manifest_with_other_columns_is_damaged(columns: object, result: Result, tmp_path: Path) -> None:
    result.save(tmp_path)
    _rewrite(tmp_path, {"columns": columns})
    with pytest.raises(DamagedRun, match="not a manifest"):
        Result.load(tmp_path)


def test_a_folder_of_something_else_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"kind": "sweep-run"}')
    with pytest.raises(OutputExists, match="holds a sweep-run, which no result may replace"):
        check_folder(tmp_path, overwrite=True)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "effects.parquet").write_text("mine")
    check_folder(tmp_path, overwrite=True)
    with pytest.raises(OutputExists, match="effects.parquet"):
        check_folder(tmp_path, overwrite=True, frames=["effects"])


def test_columns_stand_in_the_order_of_their_description(result: Result) -> None:
    frame = result.frames["effects"]
    turned = Result("exact", {"effects": frame[["effect", "node", "head"]]}, COLUMNS)
    pd.testing.assert_frame_equal(turned.frames["effects"], frame)


def test_a_result_is_printed_in_one_line(result: Result) -> None:
    assert repr(result) == "<Result exact of no model: effects 2 rows>"


def _rewrite(folder: Path, change: dict[str, object]) -> None:
    """Another manifest with a checksum that fits: what a newer version, or somebody who knows how, would write."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("checksum")
    (folder / "manifest.json").write_bytes(sealed(manifest | change))


def test_a_manifest_that_was_edited_is_refused(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"seed": 4}))
    with pytest.raises(DamagedRun, match="has changed since it was written"):
        Result.load(tmp_path)


def test_a_manifest_of_the_format_before_needs_no_checksum(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest.pop("checksum")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    assert Result.load(tmp_path).manifest["seed"] == 3
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedRun, match="has changed"):
        Result.load(tmp_path)


def test_a_result_whose_manifest_is_gone_can_be_overwritten(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path, beside={"report.html": '<meta name="generator" content="steerscope">'})
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(OutputExists, match="--overwrite"):
        result.save(tmp_path)
    result.save(tmp_path, overwrite=True)
    assert Result.load(tmp_path).kind == "exact" and not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("name", ["../secret", "/etc/x", "a.b", "", "\u212a", "a/b"])
def test_names_do_not_leave_the_folder(name: str, result: Result, tmp_path: Path) -> None:
    outside = result.save(tmp_path / "outside") / "effects.parquet"
    (tmp_path / "secret.parquet").write_bytes(outside.read_bytes())
    frame, columns = result.frames["effects"], COLUMNS["effects"]
    with pytest.raises(BadArgument, match="no name of a table"):
        Result("exact", {name: frame}, {name: columns})
    run = result.save(tmp_path / "run")
    _rewrite(run, {"files": {name: "0" * 64}, "columns": {name: {}}})
    with pytest.raises(DamagedRun, match="expected names of tables"):
        Result.load(run)
    result.save(run, overwrite=True)
    assert (tmp_path / "secret.parquet").exists() and outside.exists()


def test_further_files_come_with_the_tables_and_go_with_them(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "run", beside={"lens.bin": b"1", "page.html": "2"})
    (tmp_path / "run" / "note.txt").write_text("mine")
    result.save(tmp_path / "run", overwrite=True, beside={"page.html": "3"})
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "effects.parquet",
        "manifest.json",
        "note.txt",
        "page.html",
    ]
    with pytest.raises(BadArgument, match="plain names"):
        result.save(tmp_path / "other", beside={"../x": "1"})


def test_what_no_file_can_hold_is_told(result: Result, tmp_path: Path) -> None:
    frame = result.frames["effects"]
    for frames, manifest, what in (
        ({"effects": frame}, {"x": float("nan")}, "manifest"),
        ({"effects": frame}, {"x": object()}, "manifest"),
        ({"effects": frame.assign(node=pd.Series(["\ud800", "a"], dtype=object))}, {}, "table"),
        ({"effects": frame.assign(effect=[1, "a"])}, {}, "table"),
    ):
        with pytest.raises(BadArgument, match=what):
            Result("exact", frames, COLUMNS, manifest).save(tmp_path / "run")
    assert not (tmp_path / "run").exists()
