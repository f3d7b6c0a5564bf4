"""Folders and files that somebody hostile made: no code of theirs runs, nothing outside is read, written or removed.

Each attack is made as an attacker would: checksums are recomputed, names lead out of the folder, "y" lies on standard
input. What is asserted is that nothing happened, and that the answer is one sentence.
"""

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from steerscope.analysis.errors import SteerscopeError
from steerscope.analysis.lens.lens import load_lens
from steerscope.analysis.loading.loading import load
from steerscope.analysis.question.corpora import windows
from steerscope.analysis.question.prompt_files import read_groups, read_prompts
from steerscope.analysis.results.result import MANIFEST, Result
from steerscope.analysis.seals import CHECKSUMS, check_folder_seal, digest, sealed
from steerscope.analysis.sweeps.runner import resume
from steerscope.analysis.sweeps.store import Store
from steerscope.analysis.vectors.vector import SteeringVector
from steerscope.reports.report import report
from tests.stress.children import child, sentence
from tests.stress.conftest import Stage
from tests.stress.doors import command, half_a_sweep, save, save_vector
from tests.stress.world import NEW, OLD, World

EVIL = "from pathlib import Path\nPath({!r}).write_text('pwned')\nclass Evil:\n    pass\n"


class Bomb:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def model(the_world: World, tmp_path: Path) -> Path:
    """A copy of the small model, for attacks."""
    shutil.copytree(the_world.home / "tiny", tmp_path / "model")
    return tmp_path / "model"


def changed(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# Code in a model's folder.


def with_auto_map(model: Path, proof: Path) -> None:
    (model / "evil.py").write_text(EVIL.format(str(proof)))
    changed(model / "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"})


def with_auto_map_and_an_unknown_type(model: Path, proof: Path) -> None:
    with_auto_map(model, proof)
    changed(model / "config.json", model_type="evil", architectures=["Evil"])


def with_a_tokenizer_of_its_own(model: Path, proof: Path) -> None:
    (model / "evil.py").write_text(EVIL.format(str(proof)))
    changed(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})


def with_generation_code(model: Path, proof: Path) -> None:
    (model / "custom_generate").mkdir()
    (model / "custom_generate" / "generate.py").write_text(EVIL.format(str(proof)))


def with_only_a_pickle(model: Path, proof: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(proof)))


def with_an_index_of_a_pickle(model: Path, proof: Path) -> None:
    with_only_a_pickle(model, proof)
    index = {"metadata": {}, "weight_map": {"transformer.wte.weight": "pytorch_model.bin"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def with_an_index_that_leaves_the_folder(model: Path, proof: Path) -> None:
    shutil.move(model / "model.safetensors", model.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"transformer.wte.weight": "../outside.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def with_a_pickle_under_another_name(model: Path, proof: Path) -> None:
    (model / "model.safetensors").write_bytes(pickle.dumps(Bomb(proof)))


def with_an_adapter(model: Path, proof: Path) -> None:
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model), "peft_type": "LORA"}))
    (model / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(proof)))


HARMLESS = (with_generation_code,)  # may load: what nobody asks for is not read
MODELS = (
    with_auto_map,
    with_auto_map_and_an_unknown_type,
    with_a_tokenizer_of_its_own,
    with_generation_code,
    with_only_a_pickle,
    with_an_index_of_a_pickle,
    with_an_index_that_leaves_the_folder,
    with_a_pickle_under_another_name,
    with_an_adapter,
)


