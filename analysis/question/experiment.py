"""`Experiment` = model + injections + prompts + metric + references + seed: what every method is asked about.

Its clean and steered runs, and those of its reference vectors, are made once. References have the same norm, site by
site and position by position of what the injections add together, or (matched="kl") are scaled to the same disturbance.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant, matched
from steerscope.analysis.engine.run import Readout, Reads, measure, run
from steerscope.analysis.errors import BadArgument, BadInjection, BadPrompt
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.results.verdicts import Basis

from .injection import Injection, compose
from .metrics import Metric, Outputs, Score, Scored, divergence, logit_direction
from .prompts import Prompts, continued, make_prompts
from .references import References, references

Edits = tuple[tuple[Edit, ...], ...]  # by prompt
Activations = list[dict[tuple[str, int], Tensor]]  # by prompt
Patches = dict[Node, list[Edit]]  # by node, one edit for each prompt
ROUNDING = 8 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True, eq=False, repr=False)
class Experiment:
    """One question.

    Attributes:
        injections: one or several; they act together.
        prompts: texts, token ids or `Prompts`.
        metric: `logit_direction()` by default.
        references: reference vectors that ride along: None for other concepts with random vectors beside, where the
            vector's recipe allows them (of a difference of means, labels exchanged); `concepts:16,isotropic:4`; how
            many isotropic ones; or vectors of yours.
        matched: references of equal "norm", or of equal "kl".
        scored: positions that the metric reads: None for all that are neither BOS nor injected,
            "all", "last", or indices.
        budget: bytes that the engine may take; worked out by default.
    """

    model: Model
    injections: tuple[Injection, ...]
    prompts: Prompts
    metric: Metric = field(default_factory=logit_direction)
    references: References | str | int | Sequence[Any] | None = None
    matched: Literal["norm", "kl"] = "norm"
    scored: str | tuple[int, ...] | None = None
    seed: int = 0
    budget: int | None = None

    def __post_init__(self) -> None:
        injections = (self.injections,) if isinstance(self.injections, Injection) else tuple(self.injections)
        if not injections:
            raise BadInjection(
                "no injection given; expected at least one; make one with Injection(vector, coefficient)"
            )
        for injection in injections:
            injection.check(self.model)
        if self.matched not in ("norm", "kl"):
            raise BadArgument(f"matched={self.matched!r}; expected norm or kl; choose one")
        vectors = [injection.vector for injection in injections]
        object.__setattr__(self, "references", references(self.references, self.model, vectors))
        prompts = make_prompts(self.model, self.prompts)
        continuation = self.metric.options.get("continuation")
        if continuation is not None:
            prompts = continued(self.model, prompts, continuation)
        object.__setattr__(self, "injections", injections)
        object.__setattr__(self, "prompts", prompts)
        for ids, edits in zip(prompts.ids, self.edits(0), strict=True):  # parses positions against each prompt
            assert len(ids) and edits

    def __repr__(self) -> str:
        what = " and ".join(map(repr, self.injections))
        return (
            f"<Experiment: {what} in {self.model.name}, {len(self.prompts)} prompts, {self.metric.name}, "
            f"references {self.beside}>"
        )

    @property
    def beside(self) -> References:
        """The reference vectors, as parsed from what was given."""
        assert isinstance(self.references, References)
        return self.references

    @property
    def vectors(self) -> range:
        """0 for the real vector, then the references."""
        return range(1 + len(self.beside))

    def fewer(self, most: int) -> "Experiment":
        """The same question with at most so many references, noise first; the runs that are there stay there."""
        if most >= len(self.beside):
            return self
        same = replace(self, references=self.beside.first(most))
        same.__dict__["_runs"] = self._runs
        if "steering" in self.__dict__:
            same.__dict__["steering"] = self.steering[: 1 + most]
        return same

    @property
    def _has_bos(self) -> bool:
        return self.model.bos is not None

    @cached_property
    def reachable(self) -> tuple[Node, ...]:
        """The nodes that an injection can reach: those from its layer on."""
        first = min(injection.site.layer for injection in self.injections)
        return tuple(node for node in self.model.nodes if node.layer >= first)

    @property
    def reads(self) -> Reads:
        """What the metric needs of a run: the final stream alone, where logits are linear in it."""
        return "logits" if self.model.softcap else self.metric.reads

    @cached_property
    def steering(self) -> tuple[tuple[Injection, ...], ...]:
        """The real injections, then those of each reference, already scaled; what they add together is in `edits`."""
        real = [injection.vector for injection in self.injections]
        drawn = self.beside.draw(self.model, real, self.seed)
        others = [tuple(replace(i, vector=v) for i, v in zip(self.injections, own, strict=True)) for own in drawn]
        if self.matched == "kl" and others:
            target = float(self.kl(self.injections).mean())
            others = [self.at_kl(own, target) for own in others]
        return (self.injections, *others)

    def edits(self, vector: int, share: float = 1.0) -> Edits:
        """The edits of every prompt: `vector` 0 is the real one, 1 the first reference.

        What several injections of a reference add has, at every site and position, the norm of what the real ones add.

        Args:
            share: of the coefficients.
        """
        injections = self.injections if vector == 0 else self.steering[vector]
        made = self._edits(injections)
        return made if share == 1.0 else tuple(tuple(edit.times(share) for edit in own) for own in made)

    def _edits(self, injections: Sequence[Injection]) -> Edits:
        made = tuple(compose(injections, len(ids), self._has_bos) for ids in self.prompts.ids)
        if injections is self.injections or len(injections) == 1:
            return made
        pairs = zip(injections, self.injections, strict=True)
        scale = next((one.coefficient / real.coefficient for one, real in pairs if real.coefficient), 1.0)
        return tuple(
            matched(own, real, len(ids), abs(scale))
            for own, real, ids in zip(made, self._edits(self.injections), self.prompts.ids, strict=True)
        )

    @cached_property
    def injected(self) -> tuple[tuple[int, ...], ...]:
        """By prompt, the positions that are edited."""
        return tuple(
            tuple(sorted({p for i in self.injections for p in i.where(len(ids), self._has_bos)}))
            for ids in self.prompts.ids
        )

    @cached_property
    def _scoring(self) -> tuple[Scored, str]:
        positions, rule = [], ""
        for prompt, (ids, full) in enumerate(zip(self.prompts.ids, self.prompts.full, strict=True)):
            chosen, rule = self._positions(len(ids), len(full), self.injected[prompt])
            if not chosen:
                raise BadPrompt(
                    f"prompt {prompt + 1} ({self.prompts.texts[prompt]!r}) has no position left to score ({rule}); "
                    "expected tokens after the injected ones; use a longer prompt or scored='last'"
                )
            positions.append(chosen)
        return Scored(self.model, self.prompts, tuple(positions)), rule

    @property
    def scored_positions(self) -> Scored:
        return self._scoring[0]

    @property
    def scoring_rule(self) -> str:
        """Which positions are scored, in words, for the manifest."""
        return self._scoring[1]

    def _positions(self, length: int, full: int, injected: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
        last = full - (1 if self.metric.needs_next else 0)  # a loss needs a token that follows
        if self.prompts.continuations:
            return tuple(range(length - 1, last)), "the positions that predict the continuation"
        if self.scored == "last":
            return tuple(range(max(0, last - 1), last)), "the last position of each prompt"
        if self.scored == "all":
            return tuple(range(last)), "all positions"
        if isinstance(self.scored, str):
            raise BadArgument(f"scored={self.scored!r}; expected None, all, last or indices")
        if self.scored is not None:
            wanted = {i % full for i in self.scored if -full <= i < full}
            return tuple(i for i in sorted(wanted) if i < last), f"positions {list(self.scored)}"
        start = 1 if self._has_bos else 0
        free = tuple(p for p in range(start, last) if p not in injected and p > injected[0])
        if free:
            return (free, "positions after the first injected one that are not injected themselves, BOS left out")
        return tuple(
            range(max(0, last - 1), last)
        ), "the last position: every position from the injection on is injected"

    # Runs. Those without the injection and with the real one are made once; of the others the last is kept.

    @cached_property
    def _runs(self) -> "_Runs":
        return _Runs()

    @cached_property
    def nothing(self) -> Edits:
        return tuple(() for _ in self.prompts.ids)

    def edits_of(self, vector: int | None) -> Edits:
        """As `edits`; None is the clean run."""
        return self.nothing if vector is None else self.edits(vector)

    def outputs(self, edits: Edits) -> Outputs:
        """Final states of all prompts under any edits, at the scored positions."""
        variants = [Variant(prompt, tuple(edits[prompt])) for prompt in range(len(self.prompts))]
        return self.scored_positions.outputs(variants, budget=self.budget)

    def outputs_of(self, vector: int | None) -> Outputs:
        """The same of the clean run (None), the steered run (0), or that of a reference (1, 2, ...)."""
        found: Outputs = self._runs.get("outputs", vector, lambda: self.outputs(self.edits_of(vector)))
        return found

    @property
    def clean(self) -> Outputs:
        return self.outputs_of(None)

    @property
    def steered(self) -> Outputs:
        return self.outputs_of(0)

    def read(self, edits: Edits, sites: Sequence[tuple[str, int]]) -> Activations:
        """By prompt, activations under any edits: (site, layer) -> `[pos, ...]`; of a pattern `[head, query, key]`."""
        prompts = self.prompts.full
        variants = [Variant(p, tuple(edits[p])) for p in range(len(prompts))]
        found: Activations = [{} for _ in prompts]
        for chunk, readout in run(self.model, prompts, variants, reads="none", sites=sites, budget=self.budget):
            for row, index in enumerate(chunk):
                kept = slice(len(prompts[index]))
                for site in sites:
                    at = (slice(None), kept, kept) if site[0] == "pattern" else kept
                    found[index][site] = readout.activations[site][row][at].clone()
        return found

    def activations(self, vector: int | None, sites: Sequence[tuple[str, int]]) -> Activations:
        """The same of the clean run (None) or a vector's; what has been read already is not run again."""
        kept: Activations = self._runs.get("activations", vector, lambda: [{} for _ in self.prompts.full])
        absent = sorted(set(sites) - set(kept[0]))
        if absent:
            for own, more in zip(kept, self.read(self.edits_of(vector), absent), strict=True):
                own |= more
        return [{site: own[site] for site in sites} for own in kept]

    def patches(self, vector: int | None, nodes: Sequence[Node]) -> Patches:
        """For every node, the edits (by prompt) that set it to its output in a vector's run, at all positions.

        The same edits are given each time, so that variants that hold them share their computation.
        """
        made: Patches = self._runs.get("patches", vector, dict)
        absent = [node for node in nodes if node not in made]
        if absent:
            found = self.activations(vector, sorted({(node.site.name, node.layer) for node in absent}))
            for node in absent:
                values = [kept[node.site.name, node.layer] for kept in found]
                made[node] = [Edit(node.site, "set", x if node.head is None else x[:, node.head]) for x in values]
        return {node: made[node] for node in nodes}

    # Scores.

    @cached_property
    def along(self) -> Score:
        """The metric, along the real vector."""
        return self.metric.prepare(self.scored_positions, self.clean, self.steered)

    def own(self, vector: int) -> Score:
        """Along a vector's own change of logits: what references are read by, each in its own direction."""
        metric = self.metric if self.metric.own_direction else logit_direction()

        def prepared() -> Score:
            return metric.prepare(self.scored_positions, self.clean, self.outputs_of(vector))

        found: Score = self._runs.get("own", vector, prepared)  # asked for by every reading of a vector
        return found

    def readings(self, vector: int) -> list[Score]:
        """What a vector's runs are read by: a reference by its own change alone, the real vector by the metric, too."""
        own = self.own(vector)
        return [own] if vector else [self.along, own]

    def basis(self) -> Basis:
        """What inference needs to know of the question: groups of prompts, whole effects, families of references."""
        own = np.stack([self.own_effect(vector) for vector in self.vectors])
        return Basis(self.prompts.by_group, self.effect(), own, ("", *self.beside.families))

    def scores(
        self, variants: Sequence[Variant], scores: Sequence[Score], reads: Reads | None = None
    ) -> Float[NDArray[np.float64], "variant score"]:
        """Several scores of many variants, each averaged over the scored positions."""

        def every(readout: Readout) -> Tensor:
            return torch.stack([readout.mean(score(readout).double()) for score in scores], dim=-1)

        positions, budget = self.scored_positions.positions, self.budget
        found = measure(
            self.model, self.prompts.full, variants, positions, every, reads=reads or self.reads, budget=budget
        )
        return found.cpu().numpy()

    def score(self, variants: Sequence[Variant]) -> Float[NDArray[np.float64], " variant"]:
        """The metric of many variants, each averaged over the scored positions."""
        return self.scores(variants, [self.along])[:, 0]

    def value(self, vector: int | None, score: Score | None = None) -> Float[NDArray[np.float64], " prompt"]:
        """A score (the metric by default) of the clean run (None) or a vector's, from its outputs, without a run."""
        readout = self.scored_positions.readout(self.outputs_of(vector))
        return self.scored_positions.mean((score or self.along)(readout).double()).cpu().numpy()

    def change(
        self,
        values: Float[NDArray[np.float64], "*rows prompt"],
        base: int | None,
        vector: int = 0,
        score: Score | None = None,
    ) -> Float[NDArray[np.float64], "*rows prompt"]:
        """How far a score of some runs is from that of the base: the clean run (None), or a vector's.

        One run in two batches differs by rounding, which is no effect (`beyond_rounding`).
        """
        clean, steered = self.value(None, score), self.value(vector, score)
        return beyond_rounding(values - (clean if base is None else steered), values, clean, steered)

    def effect(self, vector: int = 0) -> Float[NDArray[np.float64], " prompt"]:
        """Steered minus clean, along the metric of the real vector."""
        return self._runs.fact("effect", vector, lambda: self.value(vector) - self.value(None))

    def own_effect(self, vector: int = 0) -> Float[NDArray[np.float64], " prompt"]:
        """Steered minus clean, along the vector's own change of logits, in logits."""

        def found() -> NDArray[np.float64]:
            own = self.own(vector)
            return self.value(vector, own) - self.value(None, own)

        return self._runs.fact("own effect", vector, found)

    def disturbed(self, vector: int = 0) -> Float[NDArray[np.float64], " prompt"]:
        """KL(steered || clean) of a vector, in nats."""
        return self._runs.fact("kl", vector, lambda: self.disturbance(self.outputs_of(vector)))

    # Disturbance.

    def kl(self, injections: Sequence[Injection]) -> Float[NDArray[np.float64], " prompt"]:
        """KL(steered || clean) of each prompt, mean over scored positions, in nats."""
        return self.disturbance(self.outputs(self._edits(injections)))

    def disturbance(self, steered: Outputs) -> Float[NDArray[np.float64], " prompt"]:
        """The same, of a run that is already there."""
        values = divergence(steered.logits, self.clean.logits.log_softmax(dim=-1))
        return self.scored_positions.mean(values.double()).cpu().numpy()

    def at_kl(self, injections: Sequence[Injection], target: float) -> tuple[Injection, ...]:
        """The injections, scaled by one factor so that they disturb by `target` nats on average.

        Raises:
            BadInjection: no factor from 1e-3 to 1e3 does.
        """

        def gap(log_factor: float) -> float:
            return float(np.log(max(self.kl(_scaled(injections, np.exp(log_factor))).mean(), 1e-12)) - np.log(target))

        low, high = np.log(1e-3), np.log(1e3)
        if not target > 0 or gap(low) > 0 or gap(high) < 0:
            raise BadInjection(
                f"no coefficient from 1/1000 to 1000 times the given one disturbs by {target:.3g} nats; expected a "
                "disturbance within reach; use matched='norm'"
            )
        return _scaled(injections, float(np.exp(brentq(gap, low, high, xtol=1e-3))))

    def describe(self) -> dict[str, Any]:
        """What the manifest says of the question."""
        return {
            "model": self.model.describe(),
            "injections": [injection.describe() for injection in self.injections],
            "prompts": {
                "count": len(self.prompts),
                "groups": int(self.prompts.by_group.max()) + 1,
                "hash": self.prompts.hash,
                "source": self.prompts.source,
            },
            "metric": {**self.metric.describe(), "scored": self.scoring_rule},
            "references": {
                "count": len(self.beside),
                "families": dict(Counter(self.beside.families)),
                "matched": self.matched,
                "labels": [" and ".join(i.vector.label for i in own) for own in self.steering[1:]],
            },
            "seed": self.seed,
        }


