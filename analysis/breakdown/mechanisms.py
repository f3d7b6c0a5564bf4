"""Mechanisms by which a large coefficient may break a model, each as something that can be undone.

    patterns   where heads look: all patterns are those of the clean run
    seen       that later positions see the injected ones at all: their keys are hidden, the others share the attention
    values     what heads move from the injected positions: their values are those of the clean run
    scales     what norms divide by: those of the clean run, at positions that are not injected (there the vector's own
               length would be let loose); everywhere, where no other position is scored
    norm       the length of the injected stream: it is set back to that of the clean stream, its direction kept
    mean       the part of the vector along the mean clean stream
    rogue      its part in the largest dimensions of the stream
    sink       its part along what makes the first position's stream special

The last four change the vector, the others the run; any subset can be undone together.
"""

from collections.abc import Iterable, Sequence, Set
from functools import cached_property
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import SCALES, Site
from steerscope.analysis.model.norms import readers, sites, stream
from steerscope.analysis.model.positions import later
from steerscope.analysis.question.experiment import Edits, Experiment

from .shapes import WAYS
from .strength import put, rows, site, streams

MECHANISMS = ("patterns", "seen", "values", "scales", "norm", "mean", "rogue", "sink")
ROGUE = 0.01  # share of the dimensions that count as rogue
Rows = list[tuple[tuple[int, ...], Float[Tensor, "pos d_model"]]]


def hide(model: Model, layers: Iterable[int], keys: Sequence[int], queries: Sequence[int]) -> tuple[Edit, ...]:
    """Edits that hide positions from later ones, in all heads of some layers."""
    if not queries:
        return ()
    unseen = torch.zeros(max(*keys, *queries) + 1)
    unseen[list(keys)] = 1
    return tuple(
        Edit(Site("pattern", layer, head), "hide", unseen, tuple(queries))
        for layer in layers
        for head in range(model.n_heads)
    )


class Undo:
    """The steered run at one coefficient with some mechanisms undone."""

    def __init__(self, experiment: Experiment, coefficient: float) -> None:
        self.experiment, self.model = experiment, experiment.model
        self.site = site(experiment)
        self.added = rows(experiment, coefficient)
        self.lengths = [len(ids) for ids in experiment.prompts.full]
        # attention of the injection's own layer has run already, where the vector comes after it
        self.first = self.site.layer if self.site.name == "resid_pre" else self.site.layer + 1

    @property
    def there(self) -> tuple[str, ...]:
        """The mechanisms that this model has."""
        gone = set() if any(self._begun) else {"sink"}
        if not readers(self.model):
            gone.add("scales")
        if self.first >= self.model.n_layers:
            gone |= {"patterns", "seen", "values"}
        return tuple(name for name in MECHANISMS if name not in gone)

    def edits(self, undone: Set[str]) -> Edits:
        """The edits of every prompt."""
        changed = put(self.experiment, self._vectors(undone))
        parts: list[Sequence[tuple[Edit, ...]]] = [changed]
        if "patterns" in undone:
            parts.append(self._patterns)
        if "seen" in undone:
            parts.append(self.hidden)
        if "values" in undone:
            parts.append(self._values)
        if "scales" in undone:
            parts.append(self._scales)
        return tuple(tuple(edit for part in parts for edit in part[p]) for p in range(len(self.lengths)))

    # The vector.

    def _vectors(self, undone: Set[str]) -> Rows:
        found = []
        for (where, value), x in zip(self.added, self._streams, strict=True):
            if "rogue" in undone:
                value = value.index_fill(1, self._rogue, 0.0)
            for name in ("mean", "sink"):
                if name in undone:
                    along = self._directions[name]
                    value = value - (value @ along)[:, None] * along
            if "norm" in undone:
                before = x[list(where)]
                value = WAYS["same norm"](before, value, 1.0) - before
            found.append((where, value))
        return found

    @cached_property
    def _streams(self) -> list[Float[Tensor, "pos d_model"]]:
        return streams(self.experiment)

    @property
    def _begun(self) -> list[bool]:
        """By prompt, whether it begins with BOS."""
        return [prompt.has_bos for prompt in self.experiment.layouts]

    @cached_property
    def _elsewhere(self) -> Float[Tensor, "pos d_model"]:
        """Clean streams of all prompts, BOS left out."""
        return torch.cat([x[int(begun) :] for x, begun in zip(self._streams, self._begun, strict=True)])

    @cached_property
    def _directions(self) -> dict[str, Float[Tensor, " d_model"]]:
        mean = self._elsewhere.mean(dim=0)
        begun = [x[0] for x, begun in zip(self._streams, self._begun, strict=True) if begun]
        first = torch.stack(begun).mean(dim=0) - mean if begun else torch.zeros_like(mean)
        return {name: x / x.norm().clamp_min(1e-30) for name, x in (("mean", mean), ("sink", first))}

    @cached_property
    def _rogue(self) -> Tensor:
        count = ceil(ROGUE * self.model.d_model)
        return self._elsewhere.square().mean(dim=0).topk(count).indices

    # The run.

    @cached_property
    def _patterns(self) -> list[tuple[Edit, ...]]:
        layers, heads = range(self.first, self.model.n_layers), range(self.model.n_heads)
        kept = self.experiment.activations(None, [("pattern", n) for n in layers])
        return [
            tuple(Edit(Site("pattern", n, h), "set", own["pattern", n][h]) for n in layers for h in heads)
            for own in kept
        ]

    @cached_property
    def hidden(self) -> list[tuple[Edit, ...]]:
        """By prompt, what hides the injected positions from later ones."""
        layers = range(self.first, self.model.n_layers)
        return [
            hide(self.model, layers, where, later(where, length)) if where else ()
            for (where, _), length in zip(self.added, self.lengths, strict=True)
        ]

    @cached_property
    def _values(self) -> list[tuple[Edit, ...]]:
        layers = range(self.first, self.model.n_layers)
        kept = self.experiment.activations(None, [("v", n) for n in layers])
        return [
            tuple(
                Edit(Site("v", n, h), "set", own["v", n][list(where), h], where)
                for n in layers
                for h in range(self.model.n_kv_heads)
            )
            if where
            else ()
            for own, (where, _) in zip(kept, self.added, strict=True)
        ]

    @cached_property
    def _free(self) -> list[tuple[int, ...]]:
        """Positions whose scales are frozen."""
        scored = self.experiment.scored_positions.positions
        outside = [
            tuple(p for p in range(n) if p not in where) for (where, _), n in zip(self.added, self.lengths, strict=True)
        ]
        if any(set(a) & set(b) for a, b in zip(outside, scored, strict=True)):
            return outside
        return [tuple(range(n)) for n in self.lengths]

    @cached_property
    def _scales(self) -> list[tuple[Edit, ...]]:
        found: list[list[Edit]] = [[] for _ in self.lengths]
        free = self._free
        clean = self.experiment.activations(None, sites(self.model))
        names = dict(zip(("attention", "mlp", "final"), SCALES, strict=True))
        for reader in readers(self.model):
            place = Site(names[reader.name], min(reader.layer, self.model.n_layers - 1))
            if place.layer < self.site.layer:
                continue
            for own, kept, positions in zip(found, clean, free, strict=True):
                scale = reader.norm.scale(stream(self.model, reader, kept))[list(positions), None]
                own.append(Edit(place, "set", scale, positions))
        return [tuple(own) for own in found]
