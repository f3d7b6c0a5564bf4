"""What a model's files must be before a library reads it: other people's files are looked at, not trusted.

1. A hub name becomes a folder: a fresh copy where the hub answers within a second, else what is cached.
2. Nothing in it may run code (`auto_map`, pickles), or send the reader elsewhere (adapters, indices, other files).
3. Weights are whole, and the numbers of config.json are of their size: checked on headers, before memory is taken.

Links may lead out of the folder, as those of the hub's cache do.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Thread
from typing import Any

from safetensors import SafetensorError, safe_open

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import ModelNotFound, SteerscopeError, UnsupportedModel
from steerscope.analysis.ggufs import ARRAY, STRING, Gguf
from steerscope.analysis.seals import check_folder_seal, read_json

INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
CONFIGS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "processor_config.json",
    "preprocessor_config.json",
)
WANTED = (
    *CONFIGS,
    "adapter_config.json",
    "model.safetensors",
    "model-*.safetensors",
    INDEX,
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "*.tiktoken",
)
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
REFUSED = {  # keys of the configurations, and why none may stand there
    "auto_map": "would run code that comes with it",
    "custom_pipelines": "would run code that comes with it",
    "configuration_files": "sends the reader to another configuration",
    "fast_tokenizer_files": "sends the reader to another tokenizer",
    "transformers_weights": "sends the reader to other weights",
    "quantization_config": "has its weights in a form that only another library can read",
}
GGUF = ".gguf"
LARGEST_JSON = 1 << 26  # bytes
SECONDS = 1.0  # for the hub to answer at all; HF_HUB_ETAG_TIMEOUT, where it is set
LAYERS, LISTED, NUMBERS, ROOM = 1000, 10**7, 2**31, 10**8
DEPTHS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
FREE = re.compile(r"theta|base|model_max_length|seed|total|flos")  # integers that are no sizes


def local(source: str) -> Path | None:
    """The folder or GGUF file that `source` names, if it is one that can be there; None for what may be a hub name.

    Raises:
        ModelNotFound: another file, or a path where nothing is.
    """
    if os.path.isdir(source):  # noqa: PTH112  (of any name: Path's own fails for one that is too long)
        return Path(source)
    if os.path.isfile(source):  # noqa: PTH113
        if source.lower().endswith(GGUF):
            return Path(source)
        if source.lower().endswith((".pt", ".pth")):
            raise ModelNotFound(
                f"{brief(source, 200)!r} is a file of weights alone; expected a model: a folder, a GGUF file or a "
                "TransformerBridge; where TransformerLens wrote it, make a bridge of it first (convert_tl_checkpoint; "
                "see docs/models.md)"
            )
        raise ModelNotFound(
            f"{brief(source, 200)!r} is a file; expected a Hugging Face folder with config.json and model.safetensors, "
            "or a GGUF file (.gguf); give the folder"
        )
    if not HUB_NAME.fullmatch(source) or "--" in source or ".." in source or source.lower().endswith(GGUF):
        raise ModelNotFound(
            f"no folder {brief(source, 200)!r}; expected a Hugging Face folder with config.json and model.safetensors, "
            "or a GGUF file; check the path"
        )
    return None


def from_hub(name: str) -> Path:
    """The folder of a hub model in the cache; brought up to date where the hub answers.

    Raises:
        ModelNotFound: it is neither there nor cached.
    """
    from huggingface_hub import snapshot_download

    why = unreachable()
    try:
        return Path(
            snapshot_download(name, allow_patterns=[*WANTED], ignore_patterns=["*/*"], local_files_only=bool(why))
        )
    except Exception as error:  # of any type: those of the hub, and of what it speaks HTTP with
        raise ModelNotFound(
            f"no folder {brief(name, 200)!r}, and the hub does not give it ({why or first_line(error)}); expected a "
            "shipped name, a folder, or a hub name with safetensors and a network; check the name"
        ) from error


def unreachable() -> str:
    """Why the hub cannot be asked; empty where it answers. Its own client tries for half a minute."""
    from huggingface_hub import constants, get_session, is_offline_mode

    if is_offline_mode():
        return "HF_HUB_OFFLINE is set, and it is not cached"
    seconds = float(constants.HF_HUB_ETAG_TIMEOUT) if "HF_HUB_ETAG_TIMEOUT" in os.environ else SECONDS
    found = [f"no answer within {seconds:g} seconds, and it is not cached"]

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=seconds)
            found[0] = ""
        except Exception as error:  # of any type, see above
            found[0] = f"{first_line(error)}; and it is not cached"

    asking = Thread(target=ask, daemon=True)  # looking up a name has no limit of its own
    asking.start()
    asking.join(seconds)
    return found[0]


def check(folder: Path, source: str) -> dict[str, tuple[int, ...]]:
    """Refuses a folder that is not what it should be; the shapes of its weights, by name.

    Args:
        source: what the user called it.

    Raises:
        ModelNotFound: a file is missing, damaged, or not to be trusted.
        UnsupportedModel: an adapter, or quantized weights.
    """
    check_folder_seal(folder, ModelNotFound, "model")
    if not (folder / "config.json").is_file():
        raise ModelNotFound(
            f"no config.json in {source!r}; expected a Hugging Face folder; save the model with save_pretrained"
        )
    if (folder / "adapter_config.json").exists():
        raise UnsupportedModel(
            f"{source!r} holds an adapter (adapter_config.json), which names another model to be loaded; expected a "
            "whole model; merge it (merge_and_unload) and save that"
        )
    for path in sorted(folder.glob("*.json")):
        if path.is_file() and path.stat().st_size > LARGEST_JSON:
            raise _damaged(source, f"{path.name} has more than {LARGEST_JSON:,} bytes")
    found = {name: _config(folder / name, source) for name in CONFIGS if (folder / name).exists()}
    shapes = _shapes(folder, source)
    _check_sizes(found["config.json"], len(shapes), source)
    return shapes


def config_of(folder: Path) -> dict[str, Any]:
    """The configuration of a folder that was checked."""
    return _json(folder / "config.json", folder.name)


def _config(path: Path, source: str) -> dict[str, Any]:
    config = _json(path, source)
    for key, value in _entries(config):
        if key in REFUSED and value:
            kind = UnsupportedModel if key == "quantization_config" else ModelNotFound
            raise kind(
                f"{source!r} {REFUSED[key]} ({key} in {path.name}), which steerscope does not do; expected a model "
                f"that transformers knows by itself, as it was saved; take {key} out where it is one"
            )
    return config


class _NotRead(SteerscopeError):
    """It is no JSON object."""


def _json(path: Path, source: str) -> dict[str, Any]:
    try:
        return read_json(path, _NotRead, "JSON object", needed=lambda found: False)
    except _NotRead as error:
        reason = first_line(error.__cause__) if error.__cause__ else "no JSON object"
        raise _damaged(source, f"{path.name}: {reason}") from error


def _entries(found: Any) -> Iterator[tuple[str, Any]]:
    """Every entry of a document, at any depth."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            yield str(key), value
            yield from _entries(value)
    elif isinstance(found, list):
        for value in found:
            yield "", value
            yield from _entries(value)


