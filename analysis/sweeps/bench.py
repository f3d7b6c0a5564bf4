"""`Bench`: a sweep's work with its model: edited passes in, a table of rows out.

1. Which trials: the design says it of each number.
2. The clean and the fully steered run of each visit, once; and of its random vector, where it has controls: what a
   vector does is read along its own change.
3. All trials of the block in one call of the engine; a few numbers of each.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.plain import plain_logits
from steerscope.analysis.engine.run import Readout, Reads, measure, run
from steerscope.analysis.errors import BadArgument, BrokenInvariant, Overflow
from steerscope.analysis.gate import Count, gated, shown
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.metrics import METRICS, Metric
from steerscope.analysis.question.prompts import Prompts
from steerscope.analysis.question.scored import Scored
from steerscope.analysis.vectors.vector import SteeringVector

from .design import Trial
from .numbers import Numbers
from .rows import SCHEMA
from .work import Answer, Block, Work

EDITS = 5000  # kept between blocks, at most
TOLERANCE = 1e-3  # nats: engine against plain passes, in the run's own check

_KEPT: dict[str, "Bench"] = {}  # the one of this process


@gated
def answer(work: Work, block: Block) -> Answer:
    """Runs a block: what executors do, wherever they are."""
    return bench(work).answer(block)


@gated
def bench(work: Work, model: Model | None = None) -> "Bench":
    """The bench of a work in this process, which loads the model once; `model` where it is there already.

    Raises:
        BrokenInvariant: the model that was loaded is not the run's.
    """
    if work.key not in _KEPT:
        _KEPT.clear()
        _KEPT[work.key] = Bench(work, model or _load(work))
    return _KEPT[work.key]


def _load(work: Work) -> Model:
    assert work.loader is not None
    model = work.loader()
    if not isinstance(model, Model):
        raise BadArgument(f"the loader gave {shown(model)}; expected a Model, as `load` gives one; mend the loader")
    if model.weights_hash != work.weights_hash:
        raise BrokenInvariant(
            f"a worker loaded {model.name} with weights {model.weights_hash[:12]}, the run has "
            f"{work.weights_hash[:12]}; expected the same model on every machine; give a path or a name that is the "
            "same everywhere"
        )
    return model


@dataclass(frozen=True, eq=False)
class _Visits:
    """The visits of a block: their prompts, what they read, their clean and their fully steered numbers.

    Attributes:
        slots: by visit and random vector (-1: the real one), which of the runs.
    """

    slots: dict[tuple[int, int], int]
    ids: list[tuple[int, ...]]
    scored: Scored
    scores: "Numbers"
    clean: Float[Tensor, "slot number"]
    steered: Float[Tensor, "slot number"]
    norms: Float[Tensor, "slot layer"]

    def slot(self, trial: Trial) -> int:
        """The runs that a trial is measured against."""
        return self.slots[trial.visit, trial.control]


class Bench:
    """A work with its model, and what is worth keeping between blocks."""

    @gated
    def __init__(self, work: Work, model: Model) -> None:
        self.work, self.model = work, model
        self.metric: Metric = METRICS[work.metric[0]](**work.metric[1])
        self.reads: Reads = "logits" if model.softcap else "hidden"
        self._edits: dict[Any, Edit] = {}
        self._norms: dict[tuple[int, ...], Tensor] = {}
        self._control = lru_cache(maxsize=64)(self._make_control)
        self._images = lru_cache(maxsize=64)(self._make_images)

    @gated
    @torch.no_grad()
    def answer(self, block: Block) -> Answer:
        """Runs a block."""
        start = time.perf_counter()
        if len(self._edits) > EDITS:
            self._edits.clear()
        trials, visits, _, values = self._measure(range(block.start, block.stop), block.prompts)
        table, metrics = self._table(trials, visits, values), visits.scores.seconds
        seconds = time.perf_counter() - start
        return Answer(block.index, table, {"forward": seconds - metrics, "metrics": metrics})

    # Runs.

    def _visits(self, trials: Sequence[Trial], prompts: Mapping[int, tuple[int, ...]]) -> _Visits:
        design = self.work.design
        numbers = list(dict.fromkeys((t.visit, t.control) for t in trials))
        about = [design.of_visit(visit) for visit, _ in numbers]
        full = [prompts[prompt] for prompt, _, _ in about]
        ids = [row[:-1] for row in full]
        given = Prompts(tuple(ids), ("",) * len(ids), continuations=tuple(row[-1:] for row in full))
        scored = Scored(self.model, given, tuple(self.work.positions(self.work.layout(row)) for row in ids))
        options: dict[str, Any] = {"prompts": ids, "budget": self.work.budget}
        clean = scored.outputs([Variant(slot) for slot in range(len(ids))], **options)
        whole = [
            Variant(slot, self._whole(vector, coefficient, ids[slot], control))
            for slot, ((_, vector, coefficient), (_, control)) in enumerate(zip(about, numbers, strict=True))
        ]
        steered = scored.outputs(whole, **options)
        scores = Numbers(self.model, scored, self.metric, clean, steered)
        numbers_of = [scores(scored.readout(outputs)) for outputs in (clean, steered)]
        norms = torch.stack(self._stream_norms(ids))
        slots = {key: slot for slot, key in enumerate(numbers)}
        return _Visits(slots, ids, scored, scores, numbers_of[0], numbers_of[1], norms)

    def _measure(
        self, numbers: Iterable[int], prompts: Mapping[int, tuple[int, ...]]
    ) -> tuple[list[Trial], _Visits, list[Variant], Float[Tensor, "trial number"]]:
        """Trials by their numbers, their visits, the edited runs, and what was measured of them."""
        trials = self.work.design.draw(numbers, self.work.additions.units)
        visits = self._visits(trials, prompts)
        slots = [visits.slot(t) for t in trials]
        variants = [Variant(slot, self.edits(t, visits.ids[slot])) for slot, t in zip(slots, trials, strict=True)]
        options: dict[str, Any] = {"reads": self.reads, "budget": self.work.budget}
        values = measure(self.model, visits.ids, variants, visits.scored.positions, visits.scores, **options)
        return trials, visits, variants, values

    def _whole(self, vector: int | None, coefficient: float, ids: tuple[int, ...], control: int) -> tuple[Edit, ...]:
        """The whole injection, of the real or a random vector; with mixed vectors the mean of all."""
        whole = self.work.additions.whole
        if control >= 0:
            whole = tuple(self._control(v, control)[1] for v in range(len(whole)))
        if vector is not None:
            return tuple(self._edit(part, coefficient, ids) for part in whole[vector])
        return tuple(self._edit(part, coefficient / len(whole), ids) for group in whole for part in group)

    def edits(self, trial: Trial, ids: tuple[int, ...]) -> tuple[Edit, ...]:
        """The edits of a trial on a prompt; the same ones for like trials, so that the engine shares their work."""
        found = []
        for unit, vector in zip(trial.units, trial.vectors, strict=True):
            key = (unit, vector, trial.control, trial.coefficient, self._where(ids))
            if key not in self._edits:
                part = self._part(vector, unit, trial.control)
                self._edits[key] = self._edit(part, trial.coefficient, ids)
            found.append(self._edits[key])
        return tuple(found)

    def _edit(self, part: SteeringVector, coefficient: float, ids: tuple[int, ...]) -> Edit:
        value = (coefficient * part.values).to(self.model.device)
        return Edit(part.site, "add", value, self._where(ids))

    def _where(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        return self.work.injected(self.work.layout(ids))

    def _part(self, vector: int, unit: int, control: int) -> SteeringVector:
        return (self.work.additions.parts[vector] if control < 0 else self._control(vector, control)[0])[unit]

    def _make_control(self, vector: int, control: int) -> tuple[tuple[SteeringVector, ...], tuple[SteeringVector, ...]]:
        state = np.random.SeedSequence([self.work.design.seed, control, vector])
        return self.work.additions.control(vector, int(state.generate_state(1)[0]))

    # Norms.

    def _make_images(self, vector: int, control: int) -> Float[Tensor, "unit image"]:
        """What each unit's addition writes into the stream, rows flattened."""
        additions = self.work.additions
        parts = (self._part(vector, unit, control) for unit in range(len(additions.units)))
        return torch.stack([additions.image(u, p.values).flatten() for u, p in enumerate(parts)]).float()

    def _stream_norms(self, prompts: Sequence[tuple[int, ...]]) -> list[Float[Tensor, " layer"]]:
        """The clean stream's norm at every layer, root mean square over the injected positions."""
        if len(self._norms) > 10_000:
            self._norms.clear()
        new = [ids for ids in dict.fromkeys(prompts) if ids not in self._norms]
        sites = [("resid_pre", layer) for layer in range(self.model.n_layers)]
        variants = [Variant(index) for index in range(len(new))]
        if new:
            for chunk, readout in run(self.model, new, variants, reads="none", sites=sites, budget=self.work.budget):
                for row, index in enumerate(chunk):
                    at = list(self._where(new[index]))
                    squares = [readout.activations[site][row, at].float().square().sum(-1).mean() for site in sites]
                    self._norms[new[index]] = torch.stack(squares).sqrt().cpu()
        return [self._norms[ids] for ids in prompts]

    def _written(self, trials: Sequence[Trial], visits: _Visits) -> Float[Tensor, " trial"]:
        """Norm of the sum of what the units of each trial write, each relative to the stream of its layer."""
        units, rows = self.work.additions.units, self.work.additions.rows
        layers, norms = [unit.layer for unit in units], visits.norms.numpy()
        weights: dict[tuple[int, int], NDArray[np.float32]] = {}
        for row, t in enumerate(trials):
            scale = t.coefficient / norms[visits.slot(t)]
            for unit, vector in zip(t.units, t.vectors, strict=True):
                if (vector, t.control) not in weights:
                    weights[vector, t.control] = np.zeros((len(trials), len(units)), np.float32)
                weights[vector, t.control][row, unit] = scale[layers[unit]]
        written = torch.zeros(len(trials), rows * self.model.d_model)
        for which, weight in weights.items():
            some = np.flatnonzero(weight.any(axis=1))
            written[some] += torch.from_numpy(weight[some]) @ self._images(*which)
        norm: Tensor = torch.linalg.vector_norm(written, dim=-1)
        return norm / math.sqrt(rows)

    # Rows.

    def _table(self, trials: Sequence[Trial], visits: _Visits, values: Tensor) -> pa.Table:
        slot = [visits.slot(t) for t in trials]
        clean, steered = visits.clean[slot].cpu().numpy(), visits.steered[slot].cpu().numpy()
        effect, kl, loss, entropy, own = values.cpu().numpy().T
        names = [unit.name for unit in self.work.additions.units]
        with np.errstate(over="ignore"):  # told below
            perplexity, clean_perplexity, steered_perplexity = map(np.exp, (loss, clean[:, 2], steered[:, 2]))
        columns: dict[str, Any] = {
            "trial": [t.index for t in trials],
            "visit": [t.visit for t in trials],
            "prompt": [self.work.design.of_visit(t.visit)[0] for t in trials],
            "nodes": [[names[unit] for unit in t.units] for t in trials],
            "k": [len(t.units) for t in trials],
            "design": [t.kind for t in trials],
            "antithetic": [t.antithetic for t in trials],
            "mode": [self.work.mode] * len(trials),
            "vector": [None if t.mixed else t.vectors[0] for t in trials],
            "drawn": [list(t.vectors) if t.mixed else None for t in trials],
            "control": [t.control for t in trials],
            "coefficient": [t.coefficient for t in trials],
            "effect": effect - clean[:, 0],
            "kl": kl,
            "perplexity": perplexity,
            "entropy": entropy,
            "norm": self._written(trials, visits).numpy(),
            "clean_perplexity": clean_perplexity,
            "clean_entropy": clean[:, 3],
            "own": own - clean[:, 4],
            "steered_effect": steered[:, 0] - clean[:, 0],
            "steered_own": steered[:, 4] - clean[:, 4],
            "steered_kl": steered[:, 1],
            "steered_perplexity": steered_perplexity,
        }
        arrays = [
            pa.array(columns[field.name]).cast(field.type)
            if isinstance(columns[field.name], np.ndarray)
            else pa.array(columns[field.name], type=field.type)
            for field in SCHEMA
        ]
        table = pa.Table.from_arrays(arrays, schema=SCHEMA)
        _refuse_endless(table, trials, self.model)
        return table

    @gated
    @torch.no_grad()
    def check(self, block: Block, trials: Count = 6) -> dict[str, Any]:
        """The largest difference between the engine and plain passes, over some trials of a block.

        Raises:
            BrokenInvariant: it is too large for the numbers to be trusted.
        """
        spread = np.unique(np.linspace(block.start, block.stop - 1, trials).round().astype(int))
        trials_of, visits, variants, expected = self._measure(spread.tolist(), block.prompts)
        self._table(trials_of, visits, expected)  # refuses numbers that are none
        worst = 0.0
        for row, variant in enumerate(variants):
            logits = plain_logits(self.model, visits.ids[variant.prompt], variant.edits)
            positions = visits.scored.positions[variant.prompt]
            readout = Readout(
                [variant],
                torch.zeros(len(positions), dtype=torch.long, device=logits.device),
                torch.tensor(positions, device=logits.device),
                logits[list(positions)],
                None,
            )
            worst = max(worst, float((visits.scores.of_logits(readout).mean(dim=-1) - expected[row, 1:4]).abs().max()))
        if not worst <= TOLERANCE:
            raise BrokenInvariant(
                f"the engine and plain passes of {self.model.name} differ by {worst:.1e} nats; expected at most "
                f"{TOLERANCE:g}; please report this model"
            )
        return {
            "name": f"engine against plain passes, {len(variants)} trials (nats)",
            "value": worst,
            "limit": TOLERANCE,
            "passed": True,
        }


def _refuse_endless(table: pa.Table, trials: Sequence[Trial], model: Model) -> None:
    """Numbers that are none come of an overflow; they are not written as if they were results.

    Raises:
        Overflow: with the first trial and what it did.
    """
    for field in SCHEMA:
        values = table[field.name].to_numpy() if pa.types.is_floating(field.type) else np.zeros(0)
        for row in np.flatnonzero(~np.isfinite(values))[:1].tolist():
            trial, nodes = trials[row], ", ".join(table["nodes"][row].as_py())
            raise Overflow(
                f"trial {trial.index} ({nodes} at coefficient {trial.coefficient:g}) gives {field.name} = "
                f"{values[row]} in {str(model.dtype).removeprefix('torch.')}; expected a finite number; use smaller "
                "coefficients, or a wider dtype"
            )
