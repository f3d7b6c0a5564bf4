"""Lenses on a disk: whole or not at all, refused where they have changed, never in the place of something else."""

import json
import random
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from flips import flips
from stress.children import child, sentence

from steerscope import cli
from steerscope.analysis.errors import BadArgument, BadLens, BadPrompt, DamagedRun, DiskFull, OutputExists
from steerscope.analysis.lens import train as module
from steerscope.analysis.lens.lens import CONFIG, THEIRS, WEIGHTS, Lens, load_lens, logit_lens, new_lens
from steerscope.analysis.lens.train import CHECKPOINT, Recipe, train_lens, trained
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.prompts import Prompts, make_prompts
from steerscope.analysis.results.result import MANIFEST, Result
from steerscope.analysis.seals import digest, sealed
from steerscope.analysis.tensors import read_tensors, tensor_bytes

LEARN: dict[str, Any] = {"steps": 6, "batch": 8, "held_out": 8, "checkpoint_every": 2}
RECIPE = Recipe(6, 8, held_out=8)


@pytest.fixture
def windows(tiny: Model) -> Prompts:
    generator = torch.Generator().manual_seed(0)
    return make_prompts(tiny, [torch.randint(3, tiny.d_vocab, (9,), generator=generator).tolist() for _ in range(30)])


def made(model: Model, value: float = 0.25) -> Lens:
    lens = new_lens(model)
    assert lens.tuned is not None
    with torch.no_grad():
        for weight in lens.tuned.layer_translators.parameters():
            weight.fill_(value)
    return lens


def weights(lens: Lens) -> list[torch.Tensor]:
    assert lens.tuned is not None
    return list(lens.tuned.layer_translators.state_dict().values())


def same(one: Lens, other: Lens) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_changed_bit_in_a_lens_is_refused(tiny: Model, tmp_path: Path, name: str) -> None:
    made(tiny).save(tmp_path)
    for where in flips(tmp_path / name, 200):
        with pytest.raises(BadLens):
            load_lens(tiny, tmp_path)
            pytest.fail(where)
    assert same(load_lens(tiny, tmp_path), made(tiny))


def test_configuration_and_translators_are_of_one_lens(tiny: Model, tmp_path: Path) -> None:
    made(tiny).save(tmp_path / "one")
    other = made(tiny)
    assert other.tuned is not None
    other.tuned.config.base_model_revision = "other"
    other.save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / CONFIG, tmp_path / "one" / CONFIG)
    with pytest.raises(BadLens, match="are not of one lens"):
        load_lens(tiny, tmp_path / "one")
    (tmp_path / "one" / WEIGHTS).unlink()
    with pytest.raises(BadLens, match="holds no lens"):
        load_lens(tiny, tmp_path / "one")


@pytest.mark.parametrize(
    "change",
    [
        {"d_model": "32"},
        {"d_model": 10**9},
        {"num_hidden_layers": None},
        {"bias": False},
        {"lens_type": "mlp"},
        {"unembed_hash": 5},
        {"unembed_hash": "0"},
    ],
    ids=str,
)
@pytest.mark.parametrize("theirs", [False, True])
def test_a_configuration_that_is_none_is_refused(
    tiny: Model, tmp_path: Path, change: dict[str, Any], theirs: bool
) -> None:
    lens = made(tiny)
    assert lens.tuned is not None
    lens.tuned.save(tmp_path)
    config = json.dumps(lens.tuned.config.to_dict() | change).encode()
    (tmp_path / CONFIG).write_bytes(config)
    if not theirs:
        (tmp_path / THEIRS).unlink()
        translators = lens.tuned.layer_translators.state_dict()
        (tmp_path / WEIGHTS).write_bytes(tensor_bytes(translators, {CONFIG: digest(config)}))
    with pytest.raises(BadLens, match="expected"):
        load_lens(tiny, tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 5000, b"\xff", b'{"d_model": NaN}', b"null"])
