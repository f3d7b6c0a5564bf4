"""Folders of models that were damaged, or made to harm: each is refused in one sentence, before a library reads it."""

import io
import json
import pickle
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from checkpoints import save_gpt2
from safetensors.torch import load_file, save_file

from steerscope.analysis.errors import ModelNotFound, SteerscopeError, UnsupportedModel
from steerscope.analysis.loading.folders import INDEX
from steerscope.analysis.loading.loading import load
from steerscope.analysis.seals import seal_folder
from steerscope.loader import load as load_any

Change = Callable[[Path], Any]


class Bomb:
    """A pickle of it writes a file when it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Path.touch, (self.place,)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    save_gpt2(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to be spoilt. Whoever asks on standard input is told yes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    return Path(shutil.copytree(whole, tmp_path / "model"))


def with_entries(name: str = "config.json", **entries: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return change


def with_text(text: str | bytes, name: str = "config.json") -> Change:
    return lambda folder: (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)


def code(folder: Path) -> str:
    """A module that leaves a trace when it is imported."""
    (folder / "evil.py").write_text(f"open({str(folder.parent / 'ran')!r}, 'w')\nclass Evil: pass\n")
    return "evil.Evil"


def in_config(folder: Path) -> None:
    name = code(folder)
    with_entries(auto_map={"AutoConfig": name, "AutoModelForCausalLM": name}, model_type="evil")(folder)


def in_model_only(folder: Path) -> None:
    with_entries(auto_map={"AutoModelForCausalLM": code(folder)})(folder)


def in_tokenizer(folder: Path) -> None:
    name = code(folder)
    with_entries("tokenizer_config.json", auto_map={"AutoTokenizer": [name, name]}, tokenizer_class="Evil")(folder)


def deep_down(folder: Path) -> None:
    with_entries(text_config={"inner": [{"auto_map": {"AutoConfig": code(folder)}}]})(folder)


def split(names: Callable[[str], str] = lambda key: "a.safetensors", delete: bool = True) -> Change:
    """The weights behind an index instead of in one file."""

    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        save_file(weights, folder / "a.safetensors", {"format": "pt"})
        if delete:
            (folder / "model.safetensors").unlink()
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {key: names(key) for key in weights}}))
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(folder.parent / "ran")))
        shutil.copy(folder / "pytorch_model.bin", folder.parent / "b.safetensors")

    return change


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "nobody/nothing"}))
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(folder.parent / "ran")))


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    def changed(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors", {"format": "pt"})

    return changed


def truncated(folder: Path, size: int = -100) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])


REFUSED: dict[str, Change] = {
    "code in the config": in_config,
    "code for the model": in_model_only,
    "code for the tokenizer": in_tokenizer,
    "code deep in the config": deep_down,
    "another configuration": with_entries(configuration_files=["config.4.0.0.json"]),
    "other weights": with_entries(transformers_weights="adapter_model.bin"),
    "quantized": with_entries(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "an adapter": adapter,
    "an index of a pickle": split(lambda key: "pytorch_model.bin"),
    "an index that leaves the folder": split(lambda key: "../b.safetensors"),
    "an index with an absolute path": split(lambda key: "/etc/passwd"),
    "an index of a number": split(lambda key: 3),  # type: ignore[arg-type,return-value]
    "an index of a missing file": split(lambda key: "c.safetensors"),
    "an index of nothing": lambda folder: (split()(folder), (folder / INDEX).write_text('{"weight_map": {}}')),
    "an index that is a list": lambda folder: (split()(folder), (folder / INDEX).write_text("[1]")),
    "an index of brackets": lambda folder: (split()(folder), (folder / INDEX).write_text("[" * 5000)),
    "a config of brackets": with_text("[" * 5000),
    "a config of nested objects": with_text('{"a":' * 5000),
    "a list": with_text("[]"),
    "a torn config": with_text('{"n_layer"'),
    "an empty config": with_text(""),
    "no model type": with_text("{}"),
    "bytes": with_text(b"\xff\xfe\x00"),
    "a lone surrogate": with_text('{"model_type": "\\ud800"}'),
    "not a number": with_text('{"model_type": "gpt2", "n_layer": NaN}'),
    "layers in words": with_entries(n_layer="two"),
    "no layers": with_entries(n_layer=None),
    "less than no layers": with_entries(n_layer=-1),
    "layers without end": with_entries(n_layer=10**12),
    "many layers": with_entries(n_layer=999),
    "one layer more": with_entries(n_layer=3),
    "one layer less": with_entries(n_layer=1),
    "a width without end": with_entries(n_embd=10**12),
    "a large width": with_entries(n_embd=10**6),
    "another width": with_entries(n_embd=64),
    "a negative width": with_entries(n_embd=-32),
    "a vocabulary without end": with_entries(vocab_size=10**9),
    "positions without end": with_entries(n_positions=10**9),
    "no heads": with_entries(n_head=0),
    "heads that do not fit": with_entries(n_head=5),
    "negative heads": with_entries(n_head=-4),
    "an unknown function": with_entries(activation_function="nothing"),
    "a function that is a number": with_entries(activation_function=3),
    "another family": with_entries(model_type="llama"),
    "an unknown family": with_entries(model_type="nothing"),
    "a family that is a list": with_entries(model_type=[1]),
    "a dtype of nothing": with_entries(dtype="nothing"),
    "windows repeated without end": with_entries(
        model_type="gpt_neo", num_layers=2, attention_types=[[["global", "local"], 10**9]]
    ),
    "truncated weights": truncated,
    "weights of a few bytes": lambda folder: truncated(folder, 5),
    "empty weights": lambda folder: truncated(folder, 0),
    "a pickle by another name": lambda folder: (folder / "model.safetensors").write_bytes(
        pickle.dumps(Bomb(folder.parent / "ran"))
    ),
    "a weight missing": weights(lambda found: found.pop("transformer.h.1.mlp.c_fc.weight")),
    "a weight more": weights(lambda found: found.update({"transformer.h.7.mlp.c_fc.weight": torch.ones(3)})),
    "a weight of another shape": weights(lambda found: found.update({"transformer.ln_f.weight": torch.ones(31)})),
    "weights that are no numbers": weights(lambda found: found["transformer.ln_f.weight"].fill_(float("nan"))),
    "a torn tokenizer": with_text('{"version"', "tokenizer.json"),
    "a tokenizer of brackets": with_text("[" * 5000, "tokenizer.json"),
    "a tokenizer of nothing": with_text("{}", "tokenizer.json"),
    "a tokenizer of the wrong types": with_text('{"version": 1, "model": []}', "tokenizer.json"),
    "a tokenizer's config that is a list": with_text("[1]", "tokenizer_config.json"),
    "a tokenizer's class that is a number": with_entries("tokenizer_config.json", tokenizer_class=3),
    "tokens that are numbers": with_entries("tokenizer_config.json", bos_token=3),
    "a generation config of brackets": with_text("[" * 5000, "generation_config.json"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_was_spoilt_is_refused_in_a_sentence(
    name: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    REFUSED[name](folder)
    start = time.perf_counter()
    with pytest.raises((ModelNotFound, UnsupportedModel)) as refused:
        load(folder)
    said = str(refused.value)
    assert said.count("; ") >= 2 and "expected" in said and "\n" not in said, said
    assert time.perf_counter() - start < 20
    assert not (folder.parent / "ran").exists(), "code of the folder was run"
    assert not sys.stdin.closed and sys.stdin.read() == "y\n" * 9, "somebody asked on standard input"
    assert capfd.readouterr() == ("", "")


def test_the_whole_folder_is_what_was_spoilt(folder: Path) -> None:
    assert load(folder).n_layers == 2


@pytest.mark.parametrize("delete", [True, False])
def test_weights_behind_an_index_are_read(folder: Path, whole: Path, delete: bool) -> None:
    split(delete=delete)(folder)
    assert load(folder).weights_hash == load(whole).weights_hash


def test_links_out_of_the_folder_are_read(folder: Path, whole: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
        path.symlink_to(whole / path.name)
    assert load(folder).weights_hash == load(whole).weights_hash


def test_masks_that_old_versions_saved_are_passed_over(folder: Path) -> None:
    weights(lambda found: found.update({"transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}))(folder)
    assert load(folder).n_layers == 2


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_sealed_folder_is_refused_after_one_bit_has_changed(folder: Path, name: str) -> None:
    seal_folder(folder)
    assert load(folder).n_layers == 2
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelNotFound, match=rf"{name} has changed since the model was written"):
        load(folder)


@pytest.mark.parametrize(
    "source",
    [3, None, True, [], b"gpt2", 1.5, "", " ", "\0", "\ud800", "x" * 5000, "a/b/c", "../x", "a--b", "-x", "L5 H3"],
)
def test_what_names_no_model_is_refused_at_once(source: Any) -> None:
    start = time.perf_counter()
    with pytest.raises(ModelNotFound):
        load_any(source)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    "options",
    [
        {"device": "meta"},
        {"device": "nowhere"},
        {"device": 3.5},
        {"dtype": torch.int8},
        {"dtype": 3},
        {"dtype": "\ud800"},
        {"tokenizer": 3},
        {"tokenizer": "gpt2"},
        {"bos": "yes"},
        {"name": 3},
        {"selfcheck": None},
        {"nothing": 1},
    ],
    ids=str,
)
def test_an_option_that_is_none_is_refused(folder: Path, options: Any) -> None:
    with pytest.raises(SteerscopeError):
        load_any(folder, **options)


# The hub.


@contextmanager
def _hub(monkeypatch: pytest.MonkeyPatch, answers: bool) -> Iterator[None]:
    """A hub to which nobody can connect, or one that takes calls and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        if not answers:
            server.close()
        yield


