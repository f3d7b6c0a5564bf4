"""`Pass`: one chunk of variants, in one growing batch.

An edited pass equals any other pass of the same prompt up to the layer where their edits first
differ. So:

1. Group the variants by what has happened to them so far. Before the first layer all variants of a
   prompt are one row.
2. At every layer, where variants of one row are about to be edited differently, the row splits: its
   stream is copied, once for each different set of edits.
3. Apply the edits of the layer to the rows, all rows of a site in one indexed write.
4. Positions that no edit has touched yet, nor anything before them, are the same in all rows of a
   prompt: what treats positions one by one (output matrices, MLPs) sees them once (see `sharing`).
5. After the last layer read the logits, at the positions that are asked for only.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.errors import BrokenInvariant, UnsupportedModel
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import SCALES

from .delta import cheap, plan, with_bases
from .edits import Edit, Variant
from .operations import DIRECTED, changed
from .readout import Readout, Reads
from .sharing import Layer, Packing, share

Precision = Literal["exact", "delta"]
Hook = Callable[[Tensor, Any], Tensor | None]
LEAST = 1e-37  # attention that is left beside hidden keys: what is less has been rounded away


class Probe(Protocol):
    """Sees activations on their way through the model; with one, nothing is shared between variants."""

    sites: frozenset[tuple[str, int]]

    def see(self, site: str, layer: int, x: Tensor) -> Tensor:
        """The activation, edits included, that goes on in the place of `x`: `[rows, pos, ...]`."""


class Pass:
    """One chunk: which row splits where, the edits as indexed writes, and the hooks that do it."""

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Sequence[int]],
        variants: Sequence[Variant],
        reading: Sequence[Sequence[int]],
        reads: Reads,
        sites: Sequence[tuple[str, int]],
        probe: Probe | None = None,
        precision: Precision = "exact",
    ) -> None:
        self.model, self.prompts, self.asked, self.probe = model, prompts, variants, probe
        delta = precision == "delta" and probe is None and any(v.base is not None for v in variants)
        made: tuple[Sequence[Variant], list[int] | None] = with_bases(variants) if delta else (variants, None)
        self.variants, self.bases = made
        self.reading, self.reads, self.sites = reading, reads, list(sites)
        self.length = max(len(prompts[v.prompt]) for v in variants)
        self.fired: set[str] = set()
        self.attached: set[str] = set()
        self.kept: dict[tuple[str, int], Tensor] = {}
        self.seen: dict[tuple[str, int], Tensor] = {}
        self.hidden: Tensor | None = None
        self._plan()
        self._share()

    def _plan(self) -> None:
        """Which rows exist at each layer, which row of the layer before each comes from, and its edits."""
        by_layer: list[dict[int, list[Edit]]] = [{} for _ in range(self.model.n_layers)]
        for index, variant in enumerate(self.variants):
            for edit in variant.edits:
                by_layer[edit.site.layer].setdefault(index, []).append(edit)
        first = {p: slot for slot, p in enumerate(dict.fromkeys(v.prompt for v in self.variants))}
        alone = self.probe is not None
        self.base = [v.prompt for v in self.variants] if alone else list(first)
        slot_of = [i if alone else first[v.prompt] for i, v in enumerate(self.variants)]
        self.parents: list[list[int] | None] = []
        self.slots: list[list[int]] = []
        self.edits: list[list[tuple[int, Edit]]] = []
        count = len(self.base)
        for edits in by_layer:
            keys: dict[tuple[int, tuple[int, ...]], int] = {}
            parents: list[int] = []
            written: list[tuple[int, Edit]] = []
            for index, slot in enumerate(slot_of):
                own = edits.get(index, ())
                key = (slot, tuple(map(id, own)))
                if key not in keys:
                    keys[key] = len(parents)
                    parents.append(slot)
                    written += [(keys[key], edit) for edit in own]
                slot_of[index] = keys[key]
            same = parents == list(range(count))
            self.parents.append(None if same else parents)
            self.slots.append(list(slot_of))
            self.edits.append(written)
            count = len(parents)
        self.prompt_of_slot: list[list[int]] = []
        prompts = self.base
        for parent in self.parents:
            prompts = prompts if parent is None else [prompts[slot] for slot in parent]
            self.prompt_of_slot.append(prompts)

    def _share(self) -> None:
        """What of each layer is computed once, and which layers' attention runs before their rows split."""
        read: list[set[int]] = [set() for _ in self.prompt_of_slot[-1]]
        for variant, slot in zip(self.variants, self.slots[-1], strict=True):
            read[slot].update(self.reading[variant.prompt])
        kept = {layer for _, layer in self.sites}
        numbers = range(self.model.n_layers)
        self.packings: list[tuple[Packing | None, Packing | None]]
        if self.probe is not None:
            self.packings = [(None, None) for _ in numbers]
            self.late = [False for _ in numbers]
            return
        layers = [Layer(self.parents[n], self.prompt_of_slot[n], self.edits[n], n in kept) for n in numbers]
        self.packings = share([len(prompt) for prompt in self.prompts], layers, read)
        early = {"resid_pre", "ln1_scale", "q", "k", "v", "pattern"}
        self.late = [
            self.parents[n] is not None and n not in kept and not early & {e.site.name for _, e in self.edits[n]}
            for n in numbers
        ]

    def run(self, embedded: Tensor) -> Readout:
        hooks = self.hooks(embedded)
        planned = [] if self.bases is None else plan(self.bases, self.slots, self.packings, self.late, len(self.base))
        with warnings.catch_warnings(), cheap(self.model, planned):
            # Some norms say that an edit of their scale costs rounding.
            warnings.filterwarnings("ignore", "A forward hook edited hook_scale")
            logits = self.model.bridge.run_with_hooks(self.tokens, fwd_hooks=hooks)
        return self.read(logits)

    @property
    def tokens(self) -> Int[Tensor, "1 pos"]:
        """The dummy row that the model runs on; the prompts enter by the hooks."""
        return torch.zeros(1, self.length, dtype=torch.long, device=self.model.device)

    def read(self, logits: Tensor) -> Readout:
        """What the model gave under the hooks, by variant."""
        silent = self.attached - self.fired
        if silent:
            raise BrokenInvariant(
                f"hooks that never fired on {self.model.name}: {', '.join(sorted(silent))}; their edits would have "
                "been lost; load the model with its self-check on"
            )
        row, position = self._reading()
        return Readout(
            self.asked,
            row,
            position,
            logits[0] if self.reads == "logits" else None,
            self.hidden if self.reads != "none" else None,
            self.kept,
        )

    def _reading(self) -> tuple[Tensor, ...]:
        device = self.model.device
        rows = [i for i, v in enumerate(self.asked) for _ in self.reading[v.prompt]]
        positions = [p for v in self.asked for p in self.reading[v.prompt]]
        return tuple(torch.tensor([rows, positions], dtype=torch.long, device=device))

    def hooks(self, embedded: Float[Tensor, "prompt pos d_model"]) -> list[tuple[str, Hook]]:
        """Everything that makes a pass of the model this one."""
        hooks = self._hooks(embedded[self.base, : self.length])
        self.attached = {name for name, _ in hooks}
        return hooks

    def _hooks(self, base: Tensor) -> list[tuple[str, Hook]]:
        hooks: list[tuple[str, Hook]] = []
        probed = self.probe.sites if self.probe is not None else frozenset()
        for layer in range(self.model.n_layers):
            written = self.edits[layer]
            names = {edit.site.name for _, edit in written} | {s for s, at in probed if at == layer}
            wanted = {name for name, at in self.sites if at == layer}
            if layer == 0 or self.parents[layer] is not None or "resid_pre" in names | wanted:
                hooks.append(self._entering(layer, base))
            mixed = {"pattern", "v", "z"} if "pattern" in names else set()
            for site in ("q", "k", "v"):
                if site in names:
                    hooks.append(self._at(site, layer))
            for site in ("q", "k", "v", "pattern"):
                if site in wanted | mixed and (site == "pattern" or site not in names):
                    hooks.append(self._watch(site, layer))
            heads, mlp = self.packings[layer]
            if self.late[layer]:
                hooks.append(self._once(layer))
            if "z" in names | wanted | mixed or heads is not None or self.late[layer]:
                hooks.append(self._at("z", layer))
            if heads is not None:
                hooks.append(self._through(f"blocks.{layer}.attn.hook_out", heads.spread))
            if "attn_out" in names | wanted:
                hooks.append(self._at("attn_out", layer))
            hooks += [self._at(site, layer) for site in SCALES if site in names]
            if "mlp_in" in names | wanted:
                hooks.append(self._at("mlp_in", layer))
            if mlp is not None and self.model.has_mlp:
                hooks.append(self._through(f"blocks.{layer}.mlp.hook_in", mlp.pack))
                hooks.append(self._through(f"blocks.{layer}.mlp.hook_out", mlp.spread))
            for site in ("mlp_out", "resid_post"):
                if site in names | wanted:
                    hooks.append(self._at(site, layer))
        hooks.append(("unembed.hook_in", self._last))
        return hooks

    def _entering(self, layer: int, base: Tensor) -> tuple[str, Hook]:
        name = self.model.hook("resid_pre", layer)
        write = self._writer("resid_pre", layer)

        def hook(x: Tensor, hook: Any) -> Tensor:
            self.fired.add(name)
            x = base if layer == 0 else x
            parents = self.parents[layer]
            x = write(x if parents is None else x[torch.tensor(parents, device=x.device)])
            x = self._probed("resid_pre", layer, x)
            self._keep("resid_pre", layer, x)
            return x

        return name, hook

    def _once(self, layer: int) -> tuple[str, Hook]:
        """The layer's attention sees a row once, before it splits; at `z` the rows are there again."""
        parents = self.parents[layer] or []
        first = [parents.index(row) for row in range(max(parents) + 1)]

        def once(x: Tensor) -> Tensor:
            return x[torch.tensor(first, device=x.device)]

        return self._through(f"blocks.{layer}.attn.hook_in", once)

    def _through(self, name: str, change: Callable[[Tensor], Tensor]) -> tuple[str, Hook]:
        def hook(x: Tensor, hook: Any) -> Tensor:
            self.fired.add(name)
            return change(x)

        return name, hook

    def _at(self, site: str, layer: int) -> tuple[str, Hook]:
        name = self.model.hook(site, layer)
        write = self._writer(site, layer)
        split = self.parents[layer] if site == "z" and self.late[layer] else None
        packing = self.packings[layer][0] if site == "z" else None

        def hook(x: Tensor, hook: Any) -> Tensor:
            self.fired.add(name)
            x = x if split is None else x[torch.tensor(split, device=x.device)]
            x = write(self._through_pattern(layer, x) if site == "z" else x)
            x = self._probed(site, layer, x)
            if site == "v":
                self.seen[site, layer] = x
            self._keep(site, layer, x)
            return x if packing is None else packing.pack(x)

        return name, hook

    def _watch(self, site: str, layer: int) -> tuple[str, Hook]:
        """Reads only. Returns nothing: some architectures warn of any pattern that is given back."""
        name = self.model.hook(site, layer)

        def hook(x: Tensor, hook: Any) -> None:
            self.fired.add(name)
            self.seen[site, layer] = x
            self._keep(site, layer, self._edited_pattern(layer, x) if site == "pattern" else x)

        return name, hook

    def _last(self, x: Tensor, hook: Any) -> Tensor:
        """Cuts to the positions that are read: here and not earlier, since GPT-2 reshapes after its last norm."""
        self.fired.add("unembed.hook_in")
        row, position = self._reading()
        slots = torch.tensor(self.slots[-1], device=x.device)
        self.hidden = hidden = x[slots[row], position]
        return hidden[None] if self.reads == "logits" else hidden[None, :0]

    def _probed(self, site: str, layer: int, x: Tensor) -> Tensor:
        if self.probe is None or (site, layer) not in self.probe.sites:
            return x
        return self.probe.see(site, layer, x)

    def _keep(self, site: str, layer: int, x: Tensor) -> None:
        if (site, layer) in self.sites:
            self.kept[site, layer] = x[torch.tensor(self.slots[layer][: len(self.asked)], device=x.device)]

    # Patterns. Several architectures discard an edited pattern; what a pattern does is to mix values
    # into z, so an edit of the pattern is made as the edit of z that it stands for.

    def _pattern_edits(self, layer: int) -> list[tuple[int, Edit]]:
        return [(slot, edit) for slot, edit in self.edits[layer] if edit.site.name == "pattern"]

    def _edited_pattern(self, layer: int, pattern: Tensor) -> Tensor:
        pattern = pattern.clone()
        for slot, edit in self._pattern_edits(layer):
            queries = list(self._positions(layer, slot, edit))
            rows = pattern[slot, edit.site.head, queries]
            if isinstance(edit.value, Tensor):
                keys = min(edit.value.shape[-1], self._length(layer, slot))
                value = edit.value.to(pattern)[..., :keys]
                value = torch.nn.functional.pad(value, (0, pattern.shape[-1] - keys))
                if edit.operation == "hide":
                    rows = rows * (value == 0)
                    rows = rows / rows.sum(dim=-1, keepdim=True).clamp_min(LEAST)
                else:
                    rows = value if edit.operation == "set" else rows + value
            else:
                rows = rows * edit.value
            pattern[slot, edit.site.head, queries] = rows
        return pattern

    def _through_pattern(self, layer: int, z: Tensor) -> Tensor:
        edits = self._pattern_edits(layer)
        if not edits:
            return z
        if ("pattern", layer) not in self.seen:
            raise UnsupportedModel(
                f"{self.model.name} ({self.model.architecture}) shows its attention patterns only after "
                "their use; an edit of a pattern needs them before; edit z instead"
            )
        v = self.seen.pop(("v", layer))
        pattern = self._edited_pattern(layer, self.seen.pop(("pattern", layer)))
        group = self.model.n_heads // v.shape[2]  # several query heads may share one value head
        z = z.clone()
        for slot, head in {(slot, edit.site.head or 0) for slot, edit in edits}:
            z[slot, :, head] = pattern[slot, head] @ v[slot, :, head // group]
        return z

    # Indexed writes.

    def _positions(self, layer: int, slot: int, edit: Edit) -> Sequence[int]:
        if edit.positions is not None:
            return edit.positions
        return range(self._length(layer, slot))

    def _length(self, layer: int, slot: int) -> int:
        return len(self.prompts[self.prompt_of_slot[layer][slot]])

    def _writer(self, site: str, layer: int) -> Callable[[Tensor], Tensor]:
        """All edits of a site: one indexed write for every operation, in rounds where a row has several."""
        rounds: dict[tuple[int, str], list[tuple[int, Edit]]] = {}
        seen: dict[tuple[int, int | None], int] = {}
        for slot, edit in self.edits[layer]:
            if edit.site.name == site and site != "pattern":
                turn = seen[slot, edit.site.head] = seen.get((slot, edit.site.head), -1) + 1
                rounds.setdefault((turn, edit.operation), []).append((slot, edit))
        writes = [
            self._write(layer, operation, group)
            for (_, operation), group in sorted(rounds.items(), key=lambda r: r[0][0])
        ]

        def apply(x: Tensor) -> Tensor:
            for write in writes:
                x = write(x)
            return x

        return apply

    def _write(self, layer: int, operation: str, group: list[tuple[int, Edit]]) -> Callable[[Tensor], Tensor]:
        """One indexed write. An edit that many rows have stands in the bank of values once."""
        at = [self._positions(layer, slot, edit) for slot, edit in group]
        counts = np.array([len(positions) for positions in at])
        values: list[Tensor] = []
        starts: dict[tuple[int, int], int] = {}
        size = 0
        for (_, edit), count in zip(group, counts.tolist(), strict=True):
            if (id(edit), count) not in starts:
                starts[id(edit), count] = size
                values.append(_value(edit, count))
                size += count
        first = np.array([starts[id(e), c] for (_, e), c in zip(group, counts.tolist(), strict=True)])
        within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        rows = np.repeat([slot for slot, _ in group], counts)
        index = [self._index(rows), self._index(np.concatenate([np.asarray(p) for p in at]))]
        if group[0][1].site.head is not None:
            index.append(self._index(np.repeat([edit.site.head for _, edit in group], counts)))
        pick = self._index(np.repeat(first, counts) + within) if size < counts.sum() else None
        amount, share = (_column([getattr(edit, name) for _, edit in group], counts) for name in ("amount", "share"))

        def write(x: Tensor) -> Tensor:
            if operation in DIRECTED:
                value = torch.cat(values)
                value = value if pick is None else value[pick.to(value.device)]
                return x.index_put(tuple(index), changed(operation, x[tuple(index)], value, amount, share))
            value = torch.cat(values).to(x)
            value = value if pick is None else value[pick]
            if operation == "scale":
                value = x[tuple(index)] * value
            return x.index_put(tuple(index), value, accumulate=operation == "add")

        return write

    def _index(self, numbers: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(numbers.astype(np.int64)).to(self.model.device)


def _column(numbers: list[float], counts: NDArray[np.int64]) -> Tensor:
    """A number of each edit, at each of its positions: `[position, 1]`."""
    return torch.from_numpy(np.repeat(np.array(numbers, dtype=np.float64), counts))[:, None]


def _value(edit: Edit, count: int) -> Tensor:
    """The value of an edit at each of its positions."""
    if isinstance(edit.value, Tensor):
        return edit.value.expand(count, -1)
    return torch.full((count, 1), edit.value, dtype=torch.float64)