def test_a_configuration_that_is_no_json_object_is_refused(tiny: Model, tmp_path: Path, content: bytes) -> None:
    made(tiny).save(tmp_path)
    (tmp_path / CONFIG).write_bytes(content)
    with pytest.raises(BadLens):
        load_lens(tiny, tmp_path)


def test_weights_that_do_not_fit_are_refused(tiny: Model, tmp_path: Path) -> None:
    lens = made(tiny)
    assert lens.tuned is not None
    lens.tuned.save(tmp_path)
    good = lens.tuned.layer_translators.state_dict()
    odd: tuple[Any, ...] = ([], None, {}, {"0.weight": 1}, good | {"9.bias": good["0.bias"]}, {1: good["0.bias"]})
    for state in odd:
        torch.save(state, tmp_path / THEIRS)
        with pytest.raises(BadLens, match="do not fit"):
            load_lens(tiny, tmp_path)
    torch.save(good | {"0.bias": torch.full_like(good["0.bias"], float("nan"))}, tmp_path / THEIRS)
    with pytest.raises(BadLens, match="not finite"):
        load_lens(tiny, tmp_path)
    for content in (b"", b"PK\x03\x04", b"\x80\x02."):
        (tmp_path / THEIRS).write_bytes(content)
        with pytest.raises(BadLens):
            load_lens(tiny, tmp_path)


