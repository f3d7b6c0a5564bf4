"""Small random checkpoints of every architecture that the analysis promises, biases and norms included."""

from typing import Any

import pytest
import torch
import transformers as hf
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import native as _native  # noqa: F401  (gives the bridge its boot_native)

WINDOW = 8  # of Mistral and Gemma: shorter than the tests' longest prompts
NEO_WINDOW = 16
CONTEXT = 64
_VOCAB: dict[str, Any] = {"vocab_size": 96, "initializer_range": 0.2}
_LLAMA: dict[str, Any] = _VOCAB | {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", _VOCAB | {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": CONTEXT}),
    "gpt_neo": (
        "GPTNeo",
        _VOCAB
        | {
            "hidden_size": 32,
            "num_layers": 4,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 2]],
            "window_size": NEO_WINDOW,
            "max_position_embeddings": CONTEXT,
            "intermediate_size": 64,
        },
    ),
    "gpt_neox": (
        "GPTNeoX",
        _VOCAB
        | {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": CONTEXT,
        },
    ),
    "gptj": ("GPTJ", _VOCAB | {"n_embd": 32, "n_layer": 3, "n_head": 4, "rotary_dim": 4, "n_positions": CONTEXT}),
    "llama": ("Llama", _LLAMA),
    "mistral": ("Mistral", _LLAMA | {"sliding_window": WINDOW}),
    "qwen2": ("Qwen2", _LLAMA),
    "qwen3": ("Qwen3", _LLAMA | {"head_dim": 8}),
    "gemma2": ("Gemma2", _LLAMA | {"head_dim": 8, "sliding_window": WINDOW}),
    "gemma3": ("Gemma3Text", _LLAMA | {"head_dim": 8, "sliding_window": WINDOW}),
}

NATIVE: dict[str, dict[str, Any]] = {
    "native_attention_only": {"attn_only": True, "normalization_type": "LN"},
    "native_without_norm": {"attn_only": True, "normalization_type": None},
    "native_with_mlp": {"attn_only": False, "normalization_type": "LN", "d_mlp": 64},
}

# Sequential, parallel, norms after nodes, shared keys: for long tests over `every_architecture`, whose others are slow.
AT_ONCE = [
    name if name in ("gpt2", "gptj", "gemma2", "llama") else pytest.param(name, marks=pytest.mark.slow)
    for name in (*ARCHITECTURES, *NATIVE)
]


def checkpoint(name: str) -> Any:
    """A random Hugging Face model; always the same one."""
    kind, options = ARCHITECTURES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        auto: Any = hf.AutoModelForCausalLM
        model = auto.from_config(getattr(hf, f"{kind}Config")(**options))
        return _lively(model).eval()


def boot_native(config: Any) -> Any:
    """A model of TransformerLens' own."""
    bridge: Any = TransformerBridge
    return bridge.boot_native(config)


def native(name: str) -> Any:
    """A random model of TransformerLens' own; always the same one."""
    config = TransformerBridgeConfig(
        d_model=32,
        d_head=8,
        n_heads=4,
        n_layers=2,
        n_ctx=CONTEXT,
        d_vocab=96,
        act_fn="gelu_new",
        seed=0,
        **NATIVE[name],
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _lively(boot_native(config)).eval()


# More shapes of one and two layers, that only what takes a model apart must tell from the others.
RARE: dict[str, dict[str, Any]] = {
    "grouped_partly_rotary_gated": {
        "normalization_type": "RMS",
        "gated_mlp": True,
        "act_fn": "silu",
        "n_key_value_heads": 2,
        "positional_embedding_type": "rotary",
        "rotary_dim": 4,
    },
    "capped_logits": {"normalization_type": "LN", "output_logits_soft_cap": 5.0, "act_fn": "gelu"},
    "mlp_without_norm": {"normalization_type": None, "act_fn": "relu"},
    "norms_without_weights": {"normalization_type": "RMSPre", "act_fn": "silu"},
    "solu": {"normalization_type": "LN", "act_fn": "solu"},
    "solu_with_its_norm": {"normalization_type": "LN", "act_fn": "solu_ln"},
    "final_rms": {"normalization_type": "LN", "final_rms": True, "act_fn": "gelu_new"},
}
POST_NORM = ("gemma2", "gemma3")
SHALLOW = [name for name in (*ARCHITECTURES, *NATIVE, *RARE) if name not in POST_NORM]


def shallow(name: str, layers: int, seed: int = 0) -> Any:
    """A random model of one or two layers of an architecture: of Hugging Face, or of TransformerLens' own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name not in ARCHITECTURES:
            shape: dict[str, Any] = {"d_mlp": 48, "act_fn": "gelu_new"} | (NATIVE | RARE)[name]
            config = TransformerBridgeConfig(
                d_model=32, d_head=8, n_heads=4, n_layers=layers, n_ctx=CONTEXT, d_vocab=96, seed=seed, **shape
            )
            return _lively(boot_native(config)).eval()
        kind, options = ARCHITECTURES[name]
        counts = {key: layers for key in options if key in ("n_layer", "num_layers", "num_hidden_layers")}
        kinds = {"attention_types": [[["global", "local"][:layers], 1]]} if "attention_types" in options else {}
        auto: Any = hf.AutoModelForCausalLM
        return _lively(auto.from_config(getattr(hf, f"{kind}Config")(**options | counts | kinds))).eval()


@torch.no_grad()
def _lively(model: Any) -> Any:
    """Random biases and norms: fresh ones are 0 and 1, and would hide whoever forgets them."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter += 0.2 * torch.randn_like(parameter)
    return model
