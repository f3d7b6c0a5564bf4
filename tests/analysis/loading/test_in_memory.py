"""Models that are in memory already: taken without being changed, and told as what they are."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from architectures import ARCHITECTURES, boot_native, checkpoint
from torch.testing import assert_close
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

from steerscope.analysis.errors import ModelNotFound, UnsupportedModel
from steerscope.analysis.loading.loading import load
from steerscope.analysis.loading.names import named
from steerscope.analysis.model.weights import RAW, processing

TOKENS = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8, 9, 79, 32]])
SMALL: dict[str, Any] = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def state(model: Any) -> dict[str, Any]:
    """All that one can see of a model from outside."""
    return {
        "modules": {name: (id(module), type(module)) for name, module in model.named_modules()},
        "weights": {name: (id(p), p.data_ptr(), p.dtype, p.requires_grad) for name, p in model.named_parameters()},
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "config": model.config.to_dict(),
        "attention": model.config._attn_implementation,
        "training": model.training,
    }


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_a_model_of_transformers_is_taken_and_stays_as_it_is(name: str) -> None:
    original = checkpoint(name).train()
    before, expected = state(original), checkpoint(name)(TOKENS).logits
    model = load(original, name="mine", dtype="float64")
    assert_close(model.bridge(TOKENS), expected.double(), rtol=0, atol=2e-5)
    assert model.source is None and model.name == "mine" and model.dtype == torch.float64
    assert state(original) == before
    assert_close(original.eval()(TOKENS).logits, expected, rtol=0, atol=1e-5)


def test_its_weights_are_not_held_twice() -> None:
    original = checkpoint("llama")
    model = load(original, selfcheck=False)
    there = {p.data_ptr() for p in original.parameters()}
    assert {p.data_ptr() for p in model.bridge.parameters()} <= there
    assert model.name == "LlamaForCausalLM" and model.dtype == torch.float32
    assert load(original.to(torch.bfloat16), selfcheck=False).dtype == torch.bfloat16


def test_a_tokenizer_comes_with_it(small_models: Any) -> None:
    class Letters:
        bos_token_id = 0

        def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
            return {"input_ids": [ord(c) - 96 for c in text]}

        def decode(self, ids: list[int], **options: Any) -> str:
            return "".join(chr(i + 96) for i in ids)

    assert load(checkpoint("llama"), tokenizer=Letters()).tokens("abc") == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: hf.LlamaModel(checkpoint("llama").config), "LlamaModel is no causal language model"),
        (
            lambda: hf.ModernBertForMaskedLM(
                hf.ModernBertConfig(
                    intermediate_size=48,
                    pad_token_id=0,
                    bos_token_id=1,
                    eos_token_id=2,
                    cls_token_id=1,
                    sep_token_id=2,
                    **SMALL,
                )
            ),
            "no causal language model; .* bidirectional",
        ),
        (
            lambda: hf.T5ForConditionalGeneration(
                hf.T5Config(vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
            ),
            "is an encoder-decoder",
        ),
        (lambda: checkpoint("llama").to("meta"), "is spread over several devices, or not"),
    ],
    ids=["without head", "encoder", "encoder-decoder", "meta"],
)
def test_models_of_other_kinds_are_refused(build: Any, sentence: str) -> None:
    with pytest.raises(UnsupportedModel, match=sentence):
        load(build())


def test_an_adapter_is_refused_with_the_way() -> None:
    class PeftModel(torch.nn.Module):
        def merge_and_unload(self) -> None:
            """As that of peft."""

    with pytest.raises(UnsupportedModel, match="holds an adapter beside its model; .* merge_and_unload"):
        load(PeftModel())
    with pytest.raises(ModelNotFound, match="a model of transformers or a TransformerBridge"):
        load(torch.nn.Linear(2, 2))


# What was done to a bridge.


def bridge_of(name: str) -> Any:
    model = checkpoint(name)
    return build_bridge_from_module(model, type(model).__name__, hf_config=model.config)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama"])
@torch.no_grad()
def test_a_bridge_in_compatibility_mode_is_told_as_what_it_is(name: str) -> None:
    assert load(bridge_of(name)).describe()["weights"] == RAW
    bridge = bridge_of(name)
    raw = bridge(TOKENS).log_softmax(-1)
    bridge.enable_compatibility_mode(disable_warnings=True)
    model = load(bridge)
    assert_close(model.bridge(TOKENS).log_softmax(-1), raw, rtol=0, atol=1e-4)
    centred = "" if name == "llama" else "; what is written to the stream is centred"  # an RMSNorm sees the mean
    said = model.describe()["weights"]
    assert said == f"norms have no weights of their own (folded, or all 1){centred}; the unembedding is centred"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"no_processing": True}, RAW),
        ({"fold_ln": False, "center_unembed": False}, "what is written to the stream is centred"),
        ({"fold_ln": False, "center_writing_weights": False}, "the unembedding is centred"),
    ],
    ids=str,
)
def test_each_part_of_the_processing_is_told_by_itself(options: dict[str, bool], said: str) -> None:
    bridge = bridge_of("gpt2")
    bridge.enable_compatibility_mode(disable_warnings=True, **options)
    assert processing(bridge) == said


def test_every_architecture_is_raw_as_loaded(every_architecture: Any) -> None:
    assert processing(every_architecture.bridge) == RAW


# Which way a model looks.


def native(**options: Any) -> Any:
    sizes: dict[str, Any] = {"d_model": 32, "d_head": 8, "n_heads": 4, "n_layers": 2, "n_ctx": 64, "d_vocab": 96}
    return boot_native(
        TransformerBridgeConfig(
            **sizes | {"act_fn": "gelu_new", "normalization_type": "LN", "d_mlp": 64, "seed": 0} | options
        )
    )


def test_a_bidirectional_model_is_refused_by_that_word() -> None:
    bridge = native(attention_dir="bidirectional")
    for selfcheck in (True, False):
        with pytest.raises(UnsupportedModel, match="is bidirectional: what stands to the right changes"):
            load(bridge, selfcheck=selfcheck)
    bridge.cfg.attention_dir = "causal"  # it says so, and is not
    with pytest.raises(UnsupportedModel, match=r"earlier positions \(it is causal, not bidirectional\)"):
        load(bridge)
    bert = hf.BertForMaskedLM(hf.BertConfig(intermediate_size=48, **SMALL))
    with pytest.raises(UnsupportedModel, match="is bidirectional"):
        load(build_bridge_from_module(bert, "BertForMaskedLM", hf_config=bert.config))


# Names.


@pytest.mark.parametrize(
    ("folder", "config", "name"),
    [
        ("/home/me/my-llama", {}, "my-llama"),
        ("/home/me/my-llama", {"_name_or_path": "gpt2"}, "my-llama"),
        ("/home/me/hf", {"_name_or_path": "gpt2", "model_type": "gpt2"}, "gpt2 (hf)"),
        ("/home/me/hf", {"_name_or_path": "EleutherAI/pythia-70m"}, "EleutherAI/pythia-70m (hf)"),
        ("/runs/poems/checkpoint-500", {"model_type": "llama"}, "poems (checkpoint-500)"),
        ("/runs/poems/checkpoint-500", {"_name_or_path": "/data/models/qwen2-0.5b/"}, "qwen2-0.5b (checkpoint-500)"),
        ("/runs/poems/final", {"_name_or_path": "./out/checkpoint-10"}, "poems (final)"),
        ("/model", {"model_type": "llama"}, "llama (model)"),
        ("/out/model", {"_name_or_path": None}, "model"),
        ("/c/models--HuggingFaceTB--SmolLM2-135M/snapshots/" + "0" * 40, {}, "HuggingFaceTB/SmolLM2-135M"),
        ("/", {}, "model"),
    ],
)
def test_a_model_is_called_by_its_name(folder: str, config: dict[str, Any], name: str) -> None:
    assert named(Path(folder), config) == name


def test_the_name_of_a_folder_that_says_nothing_is_not_the_models(tmp_path: Path) -> None:
    checkpoint("llama").save_pretrained(tmp_path / "poems" / "hf")
    assert load(tmp_path / "poems" / "hf").name == "poems (hf)"
    assert load(tmp_path / "poems" / "hf", name="mine").name == "mine"
    inside = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "poems" / "hf")
    assert load(inside, selfcheck=False).name == "poems (hf)"


# Fewer outputs than inputs.


def test_logits_are_counted_by_themselves() -> None:
    model = load(native(d_vocab_out=10), name="toy")
    assert (model.d_vocab, model.d_vocab_out) == (96, 10)
    assert model.describe()["d_vocab_out"] == 10
    assert dataclasses.replace(model, name="other").d_vocab_out == 10
