"""Planted circuits under steering: models with weights set by hand, in which it is known what a vector does to a
circuit.

The third token, plus or minus, writes +2 or -2 into a signal s; the answer is its sign. At c = 0 one chain carries it:
A0 moves s to m at every later position, A1 (looking at itself) turns m into the target t, whose logit is the answer's.
The injection adds 4 v at the first position. By case, what v does:

    unaffected   nothing: nobody reads it.
    weaker       A1 looks at v half of the time.
    rerouted     A1 looks at v alone, and B1, which had been looking away, at itself: B0 moves s to m2, B1 m2 to t.
    overwritten  another head writes 1.5 v into t, whatever s says ("outvoted").
    silenced     A1 looks at v alone, and turns it into t ("silenced": what it moved is gone, too).

With a norm tokens are so loud that what heads write hardly moves it; with LayerNorm one dimension holds the negative of
all else that is written, so that the mean is zero, too. Verdicts stay, degrees nearly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.planted import (
    LENGTH,
    NORMS,
    ONE,
    OTHER,
    STRENGTH,
    TARGET,
    TO_FIRST,
    TO_SELF,
    TOKENS,
    WIDTH,
    A,
    Builder,
    M,
    N,
    T,
    V,
    blank,
    planted_vector,
)
from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import log_prob
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.vectors.vector import SteeringVector

S, M2, BALANCE = A, N, WIDTH - 1  # dimensions that `planted` has for other uses; the last one keeps means at zero
PLUS, MINUS, SIGNAL, AT = 3, 4, 2.0, 2  # tokens, what they write, and where they stand
LOUD = 40.0  # norm of a token, with a norm over the stream


@dataclass(frozen=True)
class Circuits:
    """What carries the answer: at c = 0, and under steering (None where nothing does)."""

    clean: frozenset[Node]
    steered: frozenset[Node] | None


@dataclass(frozen=True, eq=False)
class PlantedVerdict:
    """A planted model, its question, and what is true of it.

    Attributes:
        experiment: prompts x. counterfactual: the same with the other signal, x'.
        labels: 1 where x says plus, -1 where minus.
        roles: what each planted node does, in words.
    """

    verdict: str
    experiment: Experiment
    counterfactual: Experiment
    labels: NDArray[np.float64]
    roles: dict[Node, str]
    circuits: Circuits

    @property
    def model(self) -> Model:
        return self.experiment.model


@dataclass(frozen=True)
class Reading:
    """How a task stands in a run. m: logit of the one answer minus that of the other.

    Attributes:
        decided: D, what the input decides: signed m on x minus signed m on x'.
        pushed: B, the push common to both: the mean of m on x and on x'.
        accuracy: P, over both.
    """

    decided: float
    pushed: float
    accuracy: float


def read(planted: PlantedVerdict, steered: bool) -> Reading:
    """D, B and P (docs/ground_truth.md), means over prompts."""
    vector = 0 if steered else None
    x, other = (asked.value(vector) for asked in (planted.experiment, planted.counterfactual))
    right = np.concatenate([planted.labels * x > 0, -planted.labels * other > 0])
    return Reading(float((planted.labels * (x - other)).mean()), float(((x + other) / 2).mean()), float(right.mean()))


def faithful(planted: PlantedVerdict, nodes: frozenset[Node], steered: bool) -> float:
    """F of a circuit of nodes: all others are set to their output on x' (under the same steering).

    1: what it decides is all there is; 0: it decides nothing.
    """
    asked, vector = planted.experiment, 0 if steered else None
    others = [node for node in planted.model.nodes if node not in nodes]
    edits = asked.edits_of(vector)
    values = []
    for left in (others, planted.model.nodes):  # the circuit, and the empty one
        given = planted.counterfactual.patches(vector, left)
        rows = [Variant(p, (*edits[p], *(given[node][p] for node in left))) for p in range(len(edits))]
        values.append(planted.labels * asked.score(rows))
    whole, empty = planted.labels * asked.value(vector), values[1]
    return float((values[0] - empty).mean() / (whole - empty).mean())


class _Chain:
    """Sets heads by the sizes of the stream: with a norm its scale is taken out of looks, moves and logits."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.scale = 1.0 if builder.norm is None else LOUD / WIDTH**0.5

    def head(
        self, layer: int, role: str, looks: Sequence[tuple[int, int, float]], moves: Sequence[tuple[int, int, float]]
    ) -> Node:
        node = self.builder.head(
            layer,
            role,
            [(query, key, strength * self.scale**2) for query, key, strength in looks],
            [(source, to, gain * self.scale) for source, to, gain in moves],
        )
        if self.builder.norm == "LN":
            written = self.builder.weight(layer, "attn.o")[:, 12 * (node.head or 0) :][:, :12]
            written[BALANCE] -= written.sum(dim=0)
        return node

    def read(self) -> Node:
        """A0."""
        return self.head(0, "A0: moves the signal to m", [(ONE, AT, STRENGTH)], [(S, M, 1.0)])

    def write(self, more: Sequence[tuple[int, int, float]] = (), moves: Sequence[tuple[int, int, float]] = ()) -> Node:
        """A1, with what else it looks at and moves."""
        return self.head(1, "A1: turns m into the target", [*TO_SELF, *more], [(M, T, 1.0), *moves])


