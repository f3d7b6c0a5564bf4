"""What each layer of a story model does on text, without any steering: the loss when a part of it says nothing.

1. Stories of the grammar, one topic each; every story gives one window of equal length.
2. The loss of every next token, by kind: the first mention of a further word of the story's topic; a name or topic word
   that was said before; a pronoun of a person; all others.
3. Again with one layer's attention, or MLP, or all of a kind, writing its mean over all windows at every position
   (mean ablation), so that it tells nothing of this text.
4. Agreement by pairs: names of girls and boys in one sentence, and how far the pronoun that agrees is ahead of the
   other.

Source: Wang et al. 2023 (arXiv 2211.00593) for mean ablation.
What it cannot see: what parts do together; real stories, which are not shipped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import Readout, measure, run
from steerscope.analysis.errors import BadPrompt
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.results.stats import interval

from .corpus import BOYS, GIRLS, topic_stories
from .topics import TOPICS

WINDOW, EACH = 96, 8  # tokens of a window; windows of a topic
KINDS = {
    "topic": "first mention of a further word of the story's topic",
    "said before": "a name or topic word that stood in the story before",
    "pronoun": "he, she, him, his, her",
    "other": "all other tokens",
    "all": "all tokens",
}
PRONOUNS = " he she him his her".split()
SENTENCES = (
    "{} was sad because",
    "{} was happy because",
    "{} went to the park and",
    "{} had a red ball. One day,",
    "{} saw a big dog, and",
    "{} looked at the sky and then",
    "{} loved to play. Every day",
    "{} wanted a new toy, but",
)
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Stories:
    """Windows of stories, and the kind of every token that is predicted.

    Attributes:
        kinds: by window and place, which kind the next token is: an index into `KINDS`.
    """

    ids: tuple[tuple[int, ...], ...]
    kinds: NDArray[np.int64]


def stories(model: Model, seed: int) -> Stories:
    """Windows of all topics.

    Raises:
        BadPrompt: the model reads no text, or too short a one.
    """
    length = min(WINDOW, model.n_ctx)
    names = _single(model, [*GIRLS, *BOYS])
    pronouns = _single(model, PRONOUNS)
    ids, kinds = [], []
    for number, topic in enumerate(TOPICS):
        own = _single(model, topic.words)
        long = (model.tokens(text) for text in islice(topic_stories(seed + number, topic.name), 40 * EACH))
        for row in islice((tuple(row[:length]) for row in long if len(row) >= length), EACH):
            ids.append(row)
            kinds.append([_kind(row, place, own, names, pronouns) for place in range(1, length)])
    if len(ids) < 2:
        raise BadPrompt(
            f"{model.name} reads {length} tokens, and no story fills a window; expected a model of stories; use another"
        )
    return Stories(tuple(ids), np.array(kinds))


def _single(model: Model, words: Sequence[str]) -> set[int]:
    """Words that are one token, with a space before them."""
    found = (model.encode_inner(f" {word}") for word in words)
    return {ids[0] for ids in found if len(ids) == 1}


def _kind(row: Sequence[int], place: int, own: set[int], names: set[int], pronouns: set[int]) -> int:
    token, before = row[place], set(row[:place])
    order = list(KINDS)
    if token in own | names and token in before:
        return order.index("said before")
    if token in own and before & own:
        return order.index("topic")
    return order.index("pronoun" if token in pronouns else "other")


def parts(model: Model) -> dict[str, list[Site]]:
    """What is silenced together, by name."""
    attention = [Site("attn_out", layer) for layer in range(model.n_layers)]
    mlps = [Site("mlp_out", layer) for layer in range(model.n_layers)] if model.has_mlp else []
    found = {f"L{site.layer} attention": [site] for site in attention} | {f"L{s.layer} MLP": [s] for s in mlps}
    found = dict(sorted(found.items(), key=lambda one: (one[1][0].layer, one[1][0].name)))
    if model.n_layers > 1:
        found["all attention"] = attention
    return found | ({"all attention and MLPs": [*attention, *mlps]} if mlps else {})


def silenced(model: Model, sites: Sequence[Site], means: Mapping[Site, Tensor], length: int) -> tuple[Edit, ...]:
    """Edits that set parts to their means, but at the first position."""
    return tuple(Edit(site, "set", means[site], tuple(range(1, length))) for site in sites)


def mean_outputs(model: Model, ids: Sequence[Sequence[int]]) -> dict[Site, Tensor]:
    """What every layer's attention and MLP write on average, the first position left out."""
    sites = sorted({site for own in parts(model).values() for site in own}, key=str)
    total = {site: torch.zeros(model.d_model, dtype=torch.float64) for site in sites}
    count = 0
    variants = [Variant(p) for p in range(len(ids))]
    for rows, readout in run(model, ids, variants, reads="none", sites=[(s.name, s.layer) for s in sites]):
        count += sum(len(ids[p]) - 1 for p in rows)
        for site in sites:
            x = readout.activations[site.name, site.layer]
            for place, p in enumerate(rows):
                total[site] += x[place, 1 : len(ids[p])].double().cpu().sum(0)
    return {site: (x / count).to(model.device, model.dtype) for site, x in total.items()}


