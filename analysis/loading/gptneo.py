"""A GPT-Neo as its exact GPT-2 equivalent.

TransformerLens 4 leaves GPT-Neo's attention to Hugging Face: edits of its patterns are discarded and
heads cannot be told apart. GPT-2 computes the same function when

- queries are multiplied by sqrt(d_head), since GPT-Neo does not divide the scores by it,
- the missing biases of queries, keys and values are zero,
- projections are stored transposed (Conv1D instead of Linear).

Layers with local attention see the last `window_size` positions, so the equivalence holds up to a
context of that many tokens; the converted model reads no more.
"""

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel
    from transformers import GPTNeoConfig as NeoConfig
    from transformers import GPTNeoForCausalLM as Neo


def context(config: "NeoConfig") -> int:
    """Longest prompt on which the GPT-2 equivalent is exact, in tokens."""
    length = int(config.max_position_embeddings)
    return min(length, int(config.window_size)) if "local" in config.attention_layers else length


@torch.no_grad()
def to_gpt2(neo: "Neo") -> "GPT2LMHeadModel":
    """The GPT-2 that computes what `neo` computes, on prompts of up to `context(neo.config)` tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel  # where no GPT-Neo is loaded, it costs nothing

    config = neo.config
    length = context(config)
    gpt2: Any = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=length,
            n_embd=config.hidden_size,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            n_inner=config.intermediate_size or 4 * config.hidden_size,
            activation_function=config.activation_function,
            layer_norm_epsilon=config.layer_norm_epsilon,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            tie_word_embeddings=config.tie_word_embeddings,
        )
    )
    gpt2 = gpt2.to(dtype=neo.dtype, device=neo.device)
    source = neo.state_dict()
    target = {
        "transformer.wte.weight": source["transformer.wte.weight"],
        "transformer.wpe.weight": source["transformer.wpe.weight"][:length],
        "transformer.ln_f.weight": source["transformer.ln_f.weight"],
        "transformer.ln_f.bias": source["transformer.ln_f.bias"],
        "lm_head.weight": source["lm_head.weight"],
    }
    scale = (config.hidden_size // config.num_heads) ** 0.5
    for layer in range(config.num_layers):
        old = new = f"transformer.h.{layer}"
        for norm in ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"):
            target[f"{new}.{norm}"] = source[f"{old}.{norm}"]
        attention = f"{old}.attn.attention"
        q, k, v = (source[f"{attention}.{name}_proj.weight"].T for name in "qkv")
        target[f"{new}.attn.c_attn.weight"] = torch.cat([q * scale, k, v], dim=1)
        target[f"{new}.attn.c_attn.bias"] = torch.zeros(3 * config.hidden_size).to(q)
        target[f"{new}.attn.c_proj.weight"] = source[f"{attention}.out_proj.weight"].T
        target[f"{new}.attn.c_proj.bias"] = source[f"{attention}.out_proj.bias"]
        for name in ("c_fc", "c_proj"):
            target[f"{new}.mlp.{name}.weight"] = source[f"{old}.mlp.{name}.weight"].T
            target[f"{new}.mlp.{name}.bias"] = source[f"{old}.mlp.{name}.bias"]
    gpt2.load_state_dict(target, strict=True)
    gpt2.eval()
    return gpt2  # type: ignore[no-any-return]
