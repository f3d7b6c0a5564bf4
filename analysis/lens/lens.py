"""`Lens`: what the stream between two layers would predict, by the logit lens or a tuned lens.

The logit lens reads a layer's stream as if it were the last. A tuned lens puts an affine translator before
that, trained so that its prediction comes close to the model's own (Belrose et al. 2023, arXiv 2303.08112).
A lens is a folder: `config.json`, as the package tuned-lens writes it, and its translators as
`translators.safetensors`, which carry the checksums of both; lenses that tuned-lens saved or publishes (`params.pt`)
are read with `weights_only=True`. They belong to the raw weights: folded ones have other streams.
"""

import json
import os
import re
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from zipfile import ZipFile, is_zipfile

import torch
from huggingface_hub import hf_hub_download
from jaxtyping import Float
from torch import Tensor
from tuned_lens.nn.lenses import TunedLens, TunedLensConfig

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadArgument, BadLens, OutputExists
from steerscope.analysis.files import read_plain, renewed
from steerscope.analysis.gate import Within, gated, shown
from steerscope.analysis.loading.folders import first_line, unreachable
from steerscope.analysis.model.models import Model
from steerscope.analysis.seals import CHECKSUMS, check_folder_seal, digest, read_json
from steerscope.analysis.tensors import read_tensors, tensor_bytes

from .unembed import ModelUnembed

FOLDER = "lens"  # in a model's own folder
CONFIG = "config.json"
WEIGHTS = "translators.safetensors"
FILES = (CONFIG, WEIGHTS)
THEIRS = "params.pt"  # of the package tuned-lens
LINEAR = "linear_tuned_lens"
PUBLISHED = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")
WANTED = f"expected a folder with {CONFIG} and {WEIGHTS} or {THEIRS}, or a published name and a network"


@gated
@dataclass(frozen=True, eq=False, repr=False)
class Lens:
    """A lens on one model.

    Attributes:
        tuned: its translators; None for the logit lens.
        source: where they come from.
    """

    model: Model
    unembed: ModelUnembed
    tuned: TunedLens | None
    source: str

    @property
    def name(self) -> str:
        return "logit lens" if self.tuned is None else "tuned lens"

    def __repr__(self) -> str:
        return f"<Lens of {brief(self.model.name, 40)}: {self.name} from {brief(self.source)}>"

    def describe(self) -> dict[str, str]:
        """What a manifest says of it."""
        return {"name": self.name, "source": self.source}

    @gated
    def logits(
        self, stream: Float[Tensor, "*rows d_model"], layer: Annotated[int, Within(0)]
    ) -> Float[Tensor, "*rows vocab"]:
        """What the stream before a layer predicts; layer `n_layers` is the model's own prediction.

        Raises:
            BadArgument: a layer that the model does not have, or a stream of another width or of integers.
        """
        model = self.model
        if layer > model.n_layers:
            raise BadArgument(
                f"layer {layer}; expected 0 to {model.n_layers}, the last for the stream behind all; choose one"
            )
        if stream.ndim < 1 or stream.shape[-1] != model.d_model or not stream.is_floating_point():
            raise BadArgument(
                f"a stream of {stream.dtype} and shape {tuple(stream.shape)}; expected real numbers, {model.d_model} "
                f"in the last dimension; give activations of {model.name}"
            )
        stream = stream.to(model.device, model.dtype)
        found: Tensor
        if self.tuned is None or layer == model.n_layers:
            found = self.unembed(stream)
        else:
            found = self.tuned(stream, layer)
        return found

    def files(self) -> dict[str, bytes]:
        """What a folder holds of a tuned lens, by name.

        Raises:
            BadLens: a logit lens.
        """
        if self.tuned is None:
            raise BadLens("a logit lens has nothing to save; expected a tuned lens; train one with train_lens")
        config = (json.dumps(self.tuned.config.to_dict(), indent=1) + "\n").encode()
        translators = self.tuned.layer_translators.state_dict()
        return {CONFIG: config, WEIGHTS: tensor_bytes(translators, {CONFIG: digest(config)})}

    @gated
    def save(self, folder: str | Path) -> Path:
        """Writes a tuned lens into a folder, where it takes the place of a lens that `save` wrote.

        Raises:
            BadLens: a logit lens.
            OutputExists: the folder holds a result, or a configuration of something else.
            DiskFull, CannotWrite: the system refuses; what was there stays.
        """
        files, folder = self.files(), Path(folder)
        check_place(folder)
        with renewed(folder, {*FILES, CHECKSUMS}.__contains__) as fresh:
            for name, content in files.items():
                (fresh / name).write_bytes(content)
        return folder