@pytest.mark.parametrize("answers", [False, True])
def test_an_unknown_name_is_told_within_a_second_or_so(monkeypatch: pytest.MonkeyPatch, answers: bool) -> None:
    huggingface_hub.snapshot_download  # noqa: B018  (imported before the clock runs)
    start = time.perf_counter()
    with _hub(monkeypatch, answers), pytest.raises(ModelNotFound, match="and it is not cached.*; check the name"):
        load("nobody/nothing")
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("answers", [False, True])
def test_a_cached_model_is_read_without_the_hub(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """As the hub's client keeps it: links of a snapshot into a folder of blobs."""
    cache, commit = tmp_path / "models--somebody--tiny", "0" * 40
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    snapshot = cache / "snapshots" / commit
    snapshot.mkdir(parents=True)
    shutil.copytree(whole, cache / "blobs")
    for path in (cache / "blobs").iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with _hub(monkeypatch, answers):
        model = load("somebody/tiny")
    assert (model.name, model.source, model.n_layers) == ("somebody/tiny", "somebody/tiny", 2)


def test_a_misspelt_shipped_name_does_not_reach_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    for name in ("tinystories-2", "tinystorys-2l", "TinyStories-2L", "tinystories_2l"):
        with pytest.raises(ModelNotFound, match="did you mean tinystories-2l?"):
            load_any(name)


def test_a_refused_folder_costs_the_command_line_no_traceback(folder: Path) -> None:
    in_config(folder)
    done = subprocess.run(
        [sys.executable, "-m", "steerscope.cli", "localize", "--model", str(folder), "--plus", " a", "--minus", " b"],
        capture_output=True,
        text=True,
        input="y\n",
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert not (folder.parent / "ran").exists()