def _unaffected(c: _Chain) -> Circuits:
    chain = frozenset((c.read(), c.write()))
    return Circuits(chain, chain)


def _weaker(c: _Chain) -> Circuits:
    chain = frozenset((c.read(), c.write([(ONE, V, STRENGTH / 4)])))  # 4 v draws as much as it itself does
    return Circuits(chain, chain)


def _rerouted(c: _Chain) -> Circuits:
    first = frozenset((c.read(), c.write([(ONE, V, STRENGTH)])))
    half = [(query, key, strength / 2) for query, key, strength in TO_SELF]
    second = frozenset(
        (
            c.head(0, "B0: moves the signal to m2", [(ONE, AT, STRENGTH)], [(S, M2, 1.0)]),
            c.head(
                1,
                "B1: looks at the first position until v drives it away; then turns m2 into the target",
                [*TO_FIRST, *half, (ONE, V, -STRENGTH)],
                [(M2, T, 1.0)],
            ),
        )
    )
    return Circuits(first, second)


def _overwritten(c: _Chain) -> Circuits:
    chain = frozenset((c.read(), c.write()))
    c.head(1, "C1: writes v into the target", TO_FIRST, [(V, T, 1.5)])
    return Circuits(chain, chain)


def _silenced(c: _Chain) -> Circuits:
    return Circuits(frozenset((c.read(), c.write([(ONE, V, STRENGTH)], [(V, T, 1.0)]))), None)


VERDICTS: dict[str, Callable[[_Chain], Circuits]] = {
    "unaffected": _unaffected,
    "weaker": _weaker,
    "rerouted": _rerouted,
    "overwritten": _overwritten,
    "silenced": _silenced,
}


def plant_verdict(
    verdict: str, *, norm: str | None = None, idle: int = 4, prompts: int = 12, length: int | None = None, seed: int = 0
) -> PlantedVerdict:
    """A planted circuit of two layers, and what steering does to it.

    Args:
        verdict: one of `VERDICTS`.
        norm: LN, RMS or None.
        idle: heads with small random weights, in each layer, beside the planted ones.
        prompts: how many, of random tokens, half of them plus. length: of all; 6 to 10 by default.

    Raises:
        BadArgument: an unknown verdict or norm, or sizes out of range.
    """
    if verdict not in VERDICTS or norm not in NORMS:
        raise BadArgument(
            f"verdict={verdict!r}, norm={norm!r}; expected one of {', '.join(VERDICTS)}, and LN, RMS or None; choose "
            "one"
        )
    if idle < 0 or prompts < 1 or not AT < (length or LENGTH) <= LENGTH:
        raise BadArgument(
            f"idle={idle}, prompts={prompts}, length={length}; expected 0 or more idle heads, 1 or more prompts, "
            f"{AT + 1} to {LENGTH} tokens"
        )
    generator = torch.Generator().manual_seed(seed)
    bridge, builder = blank(2, idle + 2, norm, False, seed, generator)
    chain = _Chain(builder)
    with torch.no_grad():
        for name in [name for name in builder.weights if "attn" in name and not idle]:
            builder.weights[name].zero_()
        _tokens(builder, chain.scale)
        circuits = VERDICTS[verdict](chain)
    model = load(bridge, name=f"planted {verdict}")
    lengths = torch.randint(length or 6, (length or LENGTH) + 1, (prompts,), generator=generator).tolist()
    ids = [torch.randint(MINUS + 1, TOKENS, (n,), generator=generator).tolist() for n in lengths]
    labels = np.array([1.0 if p % 2 == 0 else -1.0 for p in range(prompts)])
    asked = [
        Experiment(
            model,
            (Injection(_vector(verdict, norm), 1.0, positions=(0,)),),
            make_prompts(model, [_told(own, label * side) for own, label in zip(ids, labels, strict=True)]),
            log_prob([TARGET], [OTHER]),
            references=0,
            scored="last",
            seed=seed,
        )
        for side in (1, -1)
    ]
    return PlantedVerdict(verdict, asked[0], asked[1], labels, builder.roles, circuits)


def _told(ids: list[int], label: float) -> list[int]:
    return [*ids[:AT], PLUS if label > 0 else MINUS, *ids[AT + 1 :]]


def _tokens(b: Builder, scale: float) -> None:
    """Signals of the two tokens; with a norm all are equally loud, and around zero, so that its scale is known."""
    tokens, positions, unembed = (b.weights[f"{n}._original_component.weight"] for n in ("tok_embed", "pos", "head"))
    tokens[PLUS, S], tokens[MINUS, S] = SIGNAL, -SIGNAL
    unembed[TARGET, T] = scale
    if b.norm is not None:
        rest = tokens[:, N + 1 : BALANCE]
        rest -= rest.mean(dim=1, keepdim=True)
        rest *= LOUD / rest.norm(dim=1, keepdim=True)
        tokens[:, BALANCE] = 0
        unembed[:, BALANCE] = 0
    if b.norm == "LN":
        tokens[:, BALANCE] = -tokens.sum(dim=1)
        positions[:, BALANCE] = -positions.sum(dim=1)


def _vector(verdict: str, norm: str | None) -> SteeringVector:
    vector = planted_vector(verdict)
    if norm != "LN":
        return vector
    values = vector.values.clone()
    values[:, BALANCE] -= values.sum(dim=1)
    return replace(vector, values=values)