class _Runs:
    """What is kept of the clean run (None), the steered run (0), and the last reference that was asked for."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int | None], Any] = {}
        self._facts: dict[tuple[str, int], NDArray[np.float64]] = {}

    def get(self, what: str, vector: int | None, make: Callable[[], Any]) -> Any:
        if (what, vector) not in self._kept:
            found = make()
            old = [key for key in self._kept if key[0] == what and key[1] and key[1] != vector]
            for key in old if vector else ():
                del self._kept[key]
            self._kept[what, vector] = found
        return self._kept[what, vector]

    def fact(self, what: str, vector: int, make: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
        """A number a prompt: kept for every vector."""
        if (what, vector) not in self._facts:
            self._facts[what, vector] = make()
        return self._facts[what, vector]


def beyond_rounding(
    change: Float[NDArray[np.float64], "..."], *of: Float[NDArray[np.float64], "..."]
) -> Float[NDArray[np.float64], "..."]:
    """A difference; zero where it is less than 8 units in the last place of the largest of what it came from."""
    size = np.max(np.broadcast_arrays(*map(np.abs, of)), axis=0)
    return np.where(np.abs(change) <= ROUNDING * size, 0.0, change)


def _scaled(injections: Sequence[Injection], factor: float) -> tuple[Injection, ...]:
    return tuple(replace(i, coefficient=i.coefficient * factor) for i in injections)