@pytest.mark.parametrize("attack", MODELS)
def test_no_code_of_a_models_folder_runs(attack: Callable[[Path, Path], None], model: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    attack(model, proof)

    def act() -> None:
        reader, writer = os.pipe()
        os.write(writer, b"y\n" * 100)
        os.close(writer)
        os.dup2(reader, 0)
        sys.stdin = os.fdopen(0)
        load(model, selfcheck=False)

    end = child(act, tmp_path)
    assert not proof.exists(), "its code ran"
    assert (end.status == 0 and attack in HARMLESS) or sentence(end)


@pytest.mark.slow
def test_yes_on_standard_input_is_no_leave_to_run_code(model: Path, the_world: World, tmp_path: Path) -> None:
    """The whole command line, as one would type it."""
    proof = tmp_path / "proof"
    with_auto_map_and_an_unknown_type(model, proof)
    words = ["localize", "--model", model, "--plus", " wedding", "--minus", " ship", "--layer", 0]
    words += ["--prompts", the_world.home / "prompts.txt", "--out", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "steerscope.cli", *map(str, words)],
        input="y\n" * 100,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2 and not proof.exists()
    assert done.stderr.startswith("steerscope: ") and done.stderr.count("\n") == 1, done.stderr
    assert "auto_map" in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_no_pickle_is_run_as_a_lens_or_a_vector(the_world: World, tmp_path: Path, protocol: int) -> None:
    proof = tmp_path / "proof"
    (tmp_path / "lens").mkdir()
    (tmp_path / "lens" / "config.json").write_text(
        json.dumps({"base_model_name_or_path": "tiny", "d_model": 32, "num_hidden_layers": 2})
    )
    (tmp_path / "lens" / "params.pt").write_bytes(pickle.dumps(Bomb(proof), protocol))
    (tmp_path / "vector").write_bytes(pickle.dumps(Bomb(proof), protocol))
    torch.save({"a": Bomb(proof)}, tmp_path / "zipped")
    for act in (
        lambda: load_lens(the_world.model, tmp_path / "lens"),
        lambda: SteeringVector.load(tmp_path / "vector"),
        lambda: SteeringVector.load(tmp_path / "zipped"),
    ):
        with pytest.raises(SteerscopeError):
            act()
    shutil.copy(tmp_path / "zipped", tmp_path / "lens" / "params.pt")
    with pytest.raises(SteerscopeError):
        load_lens(the_world.model, tmp_path / "lens")
    assert not proof.exists()


# Names that leave the folder.

NAMES = ("../secret", "/absolute", "sub/../../secret", "..", ".", "", "first\0", "First", "a" * 300, "../run/first")


def forged(folder: Path, **values: Any) -> None:
    """Changes a manifest and seals it again."""
    document = json.loads((folder / MANIFEST).read_text())
    document.pop("checksum")
    (folder / MANIFEST).write_bytes(sealed(document | values))


@pytest.mark.parametrize("name", NAMES)
def test_names_of_a_manifest_stay_in_its_folder(name: str, the_world: World, tmp_path: Path) -> None:
    save(OLD, the_world, tmp_path)
    folder, secret = tmp_path / "run", tmp_path / "secret.parquet"
    shutil.copy(folder / "first.parquet", secret)
    name = name.replace("/absolute", str(tmp_path / "secret"))
    document = json.loads((folder / MANIFEST).read_text())
    files = document["files"] | {name: digest(secret.read_bytes())}
    columns = document["columns"] | {name: document["columns"]["first"]}
    forged(folder, files=files, columns=columns, beside=["../secret.parquet", str(secret), "..", f"{name}.parquet"])
    with pytest.raises(SteerscopeError):
        Result.load(folder)
    with pytest.raises(SteerscopeError):
        report(folder)
    the_world.result[NEW].save(folder, overwrite=True)
    assert secret.exists() and Result.load(folder).manifest["seed"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "secret.parquet"]


def test_a_result_is_told_by_what_it_says_and_not_by_what_it_names(the_world: World, tmp_path: Path) -> None:
    """A manifest that lists somebody's file as its own: reading it is no matter, and only its own tables go."""
    save(OLD, the_world, tmp_path)
    folder = tmp_path / "run"
    (folder / "deep").mkdir()
    (folder / "deep" / "thesis.txt").write_text("mine")
    forged(folder, beside=["deep", "deep/thesis.txt", "report.html"])
    try:
        the_world.result[NEW].save(folder, overwrite=True)
    except SteerscopeError:
        pass
    assert (folder / "deep" / "thesis.txt").read_text() == "mine"


def test_names_of_a_sweep_stay_in_its_folder(the_world: World, tmp_path: Path) -> None:
    half_a_sweep(the_world, tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("mine")
    folder = tmp_path / "run"
    document = json.loads((folder / MANIFEST).read_text())
    forged(folder, files=document["files"] | {"../secret": digest(b"mine")})
    for act in (
        lambda: Store(folder).manifest(),
        lambda: resume(folder, the_world.model),
        lambda: Store(folder).prompts(),
    ):
        with pytest.raises(SteerscopeError):
            act()
    assert secret.read_text() == "mine"


def test_names_of_a_seal_stay_in_its_folder(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    (tmp_path / "model").mkdir()
    for name in ("../secret", str(secret)):
        (tmp_path / "model" / CHECKSUMS).write_bytes(sealed({"files": {name: digest(b"mine")}}))
        with pytest.raises(SteerscopeError):
            check_folder_seal(tmp_path / "model", SteerscopeError, "model")


# Links under the names of parts, logs and folders.


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in (".lock", "damaged", "report.html", "part", "old part")]


@pytest.mark.parametrize("name", ["log.jsonl", "trials", "summary", *SLOW])
def test_a_sweep_follows_no_link(name: str, stage: Callable[[str], Stage], tmp_path: Path) -> None:
    stage("resume").fresh(tmp_path)
    folder, outside = tmp_path / "run", tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.txt").write_text("mine")
    target = outside if name in ("trials", "damaged", "summary") else outside / "thesis.txt"
    link = folder / name
    if name == "trials":
        shutil.move(folder / "trials", outside / "moved")
        target = outside / "moved"
    elif name == "damaged":
        part = next((folder / "trials").glob("part-000000-*"))
        part.write_bytes(b"damaged")
    elif name in ("part", "old part"):
        link = folder / "trials" / ("part-000001-0123456789abcdef.parquet" if name == "part" else ".x.part")
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    before = sorted(path.relative_to(outside) for path in outside.rglob("*"))
    end = child(lambda: command("sweep", "resume", folder), tmp_path)
    assert end.status == 0 or sentence(end)
    assert (outside / "thesis.txt").read_text() == "mine"
    assert sorted(path.relative_to(outside) for path in outside.rglob("*")) == before, f"written through {name}"


# Small files that are large in memory.


def many_rows(path: Path, rows: int = 40_000_000) -> None:
    """A few hundred bytes that say: the same text, so many million times."""
    indices = pa.array(np.zeros(rows, dtype=np.int8))
    texts = pa.DictionaryArray.from_arrays(indices, pa.array(["Once upon a time there was a small red ball"]))
    pq.write_table(
        pa.table({"text": texts}), path, row_group_size=40_000_000, write_statistics=False, compression="zstd"
    )


def a_long_text(path: Path) -> None:
    pq.write_table(pa.table({"text": ["a" * 300_000_000]}), path, compression="zstd")


def many_columns(path: Path) -> None:
    columns = {f"c{i}": pa.nulls(1) for i in range(20_000)}
    pq.write_table(pa.table({"text": ["Once"], **columns}), path)


MEGABYTE = 1 << 20


def grown(act: Callable[[], object], folder: Path, most: int = 600) -> None:
    """Runs `act` in a child: it is refused or answered, in so many megabytes and 40 seconds of work."""
    noted = folder / "peak"

    def watched() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF)
        try:
            act()
        except SteerscopeError as error:
            assert "\n" not in str(error)
        finally:
            after = resource.getrusage(resource.RUSAGE_SELF)
            grown_by = (after.ru_maxrss - before.ru_maxrss) * 1024 // MEGABYTE
            noted.write_text(f"{grown_by} {after.ru_utime - before.ru_utime}")

    end = child(watched, folder)
    assert end.status == 0, end.said[-2000:]
    megabytes, seconds = map(float, noted.read_text().split())
    assert megabytes < most and seconds < 40, f"{megabytes} MB, {seconds} s"


@pytest.mark.parametrize(
    "bomb", [many_rows, *(pytest.param(bomb, marks=pytest.mark.slow) for bomb in (many_columns, a_long_text))]
)
def test_a_small_file_takes_no_large_memory(bomb: Callable[[Path], None], the_world: World, tmp_path: Path) -> None:
    path = tmp_path / "prompts.parquet"
    made = child(lambda: bomb(path), tmp_path)
    assert made.status == 0 and path.stat().st_size < 4_000_000, made.said
    for act in (lambda: read_prompts(path), lambda: read_groups(path)):
        grown(act, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 200_000])
