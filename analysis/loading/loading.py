"""`load`: a folder, a GGUF file, a hub name or a bridge becomes a checked `Model`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerscope.analysis.errors import BadArgument, ModelNotFound, UnsupportedModel
from steerscope.analysis.gate import gated, shown
from steerscope.analysis.loading import gptneo, remembered
from steerscope.analysis.model.models import HOOKS, Model

from .checkpoints import Checkpoint, of_object, read, tokenizer_of
from .folders import config_of, first_line, local
from .names import named
from .natives import ARCHITECTURE, is_native, read_native, wrap_native
from .selfcheck import selfcheck as check

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
BRIDGE = ("cfg", "blocks", "hook_dict", "run_with_hooks", "state_dict")


@gated
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
    """A checked `Model` from a local Hugging Face folder, that of a native model, a GGUF file, a hub name, a model of
    transformers, or a `TransformerBridge`.

    Only a hub name reaches the network. Weights are read from safetensors or GGUF alone, and no code of a model is run.

    Args:
        source: folder, file, hub name, or what is in memory: a causal language model of transformers, or a bridge (a
            `boot_native` toy, say). A model of transformers is left as it is: the bridge wraps copies of its modules,
            which share its weights, so do not train it meanwhile. A bridge is taken itself, and put into evaluation
            mode.
        device: "cpu", "cuda", ...; for files the GPU by default, where there is one; what is in memory stays where it
            is.
        dtype: float32 by default, for files; half precision is too coarse for effects of single nodes.
        tokenizer: what turns text into ids, of transformers' kind; a folder's own by default. Without one prompts are
            token ids.
        bos: put BOS before every prompt; by default where the tokenizer has one, whether it adds it by itself or not.
        name: how reports call the model; the hub's name, that of its folder, or the one in its file by default.
        selfcheck: prove what the analyses rely on (a few passes over seven tokens); of a checkpoint in files once, it
            is remembered in the user's cache.

    Raises:
        ModelNotFound: no such folder or hub model, no safetensors in it, or a damaged or untrusted file.
        UnsupportedModel: it breaks an assumption of the analysis; the message names it.
    """
    place = _device(device)
    kind = _dtype(dtype)
    if tokenizer is not None and not (callable(tokenizer) and hasattr(tokenizer, "decode")):
        raise BadArgument(f"tokenizer={shown(tokenizer)}; expected one of transformers; load it with AutoTokenizer")
    if isinstance(source, str | Path):
        folder = local(str(source))
        if folder is not None and is_native(folder):
            config = config_of(folder)
            model, expected = _native(folder, str(source), place, kind, tokenizer, bos, name, selfcheck)
        else:
            checkpoint = read(str(source), place, kind, tokenizer)
            config = checkpoint.model.config.to_dict()
            model, expected = _apart(checkpoint, bos, name, selfcheck)
        if selfcheck and not remembered.passed(model, config):
            check(model, expected)
            remembered.remember(model, config)
        return model
    if _is_transformers(source):
        checkpoint = of_object(source, place if device else None, kind if dtype else None, tokenizer)
        model, expected = _apart(checkpoint, bos, name, selfcheck)
        if selfcheck:
            check(model, expected)
        return model
    if hasattr(source, "merge_and_unload"):
        raise UnsupportedModel(
            f"{type(source).__name__} holds an adapter beside its model; expected a whole model; give what its "
            "merge_and_unload() gives"
        )
    if not all(hasattr(source, part) for part in BRIDGE):
        raise ModelNotFound(
            f"{shown(source)} is no model; expected a shipped name, a folder, a GGUF file, a hub name, a model of "
            "transformers or a TransformerBridge; give one of them"
        )
    asked = {"device": device and place, "dtype": dtype and kind}
    moved = {option: value for option, value in asked.items() if value is not None}
    bridge = source.to(**moved) if moved else source
    model = _wrap(
        bridge.eval(), name or _bridge_name(bridge), None, tokenizer or getattr(bridge, "tokenizer", None), bos, ()
    )
    if selfcheck:
        check(model)
    return model


def _is_transformers(source: Any) -> bool:
    """Whether it is a model of transformers, told without importing transformers."""
    return any(kind.__name__ == "PreTrainedModel" for kind in type(source).__mro__)


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.zeros(1, device=place).item()  # there is none on "meta"
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        reason = str(error).split("\n")[0][:100]
        raise BadArgument(
            f"unknown device {str(device)!r}, or none here ({reason}); expected cpu, or cuda where there is a GPU; "
            "leave it out for the best that is there"
        ) from error
    return place


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    found = dtype if isinstance(dtype, torch.dtype) else DTYPES.get(dtype)
    if found is None or found not in DTYPES.values():
        raise BadArgument(f"unknown dtype {shown(dtype)}; expected {', '.join(DTYPES)}; float32 is the default")
    return found


def _apart(
    checkpoint: Checkpoint, bos: bool | None, name: str | None, keep: bool
) -> tuple[Model, Callable[[Tensor], Tensor] | None]:
    """A checkpoint as a `Model`, and its own logits for the self-check, where they are asked for (`keep`)."""
    hf, notes = checkpoint.model, list(checkpoint.notes)
    architecture = type(hf).__name__
    try:
        expected = _of_transformers(hf) if keep else None
        if architecture == "GPTNeoForCausalLM":  # families by name: importing one that is not loaded takes long
            length = gptneo.context(hf.config)
            notes.append("GPT-Neo, analysed as its exact GPT-2 equivalent (queries times sqrt(d_head))")
            if length < hf.config.max_position_embeddings:
                notes.append(
                    f"prompts are limited to the window of its local attention, {length} of "
                    f"{hf.config.max_position_embeddings} tokens"
                )
            hf = gptneo.to_gpt2(hf)
        bridge = _bridge(hf)
    except Exception as error:  # of any type: there are 140 architectures, each with its own code
        raise UnsupportedModel(
            f"TransformerLens cannot take {checkpoint.name!r} ({architecture}) apart ({first_line(error)}); expected "
            "one that it knows, with sizes that fit, since the analysis needs its hooks; use another model"
        ) from error
    if architecture == "GPTJForCausalLM":
        _show_pattern(bridge)
    model = _wrap(
        bridge.eval(), name or checkpoint.name, checkpoint.source, checkpoint.tokenizer, bos, tuple(notes), architecture
    )
    return model, expected


def _native(
    folder: Path,
    source: str,
    device: torch.device,
    dtype: torch.dtype,
    tokenizer: Any,
    bos: bool | None,
    name: str | None,
    keep: bool,
) -> tuple[Model, Callable[[Tensor], Tensor] | None]:
    """The same of a folder that holds a native model of TransformerLens."""
    native: Any = read_native(folder, source).to(device, dtype)
    cfg = native.cfg
    expected = _reference(native, cfg.d_vocab, cfg.n_ctx, device) if keep else None
    place = folder.resolve()
    name = name or named(place, config_of(folder))
    bridge = wrap_native(native, name).eval()
    words = tokenizer_of(folder, source) if tokenizer is None else tokenizer
    return _wrap(bridge, name, str(place), words, bos, (), ARCHITECTURE), expected


def _bridge(hf: Any) -> Any:
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    return build_bridge_from_module(hf, type(hf).__name__, hf_config=hf.config)


def _show_pattern(bridge: Any) -> None:
    """Lets GPT-J's patterns be seen while they are used. TransformerLens leaves its attention to
    Hugging Face and shows the pattern afterwards; the dropout (which does nothing here) sees it in time."""

    def through(hook: Any) -> Callable[..., Tensor]:
        return lambda module, args, pattern: hook(pattern)

    for block in bridge.blocks:
        attention = block.attn.original_component
        attention.accepts_pattern_fn = True
        attention.attn_dropout.register_forward_hook(through(block.attn.hook_pattern))


def _of_transformers(hf: Any) -> Callable[[Tensor], Tensor]:
    n_ctx = gptneo.context(hf.config) if hasattr(hf.config, "attention_layers") else _context(hf.config)
    return _reference(lambda ids: hf(ids, use_cache=False).logits, hf.config.vocab_size, n_ctx, hf.device)


def _reference(
    logits: Callable[[Tensor], Tensor], vocab: int, n_ctx: int, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Logits of the untouched checkpoint. Wrapping changes a model in place, so they are computed now, for the ids to
    come.
    """
    made: dict[tuple[int, ...], Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocab, (2, min(7, n_ctx)), generator=generator)[:1].to(device)
    with torch.no_grad():
        made[tuple(ids[0].tolist())] = logits(ids)

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
    if getattr(cfg, "attention_dir", "causal") != "causal":
        raise UnsupportedModel(
            f"{name} ({architecture}) is bidirectional: what stands to the right changes what stands to the left; the "
            "analysis assumes a causal model, in which an edit reaches later positions only; use a causal model"
        )
    start = getattr(tokenizer, "bos_token_id", None)
    if bos and start is None:
        raise BadArgument(
            f"bos=True, and the tokenizer of {name} has no BOS token; expected one that has; leave bos out"
        )
    if start is not None and not 0 <= start < int(cfg.d_vocab):
        raise UnsupportedModel(
            f"the tokenizer of {name} puts the token {start} first, and the model knows 0 to {int(cfg.d_vocab) - 1}; "
            "expected a tokenizer of this model; give its own"
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
        bos_token=start,
    )
