"""What heads move: which tokens a head's OV raises and lowers when it looks at one token alone.

1. The stream of a token behind the first layer (of layer 0: its embedding), in a prompt of that token alone behind BOS.
2. Put it before every layer of a prompt of one position, so that every head looks at it and nothing else; what it
   writes goes through the final norm (its scale apart, which changes no rank) and the unembedding.
3. Copying: the token itself is among the 5 that are raised most; copy suppression: among the 10 that are lowered most.
   Control: other tokens of the sample. Topic copying: other words of the token's topic are raised, over the spread of
   the vocabulary. Control: words of other topics.

In vocabularies under 100 (200) tokens fewer than 5 (10) count: at most a twentieth.

Source: Wang et al. 2023 (arXiv 2211.00593) for the copy score of name movers; McDougall et al. 2023 (arXiv 2310.04625)
for copy suppression.
What it cannot see: what later layers make of it, and what the head moves when it looks at several tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node, Site
from steerscope.analysis.model.norms import norm_of
from steerscope.analysis.progress import track
from steerscope.analysis.tools.writes import raw_writes

from .roles import PERMUTATIONS, Measured, Values, tail

RAISED, LOWERED, SHARE = 5, 10, 20  # tokens that count, and how many times as many there must be
NAMED = 5  # tokens of a row of the table


@dataclass(frozen=True, eq=False)
class Copies:
    """What heads' OV do to a sample of tokens.

    Attributes:
        raised: by head and token read, which of the sample are among those raised most.
        lowered: among those lowered most.
        topical: by head, word read and word answered, in standard deviations over the vocabulary.
        top: by head and word read, the tokens raised most.
    """

    tokens: tuple[int, ...]
    words: tuple[int, ...]
    raised: Float[Values, "head token token"]
    lowered: Float[Values, "head token token"]
    topical: Float[Values, "head word word"]
    top: tuple[tuple[tuple[int, ...], ...], ...]


@torch.no_grad()
def copies(model: Model, tokens: Sequence[int], words: Sequence[int], begin: int | None, budget: int | None) -> Copies:
    """Reads every token with every head.

    Args:
        tokens: the sample for copying. words: of topics.
    """
    read, count = [*tokens, *words], len(tokens)
    z = _alone(model, read, _streams(model, read, begin, budget), budget)
    final = norm_of(model, getattr(model.bridge, "ln_final", None))
    unembed = model.bridge.unembed.W_U.detach()
    size = [max(1, min(model.d_vocab_out // SHARE, most)) for most in (RAISED, LOWERED)]
    raised: list[Values] = []
    lowered: list[Values] = []
    topical: list[Values] = []
    top: list[tuple[tuple[int, ...], ...]] = []
    for layer in track(range(model.n_layers), "what heads copy"):
        writes, _, after = raw_writes(model, layer, z[layer][:, None])
        for own in writes[:, :, 0]:  # of a head: [token, d_model]
            own = own if after is None else after.weight * after.centre(own)
            own = own if final is None else final.weight * final.centre(own)
            logits = (own.to(unembed) @ unembed).float()
            sample, at = logits[:count], logits[:count][:, list(tokens)]
            for found, number, sign in ((raised, size[0], 1.0), (lowered, size[1], -1.0)):
                beyond = (sign * sample).topk(1 + number, dim=-1).values[:, -1:]  # the first that does not count
                found.append((sign * at > beyond).double().cpu().numpy())
            told = logits[count:]
            off = told - told.mean(dim=-1, keepdim=True)
            scaled = off[:, list(words)] / off.square().mean(dim=-1, keepdim=True).sqrt().clamp_min(1e-30)
            topical.append(scaled.double().cpu().numpy())
            named = told.topk(min(NAMED, model.d_vocab_out), dim=-1).indices.tolist()
            top.append(tuple(tuple(row) for row in named))
    return Copies(tuple(tokens), tuple(words), np.stack(raised), np.stack(lowered), np.stack(topical), tuple(top))


def _streams(model: Model, tokens: Sequence[int], begin: int | None, budget: int | None) -> list[Tensor]:
    """What layer 0, and every later layer, is given of each token: `[token, d_model]` of each."""
    prompts = [[token] if begin is None else [begin, token] for token in tokens]
    sites = [("resid_pre", layer) for layer in range(min(2, model.n_layers))]
    found: list[dict[int, Tensor]] = [{} for _ in sites]
    variants = [Variant(p) for p in range(len(prompts))]
    for rows, readout in run(model, prompts, variants, reads="none", sites=sites, budget=budget):
        for own, site in zip(found, sites, strict=True):
            own.update(zip(rows, readout.activations[site][:, -1], strict=True))
    return [torch.stack([own[p] for p in range(len(prompts))]) for own in found]


def _alone(
    model: Model, tokens: Sequence[int], streams: Sequence[Tensor], budget: int | None
) -> list[Float[Tensor, "token head d_head"]]:
    """By layer, what heads give that look at one token alone."""
    edits = [
        tuple(Edit(Site("resid_pre", n), "set", streams[min(n, 1)][i], (0,)) for n in range(model.n_layers))
        for i in range(len(tokens))
    ]
    variants = [Variant(i, own) for i, own in enumerate(edits)]
    sites = [("z", layer) for layer in range(model.n_layers)]
    found: list[dict[int, Tensor]] = [{} for _ in sites]
    for rows, readout in run(model, [[t] for t in tokens], variants, reads="none", sites=sites, budget=budget):
        for own, site in zip(found, sites, strict=True):
            own.update(zip(rows, readout.activations[site][:, 0], strict=True))
    return [torch.stack([own[i] for i in range(len(tokens))]) for own in found]


def copying(found: Copies, nodes: tuple[Node, ...], seed: int) -> list[Measured]:
    """Copying and copy suppression."""
    made, count = [], len(found.tokens)
    for role, hits in (("copying", found.raised), ("copy suppression", found.lowered)):
        dice, at = np.random.default_rng([seed, count]), np.arange(count)
        own = hits[:, at, at]
        others = (hits.sum(axis=-1) - own) / (count - 1)
        shift = [(at + dice.integers(1, count, count)) % count for _ in range(PERMUTATIONS)]
        chance = tail(np.stack([hits[:, at, other].mean(axis=-1) for other in shift], axis=-1))
        made.append(Measured(role, nodes, own, {"other tokens of the sample": others}, chance))
    return made


def topic_copying(found: Copies, nodes: tuple[Node, ...], topics: Mapping[str, Sequence[int]], seed: int) -> Measured:
    """How far words of a topic raise the others of it; intervals go by topic."""
    labels = np.array([n for n, words in enumerate(topics.values()) for _ in words])
    own, others = _within(found.topical, labels)
    dice = np.random.default_rng([seed, len(labels)])
    permuted = [_within(found.topical, dice.permutation(labels))[0].mean(axis=-1) for _ in range(PERMUTATIONS)]
    chance = tail(np.stack(permuted, axis=-1))
    return Measured("topic copying", nodes, own, {"words of other topics": others}, chance, labels)


def _within(topical: Values, labels: np.ndarray) -> tuple[Values, Values]:
    """Of every word, the mean over the other words of its topic, and over those of other topics."""
    same = labels[:, None] == labels[None, :]
    other = ~same
    same &= ~np.eye(len(labels), dtype=bool)
    return (topical * same).sum(axis=-1) / same.sum(axis=-1), (topical * other).sum(axis=-1) / other.sum(axis=-1)


def words_of(model: Model, topics: Mapping[str, Sequence[str | int]]) -> dict[str, list[int]]:
    """By topic, its words that are single tokens which the model can answer with; topics with fewer than 3 are left
    out, and so is a word of two topics."""
    found: dict[str, list[int]] = {}
    taken: dict[int, int] = {}
    for name, words in topics.items():
        own = [token for word in words if (token := _single(model, word)) is not None]
        found[name] = list(dict.fromkeys(own))
        for token in found[name]:
            taken[token] = taken.get(token, 0) + 1
    kept = {name: [t for t in own if taken[t] == 1] for name, own in found.items()}
    return {name: own for name, own in kept.items() if len(own) >= 3}


def _single(model: Model, word: str | int) -> int | None:
    if isinstance(word, int):
        return word if 0 <= word < model.d_vocab_out else None
    ids = model.encode_inner(f" {word.strip()}") if model.tokenizer is not None else []
    return ids[0] if len(ids) == 1 and ids[0] < model.d_vocab_out else None


def all_words(topics: Mapping[str, Sequence[int]]) -> list[int]:
    """Words of all topics, in order."""
    return list(chain.from_iterable(topics.values()))
