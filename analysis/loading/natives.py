"""Folders of native models: TransformerLens' own small transformer (`NativeModel`) as `config.json` and
`model.safetensors`.

1. `native_files` gives both for a model: what decides what it computes, and its weights by its own names.
2. `read_native` holds the configuration against `NativeConfig`, and names and shapes of the weights against those of
   the model that it describes, before memory is taken. Nothing is filled in.

A tokenizer may lie beside them, as in other folders; without one prompts are token ids.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadArgument, ModelNotFound, SteerscopeError, UnsupportedModel
from steerscope.analysis.gate import Positive, Share, Within, gated
from steerscope.analysis.tensors import read_tensors, tensor_bytes

from .folders import check, config_of, first_line

ARCHITECTURE, KIND = "TransformerLensNative", "transformer_lens_native"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
TOLD = ("architectures", "model_type")  # what every folder of a model says
WRAPPED = "_original_component."  # inside names of weights, once a bridge has wrapped the model
AS_USUAL = {"attention_dir": "causal", "use_attn_scale": True, "attn_scale": -1.0}  # what no folder says otherwise
Size = Annotated[int, Within(1, 2**20)]


class _Refused(SteerscopeError):
    """A value of a configuration that is none."""


@gated(error=_Refused)
@dataclass(frozen=True)
class NativeConfig:
    """All that decides what a native model computes, but its weights; as `TransformerBridgeConfig` names it."""

    d_model: Size
    d_head: Size
    n_heads: Size
    n_layers: Size
    n_ctx: Annotated[int, Within(1, 8192)]
    d_vocab: Size
    d_vocab_out: Size
    d_mlp: Size
    act_fn: Literal["gelu", "gelu_new", "relu", "silu", "swish", "solu", "solu_ln"]
    attn_only: bool
    gated_mlp: bool
    normalization_type: Literal["LN", "RMS", "LNPre", "RMSPre"] | None
    final_rms: bool
    eps: Share
    n_key_value_heads: Size | None
    positional_embedding_type: Literal["standard", "rotary"]
    rotary_dim: Size | None
    rotary_base: Positive
    attn_scores_soft_cap: float
    output_logits_soft_cap: float
    parallel_attn_mlp: bool = False  # folders of before parallel blocks say nothing of it


def native_files(model: nn.Module) -> dict[str, bytes]:
    """What a folder of a native model holds, by name; for `files.renewed`, with whatever else belongs there.

    Args:
        model: a `NativeModel`, or a bridge that wraps one; weights are written in their own dtype.

    Raises:
        BadArgument: it computes what such a folder does not say.
    """
    cfg: Any = getattr(model, "cfg", None)
    other = [key for key, usual in AS_USUAL.items() if getattr(cfg, key, usual) != usual]
    if other or cfg is None or getattr(cfg, "rope_scaling", None) is not None:
        raise BadArgument(
            f"{type(model).__name__} with {', '.join(other) or 'no configuration, or with rope_scaling'}; expected a "
            "NativeModel of TransformerLens with causal, scaled attention; save another"
        )
    told = {field.name: getattr(cfg, field.name) for field in fields(NativeConfig)}
    told["d_vocab_out"] = cfg.d_vocab_out if cfg.d_vocab_out > 0 else cfg.d_vocab
    try:
        config = asdict(NativeConfig(**told))
    except _Refused as error:
        raise BadArgument(f"a native model that no folder can hold: {error}") from error
    about = {"architectures": [ARCHITECTURE], "model_type": KIND, **config}
    weights = {name.replace(WRAPPED, ""): weight for name, weight in model.named_parameters()}
    return {CONFIG: (json.dumps(about, indent=1) + "\n").encode(), WEIGHTS: tensor_bytes(weights)}


def is_native(folder: Path) -> bool:
    """Whether the configuration of a folder says that its model is a native one."""
    try:
        return config_of(folder).get("model_type") == KIND
    except (SteerscopeError, OSError):
        return False  # whoever reads it says why


def read_native(folder: Path, source: str) -> nn.Module:
    """The model of a folder, in single precision, in evaluation mode.

    Args:
        source: what the user called the folder.

    Raises:
        ModelNotFound: a file is missing, has changed, or does not fit the others.
    """
    from transformer_lens.config import TransformerBridgeConfig

    from .parallel import native_model

    shapes = check(folder, source)
    found = {key: value for key, value in config_of(folder).items() if key not in TOLD}
    try:
        config = NativeConfig(**found)
    except (_Refused, TypeError) as error:
        raise _damaged(source, f"{CONFIG}: {brief(str(error), 200)}") from error
    cfg = TransformerBridgeConfig(**asdict(config), architecture=ARCHITECTURE, init_weights=False)
    try:
        with torch.device("meta"):
            expected = _shapes(native_model(cfg).state_dict())
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise _damaged(source, first_line(error)) from error
    if expected != shapes:
        wrong = sorted(name for name in {*expected, *shapes} if expected.get(name) != shapes.get(name))
        raise _damaged(
            source, f"its weights are not those of its configuration: {', '.join(map(brief, wrong[:3]))} ({len(wrong)})"
        )
    weights, _ = read_tensors(folder / WEIGHTS, ModelNotFound, "file of weights", needed=False)
    if not all(weight.is_floating_point() for weight in weights.values()):
        raise _damaged(source, "some weights are no floating point numbers")
    with torch.random.fork_rng(devices=[]):  # building draws weights, which are replaced
        model = native_model(cfg)
    model.load_state_dict(weights, strict=True)
    return model.eval()


def wrap_native(model: Any, name: str) -> Any:
    """The bridge around a native model, which it changes.

    Raises:
        UnsupportedModel: TransformerLens does not take it.
    """
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    try:
        return build_bridge_from_module(model, ARCHITECTURE, tl_config=model.cfg, model_name=name)
    except Exception as error:  # of any type, it is another library's
        raise UnsupportedModel(
            f"TransformerLens cannot take {name!r} apart ({first_line(error)}); expected a native model whose sizes "
            "fit; use another model"
        ) from error


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _damaged(source: str, reason: str) -> ModelNotFound:
    return ModelNotFound(
        f"{source!r} cannot be read ({reason}); expected a native model's {CONFIG} and {WEIGHTS} as they were written; "
        "save it again"
    )