def test_a_few_bytes_that_unpack_to_gigabytes_are_refused(tiny: Model, tmp_path: Path) -> None:
    lens = made(tiny)
    assert lens.tuned is not None
    lens.tuned.save(tmp_path)
    with zipfile.ZipFile(tmp_path / THEIRS, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data/0", bytes(50_000_000))
    with pytest.raises(BadLens, match="bytes when unpacked"):
        load_lens(tiny, tmp_path)


def test_a_name_that_nobody_publishes_is_refused_at_once(tiny: Model, tmp_path: Path) -> None:
    for name in ("no-such-lens", "/no/where", "../x", "a\0b", "x" * 5000, "", tmp_path):
        with pytest.raises((BadLens, BadArgument), match="holds no lens|expected a Lens, a path"):
            load_lens(tiny, name)


def test_a_lens_takes_the_place_of_its_own_kind_only(tiny: Model, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    made(tiny).save(tmp_path)
    made(tiny, 0.5).save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine" and same(load_lens(tiny, tmp_path), made(tiny, 0.5))
    model = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    with pytest.raises(OutputExists, match="the config.json of something else"):
        made(tiny).save(model)
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    with pytest.raises(OutputExists, match="is a file"):
        made(tiny).save(tmp_path / "notes.txt")


def test_training_takes_the_place_of_its_own_kind_only(
    tiny: Model, tiny_folder: Path, windows: Prompts, tmp_path: Path
) -> None:
    train_lens(tiny, windows, tmp_path / "lens", **LEARN)
    train_lens(tiny, windows, tmp_path / "lens", **LEARN)
    with pytest.raises(OutputExists, match="holds a result"):
        made(tiny).save(tmp_path / "lens")
    model = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    with pytest.raises(OutputExists, match="config.json, which no saved result lists"):
        train_lens(tiny, windows, model, **LEARN)
    Result("other", {"t": pd.DataFrame({"a": [1]})}, {"t": {"a": module.COLUMNS["steps"]["step"]}}).save(tmp_path / "r")
    with pytest.raises(OutputExists, match="holds a result of 'other'"):
        train_lens(tiny, windows, tmp_path / "r", **LEARN)
    (tmp_path / "r" / MANIFEST).write_bytes(sealed({"kind": [1]}))
    with pytest.raises(OutputExists):
        train_lens(tiny, windows, tmp_path / "r", **LEARN)


@pytest.fixture
def half(tiny: Model, windows: Prompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the checkpoint of a run that was stopped in its fifth step."""
    step, count = module._step, 0

    def stops(*given: Any) -> float:
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        return step(*given)

    monkeypatch.setattr(module, "_step", stops)
    with pytest.raises(KeyboardInterrupt, match="the same run goes on behind step 4, from '.*half/lens.checkpoint"):
        train_lens(tiny, windows, tmp_path / "half", **LEARN)
    monkeypatch.setattr(module, "_step", step)
    return tmp_path / "half"


def test_a_changed_bit_in_a_checkpoint_is_refused(tiny: Model, windows: Prompts, half: Path, tmp_path: Path) -> None:
    for where in flips(half / CHECKPOINT, 40):
        with pytest.raises(DamagedRun, match="remove it"):
            trained(tiny, windows, half, RECIPE)
            pytest.fail(where)
    resumed, _ = train_lens(tiny, windows, half, **LEARN)
    whole, _ = train_lens(tiny, windows, tmp_path / "whole", **LEARN)
    assert same(resumed, whole)


@pytest.mark.parametrize("fault", ["one less", "one more", "a row", "losses", "too many losses"])
def test_a_checkpoint_of_other_tensors_is_refused(tiny: Model, windows: Prompts, half: Path, fault: str) -> None:
    """Even with a true checksum."""
    tensors, about = read_tensors(half / CHECKPOINT, DamagedRun, "checkpoint")
    first = tensors.pop("0.weight")
    if fault != "one less":
        tensors["0.weight"] = first[:1] if fault == "a row" else first
    tensors |= {"one more": first} if fault == "one more" else {}
    tensors |= {"losses": torch.zeros(())} if fault == "losses" else {}
    tensors |= {"losses": torch.zeros(7)} if fault == "too many losses" else {}
    (half / CHECKPOINT).write_bytes(tensor_bytes(tensors, about))
    with pytest.raises(DamagedRun, match="expected its checkpoint; remove it"):
        trained(tiny, windows, half, RECIPE)


def kills(model: Model, windows: Prompts, root: Path, every: bool) -> int:
    """Stops the training at steps on the disk; the next start ends with the weights of a run that nobody stopped."""
    whole, _ = train_lens(model, windows, root / "whole", **LEARN)
    end = child(lambda: train_lens(model, windows, root / "first", **LEARN), root)
    assert end.status == 0, end.said
    names = {path.name for path in (root / "whole").iterdir()}
    steps = range(end.steps)
    chosen = steps if every else sorted({0, steps[-1], *random.Random(0).sample(steps, 6)})
    for step in chosen:
        out = root / str(step)
        assert child(lambda out=out: train_lens(model, windows, out, **LEARN), root, stop_at=step).killed
        if (out / MANIFEST).exists():
            assert same(load_lens(model, out), whole) and Result.load(out).kind == "train_lens"
        train_lens(model, windows, out, **LEARN)
        assert same(load_lens(model, out), whole), f"killed at {step}"
        assert {path.name for path in out.iterdir()} == names
    assert not [path for path in root.iterdir() if path.suffix in (".new", ".old")]
    return len(chosen)


def test_a_training_that_is_gone_at_some_steps_goes_on(tiny: Model, windows: Prompts, tmp_path: Path) -> None:
    assert kills(tiny, windows, tmp_path, every=False) >= 6


@pytest.mark.slow
def test_a_training_that_is_gone_at_any_step_goes_on(tiny: Model, windows: Prompts, tmp_path: Path) -> None:
    assert kills(tiny, windows, tmp_path, every=True) > 30


def test_the_system_refuses_in_one_sentence(tiny: Model, windows: Prompts, tmp_path: Path) -> None:
    for out in ("/proc/lens", str(tmp_path / ("m" * 300)), "a\0b"):
        for act in (lambda out=out: train_lens(tiny, windows, out, **LEARN), lambda out=out: made(tiny).save(out)):
            end = child(act, tmp_path)
            assert "expected" in sentence(end)
    for largest in (0, 300, 5_000, 15_000, 30_000):
        end = child(lambda: train_lens(tiny, windows, tmp_path / "lens", **LEARN), tmp_path, largest=largest)
        assert end.status == 0 or "no room left" in sentence(end)
        end = child(lambda: made(tiny).save(tmp_path / "other"), tmp_path, largest=largest)
        assert end.status == 0 or "no room left" in sentence(end)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".new", ".old")]


def test_a_full_disk_costs_nothing_that_was_written(tiny: Model, windows: Prompts, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        size, refused = 1024, 0
        made(tiny).save(disk / "saved")
        room = sum(path.stat().st_size for path in (disk / "saved").iterdir()) // 4096
        for pages in (0, 1, room, 3 * room, 5 * room):
            (disk / "filler").write_bytes(bytes(max(0, size * 1024 - 4096 * (pages + room + 4))))
            try:
                train_lens(tiny, windows, disk / "lens", **LEARN)
            except DiskFull as error:
                assert "no room left" in str(error)
                refused += 1
            (disk / "filler").unlink()
            assert same(load_lens(tiny, disk / "saved"), made(tiny))
        assert refused >= 2
        whole, _ = train_lens(tiny, windows, tmp_path / "whole", **LEARN)
        train_lens(tiny, windows, disk / "lens", **LEARN)
        assert same(load_lens(tiny, disk / "lens"), whole)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_ctrl_c_at_the_command_line(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(["One day Lily saw a dragon in the park."] * 40))
    given = ["--model", str(tiny_folder), "--text", str(tmp_path / "text.txt"), "--out", str(tmp_path / "lens")]
    sizes = ["--windows", "24", "--tokens", "6", "--steps", "2", "--batch", "8", "--held-out", "4"]
    monkeypatch.setattr("sys.argv", ["steerscope", "lens", "train", *given, *sizes])
    step = module._step

    def stops(*given: Any) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_step", stops)
    end = child(cli.main, tmp_path)
    assert end.status == 130 and end.said.count("the same run goes on behind step 0") == 1, end.said
    assert [path.name for path in (tmp_path / "lens").iterdir()] == [CHECKPOINT]
    monkeypatch.setattr(module, "_step", step)
    end = child(cli.main, tmp_path)
    assert end.status == 0 and f"Lens: {tmp_path / 'lens'}" in end.said, end.said
    names = {path.name for path in (tmp_path / "lens").iterdir()}
    assert names == {CONFIG, WEIGHTS, MANIFEST, "layers.parquet", "steps.parquet", "report.html"}


def test_streams_and_layers_that_no_lens_reads_are_refused(tiny: Model) -> None:
    lens = logit_lens(tiny)
    good = torch.zeros(3, tiny.d_model)
    assert lens.logits(good.double(), 0).shape == (3, tiny.d_vocab)
    for stream in (good[:, 1:], good.long(), torch.zeros(())):
        with pytest.raises(BadArgument, match="a stream of"):
            lens.logits(stream, 0)
    for layer in (-1, tiny.n_layers + 1, 0.5, True, None):
        with pytest.raises(BadArgument, match="layer"):
            lens.logits(good, layer)  # type: ignore[arg-type]


def test_windows_of_another_model_are_refused(tiny: Model, windows: Prompts, tmp_path: Path) -> None:
    for row in ((tiny.d_vocab,), (1,) * (tiny.n_ctx + 1)):
        odd = replace(windows, ids=(*windows.ids[:-1], row))
        with pytest.raises(BadPrompt, match="expected at most .* ids below .* for tiny"):
            train_lens(tiny, odd, tmp_path, **LEARN)


def test_a_model_without_finite_predictions_is_named(
    tiny: Model, windows: Prompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_step", lambda *given: float("nan"))
    with pytest.raises(BadArgument, match="the loss is nan at step 1"):
        train_lens(tiny, windows, tmp_path, **LEARN)
    for rate in (0, -1.0, float("inf"), float("nan"), 1e30, "fast"):
        with pytest.raises(BadArgument, match="rate"):
            train_lens(tiny, windows, tmp_path, rate=rate)  # type: ignore[arg-type]
