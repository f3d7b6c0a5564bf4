"""A self-check is passed once for the same weights and the same code; nothing else is taken for it."""

import json
from pathlib import Path
from typing import Any

import pytest
from architectures import checkpoint, native

from steerscope.analysis.errors import UnsupportedModel
from steerscope.analysis.loading import loading, remembered
from steerscope.analysis.loading.loading import load
from steerscope.analysis.loading.selfcheck import selfcheck
from steerscope.analysis.model.models import Model
from steerscope.analysis.seals import sealed


@pytest.fixture
def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of models whose self-check has run, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run: list[str] = []

    def check(model: Model, *more: Any) -> None:
        run.append(model.name)
        selfcheck(model, *more)

    monkeypatch.setattr(loading, "check", check)
    return run


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "steerscope" / "selfchecks").glob("*"))


def test_a_model_is_checked_once(small_models: Any, checks: list[str], tmp_path: Path) -> None:
    folder = small_models.folder("llama")
    for _ in range(2):
        load(folder, name="a")
    assert checks == ["a"] and len(entries(tmp_path)) == 1
    load(folder, name="b", dtype="float64")
    load(folder, name="c", selfcheck=False)
    assert checks == ["a", "b"] and len(entries(tmp_path)) == 2


def test_other_weights_other_configurations_and_other_code_are_checked(
    checks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = checkpoint("llama")
    for name, value in (("a", 1e-6), ("b", 1e-5)):  # the same weights, and a norm that divides by something else
        model.config.rms_norm_eps = value
        model.save_pretrained(tmp_path / name)
        load(tmp_path / name)
    model.lm_head.weight.data[0, 0] += 1
    model.save_pretrained(tmp_path / "c")
    load(tmp_path / "c")
    monkeypatch.setattr(remembered, "_code", lambda: "other")
    load(tmp_path / "c")
    assert checks == ["a", "b", "c", "c"]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xff", b"[1]", sealed({"passed": {"weights": "others"}})])
def test_an_entry_that_is_damaged_or_another_is_none(
    content: bytes, small_models: Any, checks: list[str], tmp_path: Path
) -> None:
    folder = small_models.folder("llama")
    load(folder)
    [entry] = entries(tmp_path)
    right = entry.read_bytes()
    entry.write_bytes(content)
    load(folder)
    assert len(checks) == 2 and entry.read_bytes() == right
    unsealed = json.loads(right)
    del unsealed["checksum"]
    entry.write_text(json.dumps(unsealed))
    load(folder)
    assert len(checks) == 3


def test_a_cache_that_cannot_be_written_is_no_error(
    small_models: Any, checks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file")
    for place in (tmp_path / "cache", Path("/proc/1/nothing"), "relative/place"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
        monkeypatch.setenv("HOME", str(tmp_path / "cache"))
        load(small_models.folder("llama"))
    assert len(checks) == 3


def test_a_model_in_memory_is_checked_each_time(checks: list[str], tmp_path: Path) -> None:
    bridge = native("native_with_mlp")
    load(bridge, name="a")
    load(bridge, name="b")
    assert checks == ["a", "b"] and not entries(tmp_path)


def test_a_model_that_fails_is_not_remembered(
    small_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def fail(*args: Any) -> None:
        raise UnsupportedModel("it breaks an assumption")

    with monkeypatch.context() as patched, pytest.raises(UnsupportedModel):
        patched.setattr(loading, "check", fail)
        load(small_models.folder("llama"))
    assert not entries(tmp_path)
