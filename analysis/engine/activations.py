"""Activations of prompts at a site, read through the engine."""

from collections.abc import Sequence

from torch import Tensor

from steerscope.analysis.gate import gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site

from .edits import Variant
from .run import run


@gated
def record(model: Model, prompts: Sequence[Sequence[int]], site: Site) -> list[Tensor]:
    """The activation of every prompt at a site: `[pos, width]` each, on the model's device."""
    model.check(site)
    variants = [Variant(index) for index in range(len(prompts))]
    found: dict[int, Tensor] = {}
    for chunk, readout in run(model, prompts, variants, reads="none", sites=[(site.name, site.layer)]):
        activations = readout.activations[site.name, site.layer]
        for row, index in enumerate(chunk):
            x = activations[row, : len(prompts[index])]
            found[index] = x if site.head is None else x[:, site.head]
    return [found[index] for index in range(len(prompts))]
