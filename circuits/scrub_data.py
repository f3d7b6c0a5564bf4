"""What scrubbing draws from: prompts with answers and named places, steered or not, that can be exchanged.

Activations of one prompt stand in the place of another's, so a prompt is exchanged only for one of the same length in
which all places that claims name are where they are in it (as sets: [IO, S1] is the same whichever comes first).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from steerscope.analysis.brief import brief, counted
from steerscope.analysis.errors import BadArgument, BadPrompt, UnsupportedModel
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.answers import PerPrompt
from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import EACH, log_prob
from steerscope.analysis.question.prompts import Prompts, make_prompts

from .features import END, Datum, Feature, feature_of, told
from .hypothesis import Claim, every
from .task import TaskPrompts

Rows = Int[NDArray[np.int64], " row"]
STEERED: dict[str, list[int | None]] = {"none": [None], "stands": [0], "feature": [None, 0]}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Prompts of a model, all with answers.

    Attributes:
        places: by prompt, named places.
        edits: by kind of run (None for a clean one, 0 for a steered one), those of every prompt.
        about: for the manifest.
    """

    model: Model
    prompts: Prompts
    places: tuple[Mapping[str, int], ...]
    edits: Mapping[int | None, Edits]
    seed: int
    budget: int | None
    about: Mapping[str, Any]


def dataset_of(
    model: Model,
    given: TaskPrompts | Prompts | Experiment,
    steering: str,
    injections: Injection | Sequence[Injection],
    places: Sequence[Mapping[str, int]] | None,
    seed: int | None,
    budget: int | None,
) -> Dataset:
    """What was given, as prompts with answers.

    Raises:
        BadPrompt: prompts without answers, or scored elsewhere than at their last position.
        BadArgument: an experiment of another model, injections that are not used, steering without any.
        UnsupportedModel: a norm stands between nodes and the stream.
    """
    if model.post_norm:
        raise UnsupportedModel(
            f"{model.name} has norms between nodes and the stream; scrub assumes writes that add up; use path_effect"
        )
    asked = given if isinstance(given, Experiment) else None
    prompts = asked.prompts if asked else given.clean if isinstance(given, TaskPrompts) else given
    assert isinstance(prompts, Prompts)
    if not prompts.targets:
        raise BadPrompt(
            f"{counted(len(prompts), 'prompt')} without answers of their own; expected an answer each: a task's, "
            "Prompts with targets, or an experiment with metric=log_prob(PerPrompt([...]))"
        )
    used = (injections,) if isinstance(injections, Injection) else tuple(injections)
    if asked is not None and (asked.model is not model or used or seed is not None):
        what = "of another model" if asked.model is not model else "with injections" if used else "with a seed"
        raise BadArgument(
            f"an experiment {what}; expected one of this model, which has its own injections and seed; give that alone"
        )
    if asked is None and bool(used) != (steering != "none"):
        raise BadArgument(
            f"steering={steering!r} with {counted(len(used), 'injection')}; expected injections where steering is "
            "stands or feature, and none else; give both or neither"
        )
    if asked is None and used:
        metric = log_prob(PerPrompt(prompts.targets), against=PerPrompt(prompts.against) if prompts.against else ())
        asked = Experiment(model, used, prompts, metric, references=0, seed=seed or 0, budget=budget)
    if asked is not None and any(len(at) != 1 for at in asked.scored_positions.positions):
        raise BadPrompt("prompts scored at several positions; expected the last one alone; leave scored out")
    prompts = make_prompts(model, prompts)
    named = places if places is not None else given.places if isinstance(given, TaskPrompts) else ()
    if named and len(named) != len(prompts):
        raise BadPrompt(f"places of {len(named)} prompts for {len(prompts)}; expected one each; give as many")
    ends = [{END: len(ids) - 1} for ids in prompts.full]
    told_places = tuple({**own, **end} for own, end in zip(named or ends, ends, strict=True))
    return Dataset(
        model,
        prompts,
        told_places,
        {kind: asked.edits_of(kind) if asked else ((),) * len(prompts) for kind in STEERED[steering]},
        asked.seed if asked else seed or 0,
        budget if budget is not None or asked is None else asked.budget,
        asked.describe() if asked else _described(model, prompts, seed or 0),
    )


def _described(model: Model, prompts: Prompts, seed: int) -> dict[str, Any]:
    groups = int(prompts.by_group.max()) + 1
    told = {"count": len(prompts), "groups": groups, "hash": prompts.hash, "source": prompts.source}
    sides = {"targets": EACH} | ({"against": EACH} if prompts.against else {})
    metric = {"name": "log_prob", "unit": "nats", **sides, "scored": "the last position"}
    return {"model": model.describe(), "injections": [], "prompts": told, "metric": metric, "seed": seed}