def losses(model: Model, text: Stories) -> dict[str, Values]:
    """Nats of every next token, `[window, place]`: of the model, and with each part silenced."""
    means, length = mean_outputs(model, text.ids), len(text.ids[0])
    runs = {"": ()} | {name: silenced(model, sites, means, length) for name, sites in parts(model).items()}
    tokens = torch.tensor(text.ids, device=model.device)

    def score(readout: Readout) -> Tensor:
        assert readout.logits is not None
        logits, following = readout.logits.float(), tokens[readout.prompt, readout.position + 1]
        found = logits.logsumexp(-1) - logits.gather(1, following[:, None])[:, 0]
        return found.view(len(readout.variants), -1)

    variants = [Variant(p, edits) for edits in runs.values() for p in range(len(text.ids))]
    places = [tuple(range(length - 1)) for _ in text.ids]
    table = measure(model, text.ids, variants, places, score, what="layers on text").double().cpu().numpy()
    return dict(zip(runs, table.reshape(len(runs), len(text.ids), -1), strict=True))


def by_kind(values: Values, kinds: NDArray[np.int64], kind: str) -> Values:
    """By window, the mean over its tokens of a kind; windows without such tokens are left out."""
    mask = np.ones_like(kinds, dtype=bool) if kind == "all" else kinds == list(KINDS).index(kind)
    kept = mask.any(axis=1)
    return np.array((values * mask).sum(axis=1)[kept] / mask.sum(axis=1)[kept])


def text_table(model: Model, seed: int, level: float) -> pd.DataFrame:
    """A row a part and kind of token: the loss, and how much it rises when the part is silenced."""
    text = stories(model, seed)
    found, rows = losses(model, text), []
    for name, values in found.items():
        for kind in KINDS:
            clean = by_kind(found[""], text.kinds, kind)
            change = by_kind(values - found[""], text.kinds, kind) if name else clean
            low, high = interval(change, level)
            rows.append(
                {
                    "part": name or "nothing",
                    "tokens": kind,
                    "loss": float(by_kind(values, text.kinds, kind).mean()),
                    "rise": float(change.mean()) if name else 0.0,
                    "low": float(low) if name else 0.0,
                    "high": float(high) if name else 0.0,
                    "windows": len(clean),
                }
            )
    return pd.DataFrame(rows)


def agreement_table(model: Model, seed: int, level: float) -> pd.DataFrame:
    """A row a part: how far the pronoun that agrees with the name is ahead, and how much of it is lost without it."""
    means = mean_outputs(model, stories(model, seed).ids)
    named = [(name, sign) for names, sign in ((GIRLS, 1), (BOYS, -1)) for name in names if _single(model, [name])]
    ids = [model.tokens(text.format(f" {name}").strip()) for text in SENTENCES for name, _ in named]
    signs = np.array([sign for _ in SENTENCES for _, sign in named])
    groups = np.array([number for number, _ in enumerate(SENTENCES) for _ in named])
    she, he = (model.target(word) for word in (" she", " he"))
    runs: dict[str, list[Site]] = {"": []} | parts(model)
    variants = [
        Variant(p, silenced(model, sites, means, len(ids[p]))) for sites in runs.values() for p in range(len(ids))
    ]

    def score(readout: Readout) -> Tensor:
        assert readout.logits is not None
        return readout.logits[:, she] - readout.logits[:, he]

    values = measure(model, ids, variants, None, score, what="agreement").double().cpu().numpy()
    table = values.reshape(len(runs), len(ids)) * signs
    rows = []
    for name, own in zip(runs, table, strict=True):
        low, high = interval(own, level, groups)
        rows.append(
            {
                "part": name or "nothing",
                "ahead": float(own.mean()),
                "low": float(low),
                "high": float(high),
                "right": float((own > 0).mean()),
                "prompts": len(ids),
            }
        )
    return pd.DataFrame(rows)
