"""Vectors in files of every kind, by suffix: `read_vector`, and what `save` writes.

| suffix | read | written | what it says of itself |
| --- | --- | --- | --- |
| .safetensors | ours; any other with tensors of any names | yes | ours: all; others: nothing |
| .gguf | control vectors of llama.cpp, repeng, EasySteer | yes | the block of every direction |
| .pt, .pth, .bin | a tensor, a list or a dictionary of tensors (`weights_only`) | no | nothing |
| .npy | an array | no | nothing |

What says nothing of itself is read as it is told (see `axes`). A file of one vector gives a `SteeringVector`, one of
several layers a `VectorBundle`; a vector of several layers is never one of several positions.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadVector, SteerscopeError
from steerscope.analysis.gate import Whole, gated
from steerscope.analysis.ggufs import read_gguf
from steerscope.analysis.model.models import Model
from steerscope.analysis.opening import named

from .arrays import Arrays, numpy_array, safe_tensors, torch_arrays
from .axes import Told, placed
from .bundle import VectorBundle
from .stored import BEHIND, FAULTS, Entry, Stored, control_held, held_of
from .vector import SteeringVector

Found = SteeringVector | VectorBundle


@gated(error=BadVector)
def read_vector(
    path: str | Path,
    *,
    site: str | None = None,
    axes: str | None = None,
    layer: Whole | None = None,
    head: Whole | None = None,
    position: int | None = None,
    key: str | None = None,
    model: Model | None = None,
) -> SteeringVector | VectorBundle:
    """The vector, or the vectors by layer, of a file of any kind.

    Args:
        path: `.safetensors`, `.gguf`, `.pt` or `.npy`.
        site: where it was recorded, of a file that does not say: `resid_pre`, `resid_post` (what a block gives: CAA,
            repeng), `hidden_states` (counted as Hugging Face does: persona vectors), `attn_out`, `mlp_out`, `z`; or all
            of it, such as `L5.resid_post`. Of a control vector: `resid_pre` of the next block (the default), or
            `mlp_out` of the same one, which is the same injection and has a place for the last block's.
        axes: names of all axes of an array, such as `layers,width`: of layers, heads, positions, width.
        layer: the layer that is taken, or that the array is of.
        head: the head, of `z`.
        position: the position that is taken.
        key: the name of the array that is taken.
        model: what must fit.

    Raises:
        BadVector: not readable, damaged, no vector, or something is needed that is not told; the message lists the
            arrays with their shapes.
        BadNode: the model has no such layer or head.
    """
    told = Told(named(path), site, axes, layer, head, position, key)
    suffix = Path(path).suffix.lower()
    reader = READERS.get(suffix)
    if reader is None:
        raise BadVector(
            f"{named(path)} has the suffix {brief(suffix)!r}; expected one of {', '.join(READERS)}; rename it, or save "
            "it as one of these"
        )
    found = reader(path, told)
    if model is not None:
        for vector in found.values() if isinstance(found, VectorBundle) else [found]:
            _fits(model, vector, told)
    return found


def _safetensors(path: str | Path, told: Told) -> Found:
    tensors, about = safe_tensors(path)
    try:
        held = held_of(tensors, about)
    except FAULTS as error:
        raise _none(told, error) from error
    return _told(told, tensors) if held is None else _ours(told, held)


def _control(path: str | Path, told: Told) -> Found:
    if told.site not in (None, *BEHIND):
        told.refuse(f"is read at {told.site}", f"{' or '.join(BEHIND)}: a control vector says its layers")
    file = read_gguf(path, BadVector)
    try:
        held, ours = control_held(file, told.site)
    except FAULTS as error:
        raise _none(told, error) from error
    return _ours(told, held, ("site",) if not ours else ())


def _none(told: Told, error: Exception) -> BadVector:
    return BadVector(
        f"{told.path} is no steering vector ({brief(str(error), 300)}); expected what steerscope, or one of the "
        "programs in docs/vectors.md, wrote; bring it back, or make it again"
    )


def _ours(told: Told, held: Stored, may: tuple[str, ...] = ()) -> Found:
    """What says itself where it is; a layer can be taken of several."""
    more = [name for name in ("site", "axes", "head", "position", "key") if getattr(told, name) is not None]
    if not set(more) <= set(may):
        told.refuse(f"says itself where it was recorded, got {more[0]}", "layer at most; leave the others out")
    return _found(told, held)


def _told(told: Told, arrays: Arrays) -> Found:
    """What says nothing of itself."""
    try:
        found = placed(arrays, told)
    except SteerscopeError as error:
        raise error if isinstance(error, BadVector) else BadVector(f"{told.path}: {error}") from error
    if not found:
        told.refuse("holds no layers", "at least one; check it")
    if len({site.head for site in found}) > 1:
        told.refuse(f"holds {len(found)} vectors of several heads", "one head at a time; give head")
    entries = tuple(Entry(site, values, {}) for site, values in found.items())
    return _found(replace(told, layer=None), Stored(entries, None if len(entries) == 1 else {}))


def _found(told: Told, held: Stored) -> Found:
    layers = {one.site.layer: one for one in held.entries}
    if told.layer is not None:
        if told.layer not in layers:
            told.refuse(
                f"holds vectors of layers {brief(', '.join(map(str, layers)))}, got {told.layer}", "one of them"
            )
        layers, held = {told.layer: layers[told.layer]}, Stored((layers[told.layer],))
    given = {"recipe": "given", "label": Path(told.path.strip("'\"")).name}
    try:
        vectors = {layer: SteeringVector(one.values, one.site, one.source or given) for layer, one in layers.items()}
        if held.bundle is None:
            return vectors[held.entries[0].site.layer]
        return VectorBundle(vectors, held.bundle or given)
    except BadVector as error:
        raise _none(told, error) from error


def _fits(model: Model, vector: SteeringVector, told: Told) -> None:
    """Refuses a vector that the model has no place for."""
    last = model.n_layers - 1
    if vector.site.name == "resid_pre" and vector.site.layer == last + 1:
        told.refuse(
            f"has a direction behind the last block of {model.name}, where no later one reads it",
            f"site='mlp_out', which reads it as added to what block {last}'s MLP writes, or another layer; or read it "
            f"without model= and leave that one out with .at(...)",
        )
    model.check(vector.site)
    width = int(vector.values.shape[1])
    if width != model.width(vector.site):
        told.refuse(
            f"holds vectors of width {width}; {model.name} has {model.width(vector.site)} at {vector.site}",
            "a vector of this model; choose another",
        )


READERS: Mapping[str, Callable[[str | Path, Told], Found]] = {
    ".safetensors": _safetensors,
    ".gguf": _control,
    **dict.fromkeys((".pt", ".pth", ".bin"), lambda path, told: _told(told, torch_arrays(path))),
    ".npy": lambda path, told: _told(told, numpy_array(path)),
}