class Data:
    """Every prompt, steered or not, by number; who may be exchanged for whom."""

    def __init__(self, dataset: Dataset, claims: Sequence[Claim]) -> None:
        self.dataset = dataset
        kinds, count = list(dataset.edits), len(dataset.prompts)
        self.of = [(prompt, kind) for kind in kinds for prompt in range(count)]
        targets = dataset.prompts.targets
        self.told = [
            Datum(p, tuple(dataset.prompts.full[p]), kind is not None, dataset.places[p], targets[p])
            for p, kind in self.of
        ]
        self.groups = np.tile(dataset.prompts.by_group, len(kinds))
        self.length = max(map(len, dataset.prompts.full))
        self.nodes = sorted({claim.node for claim in every(claims)})
        self._masks = {claim.at: self._mask(claim.at) for claim in every(claims)}
        keys = [
            (len(datum.ids), *(mask[d].tobytes() for mask in self._masks.values())) for d, datum in enumerate(self.told)
        ]
        self.aligned = _Parts(keys)
        if len(self.aligned.sizes) == len(self.aligned.of):
            used = sorted({str(at) for claim in every(claims) for at in claim.at or ()})
            raise BadPrompt(
                f"{counted(count, 'prompt')}, no two of one length with the claimed places "
                f"({brief(', '.join(used), 100) or 'none'}) alike; expected some that can be "
                "exchanged; give more of one template"
            )
        self._by_feature: dict[Any, _Parts] = {}

    def __len__(self) -> int:
        return len(self.of)

    def mask(self, claim: Claim) -> Bool[NDArray[np.bool_], "datum pos"]:
        """Which positions of its write a claim is about."""
        return self._masks[claim.at]

    def _mask(self, at: tuple[int | str, ...] | None) -> Bool[NDArray[np.bool_], "datum pos"]:
        found = np.zeros((len(self.told), self.length), dtype=bool)
        for own, datum in zip(found, self.told, strict=True):
            own[list(range(len(datum.ids)) if at is None else map(datum.at, at))] = True
        return found

    def any(self, like: Rows, dice: np.random.Generator) -> Rows:
        """For each, one that it may be exchanged for."""
        return self.aligned.draw(like, dice)

    def alike(self, claim: Claim, like: Rows, dice: np.random.Generator, shuffled: "Shuffled | None") -> Rows:
        """For each, one with the same feature; or with the same feature of another prompt, if features are shuffled."""
        parts = self.parts(claim)
        if parts is None:
            return like
        if shuffled is None:
            return parts.draw(like, dice)
        return shuffled.back(parts.draw(shuffled.there(like), dice))

    def parts(self, claim: Claim) -> "_Parts | None":
        """Who has the same feature; None where nobody shares it with another."""
        feature = feature_of(claim.feature)
        if feature is None:
            return None
        if feature not in self._by_feature:
            values = [_value(feature, datum) for datum in self.told]
            self._by_feature[feature] = _Parts(list(zip(self.aligned.number, values, strict=True)))
        found = self._by_feature[feature]
        return found if len(found.sizes) < len(self) else None


class _Parts:
    """Data in parts: those with equal keys."""

    def __init__(self, keys: Sequence[Hashable]) -> None:
        numbers: dict[Hashable, int] = {}
        self.number = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
        self.of = np.argsort(self.number, kind="stable")
        self.sizes = np.bincount(self.number)
        self.starts = np.cumsum(self.sizes) - self.sizes

    def draw(self, like: Rows, dice: np.random.Generator) -> Rows:
        """For each, one of its part."""
        part = self.number[like]
        return np.asarray(self.of[self.starts[part] + dice.integers(self.sizes[part])])

    @property
    def mean(self) -> float:
        """How many are in the part of a datum, on average."""
        return float(self.sizes[self.number].mean())


class Shuffled:
    """Data in another order, one for each draw, those that may be exchanged among themselves."""

    def __init__(self, data: Data, draws: int, dice: np.random.Generator) -> None:
        parts = data.aligned
        self._there = np.empty((draws, len(data)), dtype=np.int64)
        for own in self._there:
            for start, size in zip(parts.starts, parts.sizes, strict=True):
                members = parts.of[start : start + size]
                own[members] = dice.permutation(members)
        self._back = np.argsort(self._there, axis=1)
        self.row: Rows = np.zeros(0, dtype=np.int64)

    def rows(self, draw: Rows) -> "Shuffled":
        """The same, for rows of these draws."""
        self.row = draw
        return self

    def there(self, data: Rows) -> Rows:
        return np.asarray(self._there[self.row, data])

    def back(self, data: Rows) -> Rows:
        return np.asarray(self._back[self.row, data])


def _value(feature: Feature, datum: Datum) -> Hashable:
    try:
        value = feature(datum)
        hash(value)
    except Exception as error:  # of any type, it is the user's
        raise BadArgument(
            f"the feature {brief(told(feature), 60)!r} failed on prompt {datum.prompt + 1} ({type(error).__name__}: "
            f"{brief(str(error), 200)}); expected a function of a Datum that gives a number, a text, or a tuple of "
            "them; mend it"
        ) from error
    return value
