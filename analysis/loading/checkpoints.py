"""Other people's files become a Hugging Face model: a folder of safetensors, or one GGUF file.

1. What the files say is checked on their headers (`folders`, `steerscope.analysis.ggufs`), before memory is taken.
2. transformers reads them, without code of theirs and without the network.
3. Every weight of the model is one of the files'.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any

import torch

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import ModelNotFound, SteerscopeError, UnsupportedModel
from steerscope.analysis.ggufs import Gguf, Packed, read_gguf, value_of
from steerscope.analysis.loading import folders
from steerscope.analysis.progress import track

from .folders import first_line
from .names import name_of, named

POST_NORM = ("openai-gpt", "bert", "roberta", "xlm-roberta", "electra")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.*", "*.tiktoken")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
ROTATION, FACTORS = "rope_", "rope_freqs.weight"  # tables of rotary embeddings in a GGUF file, which are no weights
_ALONE = RLock()


@dataclass(frozen=True)
class Checkpoint:
    """A model as transformers runs it.

    Attributes:
        model: in evaluation mode, on its device.
        tokenizer: None where there is none: prompts are then token ids.
        name: how pages call it.
        source: what it can be read from again; None for a model in memory.
        notes: what was changed when it was read, in sentences.
    """

    model: Any
    tokenizer: Any
    name: str
    source: str | None
    notes: tuple[str, ...] = ()


def read(source: str, device: torch.device, dtype: torch.dtype, tokenizer: Any = None) -> Checkpoint:
    """A folder, a GGUF file, or a hub name.

    Args:
        tokenizer: instead of the checkpoint's own.

    Raises:
        ModelNotFound: nothing there, or damaged or untrusted files.
        UnsupportedModel: of a kind that breaks an assumption of the analysis.
    """
    local = folders.local(source)
    place = local or folders.from_hub(source)
    source = brief(source, 200)  # as it is told from here on
    with quiet():
        if place.is_file():
            return _gguf(place, source, device, dtype, tokenizer)
        model = _folder(place, source, device, dtype)
        if tokenizer is None:
            tokenizer = tokenizer_of(place, source)
    whole = str(place.resolve()) if local else source
    name = named(place.resolve(), folders.config_of(place)) if local else source
    return Checkpoint(model, tokenizer, name, whole)


def of_object(model: Any, device: torch.device | None, dtype: torch.dtype | None, tokenizer: Any) -> Checkpoint:
    """A model of transformers that is in memory already.

    Modules are copied, since the bridge changes those that it wraps; weights are shared with the original, which stays
    as it is, until a device or a dtype makes others of them.

    Raises:
        UnsupportedModel: no causal language model, one in parts, or one in a form that only another library can read.
    """
    kind = type(model).__name__
    refuse_config(kind, model.config)
    if not kind.endswith(("ForCausalLM", "LMHeadModel")):
        raise UnsupportedModel(
            f"{kind} is no causal language model; the analysis assumes one that predicts the next token (no encoder, "
            "which is bidirectional, and none without a head); load it with AutoModelForCausalLM"
        )
    if getattr(model, "is_quantized", False) or getattr(model.config, "quantization_config", None):
        raise UnsupportedModel(
            f"{kind} has its weights in a form that only another library can read (quantization_config); the analysis "
            "reads them as they are; load it without quantization"
        )
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1 or any(
        p.is_meta for p in model.parameters()
    ):
        raise UnsupportedModel(
            f"{kind} is spread over several devices, or not loaded; the analysis assumes one device; load it without "
            "device_map"
        )
    shared: dict[int, Any] = {
        id(weight): torch.nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    with quiet():
        own = copy.deepcopy(model, shared).to(device=device, dtype=dtype)
        own.set_attn_implementation("eager")
    return Checkpoint(own.eval(), tokenizer, name_of(model), None)


# A folder.


def _folder(folder: Path, source: str, device: torch.device, dtype: torch.dtype) -> Any:
    shapes = folders.check(folder, source)
    there = sum(prod(shape) for shape in shapes.values())
    return _model(folder, source, there, device, dtype, {"use_safetensors": True})


def tokenizer_of(folder: Path, source: str) -> Any:
    """The tokenizer of a checkpoint; None where there is none: prompts are then token ids."""
    if not any(file for name in TOKENIZERS for file in folder.glob(name)):
        return None  # transformers would make one that knows no words
    return _read_tokenizer(folder, source, {})


def _read_tokenizer(folder: Path, source: str, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:  # of any type: what reads tokenizer.json raises plain ones
        raise ModelNotFound(
            f"the tokenizer of {source!r} cannot be read ({first_line(error)}); expected the files that "
            "save_pretrained writes; save it again, or give tokenizer="
        ) from error


def _model(
    folder: Path, source: str, there: int, device: torch.device, dtype: torch.dtype, where: dict[str, Any]
) -> Any:
    """The model of a checked folder; all of its weights are those of the files.

    Args:
        there: numbers in the weights of the files.
        where: options that say in which file the weights are.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    options = {"attn_implementation": "eager", "trust_remote_code": False}
    named = {key: value for key, value in where.items() if key == "gguf_file"}
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **named)
        refuse_config(source, config)
        if getattr(config, "activation_function", None) == "gelu_new":
            config.activation_function = "gelu_pytorch_tanh"  # the same, in one pass over memory
        with torch.device("meta"):
            empty = auto.from_config(copy.deepcopy(config), **options)
        folders.check_memory(sum(t.numel() for t in (*empty.parameters(), *empty.buffers())), there, source)
        model, info = auto.from_pretrained(
            folder, config=config, dtype=dtype, local_files_only=True, output_loading_info=True, **where, **options
        )
    except SteerscopeError:
        raise
    except Exception as error:  # of any type: there are 140 architectures, each with its own code
        raise ModelNotFound(
            f"{source!r} cannot be read ({first_line(error)}); expected a whole Hugging Face folder, or a GGUF file, "
            "of a causal language model; save it again"
        ) from error
    folders.check_loaded(info, source)
    return model.to(device).eval()


