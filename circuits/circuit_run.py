"""Runs of a model in which every input reads the edges of a circuit alone.

1. An input v of a circuit E reads s_v(x') + the sum over edges u -> v in E of what u writes differently from x'. What u
   writes is computed from what u itself reads in this run: so what is left out is left out all along the way.
2. x' is a reference run (`Ablation`): the contrast's base run ("resample"), the mean of the base runs at each position
   ("mean", embeddings too), or one in which nodes write nothing ("zero"; embeddings and biases stay).
3. Rows of a batch are circuits; a layer's inputs read the stream through its norm and their own projection, and go into
   the model in the place of its own. Attention and MLPs are the model's.

With all edges and resampling the whole run comes out, with none the base run: `check` sees that they do.
A circuit of nodes is all edges that leave them (and what is put in).

Source: Wang et al. 2022 (arXiv 2211.00593) and Hanna et al. 2024 (arXiv 2403.17806), for circuits as edges.
What it cannot see: positions; an edge is there at all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.elsewhere import answers
from steerscope.analysis.engine.finite import check_finite
from steerscope.analysis.engine.run import embed
from steerscope.analysis.engine.wavefront import Pass
from steerscope.analysis.errors import BadArgument, UnsupportedModel
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.model.norms import Norm, norm_of
from steerscope.analysis.question.scores import Means, Score
from steerscope.analysis.routes.edge_scores import INPUTS
from steerscope.analysis.tools.record import tolerance
from steerscope.analysis.tools.writes import raw_writes

from .contrast import Contrast
from .masks import Mask

Ablation = Literal["resample", "mean", "zero"]
Values = NDArray[np.float64]
Kept = dict[tuple[str, int], Tensor]  # of a run: (site, layer) -> `[pos, ...]`
Put = dict[tuple[int, int], Float[Tensor, "pos d_model"]]  # before each place that reads
MEMORY = 2**29  # bytes that the changed writes of a batch may take


@dataclass(frozen=True, eq=False)
class CircuitRuns:
    """Circuits of a contrast, run.

    Attributes:
        ablation: what stands in the place of what is left out.
    """

    contrast: Contrast
    ablation: Ablation = "resample"

    def under(self, ablation: Ablation) -> "CircuitRuns":
        """The same under another ablation; the base run is made once."""
        if ablation == self.ablation:
            return self
        same = CircuitRuns(self.contrast, ablation)
        same.__dict__.update({name: getattr(self, name) for name in ("_base", "_layers", "_embedded")})
        return same

    @cached_property
    def reference(self) -> list[Kept]:
        """By prompt, what the reference run x' has where inputs read and nodes write."""
        kept = self._base
        if self.ablation == "mean":
            return self._means(kept)
        return kept if self.ablation == "resample" else [self._without(own) for own in kept]

    @cached_property
    def put_in(self) -> list[Put]:
        """By prompt, what comes from the input that the reference run has not, before each place that reads."""
        found = [self.contrast.put_in(p) for p in range(len(self.contrast))]
        if self.ablation == "mean":  # there the prompt itself is something else, too
            own = [self._without(kept) for kept in self._base]
            for put, kept, mean in zip(found, own, self._means(own), strict=True):
                for layer, at in put:
                    key = ("between" if at else "read", layer)
                    put[layer, at] = put[layer, at] + kept[key] - mean[key]
        return found

    def run(
        self,
        masks: Sequence[Mask],
        scores: Sequence[Score] | None = None,
        prompts: Sequence[int] | None = None,
        what: str | None = None,
    ) -> Float[Values, "circuit prompt score"]:
        """Scores of circuits; the contrast's own score by default.

        Args:
            masks: which edges each circuit has.
            prompts: which prompts are run; all by default.
            what: name for a progress bar.
        """
        contrast, scores = self.contrast, list(scores or [self.contrast.score])
        asked = range(len(contrast)) if prompts is None else prompts
        values = np.zeros((len(masks), len(asked), len(scores)))
        if not values.size:
            return values
        job = _Runs(self, tuple(scores), self._layers, self.reference, self.put_in, self._embedded)
        rows = [(c, at) for at in range(len(asked)) for c in range(len(masks))]
        rows.sort(key=lambda row: len(contrast.prompts[asked[row[1]]]))
        writers = np.any([(mask & contrast.connected).any(1) for mask in masks], axis=0).sum()
        each = (2 + int(writers)) * max(map(len, contrast.prompts)) * contrast.model.d_model * 4
        size = max(1, (contrast.budget or MEMORY) // each)
        chunks = [rows[at : at + size] for at in range(0, len(rows), size)]
        tasks = [
            ([masks[c] & contrast.connected for c, _ in chunk], [asked[at] for _, at in chunk]) for chunk in chunks
        ]
        for chunk, found in zip(chunks, answers(job, tasks, what), strict=True):
            for (c, at), own in zip(chunk, found.tolist(), strict=True):
                values[c, at] = own
        return values

    def values(
        self, masks: Sequence[Mask], prompts: Sequence[int] | None = None, what: str | None = None
    ) -> Float[Values, "circuit prompt"]:
        """The contrast's score of each circuit."""
        return self.run(masks, None, prompts, what)[:, :, 0]

    @cached_property
    def ends(self) -> Float[Values, "two prompt"]:
        """The score with no edge, and that of the whole run."""
        empty = np.zeros_like(self.contrast.connected)
        return np.stack([self.values([empty])[0], self.contrast.values(1.0)])

    def check(self) -> float:
        """How far all edges with resampling are from the whole run, and none from the base run.

        Raises:
            UnsupportedModel: further than rounding: something in the model reads what no edge holds.
        """
        same = self.under("resample")
        full, empty = np.ones_like(self.contrast.connected), np.zeros_like(self.contrast.connected)
        found, known = same.values([full, empty]), np.stack([self.contrast.values(1.0), self.contrast.values(0.0)])
        gap, size = float(np.abs(found - known).max()), float(np.abs(known).max())
        if gap > 100 * tolerance(self.contrast.model, size):
            raise UnsupportedModel(
                f"all edges of {self.contrast.model.name} are {gap:.2g} {self.contrast.unit} off its own run; expected "
                "none: something in it reads what no edge holds; ask of single nodes or paths instead"
            )
        return gap

    @cached_property
    def _layers(self) -> "_Layers":
        return _Layers.of(self.contrast)

    @cached_property
    def _embedded(self) -> Float[Tensor, "prompt pos d_model"]:
        with torch.no_grad():
            return embed(self.contrast.model, self.contrast.prompts)

    # The reference run.

    @cached_property
    def _base(self) -> list[Kept]:
        model, contrast = self.contrast.model, self.contrast
        layers = range(contrast.starts[0], model.n_layers)
        sites = [(name, n) for n in layers for name in ("resid_pre", "attn_out", "z")]
        sites += [("mlp_out", n) for n in layers] if model.has_mlp else []
        found = contrast.activations([*sites, ("resid_post", model.n_layers - 1)], 0.0)
        return [self._streams(own) for own in found]

    def _streams(self, kept: Kept) -> Kept:
        """What each place reads: `("read", layer)` before attention, `("between", layer)` before the MLP."""
        model = self.contrast.model
        found = {key: value for key, value in kept.items() if key[0] in ("z", "mlp_out")}
        for layer in range(self.contrast.starts[0], model.n_layers):
            before = kept["resid_pre", layer]
            found["read", layer] = before
            found["between", layer] = before if model.parallel else before + kept["attn_out", layer]
        found["read", model.n_layers] = kept["resid_post", model.n_layers - 1]
        return found

    def _without(self, kept: Kept) -> Kept:
        """The same, if no node wrote anything."""
        model, found = self.contrast.model, dict(kept)
        written = torch.zeros_like(kept["read", model.n_layers])
        for layer in range(self.contrast.starts[0], model.n_layers):
            heads = raw_writes(model, layer, kept["z", layer])[0].sum(0)
            found["read", layer] = kept["read", layer] - written
            found["between", layer] = kept["between", layer] - (written if model.parallel else written + heads)
            written = written + heads + (kept["mlp_out", layer] if model.has_mlp else 0)
        found["read", model.n_layers] = kept["read", model.n_layers] - written
        return found | {key: torch.zeros_like(value) for key, value in kept.items() if key[0] in ("z", "mlp_out")}

    def _means(self, kept: list[Kept]) -> list[Kept]:
        """The mean over prompts of the same length, at each position.

        Raises:
            BadArgument: a prompt is the only one of its length.
        """
        lengths = [len(ids) for ids in self.contrast.prompts]
        alone = next((n for n in lengths if lengths.count(n) < 2), None)
        if alone is not None:
            raise BadArgument(
                f"mean ablation with one prompt of {alone} tokens; expected two or more of each length, since means "
                "are taken position by position; give prompts of equal length, or ablation='resample'"
            )
        means = {
            n: {
                key: torch.stack([own[key] for own, size in zip(kept, lengths, strict=True) if size == n]).mean(0)
                for key in kept[0]
            }
            for n in set(lengths)
        }
        return [means[n] for n in lengths]


@dataclass(frozen=True, eq=False)
class _Runs:
    """What the batches of circuits have in common: a job (see `elsewhere`)."""

    runs: CircuitRuns
    scores: tuple[Score, ...]
    layers: "_Layers"
    reference: list[Kept]
    put_in: list[Put]
    embedded: Float[Tensor, "prompt pos d_model"]

    @property
    def model(self) -> Model:
        return self.runs.contrast.model

    def __call__(self, chunk: tuple[list[Mask], list[int]]) -> Float[Tensor, "row score"]:
        contrast, (masks, prompts) = self.runs.contrast, chunk
        scored = contrast.scored
        variants = [Variant(p, contrast.base[p]) for p in prompts]
        with torch.no_grad():
            probe = _Circuits(self, masks, prompts)
            own = all(score is contrast.score for score in self.scores)
            reads = contrast.reads if own else "logits"
            one = Pass(self.model, contrast.prompts, variants, scored.positions, reads, (), probe)
            readout = one.run(self.embedded)
            check_finite(self.model, contrast.prompts, readout)
            return Means(self.scores, None, scored.vocab)(readout).cpu()


@dataclass(frozen=True, eq=False)
class _Layers:
    """Norms and projections of the layers that are run, and where their nodes and inputs stand in a mask."""

    attention: dict[int, Norm | None]
    mlp: dict[int, Norm | None]
    projections: dict[tuple[str, int], tuple[Tensor, Tensor | None]]
    heads: dict[int, slice]
    mlps: dict[int, int]
    inputs: dict[tuple[str, int], slice]

    @classmethod
    def of(cls, contrast: Contrast) -> "_Layers":
        model = contrast.model
        made = cls({}, {}, {}, {}, {}, {})
        place = {sender: s for s, sender in enumerate(contrast.senders)}
        for r, receiver in enumerate(contrast.receivers):
            name = "read" if receiver.name == "logits" else receiver.name
            known = made.inputs.get((name, receiver.layer))
            made.inputs[name, receiver.layer] = slice(known.start if known else r, r + 1)
        for layer in range(contrast.starts[0], model.n_layers):
            block = model.bridge.blocks[layer]
            made.attention[layer] = norm_of(model, getattr(block, "ln1", None))
            second = getattr(block, "ln2", None) or (getattr(block, "ln1", None) if model.parallel else None)
            made.mlp[layer] = norm_of(model, second)
            for name in INPUTS:
                weight, bias = (getattr(block.attn, f"{kind}_{name.upper()}", None) for kind in "Wb")
                assert weight is not None
                made.projections[name, layer] = weight.detach(), None if bias is None else bias.detach()
            first = place[Node(layer, 0)]
            made.heads[layer] = slice(first, first + model.n_heads)
            if model.has_mlp:
                made.mlps[layer] = place[Node(layer)]
        return made


@dataclass(eq=False)
class _Circuits:
    """Puts into every input what its circuit lets it read: a probe of `Pass`, a row a circuit and prompt.

    What no circuit of the batch reads is neither kept nor set right.

    Attributes:
        active: senders with an edge in any of the circuits.
        moved: what they write differently from the reference run.
    """

    job: _Runs
    masks: list[Mask]
    prompts: list[int]
    sites: frozenset[tuple[str, int]] = field(init=False)
    active: NDArray[np.int64] = field(init=False)
    moved: Float[Tensor, "row sender pos d_model"] = field(init=False)

    def __post_init__(self) -> None:
        job, model = self.job, self.job.model
        masks = np.stack(self.masks)
        self.active = np.flatnonzero(masks.any((0, 2)))
        self.length = max(len(job.runs.contrast.prompts[p]) for p in self.prompts)
        self.mask = torch.from_numpy(masks[:, self.active]).to(model.device, model.dtype)
        shape = (len(self.prompts), len(self.active), self.length, model.d_model)
        self.moved = torch.zeros(shape, dtype=model.dtype, device=model.device)
        layers = job.layers
        self.heads = {layer: own for layer, at in layers.heads.items() if (own := self._among(at)).size}
        self.mlps = {layer: own for layer, at in layers.mlps.items() if (own := self._among(slice(at, at + 1))).size}
        sites = [(name, layer) for layer in self.heads for name in (*INPUTS, "z")]
        sites += [(name, layer) for layer in self.mlps for name in ("mlp_in", "mlp_out")]
        self.sites = frozenset([*sites, ("resid_post", model.n_layers - 1)])
        self._given: dict[tuple[str, int], Tensor] = {}
        self._attention: dict[int, Tensor] = {}

    def _among(self, senders: slice) -> NDArray[np.int64]:
        """Where those that are active stand in `moved`."""
        return np.flatnonzero((self.active >= senders.start) & (self.active < senders.stop))

    def see(self, site: str, layer: int, x: Tensor) -> Tensor:
        model = self.job.model
        if site in INPUTS:
            return self._projected(site, layer)
        if site == "z":
            heads, first = self.heads[layer], self.job.layers.heads[layer].start
            change = (x - self._reference("z", layer))[:, :, self.active[heads] - first]
            out = model.bridge.blocks[layer].attn.W_O[self.active[heads] - first]
            self.moved[:, heads] = torch.einsum("rphe,hed->rhpd", change, out.to(change))
        elif site == "mlp_in":
            read = self._streams(self.job.layers.inputs["mlp", layer], "between", (layer, 0 if model.parallel else 1))
            norm = self.job.layers.mlp[layer]
            return read[:, 0] if norm is None else norm(read[:, 0])
        elif site == "mlp_out":
            self.moved[:, self.mlps[layer]] = (x - self._reference("mlp_out", layer))[:, None]
        else:
            last = model.n_layers
            return self._streams(self.job.layers.inputs["read", last], "read", (last, 0))[:, 0]
        return x

    def _projected(self, name: str, layer: int) -> Float[Tensor, "row pos head d_head"]:
        """Queries, keys or values of what each head reads."""
        layers = self.job.layers
        every = [layers.inputs[one, layer] for one in INPUTS]
        first = every[0].start
        if layer not in self._attention:  # all three are read at once
            streams = self._streams(slice(first, every[-1].stop), "read", (layer, 0))
            norm = layers.attention[layer]
            self._attention = {layer: streams if norm is None else norm(streams)}
        own = layers.inputs[name, layer]
        read, (weight, bias) = (
            self._attention[layer][:, own.start - first : own.stop - first],
            layers.projections[name, layer],
        )
        found = torch.einsum("rhpd,hde->rphe", read, weight.to(read))
        return found if bias is None else found + bias.to(found)

    def _streams(self, inputs: slice, kept: str, place: tuple[int, int]) -> Float[Tensor, "row input pos d_model"]:
        """What each of the inputs reads."""
        layer = place[0]
        if self.active[:1].tolist() == [0]:
            self.moved[:, 0] = self._padded([self.job.put_in[p][place] for p in self.prompts])
        heads = self.job.layers.heads.get(layer, slice(len(self.job.runs.contrast.senders), None))
        before = int((self.active < (heads.stop if kept == "between" else heads.start)).sum())
        edges = self.mask[:, :before, inputs].transpose(1, 2)
        change = torch.bmm(edges, self.moved[:, :before].flatten(2))
        reference = self._reference(kept, layer)[:, None]
        return reference + change.reshape(*change.shape[:2], *reference.shape[2:])

    def _reference(self, name: str, layer: int) -> Float[Tensor, "row pos *width"]:
        if (name, layer) not in self._given:
            self._given = {(name, layer): self._padded([self.job.reference[p][name, layer] for p in self.prompts])}
        return self._given[name, layer]

    def _padded(self, rows: list[Tensor]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True) if rows else torch.empty(0)


def faithfulness(values: Float[Values, "*circuits prompt"], ends: Float[Values, "two prompt"]) -> Values:
    """(M of the circuit - M of no edge) / (M of the whole run - M of no edge), means over prompts; nan over zero."""
    whole = float((ends[1] - ends[0]).mean())
    return np.asarray((values - ends[0]).mean(-1) / (whole or np.nan))
