"""Folders of native models: what is written is what is read, and what does not fit is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import NATIVE, boot_native, native
from transformer_lens import TransformerBridgeConfig

import steerscope as st
from steerscope.analysis.errors import BadArgument, ModelNotFound
from steerscope.analysis.loading.natives import CONFIG, WEIGHTS, native_files
from steerscope.analysis.tensors import tensor_bytes

SIZES: dict[str, Any] = dict(d_model=16, d_head=4, n_heads=4, n_layers=2, n_ctx=12, d_vocab=20, seed=0)
KINDS: dict[str, dict[str, Any]] = {
    "rotary, grouped, gated, RMS": dict(
        positional_embedding_type="rotary", n_key_value_heads=2, gated_mlp=True, act_fn="silu", normalization_type="RMS"
    ),
    "SoLU with its norm, fewer outputs": dict(act_fn="solu_ln", d_vocab_out=7, d_mlp=24),
    "norms without weights, capped": dict(normalization_type="LNPre", final_rms=True, output_logits_soft_cap=5.0),
    "attention alone, no norm": dict(attn_only=True, normalization_type=None),
}
IDS = torch.tensor([[0, 3, 5, 1, 7, 2]])


def write(folder: Path, bridge: Any) -> Path:
    folder.mkdir()
    for name, content in native_files(bridge).items():
        (folder / name).write_bytes(content)
    return folder


def made(kind: str) -> Any:
    return boot_native(TransformerBridgeConfig(**SIZES, **KINDS[kind])).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_gives_the_same_logits_to_the_last_bit(kind: str, tmp_path: Path) -> None:
    bridge = made(kind)
    expected = bridge(IDS)
    model = st.load(write(tmp_path / "toy", bridge))
    assert torch.equal(model.bridge(IDS), expected)
    assert (model.name, model.source, model.tokenizer) == ("toy", str((tmp_path / "toy").resolve()), None)
    again = native_files(model.bridge)
    assert again == {name: (tmp_path / "toy" / name).read_bytes() for name in again}


@pytest.mark.parametrize("name", NATIVE)
def test_what_the_tests_run_on_can_be_kept(name: str, tmp_path: Path) -> None:
    bridge = native(name)
    assert torch.equal(st.load(write(tmp_path / "toy", bridge)).bridge(IDS), bridge(IDS))


def test_reading_draws_no_random_numbers(tmp_path: Path) -> None:
    folder = write(tmp_path / "toy", made("attention alone, no norm"))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    st.load(folder, selfcheck=False)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"d_model": 32},
        {"n_layers": 3},
        {"n_heads": 0},
        {"n_ctx": 10**9},
        {"act_fn": "tanh"},
        {"normalization_type": "batch"},
        {"eps": -1.0},
        {"attn_only": "yes"},
        {"n_key_value_heads": 3},
        {"positional_embedding_type": "rotary"},
        {"hidden_size": 16},
        {"d_head": None},
        {"auto_map": {"AutoModel": "evil.Model"}},
    ],
    ids=str,
)
def test_a_configuration_that_does_not_fit_is_refused_in_a_sentence(change: dict[str, Any], tmp_path: Path) -> None:
    folder = write(tmp_path / "toy", made("attention alone, no norm"))
    config = json.loads((folder / CONFIG).read_text()) | change
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ModelNotFound, match="expected") as error:
        st.load(folder)
    assert "\n" not in str(error.value)


def test_weights_that_are_missing_changed_or_whole_numbers_are_refused(tmp_path: Path) -> None:
    bridge = made("attention alone, no norm")
    weights = {name.replace("_original_component.", ""): w for name, w in bridge.named_parameters()}
    for number, bad in enumerate(
        (
            {k: v for k, v in weights.items() if k != "pos.weight"},
            weights | {"head.weight": torch.zeros(3, 3)},
            weights | {"pos.weight": torch.zeros(12, 16, dtype=torch.int64)},
        )
    ):
        folder = write(tmp_path / f"toy-{number}", bridge)
        (folder / WEIGHTS).write_bytes(tensor_bytes(bad))
        with pytest.raises(ModelNotFound, match="weights"):
            st.load(folder)


def test_a_model_that_the_folder_cannot_describe_is_not_written() -> None:
    with pytest.raises(BadArgument, match="attention_dir"):
        native_files(boot_native(TransformerBridgeConfig(**SIZES, attention_dir="bidirectional")))
    with pytest.raises(BadArgument, match="NativeModel"):
        native_files(torch.nn.Linear(2, 2))
