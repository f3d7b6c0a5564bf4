"""`Pairs`: prompts of a task and their counterfactuals, and how a model answers them under many injections at once.

What is measured is m, the logit of the first answer minus that of the second (log-probabilities of several tokens
together). Where all prompts ask for one of the same two answers, first and second are the same for all; where answers
vary by prompt, the first is each prompt's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.brief import counted
from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.readout import Readout
from steerscope.analysis.engine.run import measure
from steerscope.analysis.errors import BadCircuit, BadPrompt
from steerscope.analysis.gate import shown
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.answers import padded, together
from steerscope.analysis.question.injection import Injection, composed
from steerscope.analysis.question.prompts import Prompts

from .contrast import check_pairs, grouped
from .task import TaskPrompts
from .tasks import task as task_of

Array = NDArray[np.float64]
OPPOSED = 0.7  # share of counterfactuals that must be decided for the other answer, to count for the accuracy


@dataclass(frozen=True, eq=False)
class Answers:
    """How prompts are answered under some injections.

    Attributes:
        m: on x and on x', of the first answer against the second.
        neither: whether the top token is neither, mean of x and x'.
    """

    m: Float[Array, "2 prompt"]
    neither: Float[Array, " prompt"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Prompts x and counterfactuals x' of equal length.

    Attributes:
        name: of the task.
        clean, corrupted: x and x'; targets and against of x are its answer and its distractor.
        template: by prompt, the text that it was made of; nothing where that is not known.
        budget: bytes that the engine may take; worked out by default.
        places: by prompt, its named places; nothing where it has none.
    """

    model: Model
    name: str
    clean: Prompts
    corrupted: Prompts
    template: tuple[str, ...] = ()
    budget: int | None = None
    places: tuple[Mapping[str, int], ...] = ()

    def __len__(self) -> int:
        return len(self.clean)

    @cached_property
    def varied(self) -> bool:
        """Whether answers vary by prompt."""
        return len(self._sides | {side[::-1] for side in self._sides}) > 2

    @cached_property
    def _sides(self) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
        return set(zip(self.clean.targets, self.clean.against, strict=True))

    @cached_property
    def labels(self) -> Float[Array, " prompt"]:
        """1 where x asks for the first answer, -1 for the second."""
        first = self.clean.targets[0]
        return np.array([1.0 if self.varied or own == first else -1.0 for own in self.clean.targets])

    @cached_property
    def groups(self) -> Int[NDArray[np.int64], " prompt"]:
        """By prompt, the number of its group."""
        return np.unique(grouped(self.clean), return_inverse=True)[1].reshape(-1)

    def some(self, chosen: Bool[NDArray[np.bool_], " prompt"]) -> "Pairs":
        """Some of the pairs."""
        at = np.flatnonzero(chosen).tolist()
        template = tuple(self.template[i] for i in at) if self.template else ()
        places = tuple(self.places[i] for i in at) if self.places else ()
        clean, corrupted = self.clean.some(at), self.corrupted.some(at)
        return replace(self, clean=clean, corrupted=corrupted, template=template, places=places)

    def answers(self, steered: Sequence[Sequence[Injection]], what: str | None = None) -> list[Answers]:
        """How all prompts are answered, by what is injected; one call of the engine for all of it.

        Args:
            what: name for a progress bar.
        """
        count, ids = len(self), [*self.clean.ids, *self.corrupted.ids]
        layouts = [*self.clean.layouts(self.model), *self.corrupted.layouts(self.model)]
        rows = [
            Variant(p, composed(injections, None, layout) if injections else ())
            for injections in steered
            for p, layout in enumerate(layouts)
        ]
        wanted, others = (padded(side * 2).to(self.model.device) for side in (self.clean.targets, self.clean.against))

        def score(readout: Readout) -> Float[Tensor, "row 2"]:
            assert readout.logits is not None
            logits = readout.logits.float()
            one, other = wanted[readout.prompt], others[readout.prompt]
            top = logits.argmax(dim=-1, keepdim=True)
            neither = ~((one == top) | (other == top)).any(dim=-1)
            return torch.stack([together(logits, one) - together(logits, other), neither.float()], dim=-1)

        found = measure(self.model, ids, rows, None, score, budget=self.budget, what=what).double().cpu().numpy()
        by = found.reshape(len(steered), 2, count, 2)
        return [Answers(self.labels * own[..., 0], own[..., 1].mean(axis=0)) for own in by]


def opposed(unsteered: Answers, labels: Float[Array, " prompt"]) -> bool:
    """Whether x' asks for the other answer: the model says so of most."""
    return bool((labels * unsteered.m[1] < 0).mean() >= OPPOSED)


def pairs_of(
    task: TaskPrompts | Sequence[Prompts] | str, model: Model, n: int, seed: int, ask: bool, budget: int | None
) -> Pairs:
    """What a task was given as.

    Args:
        n, seed, ask: of a task by name.

    Raises:
        BadCircuit: no such task, or one that the model does not solve.
        BadPrompt: pairs of unequal length, or without answers.
    """
    made = task_of(task)(model, n, seed, ask=ask) if isinstance(task, str) else task
    if isinstance(made, TaskPrompts):
        return Pairs(model, made.task, made.clean, made.corrupted, made.templates, budget, made.places)
    if len(made) != 2:
        raise BadCircuit(
            f"task of {counted(len(made), 'set')} of prompts; expected two, clean and corrupted; or a task by name, or "
            "the prompts of st.task"
        )
    clean, corrupted = made
    if not len(clean):
        raise BadPrompt("no pairs; expected pairs of prompts; give some")
    check_pairs(clean, corrupted)
    beyond = max(max(row) for row in (*clean.ids, *corrupted.ids, *clean.targets, *clean.against))
    if beyond >= model.d_vocab:
        raise BadPrompt(
            f"the token {shown(beyond)}; expected ids below {model.d_vocab} of {model.name}; make the prompts for it"
        )
    return Pairs(model, clean.source, clean, corrupted, (), budget)
