"""A run's folder: parts that are whole or not there, a kill at any instant, damage, another run, a full disk."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from made_sweep import ABOUT

from steerscope.analysis.errors import BadArgument, BrokenInvariant, DamagedRun, DiskFull, OutputExists
from steerscope.analysis.model.models import Model
from steerscope.analysis.sweeps.plan import Plan, plan, reopen
from steerscope.analysis.sweeps.runner import begin, resume, run, sweep
from steerscope.analysis.sweeps.store import Store
from steerscope.analysis.vectors.prompt_pair import prompt_pair

PROMPTS = [[7, 3, 30, 12, 9, 41, 5, 8, 2], [9, 9, 31, 4, 17, 6], [40, 2, 2, 13, 25, 11, 20], [1, 5, 6, 7, 8]]
OPTIONS: dict[str, Any] = {"trials": 400, "visit": 4, "controls": 2, "k": (1, 3), "block": 40}  # ten parts


def made(model: Model, **more: Any) -> Plan:
    return plan(model, prompt_pair(model, [5, 9], [7, 11], 1), PROMPTS, **OPTIONS | more)


def rows(store: Store) -> pd.DataFrame:
    table: pd.DataFrame = pd.concat([t.to_pandas() for t in store.read()], ignore_index=True)
    return table


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: Model) -> Store:
    """A run that nothing happened to."""
    store = Store(tmp_path_factory.mktemp("whole") / "run")
    begin(made(tiny), store)
    run(made(tiny), store)
    return store


class Stop(Exception):
    """What stops a run in these tests."""


def stopped_after(parts: int) -> Any:
    """An executor that dies after some answers."""

    def executor(work: Any, tasks: Any) -> Any:
        for number, task in enumerate(tasks):
            if number == parts:
                raise Stop
            yield work(task)

    return executor


def test_a_run_that_was_stopped_goes_on_to_exactly_the_same_rows(tiny: Model, whole: Store, tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    begin(made(tiny), store)
    for parts in (0, 3, 1):
        with pytest.raises(Stop):
            run(made(tiny), store, stopped_after(parts))
    assert len(store.done()) == 4
    (store.trials / ".part-000009-half.parquet.0123456789abcdef.new").write_bytes(b"half")
    run(reopen(store, tiny), store)
    pd.testing.assert_frame_equal(rows(store), rows(whole), check_exact=True)
    assert sorted(p.name for p in store.trials.iterdir()) == sorted(p.name for p in whole.trials.iterdir())
    assert [s["trials"] for s in store.sessions()] == [0, 120, 40, 240]


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_to_exactly_the_same_rows(tiny_folder: Path, tmp_path: Path) -> None:
    """A real process, kill -9, twice; then compared with one that was never killed."""
    script = (
        "import sys; from steerscope.analysis.loading.loading import load; from steerscope.analysis.sweeps.runner "
        "import sweep; from steerscope.analysis.vectors.prompt_pair import prompt_pair; m = load(sys.argv[1], "
        "name='tiny'); import torch; torch.set_num_threads(1); texts = ['One day Tom saw a red ball', 'Lily went to "
        "the park with a ball'] * 8; sweep(m, prompt_pair(m, ' wedding', ' ship', 1), texts, sys.argv[2], "
        "trials=40_000, visit=16)"
    )
    store = Store(tmp_path / "run")
    for kill in (2, 5):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tiny_folder), str(store.folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        deadline = time.monotonic() + 90
        while len(list(store.trials.glob("part-*"))) < kill and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        parts = len(store.done())
        assert kill <= parts < 18, "the run was over before it was killed"
    from steerscope.analysis.loading.loading import load

    model = load(tiny_folder, name="tiny")
    texts = ["One day Tom saw a red ball", "Lily went to the park with a ball"] * 8
    vector = prompt_pair(model, " wedding", " ship", 1)
    short = {"trials": 40_000, "visit": 16}
    run(reopen(store, model), store)
    other = Store(tmp_path / "other")
    begin(plan(model, vector, texts, **short), other)  # type: ignore[arg-type]
    run(plan(model, vector, texts, **short), other)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(rows(store), rows(other), check_exact=True)
    assert rows(store)["trial"].tolist() == list(range(40_000))


def test_a_damaged_part_is_named_set_aside_and_computed_again(tiny: Model, whole: Store, tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    begin(made(tiny), store)
    run(made(tiny), store)
    part = store.done()[3]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    assert store.damaged() == [part] and 3 not in store.done()
    session = run(reopen(store, tiny), store)
    assert session.damaged == (part.name,) and session.trials == 40
    assert (store.folder / "damaged" / part.name).read_bytes() == content
    pd.testing.assert_frame_equal(rows(store), rows(whole), check_exact=True)


def test_a_folder_of_parts_is_readable_with_pandas_alone(whole: Store) -> None:
    table = pd.concat(map(pd.read_parquet, sorted(whole.trials.glob("part-*.parquet"))))
    assert table["trial"].tolist() == list(range(400))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": (1, 4)}, r"design.k was \[1, 3\] and is \[1, 4\]"),
        ({"seed": 5}, "design.seed was 0 and is 5"),
        ({"mode": "through"}, 'mode was "own" and is "through"'),
        ({"coefficients": 2.0}, r"design.coefficients was \[1.0\] and is \[2.0\]"),
        ({"positions": "front"}, 'positions was "all" and is "front"'),
    ],
)
def test_another_run_is_refused_with_the_difference(
    tiny: Model, whole: Store, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(OutputExists, match=words):
        begin(made(tiny, **change), whole)


def test_another_vector_other_prompts_and_another_model_are_refused(
    tiny: Model, whole: Store, small_model: Model
) -> None:
    other = plan(tiny, prompt_pair(tiny, [5, 10], [7, 11], 1), PROMPTS, **OPTIONS)
    with pytest.raises(OutputExists, match="vectors.*and is.*additions was"):
        begin(other, whole)
    fewer = plan(tiny, prompt_pair(tiny, [5, 9], [7, 11], 1), [*PROMPTS[:3], [3, 3, 3, 3]], **OPTIONS)
    with pytest.raises(OutputExists, match="prompts.hash was"):
        begin(fewer, whole)
    with pytest.raises(OutputExists, match="model.weights_hash was"):
        reopen(whole, small_model)


def test_a_changed_source_file_is_refused_on_resume(tiny: Model, tmp_path: Path) -> None:
    text = tmp_path / "prompts.txt"
    text.write_text("One day")
    found = plan(tiny, prompt_pair(tiny, [5, 9], [7, 11], 1), PROMPTS, **OPTIONS, sources={"prompts": text})
    store = Store(tmp_path / "run")
    begin(found, store)
    text.write_text("Another day")
    with pytest.raises(OutputExists, match=r"prompts file .* has changed .* was \w{12}, is \w{12}"):
        reopen(store, tiny)
    text.unlink()  # the run has its own copy of the prompts
    assert reopen(store, tiny).prompts == found.prompts


def test_changed_files_of_the_run_itself_are_found(tiny: Model, tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    begin(made(tiny), store)
    (store.folder / "prompts.parquet").write_bytes(b"something else")
    with pytest.raises(DamagedRun, match="prompts.parquet.*has changed"):
        reopen(store, tiny)


def test_a_folder_with_something_else_in_it_is_left_alone(tiny: Model, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExists, match="is no sweep"):
        begin(made(tiny), Store(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(DamagedRun, match="no run of a sweep"):
        Store(tmp_path).manifest()


def test_two_processes_never_write_to_one_run(tiny: Model, tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    begin(made(tiny), store)
    with store.lock(), pytest.raises(OutputExists, match="another process"):
        run(made(tiny), Store(store.folder))


def test_a_full_disk_is_said_and_what_is_written_stays_good(
    tiny: Model, whole: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "run")
    begin(made(tiny), store)
    fsync, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 8:  # two of each part: the file's and its folder's
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="no room left.*stays good.*run the same again"):
        run(made(tiny), store)
    monkeypatch.undo()
    assert len(store.done()) == 4 and not list(store.trials.glob(".*"))
    run(made(tiny), store)
    pd.testing.assert_frame_equal(rows(store), rows(whole), check_exact=True)


def test_a_store_keeps_what_is_appended(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    assert not store.exists
    store.create(ABOUT, {})
    store.append(1, pa.table({"trial": [2, 3]}))
    store.append(0, pa.table({"trial": [0, 1]}))
    assert [t["trial"].to_pylist() for t in store.read()] == [[0, 1], [2, 3]]
    assert sorted(store.done()) == [0, 1] and store.manifest()["mode"] == "own" and store.exists
    with pytest.raises(BrokenInvariant, match="block 2 came back with 2 rows; expected 1"):
        store.append(2, pa.table({"trial": [4, 5]}))


def test_the_same_call_goes_on_and_a_finished_run_is_only_read(tiny: Model, tmp_path: Path) -> None:
    vector = prompt_pair(tiny, [5, 9], [7, 11], 1)
    first = sweep(tiny, vector, PROMPTS, tmp_path / "run", **OPTIONS)
    again = sweep(tiny, vector, PROMPTS, tmp_path / "run", **OPTIONS)
    pd.testing.assert_frame_equal(first.frames["nodes"], again.frames["nodes"])
    assert resume(tmp_path / "run", tiny).manifest["sessions"] == 1


def test_a_model_in_memory_cannot_be_sent_to_workers(tiny: Model, tmp_path: Path) -> None:
    from dataclasses import replace

    from steerscope.analysis.executors.executors import Processes

    found = made(replace(tiny, source=None))
    store = Store(tmp_path / "run")
    begin(found, store)
    with pytest.raises(BadArgument, match="only in memory"):
        run(found, store, Processes(2))
