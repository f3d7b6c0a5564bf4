"""What can be loaded, as what it is; and what cannot, in one clear sentence."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from architectures import ARCHITECTURES, CONTEXT, NEO_WINDOW, boot_native, checkpoint, native
from torch.testing import assert_close
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

from steerscope.analysis.errors import BadArgument, BadPrompt, ModelNotFound, UnsupportedModel
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model

SMALL: dict[str, Any] = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ROUTED = SMALL | {"intermediate_size": 48, "num_key_value_heads": 2}
TOKENS = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8, 9, 79, 32]])


# What fits.


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_logits_are_those_of_the_checkpoint(small_models: Any, name: str) -> None:
    assert_close(small_models[name].bridge(TOKENS), checkpoint(name)(TOKENS).logits, rtol=0, atol=1e-5)


def test_it_knows_what_the_model_is_made_of(every_architecture: Model) -> None:
    model = every_architecture
    attention_only = model.name in ("native_attention_only", "native_without_norm")
    assert (model.n_heads, model.d_model, model.d_head, model.d_vocab) == (4, 32, 8, 96)
    assert model.n_ctx == (NEO_WINDOW if model.name == "gpt_neo" else CONTEXT)
    assert model.has_mlp is not attention_only
    assert model.parallel is (model.name in ("gpt_neox", "gptj"))
    assert model.post_norm is (model.name in ("gemma2", "gemma3"))
    assert model.softcap is (model.name == "gemma2")
    assert len(model.nodes) == model.n_layers * (5 if model.has_mlp else 4)
    assert not model.bridge.training
    assert model.tokenizer is None and model.bos is None
    assert model.dtype == torch.float32


def test_a_sequential_neox_is_not_parallel(tmp_path: Path) -> None:
    config = checkpoint("gpt_neox").config
    config.use_parallel_residual = False
    hf.GPTNeoXForCausalLM(config).save_pretrained(tmp_path)
    assert load(tmp_path).parallel is False


def test_a_folder_says_where_it_can_be_loaded_from_again(small_models: Any) -> None:
    model = load(small_models.folder("llama"))
    assert model.name == "llama"
    assert model.architecture == "LlamaForCausalLM"
    assert model.source == str(small_models.folder("llama").resolve())
    assert load(model.source, name="mine").name == "mine"
    assert load(model.source).weights_hash == model.weights_hash


def test_a_trained_model_reads_text(real_model: Model) -> None:
    tokens = real_model.tokens("Once upon a time")
    assert tokens[0] == real_model.bos
    assert real_model.text(tokens[1:]).strip() == "Once upon a time"
    assert (
        load(real_model.source, bos=False).tokens("Once")
        == tokens[1 : 1 + len(load(real_model.source, bos=False).tokens("Once"))]
    )


def test_a_bridge_is_taken_as_it_is() -> None:
    bridge = native("native_attention_only")
    model = load(bridge.train(), name="toy")
    assert model.bridge is bridge and not bridge.training
    assert model.source is None and model.name == "toy"
    with pytest.raises(BadPrompt, match="toy has no tokenizer, got the text 'a wedding'; give token ids"):
        model.tokens("a wedding")


@torch.no_grad()
def test_a_bridge_of_a_checkpoint_is_taken() -> None:
    llama = checkpoint("llama")
    expected = llama(TOKENS).logits  # before it is wrapped, which changes it
    bridge = build_bridge_from_module(llama, "LlamaForCausalLM", hf_config=llama.config)
    assert_close(load(bridge).bridge(TOKENS), expected, rtol=0, atol=1e-5)


def test_a_checkpoint_of_an_old_hooked_transformer_is_taken() -> None:
    """Attention only, as the toy models of the literature; the old names and shapes of its weights."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / 4

    layers, heads, width, head, words, context = 2, 4, 32, 8, 96, 64
    old = {
        "embed.W_E": random(words, width),
        "pos_embed.W_pos": random(context, width),
        "unembed.W_U": random(width, words),
    }
    for layer in range(layers):
        block = f"blocks.{layer}.attn"
        for letter in "QKV":
            old |= {f"{block}.W_{letter}": random(heads, width, head), f"{block}.b_{letter}": random(heads, head)}
        old |= {f"{block}.W_O": random(heads, head, width), f"{block}.b_O": random(width)}
    bridge = boot_native(
        TransformerBridgeConfig(
            d_model=width,
            d_head=head,
            n_heads=heads,
            n_layers=layers,
            n_ctx=context,
            d_vocab=words,
            attn_only=True,
            act_fn="gelu_new",
            normalization_type=None,
            seed=0,
        )
    )
    weights = convert_tl_checkpoint(old, bridge.cfg)
    weights.setdefault("unembed.bias", torch.zeros(words))
    bridge.load_state_dict(weights, strict=True)
    model = load(bridge, name="old")
    with torch.no_grad():
        x = old["embed.W_E"][TOKENS[0]] + old["pos_embed.W_pos"][: TOKENS.shape[1]]
        for layer in range(layers):
            part = {
                n: old[f"blocks.{layer}.attn.{n}"] for n in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")
            }
            q, k, v = (torch.einsum("pm,hmd->hpd", x, part[f"W_{n}"]) + part[f"b_{n}"][:, None] for n in "QKV")
            scores = (q @ k.mT / head**0.5).masked_fill(torch.ones(x.shape[0], x.shape[0]).triu(1).bool(), -torch.inf)
            x = x + torch.einsum("hpd,hdm->pm", scores.softmax(-1) @ v, part["W_O"]) + part["b_O"]
        assert_close(model.bridge(TOKENS)[0], x @ old["unembed.W_U"], rtol=1e-5, atol=1e-5)


