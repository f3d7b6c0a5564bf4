"""Small GGUF files, as llama.cpp's converter writes them."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind

WORDS = ["<unk>", "<s>", "</s>", *map(chr, range(97, 123)), "ab", *(f"Ġ{i}" for i in range(66))]


def write_gguf(
    path: Path,
    model: Any,
    kind: str = "F32",
    entries: dict[str, Any] | None = None,
    words: list[str] | None = None,
    tables: dict[str, Any] | None = None,
) -> Path:
    """A file of a Llama, Qwen or Gemma of transformers.

    Args:
        kind: of the matrices whose rows can be packed so; the others stay F32.
        entries: more whole numbers for the header, by name.
        tables: more tensors, by name.
        words: the vocabulary, of a byte-level tokenizer with one merge; none by default.
    """
    config = model.config
    name = {"qwen2": "qwen2", "gemma2": "gemma2"}.get(config.model_type, "llama")
    writer = gguf.GGUFWriter(path, name)
    writer.add_name("A Small Model")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if name == "gemma2":
        writer.add_sliding_window(config.sliding_window)
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if words is not None:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(words)
        writer.add_token_types([3] * 3 + [1] * (len(words) - 3))
        writer.add_token_merges(["a b"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
    for key, value in (entries or {}).items():
        writer.add_uint32(key, value)
    names = gguf.get_tensor_name_map(
        next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name), config.num_hidden_layers
    )
    for key, weight in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, end = key.rsplit(".", 1)
        values = weight.detach().float()
        if name == "llama" and stem.endswith(("q_proj", "k_proj")):
            heads = config.num_attention_heads if stem.endswith("q_proj") else config.num_key_value_heads
            values = values.reshape(heads, 2, -1, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        if name == "gemma2" and stem.endswith("norm"):
            values = values + 1
        packed = _packed(values, Kind[kind])
        writer.add_tensor(f"{names.get_name(stem)}.{end}", packed[0], raw_dtype=packed[1])
    for key, values in (tables or {}).items():
        writer.add_tensor(key, np.asarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _packed(values: torch.Tensor, kind: Kind) -> tuple[Any, Kind]:
    whole = np.ascontiguousarray(values.numpy())
    block = gguf.GGML_QUANT_SIZES[kind][0]
    if whole.ndim < 2 or whole.shape[-1] % block:
        return whole, Kind.F32
    return gguf.quantize(whole, kind), kind
