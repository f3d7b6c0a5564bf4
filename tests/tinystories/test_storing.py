"""What training writes: whole or not at all, refused where it has changed, and never in the place of something else."""

import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flips import flips
from safetensors.torch import load
from small_training import small_training, stories
from stress.children import child, sentence

from steerscope import cli
from steerscope.analysis.errors import BadArgument, DamagedRun, DiskFull, OutputExists, SteerscopeError
from steerscope.analysis.seals import CHECKSUMS, check_folder_seal, digest, seal_folder, sealed
from steerscope.analysis.tensors import read_tensors, tensor_bytes
from steerscope.tinystories.checkpoint import OPTIMIZER, PARTS, STATE, WEIGHTS
from steerscope.tinystories.config import TrainConfig
from steerscope.tinystories.run import Run
from steerscope.tinystories.train import Progress, checkpoint_folder, read_corpus, train

ODD: tuple[Any, ...] = (
    float("nan"),
    float("inf"),
    -1,
    -1e9,
    10**30,
    True,
    "x",
    "\ud800",
    None,
    [],
    (),
    {},
    b"x",
    object(),
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = stories(tmp_path_factory.mktemp("text") / "stories.txt", 40)
    return found


@pytest.fixture
def config(text: Path, tmp_path: Path) -> TrainConfig:
    found: TrainConfig = small_training(text, tmp_path / "model")
    return found


@pytest.fixture(scope="module")
def undisturbed(text: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of a run that nobody stopped, as a file."""
    return (train(small_training(text, tmp_path_factory.mktemp("whole") / "model")) / WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def stopped(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Run, Path]:
    """A run, and its checkpoint in the middle."""
    config = small_training(text, tmp_path_factory.mktemp("stopped") / "model")
    folder = train(config, stop_after=3)
    return config, Run(config, read_corpus(config)), folder


def kills(config: TrainConfig, undisturbed: bytes, every: bool) -> int:
    """Stops the run at steps on the disk, each time from where the last kill left it or from the beginning."""
    root, folder = Path(config.out).parent, Path(config.out)
    whole = child(lambda: train(config), root)
    assert whole.status == 0, whole.said
    steps = range(whole.steps)
    chosen = steps if every else sorted({0, whole.steps - 1, *random.Random(0).sample(steps, 4)})
    for step in chosen:
        for left in (folder, checkpoint_folder(config)):
            shutil.rmtree(left, ignore_errors=True)
        assert child(lambda: train(config), root, stop_at=step).killed
        if folder.exists():
            check_folder_seal(folder, DamagedRun, "model")
            assert (folder / WEIGHTS).read_bytes() == undisturbed
        else:
            train(config)
        assert (folder / WEIGHTS).read_bytes() == undisturbed, f"killed at {step}"
        assert not [path for path in root.iterdir() if path.suffix in (".new", ".old")]
    return len(chosen)


def test_a_run_that_is_gone_at_some_steps_goes_on_to_the_same_weights(config: TrainConfig, undisturbed: bytes) -> None:
    assert kills(config, undisturbed, every=False) >= 5


@pytest.mark.slow
def test_a_run_that_is_gone_at_any_step_goes_on_to_the_same_weights(config: TrainConfig, undisturbed: bytes) -> None:
    assert kills(config, undisturbed, every=True) > 50


@pytest.mark.parametrize("name", PARTS)
def test_a_changed_bit_in_a_checkpoint_is_refused(stopped: tuple[TrainConfig, Run, Path], name: str) -> None:
    _, run, folder = stopped
    accepted = []
    for where in flips(folder / name, 60):
        try:
            run.resume(folder)
            accepted.append(where)
        except DamagedRun as error:
            assert "cannot be read" in str(error) and "remove it" in str(error)
    assert accepted == []
    run.resume(folder)
    assert run.step == 3


def test_a_checkpoint_without_one_of_its_files_is_refused(stopped: tuple[TrainConfig, Run, Path]) -> None:
    _, run, folder = stopped
    for name in PARTS:
        (folder / name).rename(folder.parent / name)
        with pytest.raises(DamagedRun):
            run.resume(folder)
        (folder.parent / name).rename(folder / name)


def nested() -> list[Any]:
    found: list[Any] = []
    for _ in range(400):
        found = [found]
    return found


@pytest.mark.parametrize(
    "change",
    [
        {"step": "three"},
        {"step": 3.5},
        {"step": True},
        {"step": -1},
        {"step": 7},
        {"step": 10**30},
        {"step": 0},
        {"step": None},
        {"seconds": -1.0},
        {"seconds": "long"},
        {"losses": 3},
        {"losses": [[1]]},
        {"losses": [["1", 2.0]]},
        {"losses": nested()},
        {"held_out_losses": {"1": 2}},
        {"config": []},
        {"config": {}},
        {"corpus": 5},
        {"corpus": "of other texts"},
        {"more": 1},
        {"self": 1},
    ],
    ids=str,
)
def test_a_state_that_no_run_has_is_refused(
    stopped: tuple[TrainConfig, Run, Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    """Even with true checksums."""
    _, run, folder = stopped
    forged = Path(shutil.copytree(folder, tmp_path / "forged"))
    state = json.loads((forged / STATE).read_text())
    del state["checksum"]
    (forged / STATE).write_bytes(sealed(state | change))
    seal_folder(forged)
    with pytest.raises((DamagedRun, BadArgument)):
        run.resume(forged)
    for key in state:
        (forged / STATE).write_bytes(sealed({name: value for name, value in state.items() if name != key}))
        seal_folder(forged)
        with pytest.raises(DamagedRun):
            run.resume(forged)


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER])
@pytest.mark.parametrize("fault", ["one less", "one more", "a row", "another name"])
def test_tensors_of_another_model_are_refused(
    stopped: tuple[TrainConfig, Run, Path], tmp_path: Path, name: str, fault: str
) -> None:
    """A row could be broadcast to a matrix, silently."""
    _, run, folder = stopped
    forged = Path(shutil.copytree(folder, tmp_path / "forged"))
    tensors, _ = read_tensors(forged / name, DamagedRun, "file")
    first = next(key for key, tensor in tensors.items() if tensor.ndim == 2)
    tensor = tensors.pop(first)
    if fault != "one less":
        tensors["0.x" if fault == "another name" else first] = tensor[:1] if fault == "a row" else tensor
    if fault == "one more":
        tensors["0.0.more"] = tensor
    (forged / name).write_bytes(tensor_bytes(tensors))
    seal_folder(forged)
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    with pytest.raises(DamagedRun, match="other tensors than this model has"):
        run.resume(forged)
    assert all(torch.equal(value, before[key]) for key, value in run.model.state_dict().items())


def test_a_run_does_not_go_on_with_other_texts(config: TrainConfig, text: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text(text.read_text())
    config = replace(config, text=(str(own),))
    train(config, stop_after=2)
    own.write_text(text.read_text().replace(" the ", " a ", 1))
    with pytest.raises(BadArgument, match="other settings of text \\(it holds other stories now\\)"):
        train(config)


def test_a_changed_bit_in_a_model_folder_is_noticed(config: TrainConfig) -> None:
    folder = train(config)
    names = sorted(path.name for path in folder.iterdir())
    assert CHECKSUMS in names and WEIGHTS in names and len(names) == 8
    for name in names:
        for where in flips(folder / name, 15):
            with pytest.raises(DamagedRun):
                check_folder_seal(folder, DamagedRun, "model")
                pytest.fail(where)
    check_folder_seal(folder, DamagedRun, "model")


def test_a_model_takes_the_place_of_its_own_kind_only(config: TrainConfig, tmp_path: Path) -> None:
    out = Path(config.out)
    out.mkdir()
    assert train(config) == out  # an empty folder is as good as none
    (out / "notes.txt").write_text("mine")
    (out / "lens").mkdir()
    (out / "lens" / "config.json").write_text("{}")
    with pytest.raises(OutputExists, match="holds a model already"):
        train(config)
    train(replace(config, seed=1), overwrite=True)
    assert (out / "notes.txt").read_text() == "mine" and not (out / "lens").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(OutputExists, match="no model that was trained here"):
            train(replace(config, out=str(other)), overwrite=overwrite)
        with pytest.raises(OutputExists, match="is a file"):
            train(replace(config, out=str(other / "config.json")), overwrite=overwrite)
    assert [path.name for path in other.iterdir()] == ["config.json"]
    for name in ("", "/", "a\0b"):
        with pytest.raises(BadArgument, match="expected a folder"):
            train(replace(config, out=name))
    (tmp_path / "here").mkdir()

    def in_place() -> None:
        os.chdir(tmp_path / "here")
        train(replace(config, out="."))

    end = child(in_place, tmp_path)
    assert end.status == 0 and (tmp_path / "here" / WEIGHTS).exists(), end.said


def test_the_system_refuses_in_one_sentence(config: TrainConfig, tmp_path: Path, undisturbed: bytes) -> None:
    for out in ("/proc/model", str(tmp_path / ("m" * 300)), str(tmp_path / ("m" * 250))):
        end = child(lambda out=out: train(replace(config, out=out)), tmp_path)
        assert "cannot be written" in sentence(end) or "refuses" in sentence(end)
    for largest in (0, 2_000, 20_000, 50_000, 100_000):  # the card, the picture, the tokenizer, the weights
        end = child(lambda: train(config), tmp_path, largest=largest)
        if end.status:
            assert "no room left" in sentence(end)
            assert not Path(config.out).exists()
    if not Path(config.out).exists():
        train(config)
    assert (Path(config.out) / WEIGHTS).read_bytes() == undisturbed


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("step", [0, 2, 6])
def test_a_full_disk_costs_nothing_that_was_written(
    config: TrainConfig, disk: Path, undisturbed: bytes, step: int
) -> None:
    """From a step on there is room for so many pages: for no checkpoint, for half a one, or for half a model."""
    config, filler = replace(config, out=str(disk / "model")), disk / "filler"

    def fill(pages: int) -> None:
        filler.write_bytes(bytes(max(0, os.statvfs(disk).f_bavail - pages) * 4096))

    for pages in (0, 1, 3, 8, 14, 20):

        def progress(now: Progress, pages: int = pages) -> None:
            if now.step == step:
                fill(pages)

        if not step:
            fill(pages)
        with pytest.raises(DiskFull, match="no room left"):
            train(config, progress=progress)
        filler.unlink()
        left = sorted(path.name for path in disk.iterdir())
        assert left == [".model.checkpoint"] or (not step and not left)
        shutil.rmtree(checkpoint_folder(config), ignore_errors=True)  # or the next one would not come to this step
    assert (train(config) / WEIGHTS).read_bytes() == undisturbed
    assert [path.name for path in disk.iterdir()] == ["model"]


def test_ctrl_c_says_where_the_run_goes_on_from(config: TrainConfig, undisturbed: bytes) -> None:
    def stop(now: Progress) -> None:
        if now.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="the same run goes on behind step 4, from '.*\\.model\\.checkpoint'"):
        train(config, progress=stop)
    assert (train(config) / WEIGHTS).read_bytes() == undisturbed


def test_ctrl_c_at_the_command_line(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_step = Run.one_step

    def stops(run: Run) -> float:
        if run.step == 1:
            raise KeyboardInterrupt
        return one_step(run)

    monkeypatch.setattr(Run, "one_step", stops)
    sizes = ["--layers", "1", "--heads", "2", "--width", "16", "--vocabulary", "300", "--context", "32"]
    given = ["--text", str(text), "--out", str(tmp_path / "model"), "--topic-stories", "20", "--steps", "2", *sizes]
    monkeypatch.setattr("sys.argv", ["steerscope", "tinystories", "train", *given])
    end = child(cli.main, tmp_path)
    assert end.status == 130
    assert end.said.count("the same run goes on behind step 0") == 1 and "step 1" not in end.said  # no bar either
    monkeypatch.setattr(Run, "one_step", one_step)
    end = child(cli.main, tmp_path)
    assert (end.status, end.said) == (0, f"Model: {tmp_path / 'model'}\n")


def test_a_rate_at_which_nothing_is_learned_is_named(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(config, read_corpus(config))
    with torch.no_grad():
        run.model.get_parameter("transformer.wte.weight").fill_(1e30)
    with pytest.raises(BadArgument, match="loss or its gradient is (nan|inf) behind step 0; .* a learning_rate below"):
        run.one_step()


@pytest.mark.parametrize("name", [field.name for field in fields(TrainConfig)])
def test_odd_settings_are_refused_in_a_sentence(text: Path, tmp_path: Path, name: str) -> None:
    good = asdict(small_training(text, tmp_path / "model"))
    refused = 0
    for value in ODD:
        try:
            TrainConfig(**good | {name: value})
        except SteerscopeError:
            refused += 1
    assert refused >= len(ODD) - 4  # some are good values of some settings
    with pytest.raises(BadArgument):
        TrainConfig(**good | {name + "x": 1})


def test_a_model_that_takes_gigabytes_is_refused(config: TrainConfig) -> None:
    for setting in ({"d_model": 4096}, {"n_layers": 128, "d_model": 512}, {"batch": 1_000_000}, {"context": 4096}):
        big = {"vocabulary": 65_536, **setting}
        with pytest.raises(BadArgument, match="expected at most"):
            replace(config, **big)  # type: ignore[arg-type]


def test_shares_of_texts_that_are_not_there_are_refused(config: TrainConfig) -> None:
    with pytest.raises(BadArgument, match="expected one above 0"):
        replace(config, late_shares=(0, 0, 0))
    with pytest.raises(SteerscopeError, match="no text that is there has a share"):
        read_corpus(replace(config, shares=(0, 1, 0)))


def test_stored_weights_are_those_of_the_checkpoint_in_half_precision(config: TrainConfig) -> None:
    """The file that was read while another took its place is not that other one."""
    folder = train(config)
    content = (folder / WEIGHTS).read_bytes()
    assert json.loads((folder / CHECKSUMS).read_text())["files"][WEIGHTS] == digest(content)
    assert {tensor.dtype for tensor in load(content).values()} == {torch.float16}