def refuse_config(source: str, config: Any) -> None:
    """Refuses kinds of models of which the configuration says that they break an assumption."""
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


@contextmanager
def quiet() -> Iterator[None]:
    """Without the tables and bars of transformers: what is wrong is told in a sentence."""
    import transformers.utils.logging

    logging: Any = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


# A GGUF file.


def _gguf(path: Path, source: str, device: torch.device, dtype: torch.dtype, tokenizer: Any) -> Checkpoint:
    found = read_gguf(path, ModelNotFound)
    folders.check_gguf(found, source)
    there = sum(prod(tensor.shape) for tensor in found.tensors)
    where = {"gguf_file": "model.gguf"}
    with tempfile.TemporaryDirectory() as empty, _read_once(found):  # in which there is nothing else to be read
        folder = Path(empty)
        (folder / where["gguf_file"]).symlink_to(path.resolve())
        model = _model(folder, source, there, device, dtype, where)
        if tokenizer is None and "tokenizer.ggml.tokens" in found.fields:
            tokenizer = _read_tokenizer(folder, source, where)
            tokenizer.name_or_path = str(path)
    tables = [tensor for tensor in found.tensors if tensor.name.startswith(ROTATION)]
    held, weights = sum(p.numel() for p in model.parameters()), there - sum(prod(table.shape) for table in tables)
    if held != weights:
        raise UnsupportedModel(
            f"{source!r} holds {weights:,} numbers, and the model that transformers makes of it {held:,}; expected "
            "every weight to be used; use the model's own Hugging Face folder"
        )
    for table in tables:
        _rotate(model, table, source)
    notes = []
    if found.quantized:
        kinds = " and ".join(found.quantized)
        notes.append(f"quantized weights ({kinds}) were dequantized to {str(dtype).removeprefix('torch.')}")
    return Checkpoint(model, tokenizer, found.text("general.name") or path.stem, str(path.resolve()), tuple(notes))


def _rotate(model: Any, table: Packed, source: str) -> None:
    """Slows rotary embeddings by a file's own factors (Llama 3.1 and later), which transformers leaves out.

    Raises:
        UnsupportedModel: a table of another kind.
    """
    turned = [module for module in model.modules() if isinstance(getattr(module, "inv_freq", None), torch.Tensor)]
    if table.name != FACTORS or table.kind != "F32" or any(m.inv_freq.shape != table.shape for m in turned):
        raise UnsupportedModel(
            f"{source!r} has its own table of rotary embeddings ({brief(table.name)}), which transformers leaves out; "
            f"expected none, or {FACTORS} with a factor for each frequency; use the model's own Hugging Face folder"
        )
    for module in turned:
        module.inv_freq = module.inv_freq / torch.tensor(table.data).to(module.inv_freq)


@contextmanager
def _read_once(found: Gguf) -> Iterator[None]:
    """transformers reads a GGUF file four times, with a reader that takes seconds for a vocabulary, and makes the table
    of its names once for every module of the model. Here it gets what is read already, and one table, under our bar."""
    import gguf
    import transformers.modeling_gguf_pytorch_utils as reading

    def bar(items: Any, **options: Any) -> Iterator[Any]:
        return track(items, "reading weights")

    with _ALONE, ExitStack() as stack:
        stack.enter_context(_replaced(gguf, "GGUFReader", lambda path, *args: found))
        stack.enter_context(_replaced(gguf, "get_tensor_name_map", lru_cache(gguf.get_tensor_name_map)))
        stack.enter_context(_replaced(reading, "_gguf_parse_value", lambda part, types: value_of(part)))
        stack.enter_context(_replaced(reading, "tqdm", bar))
        yield


@contextmanager
def _replaced(module: ModuleType, name: str, value: Callable[..., Any]) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
