"""`Contrast`: two runs of each prompt, and the straight way in the input from the one to the other.

Of a task: the corrupted prompt, and the clean one. What is put into the first is the difference of the embeddings, so
that a task is a steered contrast, too, with a vector of each prompt's own. Of an experiment: the prompt without the
injection, and with it. Either may be run under further injections, which both runs have: a task under steering.

What it cannot see: prompts of a pair that differ in length.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.brief import counted
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import Reads, embed
from steerscope.analysis.errors import BadInjection, BadPrompt, UnsupportedModel
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node, Site
from steerscope.analysis.question.answers import padded
from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.question.groups import numbers
from steerscope.analysis.question.injection import Injection, composed
from steerscope.analysis.question.outputs import Outputs
from steerscope.analysis.question.prompts import Prompts
from steerscope.analysis.question.reading import Activations, read, values_at
from steerscope.analysis.question.scored import Scored
from steerscope.analysis.question.scores import Disturbance, OwnAnswers, Score
from steerscope.analysis.routes.edge_scores import Input, inputs_of, reads, reads_at
from steerscope.analysis.tools.writes import injected_stream, stage

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Contrast:
    """Two runs of each prompt.

    Attributes:
        scored: the prompts of the base run, and the positions that are scored.
        base: by prompt, the edits of the base run.
        change: by prompt, edits that add: with them the base run is the whole one.
        score: what is measured.
        what: the two runs in words, such as "clean against corrupted".
        unit: of the score.
        groups: by prompt, the number of its group.
        budget: bytes that the engine may take; worked out by default.
    """

    scored: Scored
    base: Edits
    change: Edits
    score: Score
    what: str
    unit: str
    groups: NDArray[np.int64]
    budget: int | None = None
    reads: Reads = "logits"
    _kept: dict[float, Outputs] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.model.post_norm:
            raise UnsupportedModel(
                f"{self.model.name} has norms between nodes and the stream; expected writes that add up in the stream; "
                "use path_effect"
            )

    def __repr__(self) -> str:
        return f"<Contrast of {counted(len(self), 'prompt')} in {self.model.name}: {self.what}>"

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def model(self) -> Model:
        return self.scored.model

    @property
    def prompts(self) -> Sequence[Sequence[int]]:
        """Token ids of the base run."""
        return self.scored.prompts.full

    @cached_property
    def starts(self) -> tuple[int, int]:
        """The first place where something is put in: layer, and 0 before attention, 1 before the MLP, 2 after it."""
        return min(stage(edit.site) for own in self.change for edit in own)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Those that what is put in can reach."""
        return tuple(node for node in self.model.nodes if node.layer >= self.starts[0])

    @cached_property
    def senders(self) -> list[Node | None]:
        """What is put in (None), then the nodes."""
        return [None, *self.nodes]

    @cached_property
    def receivers(self) -> list[Input]:
        """All that reads the stream, in order; the logits last."""
        return inputs_of(self.model, self.starts[0])

    @cached_property
    def connected(self) -> Bool[NDArray[np.bool_], "sender receiver"]:
        """Where an edge can be."""
        return np.array([[reads(self.model, s, r, self.starts) for r in self.receivers] for s in self.senders])

    @cached_property
    def owners(self) -> Bool[NDArray[np.bool_], "receiver sender"]:
        """Which nodes an input is one of; keys and values may be of several heads. The logits are of none."""
        group = self.model.n_heads // self.model.n_kv_heads
        found = np.zeros((len(self.receivers), len(self.senders)), dtype=bool)
        for r, receiver in enumerate(self.receivers):
            for s, node in enumerate(self.senders):
                if node is None or node.layer != receiver.layer or (node.head is None) != (receiver.head is None):
                    continue
                if node.head is None or receiver.head == (node.head if receiver.name == "q" else node.head // group):
                    found[r, s] = True
        return found

    def variant(self, prompt: int, share: float = 1.0) -> Variant:
        """A run of a prompt on the way: share 0 is the base run, 1 the whole one."""
        added = self.change[prompt] if share == 1 else tuple(e.times(share) for e in self.change[prompt])
        return Variant(prompt, (*(added if share else ()), *self.base[prompt]))

    def activations(self, sites: Sequence[tuple[str, int]], share: float) -> Activations:
        """By prompt, (site, layer) -> `[pos, ...]`."""
        variants = [self.variant(p, share) for p in range(len(self))]
        return read(self.scored, variants, sites, self.budget, ends=False)[0]

    def outputs(self, share: float) -> Outputs:
        """Final states at the scored positions."""
        if share not in self._kept:
            variants = [self.variant(p, share) for p in range(len(self))]
            self._kept[share] = self.scored.outputs(variants, budget=self.budget)
        return self._kept[share]

    def values(self, share: float) -> Float[Values, " prompt"]:
        """The score of each prompt."""
        return np.asarray(self.scored.mean(values_at(self.scored, self.outputs(share), self.score)).cpu().numpy())

    @cached_property
    def effect(self) -> Float[Values, " prompt"]:
        """The score of the whole run minus that of the base run."""
        return self.values(1.0) - self.values(0.0)

    @cached_property
    def divergence(self) -> Score:
        """KL(run || whole run), in nats."""
        return Disturbance(self.scored, self.outputs(1.0))

    def put_in(self, prompt: int) -> dict[tuple[int, int], Float[Tensor, "pos d_model"]]:
        """What is put in before each place where something reads the stream."""
        places = {reads_at(self.model, receiver) for receiver in self.receivers}
        length = len(self.prompts[prompt])
        return {place: injected_stream(self.model, self.change[prompt], length, place) for place in places}


def grouped(prompts: Prompts) -> NDArray[np.int64]:
    """By prompt, the number of its group; copies are one group where nobody has said anything of groups."""
    return np.asarray(prompts.by_group if prompts.groups else numbers(prompts.full))


def contrast_of(experiment: Experiment) -> Contrast:
    """The prompts of an experiment with its injections, against themselves without."""
    held = experiment.held
    return Contrast(
        scored=held.scored_positions,
        base=held.nothing,
        change=held.edits(0),
        score=held.along,
        what="steered against unsteered",
        unit=held.metric.unit,
        groups=np.asarray(held.prompts.by_group),
        budget=held.budget,
        reads=held.reads,
    )


def check_pairs(clean: Prompts, corrupted: Prompts) -> None:
    """Refuses what are no pairs of equal length with answers.

    Raises:
        BadPrompt: not as many, of unequal length, or without answers.
    """
    pairs = [(len(a), len(b)) for a, b in zip(clean.ids, corrupted.ids, strict=False)]
    uneven = next((f"pair {i + 1} has {a} and {b} tokens" for i, (a, b) in enumerate(pairs) if a != b), None)
    if uneven or len(clean) != len(corrupted):
        said = uneven or f"{len(clean)} clean prompts and {len(corrupted)} corrupted ones"
        raise BadPrompt(
            f"{said}; expected pairs, none of unequal length, since activations of the one stand in the place of the "
            "other's; mend or remove it"
        )
    if not clean.targets or not clean.against:
        raise BadPrompt("clean prompts without answers and distractors; expected both; use st.task, or give them")


def contrast_of_task(
    model: Model, clean: Prompts, corrupted: Prompts, injections: Sequence[Injection] = (), *, budget: int | None = None
) -> Contrast:
    """Clean prompts against corrupted ones, by the log odds of the clean prompts' answers; both under injections.

    Args:
        clean, corrupted: pairs of equal length; `targets` and `against` are those of the clean prompt.

    Raises:
        BadPrompt: pairs of unequal length, or without answers.
        BadInjection: an injection that reads the stream: it does something else to either run.
    """
    check_pairs(clean, corrupted)
    for injection in injections:
        if injection.operation != "add":
            raise BadInjection(
                f"a task under {injection.operation}; expected add, which does the same to the clean and to the "
                "corrupted run; add a vector"
            )
    scored = Scored(model, corrupted, tuple((len(ids) - 1,) for ids in corrupted.full))
    steering = tuple(composed(tuple(injections), None, at) for at in corrupted.layouts(model)) if injections else ()
    with torch.no_grad():
        change = embed(model, clean.full) - embed(model, corrupted.full)
    wanted, others = (padded(side).to(model.device) for side in (clean.targets, clean.against))
    return Contrast(
        scored=scored,
        base=steering or tuple(() for _ in corrupted.ids),
        change=tuple(
            (Edit(Site("resid_pre", 0), "add", own[: len(ids)], tuple(range(len(ids)))),)
            for own, ids in zip(change, clean.full, strict=True)
        ),
        score=OwnAnswers(wanted, others),
        what="clean against corrupted" + (", both steered" if injections else ""),
        unit="nats",
        groups=grouped(clean),
        budget=budget,
    )
