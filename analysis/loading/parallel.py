"""Native models whose blocks may be parallel, which TransformerLens' own cannot be: attention and MLP read the same
stream, each through a norm of its own (as in GPT-NeoX; GPT-J has one for both).

Imports TransformerLens' model, so only who makes or reads a native model imports this.
"""

from typing import Any

import torch
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge.sources.native import NativeBlock, NativeModel, initialize_native_model

from steerscope.analysis.gate import Seed, gated


class ParallelBlock(NativeBlock):
    """A block whose attention and MLP read the same stream."""

    def forward(self, hidden_states: Tensor, *masks: Any, **more: Any) -> tuple[Tensor]:
        attended, _ = self.attn(self.ln1(hidden_states), *masks, **more)
        if self.cfg.attn_only:
            return (hidden_states + attended,)
        return (hidden_states + attended + self.mlp(self.ln2(hidden_states)),)


def native_model(cfg: TransformerBridgeConfig) -> NativeModel:
    """TransformerLens' native model, with parallel blocks where its configuration says so; weights as torch draws
    them.
    """
    model = NativeModel(cfg)
    if cfg.parallel_attn_mlp:
        blocks = [ParallelBlock(cfg, rotary=model.rotary) for _ in range(cfg.n_layers)]
        model.layers = type(model.layers)(blocks)
    return model


@gated
def fresh_model(cfg: TransformerBridgeConfig, seed: Seed) -> NativeModel:
    """A random one: matrices as GPT-2 begins with them, biases zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = native_model(cfg)
        initialize_native_model(model, cfg)
    return model