def test_a_stream_of_a_small_file_takes_no_large_memory(rows: int, the_world: World, tmp_path: Path) -> None:
    path = tmp_path / "text.parquet"
    made = child(lambda: many_rows(path, rows) if rows > 1 else a_long_text(path), tmp_path)
    assert made.status == 0, made.said
    grown(lambda: windows(the_world.model, str(path), count=10, tokens=8), tmp_path)


def test_a_saved_table_of_very_many_rows_takes_no_large_memory(the_world: World, tmp_path: Path) -> None:
    """Its manifest says so itself, with the right checksum."""
    save(OLD, the_world, tmp_path)
    folder = tmp_path / "run"
    made = child(lambda: _very_many_rows(folder / "first.parquet"), tmp_path)
    assert made.status == 0, made.said
    document = json.loads((folder / MANIFEST).read_text())
    forged(folder, files=document["files"] | {"first": digest((folder / "first.parquet").read_bytes())})
    grown(lambda: Result.load(folder), tmp_path)
    grown(lambda: report(folder), tmp_path)


def _very_many_rows(path: Path) -> None:
    rows = 40_000_000
    indices = pa.array(np.zeros(rows, dtype=np.int8))
    texts = pa.DictionaryArray.from_arrays(indices, pa.array(["Once upon a time"]))
    numbers = pa.DictionaryArray.from_arrays(indices, pa.array([1.0]))
    table = pa.table({"label": texts, "effect": numbers})
    pq.write_table(table, path, row_group_size=rows, write_statistics=False, compression="zstd")


