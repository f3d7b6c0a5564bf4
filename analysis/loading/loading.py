"""`load`: a folder, a hub name or a bridge becomes a checked `Model`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from steerscope.analysis.errors import BadArgument, ModelNotFound, UnsupportedModel
from steerscope.analysis.loading import gptneo
from steerscope.analysis.model.models import HOOKS, Model

from .selfcheck import first_line
from .selfcheck import selfcheck as check

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
POST_NORM = ("openai-gpt", "bert", "roberta", "xlm-roberta", "electra")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.*", "*.tiktoken")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def load(
    source: Any,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    tokenizer: Any = None,
    bos: bool | None = None,
    name: str | None = None,
    selfcheck: bool = True,
) -> Model:
    """A checked `Model` from a local Hugging Face folder, a hub name, or a `TransformerBridge`.

    Only a hub name reaches the network. Weights are read from safetensors alone.

    Args:
        source: folder, hub name, or a bridge that is already there (a `boot_native` toy, say).
        device: "cpu", "cuda", ...; the GPU by default, where there is one.
        dtype: float32 by default; half precision is too coarse for effects of single nodes.
        tokenizer: for a bridge: what turns text into ids; without one prompts are token ids.
        bos: put BOS before every prompt; by default where the tokenizer has one.
        name: how reports call the model; the folder's or the hub's name by default.
        selfcheck: prove what the analyses rely on (a few passes over seven tokens).

    Raises:
        ModelNotFound: no such folder or hub model, or no safetensors in it.
        UnsupportedModel: it breaks an assumption of the analysis; the message names it.
    """
    place = _device(device)
    kind = _dtype(dtype)
    expected: Callable[[Tensor], Tensor] | None = None
    if isinstance(source, str | Path):
        model, expected = _from_checkpoint(str(source), place, kind, tokenizer, bos, name, selfcheck)
    else:
        bridge = source if device is None and dtype is None else source.to(device=place, dtype=kind)
        model = _wrap(
            bridge.eval(), name or _bridge_name(bridge), None, tokenizer or getattr(bridge, "tokenizer", None), bos, ()
        )
    if selfcheck:
        check(model, expected)
    return model


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0][:100]
        raise BadArgument(
            f"unknown device {str(device)!r}, or none here ({reason}); expected cpu, or cuda where there is a GPU; "
            "leave it out for the best that is there"
        ) from error
    return place


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise BadArgument(f"unknown dtype {dtype!r}; expected {', '.join(DTYPES)}; float32 is the default")
    return DTYPES[dtype]


def _from_checkpoint(
    source: str,
    device: torch.device,
    dtype: torch.dtype,
    tokenizer: Any,
    bos: bool | None,
    name: str | None,
    keep: bool,
) -> tuple[Model, Callable[[Tensor], Tensor] | None]:
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    local = _folder(source)
    options: dict[str, Any] = {"local_files_only": local}
    try:
        config = AutoConfig.from_pretrained(source, **options)
        _refuse_config(source, config)
        if getattr(config, "activation_function", None) == "gelu_new":
            config.activation_function = "gelu_pytorch_tanh"  # the same, in one pass over memory
        hf: Any = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=dtype, use_safetensors=True, attn_implementation="eager", **options
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelNotFound(_not_loaded(source, local, error)) from error
    hf = hf.to(device).eval()
    if tokenizer is None:
        tokenizer = _tokenizer(AutoTokenizer, source, local)
    expected = _reference(hf) if keep else None
    notes: list[str] = []
    architecture = type(hf).__name__
    if architecture == "GPTNeoForCausalLM":  # families by name: importing one that is not loaded takes long
        length = gptneo.context(hf.config)
        notes.append("GPT-Neo, analysed as its exact GPT-2 equivalent (queries times sqrt(d_head))")
        if length < hf.config.max_position_embeddings:
            notes.append(
                f"prompts are limited to the window of its local attention, {length} of "
                f"{hf.config.max_position_embeddings} tokens"
            )
        hf = gptneo.to_gpt2(hf)
    try:
        bridge = build_bridge_from_module(hf, type(hf).__name__, hf_config=hf.config)
    except Exception as error:  # of any type: there are 140 architectures, each with its own code
        raise UnsupportedModel(
            f"TransformerLens cannot take {source!r} ({architecture}) apart ({first_line(error)}); the analysis needs "
            "its hooks; use an architecture that it knows"
        ) from error
    if architecture == "GPTJForCausalLM":
        _show_pattern(bridge)
    short = name or (Path(source).resolve().name if local else source)
    model = _wrap(
        bridge.eval(),
        short,
        str(Path(source).resolve()) if local else source,
        tokenizer,
        bos,
        tuple(notes),
        architecture,
    )
    return model, expected


def _folder(source: str) -> bool:
    """Whether `source` is a local folder; refuses one that is missing or has nothing safe in it."""
    folder = Path(source)
    if not folder.is_dir():
        if folder.is_file():
            raise ModelNotFound(
                f"{source!r} is a file; expected a Hugging Face folder with config.json and model.safetensors; "
                "give the folder"
            )
        if (
            source.startswith((".", "/", "~"))
            or os.sep in source.replace("/", os.sep, 1).strip(os.sep)
            and source.count("/") != 1
        ):
            raise ModelNotFound(
                f"no folder {source!r}; expected a Hugging Face folder with config.json and model.safetensors; "
                "check the path"
            )
        return False
    if not (folder / "config.json").is_file():
        raise ModelNotFound(
            f"no config.json in {source!r}; expected a Hugging Face folder; save the model with save_pretrained"
        )
    if not list(folder.glob("*.safetensors")):
        pickles = sorted(
            p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl") for p in folder.glob(pattern)
        )
        found = f"only {', '.join(pickles)}, a pickle, which can run code when it is read" if pickles else "no weights"
        raise ModelNotFound(
            f"{source!r} has {found}; expected model.safetensors; convert it where you trust it: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
        )
    return True


def _not_loaded(source: str, local: bool, error: Exception) -> str:
    reason = first_line(error)
    if local:
        return (
            f"{source!r} cannot be read ({reason}); expected a whole Hugging Face folder of a causal language "
            "model; save it again"
        )
    return (
        f"no folder {source!r}, and the hub does not give it ({reason}); expected a shipped name, a folder, or a hub "
        "name with safetensors and a network; check the name"
    )


def _refuse_config(source: str, config: Any) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModel(
            f"{source!r} is an encoder-decoder ({config.model_type}); the analysis assumes one causal stream that "
            "every block adds to; use a decoder-only model"
        )
    if config.model_type in POST_NORM or getattr(config, "do_layer_norm_before", True) is False:
        raise UnsupportedModel(
            f"{source!r} normalizes the stream after every addition (post-norm, {config.model_type}); the analysis "
            "assumes a stream that blocks only add to; use a pre-norm model"
        )
    experts = [getattr(config, key) for key in EXPERTS if isinstance(getattr(config, key, None), int)]
    if any(count > 1 for count in experts):
        raise UnsupportedModel(
            f"{source!r} routes each token to some of {max(experts)} experts ({config.model_type}); the analysis "
            "assumes that an MLP is one function of its input; use a dense model"
        )


def _show_pattern(bridge: Any) -> None:
    """Lets GPT-J's patterns be seen while they are used. TransformerLens leaves its attention to
    Hugging Face and shows the pattern afterwards; the dropout (which does nothing here) sees it in time."""

    def through(hook: Any) -> Callable[..., Tensor]:
        return lambda module, args, pattern: hook(pattern)

    for block in bridge.blocks:
        attention = block.attn.original_component
        attention.accepts_pattern_fn = True
        attention.attn_dropout.register_forward_hook(through(block.attn.hook_pattern))


def _tokenizer(auto: Any, source: str, local: bool) -> Any:
    """The tokenizer of a checkpoint; None where there is none: prompts are then token ids."""
    if local and not any(file for name in TOKENIZERS for file in Path(source).glob(name)):
        return None  # transformers would make one that knows no words
    try:
        return auto.from_pretrained(source, local_files_only=local)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _reference(hf: Any) -> Callable[[Tensor], Tensor]:
    """Logits of the untouched checkpoint. Wrapping changes a model in place, so they are computed now, for the ids to
    come.
    """
    made: dict[tuple[int, ...], Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    n_ctx = min(7, gptneo.context(hf.config) if hasattr(hf.config, "attention_layers") else _context(hf.config))
    ids = torch.randint(0, hf.config.vocab_size, (2, n_ctx), generator=generator)[:1].to(hf.device)
    with torch.no_grad():
        made[tuple(ids[0].tolist())] = hf(ids, use_cache=False).logits

    def expected(asked: Tensor) -> Tensor:
        return made[tuple(asked[0].tolist())]

    return expected


def _context(config: Any) -> int:
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2048)


def _bridge_name(bridge: Any) -> str:
    return str(getattr(bridge.cfg, "model_name", None) or type(bridge).__name__)


def _wrap(
    bridge: Any,
    name: str,
    source: str | None,
    tokenizer: Any,
    bos: bool | None,
    notes: tuple[str, ...],
    architecture: str | None = None,
) -> Model:
    cfg = bridge.cfg
    architecture = architecture or str(getattr(cfg, "architecture", None) or type(bridge).__name__)
    blocks = list(getattr(bridge, "blocks", None) or [])
    if not blocks or not all(hasattr(block, "attn") for block in blocks):
        raise UnsupportedModel(
            f"{name} ({architecture}) has blocks without attention; the analysis assumes that every block is attention "
            "and MLP (no state-space or recurrent layers); use a transformer"
        )
    first = blocks[0]
    has_mlp = hasattr(first, "mlp") and not getattr(cfg, "attn_only", False)
    missing = [
        hook
        for site, hook in HOOKS.items()
        if (has_mlp or not site.startswith("mlp")) and f"blocks.0.{hook}" not in bridge.hook_dict
    ]
    if missing:
        raise UnsupportedModel(
            f"{name} ({architecture}) has no {', '.join(missing)} in TransformerLens; the analysis reads and "
            "edits there; use another model"
        )
    start = getattr(tokenizer, "bos_token_id", None)
    if bos and start is None:
        raise BadArgument(
            f"bos=True, and the tokenizer of {name} has no BOS token; expected one that has; leave bos out"
        )
    return Model(
        bridge=bridge,
        name=name,
        architecture=architecture,
        source=source,
        tokenizer=tokenizer,
        bos=None if bos is False else start,
        n_layers=int(cfg.n_layers),
        n_heads=int(cfg.n_heads),
        n_kv_heads=int(getattr(cfg, "n_key_value_heads", None) or cfg.n_heads),
        d_model=int(cfg.d_model),
        d_head=int(cfg.d_head),
        d_vocab=int(cfg.d_vocab),
        n_ctx=int(cfg.n_ctx),
        norm=str(cfg.normalization_type or "none"),
        has_mlp=has_mlp,
        parallel=bool(getattr(cfg, "parallel_attn_mlp", False)),
        post_norm=hasattr(first, "ln1_post"),
        softcap=float(getattr(cfg, "output_logits_soft_cap", -1.0) or -1.0) > 0,
        notes=notes,
    )
