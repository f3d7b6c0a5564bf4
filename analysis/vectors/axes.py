"""Which axis of an array is what: nothing is guessed.

1. A file holds one array, or several by name. `key` takes one; with axes that begin with `layers`, names are layers.
2. `axes` names every axis: of `layers`, `heads`, `positions`, `width`, the last one always `width`. Only an array with
   one axis that is longer than 1 explains itself.
3. `layer` (and `head`, `position`) take one along their axis; where an array has no such axis, they say what it is of.
4. `site` says which activation it is: ours (`resid_pre`, `attn_out`, `mlp_out`, `z`), or one of two names for the
   stream that are counted otherwise: `resid_post`, behind block l, is `resid_pre` of layer l + 1; `hidden_states`, as
   Hugging Face's `output_hidden_states` counts, is `resid_pre` of the same number.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadVector
from steerscope.analysis.model.nodes import Site, parse_site

AXES = ("layers", "heads", "positions", "width")
STREAM = {"resid_pre": 0, "hidden_states": 0, "resid_post": 1}  # how far the layer of our resid_pre is
SITES = (*STREAM, "attn_out", "mlp_out", "z")
SHOWN = 6  # arrays in a message

Placed = dict[Site, Float[Tensor, "pos width"]]


@dataclass(frozen=True)
class Told:
    """What a user says of a file."""

    path: str
    site: str | None = None
    axes: str | None = None
    layer: int | None = None
    head: int | None = None
    position: int | None = None
    key: str | None = None

    def refuse(self, what: str, expected: str) -> NoReturn:
        raise BadVector(f"{self.path} {what}; expected {expected}")


def placed(arrays: Mapping[str, Tensor], told: Told) -> Placed:
    """By site, the rows of a vector.

    Raises:
        BadVector: the array, an axis, the site or the layer is not told, or does not fit.
    """
    name, layer, head = _site(told)
    array, axes, named = _array(arrays, told)
    if ("heads" in axes or head is not None) != (name == "z"):
        told.refuse(f"is read at {name}", "heads (head, or an axis of that name) with the site z, and with it alone")
    if "layers" not in axes and layer is None:
        told.refuse(f"holds an array of shape {list(array.shape)}, of no layer", "to be told its layer; give layer")
    if "positions" not in axes and told.position is not None:
        told.refuse(f"has no axis of positions, got position={told.position}", "it to be left out")
    array = array.permute([axes.index(axis) for axis in AXES if axis in axes])
    numbers: dict[str, list[int]] = {}
    for place, (axis, at) in enumerate((("layers", layer), ("heads", head), ("positions", told.position))):
        if axis not in axes:
            array, numbers[axis] = array.unsqueeze(place), [at or 0]
            continue
        there = named if axis == "layers" and named else list(range(array.shape[place]))
        wanted = at if at is None or at >= 0 else at + len(there)
        if wanted is not None and wanted not in there:
            told.refuse(f"has {axis} {_listed(there)}, got {axis[:-1]}={at}", "one of them")
        kept = there if wanted is None else [wanted]
        array, numbers[axis] = array.index_select(place, torch.tensor([there.index(n) for n in kept])), kept
    return {
        _place(name, number, own if name == "z" else None): array[row, column]
        for row, number in enumerate(numbers["layers"])
        for column, own in enumerate(numbers["heads"])
    }


def _place(name: str, layer: int, head: int | None) -> Site:
    return Site("resid_pre", layer + STREAM[name]) if name in STREAM else Site(name, layer, head)


def _site(told: Told) -> tuple[str, int | None, int | None]:
    """The name of a site, and its layer and head where they are told with it."""
    if told.site is None:
        told.refuse(
            "does not say where it was recorded",
            f"site: one of {', '.join(SITES)}, or for example L5.resid_pre; resid_post is what a block gives (CAA, "
            "repeng), hidden_states counts as Hugging Face does (persona vectors)",
        )
    if told.site in SITES:
        return told.site, told.layer, told.head
    found = parse_site(told.site)
    if found.name not in SITES or told.layer not in (None, found.layer) or told.head not in (None, found.head):
        told.refuse(f"is read at {found}", f"one of {', '.join(SITES)}, and no other layer or head beside it")
    return found.name, found.layer, found.head


def _array(arrays: Mapping[str, Tensor], told: Told) -> tuple[Tensor, list[str], list[int]]:
    """The array that is meant, the names of its axes, and the numbers of its layers where names say them."""
    if told.key is not None and told.key not in arrays:
        told.refuse(f"holds {_shapes(arrays)}, and nothing under {brief(told.key)!r}", "key to name one of them")
    if told.key is not None or len(arrays) == 1:
        return *_axes(arrays[told.key] if told.key is not None else next(iter(arrays.values())), told), []
    if told.axes is None or not told.axes.startswith("layers,"):
        told.refuse(
            f"holds {len(arrays)} arrays ({_shapes(arrays)})",
            "the one that is meant, or what they are: give key, or axes='layers,width' where each is one layer's",
        )
    found = [re.findall(r"[0-9]+", name) for name in arrays]
    layers = [int(numbers[0]) for numbers in found if len(numbers) == 1 and len(numbers[0]) <= 6]
    if len(set(layers)) < len(arrays) or len({x.shape for x in arrays.values()}) > 1:
        told.refuse(
            f"holds arrays ({_shapes(arrays)}) that are not one a layer",
            "names with one number each, all different, and one shape; give key and layer, one at a time",
        )
    return *_axes(torch.stack(list(arrays.values())), told), layers


def _axes(array: Tensor, told: Told) -> tuple[Tensor, list[str]]:
    shape = list(array.shape)
    if told.axes is None and shape and array.numel() == shape[-1]:  # all other axes have one entry, whatever they are
        return array.reshape(-1), ["width"]
    axes = [part.strip() for part in (told.axes or "").split(",")]
    if len(axes) != len(shape) or len(set(axes)) < len(axes) or not set(axes) <= set(AXES) or axes[-1] != "width":
        got = "" if told.axes is None else f", got axes={brief(told.axes)!r}"
        told.refuse(
            f"holds an array of shape {shape}{got}",
            f"to be told which axis is what, one name for each of {', '.join(AXES)}, the last one width; give for "
            "example axes='layers,width' or axes='positions,width'",
        )
    return array, axes


def _shapes(arrays: Mapping[str, Tensor]) -> str:
    shapes = [f"{brief(name)} {list(x.shape)}".strip() for name, x in arrays.items()]
    return ", ".join(shapes[:SHOWN]) + (f" and {len(shapes) - SHOWN} more" if len(shapes) > SHOWN else "")


def _listed(numbers: list[int]) -> str:
    return brief(", ".join(map(str, numbers)))