def _check_sizes(config: Mapping[str, Any], tensors: int, source: str) -> None:
    """Numbers that would take memory or time before they are found to be wrong."""
    for key, value in _entries(config):
        if isinstance(value, bool) or not isinstance(value, int) or FREE.search(key):
            continue
        most = tensors if key in DEPTHS else LAYERS if key.endswith("layers") else NUMBERS if key else LISTED
        if abs(value) > most:
            raise _damaged(
                source, f"config.json has {key or 'an entry'} = {str(value)[:30]}, expected at most {most:,}"
            )


def _shapes(folder: Path, source: str) -> dict[str, tuple[int, ...]]:
    """Of every tensor in the files that hold the weights, from their headers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in _files(folder, source):
        try:
            with safe_open(str(folder / name), framework="pt") as file:
                shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
        except (OSError, ValueError, SafetensorError) as error:
            raise _damaged(source, f"{name}: {first_line(error)}") from error
    return shapes


def _files(folder: Path, source: str) -> list[str]:
    """Names of the files that hold the weights: one, or those that the index lists."""
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    if (folder / INDEX).is_file():
        listed = read_json(folder / INDEX, ModelNotFound, "index of weights", needed=lambda found: False).get(
            "weight_map"
        )
        names = list(dict.fromkeys(listed.values())) if isinstance(listed, dict) else [None]
        for name in names:
            if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name, re.ASCII):
                raise _damaged(
                    source, f"{INDEX} names {str(name)[:80]!r}, expected plain names of safetensors files in the folder"
                )
            if not (folder / name).is_file():
                raise _damaged(source, f"{name} is missing, {INDEX} names it")
        if names:
            return [str(name) for name in names]
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    found = f"only {', '.join(pickles[:5])}, a pickle, which can run code when it is read" if pickles else "no weights"
    raise ModelNotFound(
        f"{source!r} has {found}; expected model.safetensors; convert it where you trust it: "
        "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
    )


def check_gguf(found: Gguf, source: str) -> None:
    """Refuses what the header of a GGUF file says of its model, where that would take memory or time.

    Raises:
        ModelNotFound: it holds no model, or is one part of several; a size in it cannot be.
    """
    kind = found.text("general.architecture")
    if kind == "controlvector":
        raise ModelNotFound(
            f"{source!r} is a control vector; expected a GGUF file of a language model; read it as a vector"
        )
    if kind is None or found.text("general.type") not in (None, "model"):
        what = found.text("general.type") or kind or "no general.architecture"
        raise ModelNotFound(
            f"{source!r} is no model ({brief(what)}); expected a GGUF file of a language model; give one"
        )
    for key, field in found.fields.items():
        value = field.value if field.types[0] not in (STRING, ARRAY) else 0
        if key == "split.count" and value > 1:
            raise ModelNotFound(
                f"{source!r} is one of {value} parts of a model; expected a whole file; join them (llama-gguf-split "
                "--merge) and give that"
            )
        if key.endswith(".expert_count") and value > 1:
            raise UnsupportedModel(
                f"{source!r} routes each token to some of {value} experts ({kind}); the analysis assumes that an MLP "
                "is one function of its input; use a dense model"
            )
        most = len(found.tensors) if key.endswith("block_count") else NUMBERS
        if not key.startswith("general.") and isinstance(value, int) and not FREE.search(key) and abs(value) > most:
            raise _damaged(source, f"{brief(key)} is {str(value)[:30]}, expected at most {most:,}")


def check_memory(expected: int, there: int, source: str) -> None:
    """Refuses a configuration of a much larger model than the weights are.

    Args:
        expected: numbers in all parameters and buffers of the model that it describes.
        there: numbers in the files.
    """
    if expected > 4 * there + ROOM:
        raise _damaged(source, f"its configuration asks for {expected:,} numbers, and its weights are {there:,}")


def check_loaded(info: Mapping[str, Any], source: str) -> None:
    """Refuses weights that are not those of the configuration: what is missing would be made up.

    Args:
        info: what `from_pretrained` says of the loading.
    """
    extra = [key for key in info["unexpected_keys"] if not KEPT.search(key)]
    wrong = {"without": info["missing_keys"], "with": extra, "of other shapes": info["mismatched_keys"]}
    parts = [
        f"{how} {', '.join(map(str, sorted(keys, key=str)[:2]))} ({len(keys)})" for how, keys in wrong.items() if keys
    ]
    if parts or info["error_msgs"]:
        raise _damaged(
            source, f"its weights are not those of its configuration: {'; '.join(parts) or info['error_msgs'][0]}"
        )


KEPT = re.compile(r"(attn|attention)\.(masked_)?bias$|inv_freq$")  # masks and tables that old versions saved, too


def _damaged(source: str, reason: str) -> SteerscopeError:
    return ModelNotFound(
        f"{source!r} cannot be read ({reason}); expected a whole Hugging Face folder, or a GGUF file, of a causal "
        "language model; save it again"
    )


def first_line(error: BaseException) -> str:
    """What an error of a library says, for use inside a sentence."""
    lines = str(error).strip().split("\n")
    return f"{type(error).__name__}: {lines[0][:300].rstrip('.')}"
