"""`Lens`: what the stream between two layers would predict, by the logit lens or a tuned lens.

The logit lens reads a layer's stream as if it were the last. A tuned lens puts an affine translator before
that, trained so that its prediction comes close to the model's own (Belrose et al. 2023, arXiv 2303.08112).
A lens is a folder: `config.json`, as the package tuned-lens writes it, and its translators as
`translators.safetensors`; lenses that tuned-lens saved or publishes (`params.pt`) are read with `weights_only=True`.
They belong to the raw weights: folded ones have other streams.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from tuned_lens.load_artifacts import load_lens_artifacts
from tuned_lens.nn.lenses import TunedLens, TunedLensConfig

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadLens
from steerscope.analysis.model.models import Model

from .unembed import ModelUnembed

FOLDER = "lens"  # in a model's own folder
WEIGHTS = "translators.safetensors"


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

    def logits(self, stream: Float[Tensor, "*rows d_model"], layer: int) -> Float[Tensor, "*rows vocab"]:
        """What the stream before a layer predicts; layer `n_layers` is the model's own prediction."""
        found: Tensor
        if self.tuned is None or layer == self.model.n_layers:
            found = self.unembed(stream)
        else:
            found = self.tuned(stream, layer)
        return found

    def save(self, folder: str | Path) -> Path:
        """Writes a tuned lens into a folder."""
        if self.tuned is None:
            raise BadLens("a logit lens has nothing to save; expected a tuned lens; train one with train_lens")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: x.detach().contiguous() for name, x in self.tuned.layer_translators.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        (folder / "config.json").write_text(json.dumps(self.tuned.config.to_dict(), indent=1) + "\n")
        return folder


def logit_lens(model: Model) -> Lens:
    """The lens that needs no training."""
    return Lens(model, ModelUnembed(model), None, "logit lens")


def new_lens(model: Model) -> Lens:
    """A tuned lens before its training: it says what the logit lens says."""
    unembed = ModelUnembed(model)
    config = TunedLensConfig(
        base_model_name_or_path=model.name, d_model=model.d_model, num_hidden_layers=model.n_layers
    )
    return Lens(model, unembed, TunedLens(unembed, config).to(model.device), "untrained")


def load_lens(model: Model, source: Lens | str | Path | None = None) -> Lens:
    """A lens for a model.

    Args:
        source: a folder, the name of a lens that tuned-lens publishes (asks the hub), or "logit"; by default the
            one in the model's own folder, as the shipped models have, and the logit lens where there is none. A lens
            that is there already is given back.

    Raises:
        BadLens: no such lens, or one of another model.
    """
    if isinstance(source, Lens):
        return source
    if source is None:
        own = Path(model.source or "") / FOLDER
        if not (own / "config.json").is_file():
            return logit_lens(model)
        source = own
    if source == "logit":
        return logit_lens(model)
    try:
        config, state = _read(source, model)
    except Exception as error:  # the hub, the file system and torch raise all kinds
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise BadLens(
            f"{str(source)!r} holds no lens and is none that tuned-lens publishes ({reason}); expected a folder with "
            f"config.json and {WEIGHTS} or params.pt, or a published name and a network; train one with steerscope "
            "lens train"
        ) from error
    if (config.d_model, config.num_hidden_layers) != (model.d_model, model.n_layers):
        raise BadLens(
            f"the lens {str(source)!r} is for {config.num_hidden_layers} layers of {config.d_model} dimensions, "
            f"{model.name} has {model.n_layers} of {model.d_model}; expected a lens of this model; train one with "
            "steerscope lens train"
        )
    unembed = ModelUnembed(model)
    _check_hash(config.unembed_hash, unembed, model, str(source))
    lens = TunedLens(unembed, config).to(device=model.device)
    try:
        lens.layer_translators.load_state_dict(state)
    except RuntimeError as error:
        raise BadLens(
            f"the weights of the lens {str(source)!r} do not fit its config.json; expected both of one lens; "
            "train it again"
        ) from error
    lens.requires_grad_(False)
    return Lens(model, unembed, lens.to(model.dtype), str(source))


def _read(source: str | Path, model: Model) -> tuple[TunedLensConfig, dict[str, Tensor]]:
    own = Path(source)
    if (own / WEIGHTS).is_file():
        config_path, state = own / "config.json", load_file(own / WEIGHTS, device=str(model.device))
    else:
        config_path, weights_path = load_lens_artifacts(str(source))
        state = torch.load(weights_path, map_location=model.device, weights_only=True)
    return TunedLensConfig.from_dict(json.loads(Path(config_path).read_text())), state


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