# Markup in a table.

MARKUP = (
    '<a href="https://evil.example">x</a>',
    "<b>x</b>",
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)",
)


def tampered(folder: Path) -> None:
    """Every text of every table is markup; all checksums are right again."""
    document = json.loads((folder / MANIFEST).read_text())
    files = {}
    for name in document["files"]:
        path = folder / f"{name}.parquet"
        frame = pd.read_parquet(path)
        for number, column in enumerate(frame.columns):
            if frame[column].map(lambda value: isinstance(value, str)).any():
                frame[column] = [MARKUP[(number + row) % len(MARKUP)] for row in range(len(frame))]
        frame.to_parquet(path, index=False)
        files[name] = digest(path.read_bytes())
    forged(folder, files=files)


def test_markup_in_a_table_stays_text_on_the_page(the_world: World, tmp_path: Path) -> None:
    save(OLD, the_world, tmp_path)
    tampered(tmp_path / "run")
    page = report(tmp_path / "run").read_text(encoding="utf-8")
    assert not [text for text in MARKUP if text in page] and 'href="https://evil' not in page
    assert "&lt;a href" in page  # it is there, as text


@pytest.mark.slow
def test_markup_in_the_tables_of_every_question_stays_text(tmp_path: Path) -> None:
    from small_runs import small_results

    from steerscope.questions import page_of
    from steerscope.reports.page import render

    for kind, result in small_results(tmp_path / "model").items():
        folder = result.save(tmp_path / kind)
        tampered(folder)
        try:
            drawn = page_of(kind).page(Result.load(folder))
        except SteerscopeError:
            continue
        page = render(drawn)
        assert not [text for text in MARKUP if text in page] and 'href="https://evil' not in page, kind


def test_a_forged_vector_is_what_it_says_or_is_refused(the_world: World, tmp_path: Path) -> None:
    """A site that no model has, a source that is no dictionary, a width of nothing."""
    from steerscope.analysis.tensors import tensor_bytes

    save_vector(NEW, the_world, tmp_path)
    values = torch.ones(1, 32)
    for about, tensors in (
        ({"steerscope": "1", "site": "L99999999999999999999.resid_pre", "source": "{}"}, {"values": values}),
        ({"steerscope": "1", "site": "L0.resid_pre", "source": "[]"}, {"values": values}),
        ({"steerscope": "1", "site": "L0.resid_pre", "source": "[" * 5000}, {"values": values}),
        ({"steerscope": "1", "site": "L0.resid_pre", "source": '{"label": {"a": 1}}'}, {"values": values * torch.nan}),
        ({"steerscope": "1", "site": "L0.resid_pre", "source": "{}"}, {"values": torch.ones(2, 2, 2)}),
        ({"steerscope": "1", "site": "L0.resid_pre", "source": "{}"}, {"value": values}),
        ({"steerscope": "1", "site": "L0.resid_pre", "source": "{}"}, {"values": values.to(torch.complex64)}),
        ({}, {}),
    ):
        (tmp_path / "run").write_bytes(tensor_bytes(tensors, about))
        with pytest.raises(SteerscopeError) as found:
            SteeringVector.load(tmp_path / "run")
        assert "\n" not in str(found.value)
