"""Where heads look: on the token before, on earlier copies, behind them, on the first position.

1. Run random tokens said twice, and the same with nothing said twice (`repeats`); keep all patterns of a chunk.
2. A score is the mean attention over pairs of query and target; controls are neighbouring offsets, and the same offset
   where nothing is repeated (a head that looks back by a fixed distance is no induction head).
3. Permuted targets: each query's target is drawn anew among the tokens before it.
4. On natural text the same scores, over all queries that have such a target.

Source: Olsson et al. 2022 (arXiv 2209.11895) for induction on random tokens.
What it cannot see: whether what is looked at is moved, or matters.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.prompts import Prompts

from .repeats import Repeats
from .roles import PERMUTATIONS, Measured, Values, tail

NATURAL = ("previous token", "duplicate token", "induction", "first position")
Read = Callable[[Tensor], Tensor]  # patterns [row, head, query, key] -> [row, head]


def heads(model: Model) -> tuple[Node, ...]:
    """All heads, layer by layer."""
    return tuple(node for node in model.nodes if node.head is not None)


@dataclass(frozen=True, eq=False)
class _Score:
    """A role's score and its controls: of which sequences each, and how it is read off patterns."""

    own: tuple[bool, Read]
    controls: dict[str, tuple[bool, Read]]
    queries: range


def attention(
    model: Model, texts: Repeats, natural: Prompts | None, seed: int, budget: int | None
) -> tuple[list[Measured], float]:
    """All roles that patterns tell, and the largest distance of a query's attention from adding up to 1."""
    scores = _scores(texts)
    names = [(role, name) for role, score in scores.items() for name in ("", *score.controls)]
    reads = {key: scores[key[0]].controls[key[1]] if key[1] else scores[key[0]].own for key in names}
    own, count = heads(model), len(texts.repeated)
    values = {key: np.full((len(own), count), np.nan) for key in names}
    means = {kind: np.zeros((len(own), texts.end, texts.end)) for kind in (True, False)}
    worst, length = 0.0, texts.end
    prompts = [*texts.repeated, *texts.unrepeated]
    for rows, layer, pattern in _patterns(model, prompts, budget, "attention of random tokens"):
        worst = max(worst, float((pattern.sum(-1) - 1).abs().max()))
        at = slice(layer * model.n_heads, (layer + 1) * model.n_heads)
        for kind in (True, False):
            chosen = [place for place, row in enumerate(rows) if (row < count) == kind]
            if not chosen:
                continue
            part = pattern[chosen]
            means[kind][at] += part.sum(0).double().cpu().numpy()
            where = [rows[place] % count for place in chosen]
            for key, (wanted, read) in reads.items():
                if wanted == kind:
                    values[key][at, where] = read(part).double().cpu().numpy().T
    found = _natural(model, natural, budget) if natural is not None else {}
    dice = np.random.default_rng([seed, length])
    return [
        Measured(
            role,
            own,
            values[role, ""],
            {name: values[role, name] for name in score.controls},
            _chance(means[score.own[0]] / count, score.queries, texts.start, dice),
            natural=found.get(role),
        )
        for role, score in scores.items()
    ], worst


def _scores(texts: Repeats) -> dict[str, _Score]:
    start, n = texts.start, texts.length
    all_, second = range(start + 3, texts.end), texts.second

    def back(offset: int, queries: range) -> Read:
        return lambda x: x.diagonal(-offset, -2, -1)[..., queries.start - offset : queries.stop - offset].mean(-1)

    def on(place: int) -> Read:
        return lambda x: x[..., all_.start : all_.stop, place].mean(-1)

    return {
        "previous token": _Score(
            (False, back(1, all_)), {f"{d} tokens before": (False, back(d, all_)) for d in (2, 3)}, all_
        ),
        "duplicate token": _Score(
            (True, back(n, second)),
            {
                "the place before it": (True, back(n + 1, second[1:])),
                "the place behind it": (True, back(n - 1, second)),
                "same distance, nothing repeated": (False, back(n, second)),
            },
            second,
        ),
        "induction": _Score(
            (True, back(n - 1, second)),
            {
                "the place before it": (True, back(n, second)),
                "the place behind it": (True, back(n - 2, second)),
                "same distance, nothing repeated": (False, back(n - 1, second)),
            },
            second,
        ),
        "first position": _Score((False, on(0)), {f"position {place}": (False, on(place)) for place in (1, 2)}, all_),
    }


def _chance(mean: Values, queries: range, start: int, dice: np.random.Generator) -> Values:
    """The tail over permuted targets of the mean attention on them."""
    first = max(start, 1)
    draws = np.empty((len(mean), PERMUTATIONS))
    at = np.array(queries)
    for number in range(PERMUTATIONS):
        keys = dice.integers(first, at)
        draws[:, number] = mean[:, at, keys].mean(axis=-1)
    return tail(draws)


def _patterns(
    model: Model, prompts: Sequence[Sequence[int]], budget: int | None, what: str
) -> Iterator[tuple[list[int], int, Tensor]]:
    """Of every chunk and layer, the rows and their patterns."""
    sites = [("pattern", layer) for layer in range(model.n_layers)]
    variants = [Variant(i) for i in range(len(prompts))]
    for rows, readout in run(model, prompts, variants, reads="none", sites=sites, budget=budget, what=what):
        for site in sites:
            yield rows, site[1], readout.activations[site]


def _natural(model: Model, texts: Prompts, budget: int | None) -> dict[str, Values]:
    """By role, the mean over texts of each head's attention on such targets; NaN where there are none."""
    total = {role: np.zeros(len(heads(model))) for role in NATURAL}
    seen = dict.fromkeys(NATURAL, 0)
    masks = [_targets(ids, int(model.has_bos(ids))) for ids in texts.ids]
    for role in NATURAL:
        seen[role] = sum(bool(own[role].any()) for own in masks)
    for rows, layer, pattern in _patterns(model, texts.ids, budget, "attention of natural text"):
        at = slice(layer * model.n_heads, (layer + 1) * model.n_heads)
        for place, row in enumerate(rows):
            for role, mask in masks[row].items():
                if mask.any():
                    length, asked = len(mask), mask.any(axis=1)
                    own = pattern[place, :, :length, :length].double().cpu().numpy()
                    total[role][at] += (own * mask).sum(axis=-1)[:, asked].mean(axis=-1)
    return {role: total[role] / seen[role] if seen[role] else np.full(len(total[role]), np.nan) for role in NATURAL}


def _targets(ids: Sequence[int], start: int) -> dict[str, NDArray[np.bool_]]:
    """By role, which keys are targets of which queries."""
    own, length = np.array(ids), len(ids)
    query, key = np.indices((length, length))
    same = (own[:, None] == own[None, :]) & (key < query) & (key >= start)
    behind = np.zeros_like(same)
    behind[:, 1:] = same[:, :-1]
    return {
        "previous token": (key == query - 1) & (key >= start),
        "duplicate token": same,
        "induction": behind & (key < query),
        "first position": (key == 0) & (query > start + 1),
    }
