"""A toy that `HookedTransformer` saved as a `.pt` file, as those of the literature are, becomes a model to ask.

Such a file holds weights alone: its sizes must be known. Usage: python examples/old_checkpoint.py toy.pt
"""

import sys

import torch
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import native  # noqa: F401  (gives the bridge its boot_native)
from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

import steerscope as st

SIZES = dict(d_model=32, d_head=8, n_heads=4, n_layers=2, n_ctx=64, d_vocab=96, d_mlp=128, act_fn="gelu")


def read(path: str, **sizes: object) -> st.Model:
    """The model of a file, with the sizes that it was made with; `weights_only`, since a pickle can run code."""
    weights = torch.load(path, map_location="cpu", weights_only=True)
    bridge = TransformerBridge.boot_native(TransformerBridgeConfig(**sizes))
    bridge.load_state_dict(convert_tl_checkpoint(weights, bridge.cfg), strict=True)
    return st.load(bridge, name=path)


if __name__ == "__main__":
    model = read(sys.argv[1], **SIZES)
    print(model)
    print("weights:", model.describe()["weights"])
