"""A feature of a sparse autoencoder as a vector: its row (or column) of the decoder, as a safetensors file holds it.

`v = W_dec[feature]`: what one unit of the feature adds to the activation that the autoencoder was trained on. Nothing
else of the autoencoder is read.

Sources: Bricken et al., "Towards Monosemanticity", 2023; Templeton et al., "Scaling Monosemanticity", 2024 (steering by
a feature). Names and layouts: SAELens and Gemma Scope `W_dec` `[features, width]`; dictionary_learning `decoder.weight`
`[width, features]`, a torch linear map's.
What it cannot see: whether the autoencoder was trained on this model, at this site.
"""

from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from steerscope.analysis.brief import brief, quoted
from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import Whole, gated
from steerscope.analysis.model.models import Model

from .plans import place
from .vector import SteeringVector

EXAMPLE = {"file": "sae.safetensors", "feature": 3, "layer": 1}
DECODERS = ("W_dec", "decoder.weight", "decoder")  # names that are looked for


@gated(error=BadVector)
def sae(
    model: Model,
    file: str,
    feature: Whole,
    layer: int = 0,
    *,
    site: str = "resid_pre",
    head: int | None = None,
    key: str | None = None,
    axes: Literal["features,width", "width,features"] | None = None,
) -> SteeringVector:
    """A feature's direction in the decoder of a sparse autoencoder, `[1, width]`.

    Args:
        file: a safetensors file with the decoder's matrix.
        feature: number of the feature, from 0.
        layer: the layer that the autoencoder was trained at (of what a block gives: the next one).
        site: the site that it was trained at; resid_pre, attn_out, mlp_out, or z with a head.
        head: head, for the site z.
        key: name of the matrix in the file; W_dec, decoder.weight or decoder by default.
        axes: which way round it lies; needed where it is square.

    Raises:
        BadVector: no such file, matrix or feature, or one that does not fit the model.
        BadNode: the model has no such layer, site or head.
    """
    at = place(model, layer, site, head)
    width = model.width(at)
    try:
        if not Path(file).is_file():
            raise OSError("there is no such plain file")
        with safe_open(file, framework="pt") as opened:
            shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}
            name = _name(file, shapes, key)
            by_row = _by_row(file, name, shapes[name], width, axes)
            count = shapes[name][0 if by_row else 1]
            if feature >= count:
                raise BadVector(
                    f"{quoted(file)} has {count:,} features, got feature={feature}; expected 0 to {count - 1}"
                )
            matrix = opened.get_slice(name)
            values = matrix[feature] if by_row else matrix[:, feature]
    except (OSError, ValueError, RuntimeError, SafetensorError) as reason:
        raise BadVector(
            f"{quoted(file)} is no sparse autoencoder ({brief(str(reason), 200)}); expected a safetensors file with a "
            "decoder; check it"
        ) from reason
    label = f"feature {feature} of {Path(file).name}"
    source = {"recipe": "sae", "file": str(file), "feature": feature, "key": name, "model": model.name, "label": label}
    return SteeringVector(values.double(), at, source)


def _name(file: str, shapes: dict[str, list[int]], key: str | None) -> str:
    """The name of the decoder's matrix."""
    listed = brief(", ".join(f"{name} {shape}" for name, shape in shapes.items()), 300)
    found = [name for name in ([key] if key is not None else DECODERS) if len(shapes.get(name, ())) == 2]
    if len(found) != 1:
        wanted = f"a matrix {key}" if key is not None else f"one of {', '.join(DECODERS)}"
        raise BadVector(f"{quoted(file)} holds {listed or 'nothing'}; expected {wanted}; name the decoder with key")
    return found[0]


def _by_row(file: str, name: str, shape: list[int], width: int, axes: str | None) -> bool:
    """Whether a feature is a row."""
    fits = [shape[1] == width, shape[0] == width]
    if axes is None and all(fits):
        raise BadVector(
            f"{name} of {quoted(file)} is square, {shape}; expected to be told which way round it lies; give "
            "axes='features,width' or 'width,features'"
        )
    by_row = fits[0] if axes is None else axes == "features,width"
    if not fits[0 if by_row else 1]:
        raise BadVector(
            f"{name} of {quoted(file)} is of shape {shape}; expected directions of width {width}, the model's at this "
            "site; choose another file, site or axes"
        )
    return by_row
