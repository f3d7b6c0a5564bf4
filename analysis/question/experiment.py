"""`Experiment` = model + injections + prompts + metric + references + seed: what every method is asked about.

Its clean and steered runs, and those of its reference vectors, are made once. References are put in by the same
operations with the same coefficients. They have the same norm, site by site and position by position of what the
injections add together (row by row, for other operations), or (matched="kl") are scaled to the same disturbance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.brief import brief
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.plain import plain_additions
from steerscope.analysis.engine.run import Precision, Reads, measure
from steerscope.analysis.errors import BadPrompt
from steerscope.analysis.gate import Bytes, Seed, Whole, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.model.positions import Layout
from steerscope.analysis.results.verdicts import Basis

from .answers import PerPrompt, with_own
from .describing import described
from .disturbance import at_kl, check_scale
from .injection import Injection, composed, puts
from .inquiries import check_edits, check_injections, check_outputs, check_values, check_vector
from .metrics import Metric, logit_direction
from .outputs import Outputs, pieced
from .prompts import Prompts, make_prompts
from .reading import Activations, first_change, read, set_to, values_at
from .references import References, references
from .runs import ROUNDING, Runs, beyond_rounding
from .scored import Scored
from .scores import Means, Score, divergence
from .scoring import scoring
from .size import check_moved, largest

__all__ = ["Activations", "Edits", "Experiment", "Patches", "beyond_rounding"]

Edits = tuple[tuple[Edit, ...], ...]  # by prompt
Patches = dict[Node, list[Edit]]  # by node, one edit for each prompt

if TYPE_CHECKING:  # as they are kept; the door takes more
    Injections = tuple[Injection, ...]
    Texts = Prompts
else:
    Injections = Injection | Sequence[Injection]
    Texts = Prompts | Sequence[str] | Sequence[Sequence[int]] | Sequence[Sequence[Mapping[str, str]]]


@gated
@dataclass(frozen=True, eq=False, repr=False)
class Experiment:
    """One question.

    Attributes:
        injections: one or several; they act together.
        prompts: texts, chats, token ids or `Prompts`.
        metric: `logit_direction()` by default.
        references: reference vectors that ride along: None for other concepts with random vectors beside, where the
            vector's recipe allows them (of a difference of means, labels exchanged); `concepts:16,isotropic:4`; how
            many isotropic ones; or vectors of yours.
        matched: references of equal "norm", or of equal "kl".
        scored: positions that the metric reads: None for all that are neither BOS nor injected (of answers of each
            prompt's own: the last), "all", "last", indices, or `PerPrompt`. "own" are those that the prompts hold.
        budget: bytes that the engine may take; worked out by default.
        precision: of references at single nodes: "exact" (float32), "delta", "auto"; see docs/precision.md.

    Raises:
        BadInjection, BadNode: an injection that does not fit the model, its numbers, or a prompt.
        BadPrompt, BadMetric, BadArgument: prompts, targets, references or anything else that cannot be used.
    """

    model: Model
    injections: Injections
    prompts: Texts
    metric: Metric = field(default_factory=logit_direction)
    references: References | str | int | Sequence[Any] | None = None
    matched: Literal["norm", "kl"] = "norm"
    scored: Literal["all", "last", "own"] | Sequence[int] | PerPrompt | None = None
    seed: Seed = 0
    budget: Bytes | None = None
    precision: Literal["exact", "delta", "auto"] = "exact"

    def __post_init__(self) -> None:
        injections = (self.injections,) if isinstance(self.injections, Injection) else tuple(self.injections)
        check_injections(self.model, injections)
        if self.matched == "kl":
            check_scale(injections)
        for token in self.metric.tokens:
            self.model.target(token)
        vectors = [injection.vector for injection in injections]
        object.__setattr__(self, "references", references(self.references, self.model, vectors))
        prompts, metric, scored = with_own(self.model, make_prompts(self.model, self.prompts), self.metric, self.scored)
        object.__setattr__(self, "metric", metric)
        object.__setattr__(self, "scored", scored)
        object.__setattr__(self, "injections", injections)
        object.__setattr__(self, "prompts", prompts)
        if not len(prompts) or not all(prompts.ids):
            raise BadPrompt("no prompts, or an empty one; expected at least one token each; add some")
        self.edits(0)  # parses positions against each prompt

    def __repr__(self) -> str:
        what = brief(" and ".join(map(repr, self.injections)), 300)
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

    @gated
    def fewer(self, most: Whole) -> "Experiment":
        """The same question with at most so many references, noise first; the runs that are there stay there."""
        if most >= len(self.beside):
            return self
        same = replace(self, references=self.beside.first(most))
        same.__dict__.update({"_runs": self._runs, "holds": self.holds})
        if "steering" in self.__dict__:
            same.__dict__["steering"] = self.steering[: 1 + most]
        return same

    @cached_property
    def holds(self) -> bool:
        """Whether operations are held: what each adds in a vector's own run is what `edits` adds, whatever else is
        changed. So a steered run is a sum of what nodes write and what was added, which paths and parts need."""
        return False

    @cached_property
    def held(self) -> "Experiment":
        """The same question with its operations held; itself where all injections add."""
        if self.holds or all(injection.operation == "add" for injection in self.injections):
            return self
        same = replace(self)
        same.__dict__.update({"_runs": self._runs, "steering": self.steering, "holds": True})
        return same

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        """By prompt, what its positions are found by: its length, and whether BOS comes first."""
        return self.prompts.layouts(self.model)

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

    @gated
    def edits(self, vector: Whole, share: float = 1.0) -> Edits:
        """The edits of every prompt: `vector` 0 is the real one, 1 the first reference.

        What several injections of a reference add has, at every site and position, the norm of what the real ones add.

        Args:
            share: of the coefficients.
        """
        injections = self.injections if check_vector(vector, len(self.vectors)) == 0 else self.steering[vector]
        made = self._edits(injections)
        if self.holds:
            made = self._runs.get("additions", vector, lambda: self._additions(made))
        return made if share == 1.0 else tuple(tuple(edit.times(share) for edit in own) for own in made)

    def _additions(self, edits: Edits) -> Edits:
        return tuple(plain_additions(self.model, *one) for one in zip(self.prompts.full, edits, strict=True))

    def _edits(self, injections: Sequence[Injection]) -> Edits:
        real = None if injections is self.injections or len(injections) == 1 else self.injections
        return tuple(composed(injections, real, prompt) for prompt in self.layouts)

    @cached_property
    def injected(self) -> tuple[tuple[int, ...], ...]:
        """By prompt, the positions that are edited."""
        return tuple(tuple(sorted({p for i in self.injections for p in i.where(prompt)})) for prompt in self.layouts)

    @cached_property
    def _scoring(self) -> tuple[Scored, str]:
        assert not isinstance(self.scored, PerPrompt)  # the prompts hold them
        positions, rule = scoring(self.metric, self.prompts, self.scored, self.injected, self.layouts)
        return Scored(self.model, self.prompts, positions), rule

    @property
    def scored_positions(self) -> Scored:
        return self._scoring[0]

    @property
    def scoring_rule(self) -> str:
        """Which positions are scored, in words, for the manifest."""
        return self._scoring[1]

    # Runs. Those without the injection and with the real one are made once; of the others the last is kept.

    @cached_property
    def _runs(self) -> Runs:
        return Runs()

    @cached_property
    def nothing(self) -> Edits:
        return tuple(() for _ in self.prompts.ids)

    @gated
    def edits_of(self, vector: Whole | None) -> Edits:
        """As `edits`; None is the clean run."""
        return self.nothing if vector is None else self.edits(vector)

    @gated
    def outputs(self, edits: Edits) -> Outputs:
        """Final states of all prompts under any edits, at the scored positions."""
        return self.scored_positions.outputs(self._variants(edits), budget=self.budget)

    def _variants(self, edits: Edits) -> list[Variant]:
        check_edits(edits, len(self.prompts))
        return [Variant(prompt, tuple(own)) for prompt, own in enumerate(edits)]

    @gated
    def outputs_of(self, vector: Whole | None) -> Outputs:
        """The same of the clean run (None), the steered run (0), or that of a reference (1, 2, ...).

        Raises:
            BadInjection: what is injected is rounded away everywhere.
        """
        found: Outputs = self._runs.get("outputs", vector, partial(self.outputs, self.edits_of(vector)))
        if vector == 0:
            _ = self._moves
        return found

    @cached_property
    def _moves(self) -> bool:
        """Whether the injection changes what comes out; one that is rounded away is refused."""
        clean, steered = (self._runs.get("outputs", v, partial(self.outputs, self.edits_of(v))) for v in (None, 0))
        same = torch.allclose(clean.states, steered.states, rtol=ROUNDING, atol=ROUNDING)
        if same:
            check_moved(self.model, self.injections, self.edits(0), partial(self.activations, None))
        return not same

    @property
    def clean(self) -> Outputs:
        return self.outputs_of(None)

    @property
    def steered(self) -> Outputs:
        return self.outputs_of(0)

    @gated
    def read(self, edits: Edits, sites: Sequence[tuple[str, int]]) -> Activations:
        """By prompt, activations under any edits: (site, layer) -> `[pos, ...]`; of a pattern `[head, query, key]`."""
        return read(self.scored_positions, self._variants(edits), sites, self.budget, ends=False)[0]

    @gated
    def activations(self, vector: Whole | None, sites: Sequence[tuple[str, int]]) -> Activations:
        """The same of the clean run (None) or a vector's; what has been read already is not run again.

        Final states come with them, where they have not been asked for before.
        """
        kept: Activations = self._runs.get("activations", vector, lambda: [{} for _ in self.prompts.full])
        absent = sorted(set(sites) - set(kept[0]))
        if absent:
            ends, variants = not self._runs.has("outputs", vector), self._variants(self.edits_of(vector))
            found, outputs = read(self.scored_positions, variants, absent, self.budget, ends)
            if ends:
                self._runs.get("outputs", vector, lambda: outputs)
            for own, more in zip(kept, found, strict=True):
                own |= more
        return [{site: own[site] for site in sites} for own in kept]

    @gated
    def patches(self, vector: Whole | None, nodes: Sequence[Node], everywhere: bool = True) -> Patches:
        """For every node, the edits (by prompt) that set it to its output in a vector's run, at all positions.

        The same edits are given each time, so that variants that hold them share their computation.

        Args:
            everywhere: false leaves out what stands before all that is injected: there all runs are the same.
        """
        made: Patches = self._runs.get("patches" if everywhere else "patches from", vector, dict)
        absent = [node for node in nodes if node not in made]
        if absent:
            for node in absent:
                self.model.check(node.site)
            found = self.activations(vector, sorted({(node.site.name, node.layer) for node in absent}))
            starts = [0] * len(found) if everywhere else [first_change(own) for own in self.edits(0)]
            made.update((node, set_to(node, found, starts)) for node in absent)
        return {node: made[node] for node in nodes}

    # Scores.

    @cached_property
    def along(self) -> Score:
        """The metric, along the real vector."""
        return self.metric.prepare(self.scored_positions, self.clean, self.steered)

    @gated
    def own(self, vector: Whole) -> Score:
        """Along a vector's own change of logits: what references are read by, each in its own direction."""
        metric = self.metric if self.metric.own_direction else logit_direction()

        def prepared() -> Score:
            return metric.prepare(self.scored_positions, self.clean, self.outputs_of(vector))

        found: Score = self._runs.get("own", vector, prepared)  # asked for by every reading of a vector
        return found

    @gated
    def readings(self, vector: Whole) -> list[Score]:
        """What a vector's runs are read by: a reference by its own change alone, the real vector by the metric, too."""
        own = self.own(vector)
        return [own] if vector else [self.along, own]

    def basis(self) -> Basis:
        """What inference needs to know of the question: groups of prompts, whole effects, families of references."""
        own = np.stack([self.own_effect(vector) for vector in self.vectors])
        return Basis(self.prompts.by_group, self.effect(), own, ("", *self.beside.families))

    @gated
    def scores(
        self,
        variants: Sequence[Variant],
        scores: Sequence[Score],
        reads: Reads | None = None,
        precision: Precision = "exact",
    ) -> Float[NDArray[np.float64], "variant score"]:
        """Several scores of many variants, each averaged over the scored positions.

        Raises:
            Overflow: a run or a score is not finite.
        """
        if not variants or not scores:
            return np.zeros((len(variants), len(scores)))
        reads = reads or self.reads
        own = reads == "logits" and self.scored_positions.reads == "hidden"  # made of states, in pieces
        every = Means(tuple(scores), self.model.bridge.unembed if own else None, self.scored_positions.vocab)
        given: dict[str, Any] = {"reads": "hidden" if own else reads, "budget": self.budget, "precision": precision}
        found = measure(self.model, self.prompts.full, variants, self.scored_positions.positions, every, **given)
        return found.cpu().numpy()

    @gated
    def score(self, variants: Sequence[Variant]) -> Float[NDArray[np.float64], " variant"]:
        """The metric of many variants, each averaged over the scored positions."""
        return self.scores(variants, [self.along])[:, 0]

    @gated
    def value(self, vector: Whole | None, score: Score | None = None) -> Float[NDArray[np.float64], " prompt"]:
        """A score (the metric by default) of the clean run (None) or a vector's, from its outputs, without a run."""
        values = values_at(self.scored_positions, self.outputs_of(vector), score or self.along)
        return self.scored_positions.mean(values).cpu().numpy()

    @gated
    def change(
        self,
        values: Float[NDArray[np.float64], "*rows prompt"],
        base: Whole | None,
        vector: Whole = 0,
        score: Score | None = None,
    ) -> Float[NDArray[np.float64], "*rows prompt"]:
        """How far a score of some runs is from that of the base: the clean run (None), or a vector's.

        One run in two batches differs by rounding, which is no effect (`beyond_rounding`).
        """
        check_values(values, len(self.prompts))
        clean, steered = self.value(None, score), self.value(vector, score)
        return beyond_rounding(values - (clean if base is None else steered), values, clean, steered)

    @gated
    def effect(self, vector: Whole = 0) -> Float[NDArray[np.float64], " prompt"]:
        """Steered minus clean, along the metric of the real vector."""
        return self._runs.fact("effect", vector, lambda: self.value(vector) - self.value(None))

    @gated
    def own_effect(self, vector: Whole = 0) -> Float[NDArray[np.float64], " prompt"]:
        """Steered minus clean, along the vector's own change of logits, in logits."""

        def found() -> NDArray[np.float64]:
            own = self.own(vector)
            return self.value(vector, own) - self.value(None, own)

        return self._runs.fact("own effect", vector, found)

    @gated
    def disturbed(self, vector: Whole = 0) -> Float[NDArray[np.float64], " prompt"]:
        """KL(steered || clean) of a vector, in nats."""
        return self._runs.fact("kl", vector, lambda: self.disturbance(self.outputs_of(vector)))

    # Disturbance.

    @gated
    def kl(self, injections: Sequence[Injection]) -> Float[NDArray[np.float64], " prompt"]:
        """KL(steered || clean) of each prompt, mean over scored positions, in nats.

        Raises:
            BadInjection: not as many injections as the question has, or one that does not fit the model.
        """
        check_injections(self.model, injections, len(self.injections))
        return self.disturbance(self.outputs(self._edits(injections)))

    @gated
    def disturbance(self, steered: Outputs) -> Float[NDArray[np.float64], " prompt"]:
        """The same, of a run that is already there."""
        check_outputs(steered, self.clean)
        values = pieced(lambda a, b: divergence(a, b.log_softmax(dim=-1)), steered, self.clean)
        return self.scored_positions.mean(values.double()).cpu().numpy()

    @gated
    def at_kl(self, injections: Sequence[Injection], target: float) -> tuple[Injection, ...]:
        """The injections, scaled by one factor so that they disturb by `target` nats on average.

        Raises:
            BadInjection: no factor from 1e-3 to 1e3, or to where the model's numbers end, does.
        """

        return at_kl(self.kl, injections, float(target), largest(self.model, puts(injections)))

    def describe(self) -> dict[str, Any]:
        """What the manifest says of the question."""
        return described(self)
