"""Scores of all edges of a contrast by conductance along its way, with as many points as they need.

1. At share a of what is put in, z_u(a) is what u writes and g_v(a) the gradient of the score with respect to the stream
   as input v alone reads it. The score of an edge u -> v is the integral of <g_v(a), dz_u/da> da.
2. An interval [a, b] adds <g_v(middle), z_u(b) - z_u(a)>: one gradient, and the writes at both ends.
3. Edges across any cut add up to the effect. So every interval is checked at two cuts, those that leave what is put in
   and those into the logits, against what the score changes by from a to b; the worst are halved until the gaps
   of a prompt add up to less than 2% of the effect, on average over prompts, or all points are spent.
4. Integrated gradients, <mean of g_v(a), z_u(1) - z_u(0)>, come with the same gradients. They add up at the first cut
   alone.

Source: Dhamdhere et al. 2018 (arXiv 1805.12233), for units; here for edges. Hanna et al. 2024 (arXiv 2403.17806) for
integrated gradients on edges.
What it cannot see: what gradients cannot; small edges are ranked badly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.backward import backward
from steerscope.analysis.engine.run import run
from steerscope.analysis.progress import track
from steerscope.analysis.question.scores import taken
from steerscope.analysis.routes.edge_scores import Streams, reads_at
from steerscope.analysis.tools.writes import changes

from .contrast import Contrast

Values = NDArray[np.float64]
COARSE, SHORTEST = 4, 2**-10  # intervals of a prompt to begin with; length of those that are not halved
GAP = 0.02  # of the effect, that the gaps of all prompts may add up to on average
MEMORY = 2**29  # bytes of writes that are held at once


@dataclass(frozen=True, order=True)
class Interval:
    """A part of the way of a prompt."""

    prompt: int
    start: float
    end: float

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2

    @property
    def length(self) -> float:
        return self.end - self.start

    @property
    def halves(self) -> "tuple[Interval, Interval]":
        return Interval(self.prompt, self.start, self.middle), Interval(self.prompt, self.middle, self.end)


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """Scores of all edges.

    Attributes:
        conductance, integrated: zero where there is no edge; senders and receivers as the contrast lists them.
        intervals: of each prompt, how many its way was cut into.
        gaps: of each prompt, what its two cuts miss of the effect, over the mean size of effects.
    """

    conductance: Float[Values, "sender receiver prompt"]
    integrated: Float[Values, "sender receiver prompt"]
    intervals: NDArray[np.int64]
    gaps: Float[Values, " prompt"]


def edge_conductance(
    contrast: Contrast, prompts: Sequence[int] | None = None, points: int = 32, what: str | None = "scores of edges"
) -> EdgeScores:
    """Scores of all edges, prompt by prompt.

    Args:
        prompts: which; all by default.
        points: gradients that are taken at most, a prompt on average.
        what: name for a progress bar.
    """
    asked = list(range(len(contrast)) if prompts is None else prompts)
    cut = np.linspace(0, 1, COARSE + 1).tolist()
    waiting = [Interval(p, a, b) for p in asked for a, b in zip(cut[:-1], cut[1:], strict=True)]
    found: dict[Interval, _Part] = {}
    size = max(float(np.abs(contrast.effect).mean()), 1e-12)
    while waiting:
        found |= _scored(contrast, waiting, what)
        missed = {one: found[one].gap / size / len(asked) for one in found}
        halved = _worst(missed, points * len(asked))
        for one in halved:
            del found[one]
        waiting = [half for one in halved for half in one.halves]
    shape = (len(contrast.senders), len(contrast.receivers), len(asked))
    conductance, integrated = np.zeros(shape), np.zeros(shape)
    gaps, intervals = np.zeros(len(asked)), np.zeros(len(asked), dtype=np.int64)
    place = {p: at for at, p in enumerate(asked)}
    for one in sorted(found):
        at = place[one.prompt]
        conductance[:, :, at] += found[one].conductance
        integrated[:, :, at] += found[one].integrated
        gaps[at] += found[one].gap / size
        intervals[at] += 1
    return EdgeScores(conductance, integrated, intervals, gaps)


def _worst(gaps: dict[Interval, float], most: int) -> list[Interval]:
    """Which intervals are halved, from the worst on: until half of what may be missed is left, or there are most."""
    left, chosen = sum(gaps.values()), list[Interval]()
    if left < GAP:
        return []
    for one in sorted(gaps, key=lambda one: -gaps[one]):
        if left < GAP / 2 or len(gaps) + len(chosen) >= most:
            break
        if one.length > SHORTEST:
            chosen.append(one)
            left -= gaps[one]
    return chosen


@dataclass(frozen=True, eq=False)
class _Part:
    """What an interval adds, and the larger of what its two cuts miss."""

    conductance: Float[NDArray[np.float32], "sender receiver"]
    integrated: Float[NDArray[np.float32], "sender receiver"]
    gap: float


def _scored(contrast: Contrast, intervals: Sequence[Interval], what: str | None) -> dict[Interval, _Part]:
    longest = max(map(len, contrast.prompts))
    each = 2 * len(contrast.senders) * longest * contrast.model.d_model * contrast.model.dtype.itemsize
    size = max(1, (contrast.budget or MEMORY) // each)
    intervals = sorted(intervals)
    batches = [intervals[at : at + size] for at in range(0, len(intervals), size)]
    found: dict[Interval, _Part] = {}
    for batch in track(batches, what) if what else batches:
        found |= _batch(contrast, batch)
    return found


def _batch(contrast: Contrast, intervals: Sequence[Interval]) -> dict[Interval, _Part]:
    """Runs both ends of every interval, then goes back from its middle."""
    points = sorted({(one.prompt, a) for one in intervals for a in (0.0, 1.0, one.start, one.end)})
    kept, values = _points(contrast, points)
    prompts = {one.prompt for one in intervals}
    whole = {p: changes(contrast.model, contrast.nodes, kept[p, 0.0], kept[p, 1.0]) for p in prompts}
    moved = [
        changes(contrast.model, contrast.nodes, kept[one.prompt, one.start], kept[one.prompt, one.end])
        for one in intervals
    ]
    collect = _Collect(contrast, intervals, moved, whole, {p: contrast.put_in(p) for p in prompts})
    conductance, integrated = (
        np.zeros((len(intervals), len(contrast.senders), len(contrast.receivers)), dtype=np.float32) for _ in "ab"
    )

    def put(made: list[tuple[int, int, Tensor, Tensor]]) -> None:
        for index, receiver, own, whole in made:
            conductance[index, : len(own), receiver] = own.numpy()
            integrated[index, : len(own), receiver] = whole.numpy()

    backward(
        contrast.model,
        contrast.prompts,
        [[contrast.variant(one.prompt, one.middle)] for one in intervals],
        contrast.scored.positions,
        contrast.score,
        collect.streams.sites,
        collect,
        put,
        reads=contrast.reads,
        budget=contrast.budget,
    )
    conductance *= contrast.connected
    integrated *= contrast.connected
    found = {}
    for i, one in enumerate(intervals):
        change = values[one.prompt, one.end] - values[one.prompt, one.start]
        cuts = conductance[i][0].sum(dtype=np.float64), conductance[i][:, -1].sum(dtype=np.float64)
        found[one] = _Part(conductance[i], integrated[i], max(abs(cut - change) for cut in cuts))
    return found


Point = tuple[int, float]  # a prompt, and a share


def _points(
    contrast: Contrast, points: Sequence[Point]
) -> tuple[dict[Point, dict[tuple[str, int], Tensor]], dict[Point, float]]:
    """What nodes write at some points of the way, and the score there."""
    model, prompts = contrast.model, contrast.prompts
    sites = sorted({(node.site.name, node.layer) for node in contrast.nodes})
    variants = [contrast.variant(p, share) for p, share in points]
    kept: dict[Point, dict[tuple[str, int], Tensor]] = {}
    values: dict[Point, float] = {}
    positions = contrast.scored.positions
    for chunk, readout in run(
        model, prompts, variants, positions, reads=contrast.reads, sites=sites, budget=contrast.budget
    ):
        means = readout.mean(taken(contrast.score, readout)).tolist()
        for row, index in enumerate(chunk):
            length = len(prompts[variants[index].prompt])
            kept[points[index]] = {site: readout.activations[site][row, :length].clone() for site in sites}
            values[points[index]] = means[row]
    return kept, values


@dataclass(frozen=True, eq=False)
class _Collect:
    """Gradients of each input's stream times what every sender writes differently: what `backward` collects.

    Attributes:
        moved: by interval, what nodes write differently from its start to its end.
        whole: by prompt, the same from 0 to 1.
        put: by prompt, what is put in before each place that reads.
    """

    contrast: Contrast
    intervals: Sequence[Interval]
    moved: Sequence[Float[Tensor, "node pos d_model"]]
    whole: Mapping[int, Float[Tensor, "node pos d_model"]]
    put: Mapping[int, dict[tuple[int, int], Float[Tensor, "pos d_model"]]]

    @cached_property
    def streams(self) -> Streams:
        return Streams(self.contrast.model, self.contrast.starts[0])

    @cached_property
    def place(self) -> dict[str, int]:
        return {str(receiver): r for r, receiver in enumerate(self.contrast.receivers)}

    def __call__(
        self, indices: list[int], site: str, layer: int, x: Tensor, g: Tensor
    ) -> list[tuple[int, int, Float[Tensor, " sender"], Float[Tensor, " sender"]]] | None:
        """Interval, receiver, and the scores of its edges; as soon as a layer has all that it takes."""
        streams = self.streams(indices, site, layer, x, g)
        if streams is None:
            return None
        found, receivers = [], list(streams)
        last = max(receiver.layer for receiver in receivers)
        before = sum(node.layer <= last for node in self.contrast.nodes)  # what comes later is read by none of them
        for row, index in enumerate(indices):
            one, moved = self.intervals[index], self.moved[index][:before]
            gradients = torch.stack([streams[r][row, : moved.shape[1]] for r in receivers]).flatten(1)
            put = torch.stack([self.put[one.prompt][reads_at(self.contrast.model, r)] for r in receivers]).flatten(1)
            first = (gradients * put).sum(1, keepdim=True) * one.length
            own, whole = (gradients @ x.flatten(1).T for x in (moved, self.whole[one.prompt][:before]))
            scores = [torch.cat([first, part], dim=1).float().cpu() for part in (own, whole * one.length)]
            found += [(index, self.place[str(r)], *parts) for r, *parts in zip(receivers, *scores, strict=True)]
        return found