def check_place(folder: Path) -> None:
    """Refuses a folder in which a lens would take the place of something else.

    Raises:
        OutputExists: see `Lens.save`.
    """
    there = _names(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputExists(f"{str(folder)!r} is a file; expected a folder for a lens; choose another name")
    taken = "a result" if "manifest.json" in there else "the config.json of something else"
    if "manifest.json" in there or (CONFIG in there and WEIGHTS not in there):
        raise OutputExists(
            f"{str(folder)!r} holds {taken}, which no lens may replace; expected another folder; choose one"
        )


@gated
def logit_lens(model: Model) -> Lens:
    """The lens that needs no training."""
    return Lens(model, ModelUnembed(model), None, "logit lens")


@gated
def new_lens(model: Model) -> Lens:
    """A tuned lens before its training: it says what the logit lens says."""
    unembed = ModelUnembed(model)
    config = TunedLensConfig(
        base_model_name_or_path=model.name, d_model=model.d_model, num_hidden_layers=model.n_layers
    )
    return Lens(model, unembed, TunedLens(unembed, config).to(model.device), "untrained")


@gated
def load_lens(model: Model, source: Lens | str | Path | None = None) -> Lens:
    """A lens for a model.

    Args:
        source: a folder, the name of a lens that tuned-lens publishes (asks the hub), or "logit"; by default the
            one in the model's own folder, as the shipped models have, and the logit lens where there is none. A lens
            that is there already is given back.

    Raises:
        BadLens: no such lens, one of another model, or one that has changed since it was written.
    """
    if isinstance(source, Lens):
        return _same(source, model)
    own = Path(model.source or "") / FOLDER
    if source == "logit" or (source is None and CONFIG not in _names(own)):
        return logit_lens(model)
    place = own if source is None else Path(source)
    there = _names(place)
    if CONFIG in there and WEIGHTS in there:
        config, state = _ours(place, model)
    elif CONFIG in there and THEIRS in there:
        config, state = _theirs(place / CONFIG, place / THEIRS, model)
    elif isinstance(source, str) and not there and PUBLISHED.fullmatch(source):
        config, state = _theirs(*_published(source), model)
    else:
        raise BadLens(f"{str(place)!r} holds no lens; {WANTED}; train one with steerscope lens train")
    unembed = ModelUnembed(model)
    _check_hash(config.unembed_hash, unembed, model, str(place))
    lens = TunedLens(unembed, config).to(device=model.device)
    try:
        lens.layer_translators.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:  # names or shapes that differ; something else altogether
        raise BadLens(
            f"the weights of the lens {str(place)!r} do not fit its config.json; expected both of one lens; "
            "train it again"
        ) from error
    if not all(bool(x.isfinite().all()) for x in lens.layer_translators.parameters()):
        raise BadLens(
            f"the lens {str(place)!r} holds numbers that are not finite; expected finite ones; train it again at a "
            "lower rate"
        )
    lens.requires_grad_(False)
    return Lens(model, unembed, lens.to(model.dtype), str(place))


def _names(folder: Path) -> set[str]:
    """What lies in a folder; nothing where there is none."""
    try:
        return {path.name for path in folder.iterdir()}
    except (OSError, ValueError):
        return set()


def _same(lens: Lens, model: Model) -> Lens:
    """A lens that is there already, if it is one of this model."""
    other = lens.model
    if other is not model and other.weights_hash != model.weights_hash:
        raise BadLens(f"a lens on {other.name}; expected one on {model.name}; load or train one on it")
    return lens


def _ours(folder: Path, model: Model) -> tuple[TunedLensConfig, dict[str, Tensor]]:
    """A lens that steerscope wrote, as it was written."""
    check_folder_seal(folder, BadLens, "lens")
    state, about = read_tensors(folder / WEIGHTS, BadLens, "file of translators", device=str(model.device))
    config = _config(folder / CONFIG, model)
    if about.get(CONFIG) != digest(read_plain(folder / CONFIG)):
        raise BadLens(
            f"{CONFIG} and {WEIGHTS} in {str(folder)!r} are not of one lens, or one of them has changed since it was "
            "written; expected both as they were; bring them back, or train the lens again"
        )
    return config, state


def _theirs(config: Path, weights: Path, model: Model) -> tuple[TunedLensConfig, dict[str, Tensor]]:
    """A lens that the package tuned-lens wrote; no code that its pickle names is run."""
    found = _config(config, model)
    size = 16 * model.n_layers * model.d_model * (model.d_model + 1) + 1_000_000
    try:
        if is_zipfile(weights) and sum(entry.file_size for entry in ZipFile(weights).infolist()) > size:
            raise ValueError(f"more than {size:,} bytes when unpacked")
        state = torch.load(weights, map_location=model.device, weights_only=True)
    except Exception as error:  # torch raises all kinds
        raise BadLens(
            f"{str(weights)!r} holds no translators ({first_line(error)}); {WANTED}; train one with steerscope lens "
            "train"
        ) from error
    return found, state


def _published(name: str) -> tuple[Path, Path]:
    """Configuration and weights of a lens that the hub has, or had when it was asked before."""
    why = unreachable()
    repository = os.environ.get("TUNED_LENS_REPO_ID", "AlignmentResearch/tuned-lens")
    kind = os.environ.get("TUNED_LENS_REPO_TYPE", "space")
    get = partial(hf_hub_download, repository, repo_type=kind, subfolder=f"lens/{name}", local_files_only=bool(why))
    try:
        return Path(get(CONFIG)), Path(get(THEIRS))
    except Exception as error:  # the hub raises all kinds
        raise BadLens(
            f"{name!r} holds no lens and is none that tuned-lens publishes ({why or first_line(error)}); {WANTED}; "
            "train one with steerscope lens train"
        ) from error


def _config(path: Path, model: Model) -> TunedLensConfig:
    """A configuration that fits a model."""
    found: dict[str, Any] = read_json(path, BadLens, "configuration of a lens", needed=lambda about: False)
    layers, width = found.get("num_hidden_layers"), found.get("d_model")
    if (width, layers) != (model.d_model, model.n_layers):
        raise BadLens(
            f"the lens {str(path.parent)!r} is for {shown(layers)} layers of {shown(width)} dimensions, {model.name} "
            f"has {model.n_layers} of {model.d_model}; expected a lens of this model; train one with steerscope lens "
            "train"
        )
    expected, kind = found.get("unembed_hash"), found.get("lens_type", LINEAR)
    if found.get("bias", True) is not True or kind != LINEAR or not isinstance(expected, str | None):
        raise BadLens(
            f"{str(path)!r} describes no linear lens with a bias; expected what tuned-lens writes; train one with "
            "steerscope lens train"
        )
    return TunedLensConfig(
        str(found.get("base_model_name_or_path", "")), model.d_model, model.n_layers, unembed_hash=expected
    )


def _check_hash(expected: str | None, unembed: ModelUnembed, model: Model, source: str) -> None:
    if expected is None or expected == unembed.unembedding_hash():
        return
    if model.dtype == torch.float32:
        raise BadLens(
            f"the lens {source!r} was trained for another unembedding than that of {model.name}; expected a lens of "
            "this very model, with raw weights; train one with steerscope lens train"
        )
    warnings.warn(
        f"whether the lens {source!r} belongs to {model.name} cannot be checked in {model.dtype}", stacklevel=3
    )