def test_the_precision_is_the_one_asked_for(small_models: Any) -> None:
    assert load(small_models.folder("llama"), dtype="float64").dtype == torch.float64
    assert load(small_models.folder("llama"), dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(BadArgument, match="unknown dtype 'float8'; expected float32, float64"):
        load(small_models.folder("llama"), dtype="float8")


def test_a_bos_that_is_not_there_is_refused(small_models: Any) -> None:
    with pytest.raises(BadArgument, match="bos=True, and the tokenizer of llama has no BOS token"):
        load(small_models.folder("llama"), bos=True)


# What does not fit.


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (
            lambda: hf.T5ForConditionalGeneration(
                hf.T5Config(vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
            ),
            r"is an encoder-decoder \(t5\); the analysis assumes one causal stream",
        ),
        (
            lambda: hf.MixtralForCausalLM(hf.MixtralConfig(num_local_experts=4, **ROUTED)),
            r"routes each token to some of 4 experts \(mixtral\); the analysis "
            r"assumes that an MLP is one function of its input",
        ),
        (
            lambda: hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(num_experts=4, moe_intermediate_size=16, **ROUTED)),
            r"routes each token to some of 4 experts \(qwen3_moe\)",
        ),
        (
            lambda: hf.MambaForCausalLM(
                hf.MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=4)
            ),
            r"has blocks without attention; the analysis "
            r"assumes that every block is attention and MLP \(no state-space",
        ),
        (
            lambda: hf.JambaForCausalLM(
                hf.JambaConfig(
                    num_experts=1, mamba_d_state=4, use_mamba_kernels=False, **ROUTED | {"num_hidden_layers": 4}
                )
            ),
            "has blocks without attention",
        ),
        (
            lambda: hf.BertLMHeadModel(hf.BertConfig(is_decoder=True, intermediate_size=48, **SMALL)),
            r"normalizes the stream after every addition \(post-norm, bert\); the analysis "
            r"assumes a stream that blocks only add to",
        ),
        (
            lambda: hf.OpenAIGPTLMHeadModel(
                hf.OpenAIGPTConfig(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64)
            ),
            r"\(post-norm, openai-gpt\)",
        ),
        (
            lambda: hf.OPTForCausalLM(
                hf.OPTConfig(ffn_dim=48, do_layer_norm_before=False, word_embed_proj_dim=32, **SMALL)
            ),
            r"\(post-norm, opt\)",
        ),
        (
            lambda: hf.BloomForCausalLM(hf.BloomConfig(vocab_size=96, hidden_size=32, n_layer=2, n_head=4)),
            r"cannot be checked \(TypeError.*the analysis assumes blocks of attention and MLP that add to one stream",
        ),
        (
            lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**ROUTED)),
            "breaks the assumption that other heads' patterns do not follow the query of one head",
        ),
        (
            lambda: hf.Olmo3ForCausalLM(hf.Olmo3Config(**ROUTED)),
            "breaks the assumption that other heads' patterns do not follow the query of one head",
        ),
    ],
    ids=[
        "t5",
        "mixtral",
        "qwen3_moe",
        "mamba",
        "jamba",
        "bert",
        "openai_gpt",
        "opt_post_norm",
        "bloom",
        "olmo2",
        "olmo3",
    ],
)
def test_an_architecture_that_does_not_fit_is_refused_with_the_reason(
    tmp_path: Path, build: Any, sentence: str
) -> None:
    build().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match=sentence):
        load(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    for source in (tmp_path / "nowhere", "./nowhere", "nowhere/deep/down"):
        with pytest.raises(
            ModelNotFound, match=r"^no folder '.*nowhere.*'; expected a Hugging Face folder with config.json"
        ):
            load(source)


def test_a_file_in_place_of_a_folder_is_refused(small_models: Any) -> None:
    with pytest.raises(
        ModelNotFound, match="model.safetensors' is a file; expected a Hugging Face folder.*; give the folder"
    ):
        load(small_models.folder("llama") / "model.safetensors")


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no config.json in"):
        load(tmp_path)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    model = checkpoint("llama")
    model.config.save_pretrained(tmp_path)
    with pytest.raises(ModelNotFound, match="has no weights; expected model.safetensors"):
        load(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ModelNotFound,
        match=(
            "has only pytorch_model.bin, a pickle, which can run code when it is read; expected model.safetensors; "
            "convert it"
        ),
    ):
        load(tmp_path)


def test_a_damaged_folder_is_refused(small_models: Any, tmp_path: Path) -> None:
    checkpoint("llama").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{ torn")
    with pytest.raises(ModelNotFound, match=r"cannot be read \(.*; save it again"):
        load(tmp_path)
    checkpoint("llama").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelNotFound, match=r"cannot be read \(.*; save it again"):
        load(tmp_path)


def test_a_hub_name_without_network_fails_at_once() -> None:
    start = time.perf_counter()
    for name in ("gpt2-nowhere", "nobody/nothing"):
        with pytest.raises(
            ModelNotFound, match=rf"^no folder '{name}', and the hub does not give it \(.*check the name"
        ):
            load(name)
    assert time.perf_counter() - start < 5


# What it costs to import.


def _families(code: str) -> set[str]:
    """The model families of transformers whose code some lines import."""
    code += (
        "\nimport sys; print(*{n.split('.')[2] for n in sys.modules if n.startswith('transformers.models.')"
        " and n.split('.')[-1].startswith('modeling_')})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n")[-2].split())


@pytest.mark.slow
def test_loading_a_model_imports_no_other_family(tiny_folder: Path) -> None:
    before = _families("import transformer_lens.model_bridge, transformers.models.auto.modeling_auto")
    loaded = _families(f"import steerscope as st; st.load({str(tiny_folder)!r}, selfcheck=False)")
    assert loaded - before == {"gpt2"}


def test_the_door_to_loading_imports_no_library_of_models() -> None:
    code = "import steerscope, sys; steerscope.load; print({'transformers', 'transformer_lens'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
