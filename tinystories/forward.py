"""The models that are trained, and GPT-Neo's training forward pass: its mathematics on the weights of Hugging Face's
own model.

`GPTNeoForCausalLM` computes attention step by step in fp32. Here the same weights go through one
fused matrix product for queries, keys and values, PyTorch's fused attention and a fused GELU, about
twice as fast on a CPU. Nothing is exported or converted: the model that is trained *is* the Hugging
Face model, and `check_same_logits` holds the two passes against each other.

GPT-Neo differs from GPT-2 in two places: attention scores are not divided by sqrt(d_head), and
queries, keys and values have no bias. Its local layers see `window_size` tokens; a context no longer
than the window makes them equal to the global ones, which this pass relies on.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge.sources.native import NativeModel
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from steerscope.analysis.errors import BrokenInvariant
from steerscope.analysis.loading.natives import ARCHITECTURE
from steerscope.analysis.loading.parallel import fresh_model

from .config import TrainConfig

ACTIVATIONS = {"gelu": "gelu_new"}  # GPT-Neo's: the tanh form

Story = GPTNeoForCausalLM | NativeModel  # what is trained


def story_model(config: TrainConfig, vocabulary: int, end_token: int) -> Story:
    """A randomly initialized model: GPT-Neo, or a native one where a GPT-Neo could not be what is asked for."""
    if not config.native:
        torch.manual_seed(config.seed)
        return gpt_neo(
            d_model=config.d_model,
            n_heads=config.n_heads,
            n_layers=config.n_layers,
            vocabulary=vocabulary,
            context=config.context,
            end_token=end_token,
        )
    act: Any = config.act or "gelu"
    cfg = TransformerBridgeConfig(
        d_model=config.d_model,
        d_head=config.d_model // config.n_heads,
        n_heads=config.n_heads,
        n_layers=config.n_layers,
        n_ctx=config.context,
        d_vocab=vocabulary,
        d_mlp=4 * config.d_model,
        act_fn=ACTIVATIONS.get(act, act),
        normalization_type=None if config.norm == "none" else config.norm,
        parallel_attn_mlp=config.parallel,
        architecture=ARCHITECTURE,
    )
    return fresh_model(cfg, config.seed)


def logits_of(model: Story, tokens: Tensor, dropout: float = 0.0) -> Tensor:
    """Logits [batch, pos, vocabulary] of tokens [batch, pos], as they are trained."""
    if isinstance(model, NativeModel):
        found: Tensor = model(tokens)
        return found
    return fast_logits(model, tokens, dropout)


def gpt_neo(
    *, d_model: int, n_heads: int, n_layers: int, vocabulary: int, context: int, end_token: int
) -> GPTNeoForCausalLM:
    """A randomly initialized GPT-Neo with alternating global and local layers and tied embeddings."""
    kinds = ["global" if layer % 2 == 0 else "local" for layer in range(n_layers)]
    return GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=vocabulary,
            hidden_size=d_model,
            num_heads=n_heads,
            num_layers=n_layers,
            attention_types=[[[kind], 1] for kind in kinds],
            max_position_embeddings=context,
            window_size=context,
            activation_function="gelu_new",
            resid_dropout=0.0,
            embed_dropout=0.0,
            attention_dropout=0.0,
            bos_token_id=end_token,
            eos_token_id=end_token,
            pad_token_id=end_token,
            tie_word_embeddings=True,
        )
    )


def fast_logits(model: GPTNeoForCausalLM, tokens: Tensor, dropout: float = 0.0) -> Tensor:
    """Logits [batch, pos, vocabulary] of tokens [batch, pos]; equal to `model(tokens).logits`."""
    body = model.transformer
    stream = body.wte(tokens) + body.wpe.weight[: tokens.shape[1]]
    for block in cast(Any, body.h):
        stream = stream + _drop(_attention(block.attn.attention, block.ln_1(stream)), dropout)
        mlp = block.mlp
        hidden = F.gelu(mlp.c_fc(block.ln_2(stream)), approximate="tanh")
        stream = stream + _drop(mlp.c_proj(hidden), dropout)
    logits: Tensor = F.linear(body.ln_f(stream), body.wte.weight)
    return logits


def _attention(attention: Any, stream: Tensor) -> Tensor:
    batch, length, width = stream.shape
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    weight = torch.cat([projection.weight for projection in projections])
    heads = F.linear(stream, weight).view(batch, length, 3, attention.num_heads, -1)
    q, k, v = heads.permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
    out: Tensor = attention.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))
    return out


def _drop(values: Tensor, rate: float) -> Tensor:
    return F.dropout(values, rate) if rate else values


@torch.no_grad()
def check_same_logits(model: Story, tokens: Tensor, tolerance: float = 1e-4) -> float:
    """The largest difference between this pass and Hugging Face's own; none of a native model, which is its own pass.

    Args:
        tolerance: of logits up to 1; of larger ones, times the largest.

    Raises:
        BrokenInvariant: they differ by more.
    """
    if isinstance(model, NativeModel):
        return 0.0
    expected = model(tokens).logits
    difference = float((fast_logits(model, tokens) - expected).abs().max())
    most = tolerance * max(1.0, float(expected.abs().max()))
    if not difference <= most:
        raise BrokenInvariant(
            f"the training pass differs from GPTNeoForCausalLM by {difference:.2e} in a logit; expected at most "
            f"{most:.0e}; the installed transformers computes GPT-Neo differently from the version that this was "
            "written for: install that"
        )
    return difference
