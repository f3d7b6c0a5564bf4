"""`task_vector`: is learning more about weddings the same as being steered towards them, at equal disturbance?

1. The model learns from stories of one topic, several times with other batches; what its weights change by is a task
   vector. The activation vector is " word" - " ", at the front of the prompt or at all positions.
2. Each is scaled until it disturbs openings of stories that name no topic by as much: KL(changed || clean), mean over
   positions behind the first few, which an injection at the front overwrites.
3. On-topic and off-topic loss of held-out stories, and the cosine of the changes of (centred) logits on the openings.
4. Beside them, at the same KL: a task vector of another topic, random changes of all weights of the same sizes, random
   activation vectors.

Intervals are over seeds of fine-tuning (of random vectors, over these): the model, its texts and the activation vector
are the same for all. Source: Ilharco et al. 2022 (arXiv 2212.04089) for task vectors, Turner et al. 2023 (arXiv
2308.10248) for activation additions.
What it cannot see: other models, and the whole path from the model to the fine-tuned one; scaled by more or less than 1
a task vector is a straight line away from it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.plain import plain_hooks
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.gate import Count, Level, Positive, Seed, Within, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.results.stats import interval, nonzero_p
from steerscope.analysis.tools.record import check, made_now
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.random import random_like
from steerscope.analysis.vectors.vector import SteeringVector

from .corpus import openings, topic_stories
from .fine_tune import Weights, changed, random_task, task_of, weights_of
from .topics import TOPICS

Values = NDArray[np.float64]
SKIPPED, TOKENS, TEXTS, LEARNED = 3, 48, 24, 256  # positions left out, tokens of a text, texts, windows to learn from
REACH, CLOSE, TRIES = 1e4, 1e-2, 40
OWN, ACTIVATION = "task vector", "activation vector, front"
ARMS = {
    OWN: "weights, of the topic",
    "task vector, another topic": "weights, of the next topic of the grammar",
    "random weights": "weights, random, of the task vector's size in every tensor",
    ACTIVATION: "the vector of the topic's word at the front of the prompt",
    "activation vector, everywhere": "the same at all positions",
    "random vector, front": "random directions of the same norms at the front",
    "random vector, everywhere": "the same at all positions",
}
MEASURES = {
    "on topic": ("loss of held-out stories of the topic, above that of the unchanged model", "nats per token"),
    "off topic": ("the same of stories of the other topics", "nats per token"),
    "cosine with the activation vector": ("of changes of centred logits on the openings, mean over positions", ""),
    "cosine with task vectors": ("the same with the task vectors of (other) seeds, mean over these", ""),
}
_WHAT = "; ".join(f"{name}: {meaning}" for name, (meaning, _) in MEASURES.items())
_ARM = "; ".join(f"{name}: {meaning}" for name, meaning in ARMS.items())
COLUMNS: Frames = {
    "arms": {
        "arm": Column(_ARM, role="label"),
        "measure": Column(_WHAT, role="measure"),
        "unit": Column("of the value"),
        "value": Column("mean over seeds", "{unit}", "estimate"),
        "low": Column("lower end of its interval over seeds; missing where there is but one", "{unit}", "low"),
        "high": Column("upper end of the same", "{unit}", "high"),
        "seeds": Column("of fine-tuning, or of random vectors"),
    },
    "differences": {
        "measure": Column(_WHAT, role="measure"),
        "against": Column("what the task vector is compared with", role="label"),
        "unit": Column("of the difference"),
        "difference": Column("task vector minus that, mean over seeds", "{unit}", "estimate"),
        "low": Column("lower end of its interval over seeds of fine-tuning", "{unit}", "low"),
        "high": Column("upper end of the same", "{unit}", "high"),
        "p": Column("of no difference, two-sided"),
    },
    "runs": {
        "arm": Column(_ARM, role="label"),
        "seed": Column("of fine-tuning, or of a random vector", role="label"),
        "scale": Column("what it was multiplied by"),
        "kl": Column("KL(changed || clean) on the openings", "nats"),
        "measure": Column(_WHAT, role="measure"),
        "unit": Column("of the value"),
        "value": Column("of one seed", "{unit}", "estimate"),
    },
}


@gated
def task_vector(
    model: Model,
    topic: str = "wedding",
    *,
    seeds: Annotated[int, Within(2, 100)] = 5,
    steps: Count = 60,
    batch: Count = 8,
    rate: Positive = 1e-3,
    kl: Positive = 0.3,
    seed: Seed = 0,
    level: Level = 0.95,
) -> Result:
    """Weights that have learned a topic against the topic's activation vector, at equal disturbance.

    The model is trained in place, one seed after the other, and has its own weights again afterwards, to the last bit.

    Args:
        topic: of the grammar.
        seeds: of fine-tuning, and as many random vectors.
        steps, batch, rate: of fine-tuning, on windows of 48 tokens.
        kl: how much every change disturbs the openings, in nats.

    Returns:
        a `Result` of kind "task_vector".

    Raises:
        BadArgument: no such topic, no tokenizer, or a KL out of reach.
    """
    names = [entry.name for entry in TOPICS]
    if topic not in names:
        raise BadArgument(f"no topic {topic!r}; expected one that the grammar knows: {', '.join(names)}; choose one")
    start, base = time.perf_counter(), weights_of(model)
    before = replace(model).weights_hash  # of a copy: a model remembers its own
    other = names[(names.index(topic) + 1) % len(names)]
    texts = _Texts.of(model, topic, [name for name in names if name != topic])
    clean = _Clean(model, texts)
    learn = partial(task_of, model, base, steps=steps, batch=batch, rate=rate)
    own = [learn(_windows(model, topic, 100 + seed, LEARNED), seed=seed + n) for n in range(seeds)]
    others = [learn(_windows(model, other, 100 + seed, LEARNED), seed=seed + n) for n in range(seeds)]
    vector = prompt_pair(model, f" {topic}", " ")
    runs, missing = list[_Done](), dict[str, str]()
    for arm, number, change in track(list(_arms(model, base, own, others, vector, seed)), "changes"):
        try:
            runs.append(_run(clean, arm, number, change, kl))
        except BadArgument as error:
            if arm == OWN:
                raise
            missing[arm] = str(error)
    rows = _measured(runs)
    furthest = max(abs(run.kl - kl) / kl for run in runs)
    checks = [
        check("all changes disturb alike (relative)", furthest, 0.02),
        check("the model has its own weights again", float(replace(model).weights_hash != before), 0.0),
    ]
    manifest = {
        "model": model.describe(),
        "topic": topic,
        "other_topic": other,
        "recipe": {"seeds": seeds, "steps": steps, "batch": batch, "rate": rate, "seed": seed, "windows": LEARNED},
        "kl": kl,
        "seed": seed,
        "prompts": {"count": len(texts.openings)},
        "text": {"on_topic": len(texts.on), "off_topic": len(texts.off), "tokens": TOKENS},
        "level": level,
        "checks": checks,
        "missing": missing,
        **made_now(start),
    }
    return Result("task_vector", tables(rows, level), COLUMNS, manifest)


# Texts.


def _windows(model: Model, topic: str, seed: int, count: int) -> list[list[int]]:
    """Beginnings of stories about a topic, one each, all of one length."""
    length = min(TOKENS, model.n_ctx)
    found = (model.tokens(story)[:length] for story in topic_stories(seed, topic))
    return list(islice((ids for ids in found if len(ids) == length), count))


@dataclass(frozen=True)
class _Texts:
    """What is disturbed, and the stories that nothing learned from; other seeds than those that are learned from."""

    openings: list[list[int]]
    on: list[list[int]]
    off: list[list[int]]

    @classmethod
    def of(cls, model: Model, topic: str, others: Sequence[str]) -> "_Texts":
        each = -(-TEXTS // len(others))
        off = [ids for name in others for ids in _windows(model, name, 1, each)]
        asked = [model.tokens(text) for text in openings(1, TEXTS)]
        length = min(map(len, asked))
        return cls([ids[:length] for ids in asked], _windows(model, topic, 1, TEXTS), off)


# Runs.


@dataclass(frozen=True)
class _Change:
    """A change of any size: edits of a prompt, or a block in which the weights are others."""

    block: Callable[[float], AbstractContextManager[None]]
    injection: Callable[[float], Injection] | None = None


@dataclass(frozen=True)
class _Done:
    arm: str
    seed: int
    scale: float
    kl: float
    on: float
    off: float
    moved: Float[Tensor, "some vocab"]


class _Clean:
    """The unchanged model on all texts, and what changes do there."""

    def __init__(self, model: Model, texts: _Texts) -> None:
        self.model, self.texts = model, texts
        self.opened = self.logits(texts.openings, None)
        self.on, self.off = (self.loss(own, None) for own in (texts.on, texts.off))

    @torch.no_grad()
    def logits(self, texts: list[list[int]], injection: Injection | None) -> Float[Tensor, "text pos vocab"]:
        """Of texts of one length, behind the first positions."""
        hooks = []
        if injection is not None:  # edits at one site are the same for texts of one length
            edits = Experiment(
                self.model, (injection,), make_prompts(self.model, texts[:1]), references=0, scored="all"
            ).edits(0)[0]
            hooks = plain_hooks(self.model, edits, len(texts[0]))
        ids = torch.tensor(texts, device=self.model.device)
        found: Tensor = self.model.bridge.run_with_hooks(ids, fwd_hooks=hooks)
        return found[:, SKIPPED:].double()

    def loss(self, texts: list[list[int]], injection: Injection | None) -> float:
        """Nats per token."""
        ids = torch.tensor(texts, device=self.model.device)[:, SKIPPED + 1 :]
        own = self.logits(texts, injection)[:, :-1].log_softmax(-1)
        return float(-own.gather(-1, ids[..., None]).mean())

    def kl(self, change: _Change, scale: float) -> float:
        """KL(changed || clean) on the openings."""
        with change.block(scale):
            moved = self.logits(self.texts.openings, change.injection(scale) if change.injection else None)
        own = moved.log_softmax(-1)
        return float((own.exp() * (own - self.opened.log_softmax(-1))).sum(-1).mean())


def _arms(
    model: Model, base: Weights, own: list[Weights], others: list[Weights], vector: SteeringVector, seed: int
) -> Iterator[tuple[str, int, _Change]]:
    def weights(task: Weights) -> _Change:
        return _Change(lambda scale: changed(model, base, task, scale))

    def injected(which: SteeringVector, positions: str) -> _Change:
        return _Change(lambda scale: nullcontext(), lambda scale: Injection(which, scale, positions=positions))

    for n, task in enumerate(own):
        yield OWN, seed + n, weights(task)
    for n, task in enumerate(others):
        yield "task vector, another topic", seed + n, weights(task)
    for n, task in enumerate(own):
        yield "random weights", seed + n, weights(random_task(task, seed + n))
    for positions, name in (("front", "front"), ("all", "everywhere")):
        yield f"activation vector, {name}", seed, injected(vector, positions)
        for n in range(len(own)):
            yield f"random vector, {name}", seed + n, injected(random_like(vector, seed + n), positions)


def _run(clean: _Clean, arm: str, seed: int, change: _Change, target: float) -> _Done:
    """A change at the size that disturbs by so much."""
    scale = _size(lambda scale: clean.kl(change, scale), target)
    if scale is None:
        raise BadArgument(
            f"no size of the {arm} disturbs by {target:.3g} nats; expected a KL within reach; choose a smaller one"
        )
    injection = change.injection(scale) if change.injection else None
    with change.block(scale):
        moved = clean.logits(clean.texts.openings, injection) - clean.opened
        on, off = clean.loss(clean.texts.on, injection), clean.loss(clean.texts.off, injection)
    centred = moved - moved.mean(-1, keepdim=True)
    unit = torch.nn.functional.normalize(centred.flatten(0, 1), dim=-1)
    return _Done(arm, seed, scale, clean.kl(change, scale), on - clean.on, off - clean.off, unit)


def _size(kl: Callable[[float], float], target: float) -> float | None:
    """The scale at which a KL is as wanted, to a hundredth; none where it cannot be reached.

    Steps on logarithms: the KL of small changes grows with the square, and a third of the gap converges up to the
    fifth power.
    """
    size = 0.0
    for _ in range(TRIES):
        gap = float(np.log(max(kl(float(np.exp(size))), 1e-12) / target))
        if abs(gap) < CLOSE:
            return float(np.exp(size))
        size -= float(np.clip(gap / 3, -2, 2))
        if abs(size) > np.log(REACH):
            return None
    return None


# Tables.


def _measured(runs: list[_Done]) -> pd.DataFrame:
    vector = next((run.moved for run in runs if run.arm == ACTIVATION), None)
    tasks = {run.seed: run.moved for run in runs if run.arm == OWN}
    rows = []
    for run in runs:
        beside = [moved for number, moved in tasks.items() if run.arm != OWN or number != run.seed]
        along = np.nan if vector is None else _cosine(run.moved, vector)
        values = [run.on, run.off, along, float(np.mean([_cosine(run.moved, m) for m in beside]))]
        about = {"arm": run.arm, "seed": run.seed, "scale": run.scale, "kl": run.kl}
        for (name, (_, unit)), value in zip(MEASURES.items(), values, strict=True):
            rows.append(about | {"measure": name, "unit": unit, "value": value})
    return pd.DataFrame(rows)


def tables(runs: pd.DataFrame, level: float) -> dict[str, pd.DataFrame]:
    """The frames of a result, from what was measured of each run."""
    return {"arms": _table(runs, level), "differences": _differences(runs, level), "runs": runs}


def _cosine(one: Float[Tensor, "some vocab"], other: Float[Tensor, "some vocab"]) -> float:
    """Of unit rows, the mean over rows."""
    return float((one * other).sum(-1).mean())


def _table(rows: pd.DataFrame, level: float) -> pd.DataFrame:
    found = []
    for (measure, arm), own in rows.groupby(["measure", "arm"], sort=False):
        values = own["value"].to_numpy()
        low, high = interval(values, level)
        about = {"arm": arm, "measure": measure, "unit": MEASURES[str(measure)][1], "value": values.mean()}
        found.append(about | {"low": float(low), "high": float(high), "seeds": len(values)})
    return pd.DataFrame(found)


def _differences(rows: pd.DataFrame, level: float) -> pd.DataFrame:
    """The task vector, seed by seed, against the mean of what stands beside it."""
    found = []
    for measure, own in rows.groupby("measure", sort=False):
        values = own[own["arm"] == OWN]["value"].to_numpy()
        for arm in (ACTIVATION, "activation vector, everywhere"):
            if not (own["arm"] == arm).any():
                continue
            off: Values = values - own[own["arm"] == arm]["value"].mean()
            low, high = interval(off, level)
            about = {"measure": measure, "against": arm, "unit": MEASURES[str(measure)][1], "difference": off.mean()}
            found.append(about | {"low": float(low), "high": float(high), "p": float(nonzero_p(off))})
    return pd.DataFrame(found, columns=list(COLUMNS["differences"]))
