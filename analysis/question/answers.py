"""`PerPrompt`: what is asked of each prompt by itself: its answer, its distractor, the positions that are scored.

1. An answer is tokenized after its own prompt (`model.context`).
2. One token each: the logits after the prompt's last token are compared.
3. An answer and a distractor of several tokens (" (A)" and " (B)"): what they begin with in common goes to the end of
   the prompt, and the first tokens that differ are compared. What comes behind those is not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadMetric, BadPrompt
from steerscope.analysis.gate import gated, shown
from steerscope.analysis.model.models import Model

from .prompts import Prompts, continued

Token = str | int
Ids = tuple[int, ...]


@gated(error=BadMetric)
@dataclass(frozen=True, repr=False)
class PerPrompt:
    """One entry for each prompt, in the order of the prompts.

    Attributes:
        values: each a token (text or id) or a sequence of them; of scored positions, an index or a sequence of them.

    Raises:
        BadMetric: an entry is empty, or none at all are given.
    """

    values: Sequence[str | int | Sequence[str | int]]

    def __post_init__(self) -> None:
        empty = next((i for i, value in enumerate(self.values) if not isinstance(value, int) and not len(value)), None)
        if empty is not None or not self.values:
            where = "no entries" if empty is None else f"an empty entry for prompt {empty + 1}"
            raise BadMetric(f"PerPrompt got {where}; expected one for each prompt; give a token or a position")

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"<PerPrompt of {len(self)}: {brief(shown(self.values[0]), 40)}...>"

    @property
    def rows(self) -> list[tuple[Token, ...]]:
        """Every entry as a tuple."""
        return [(v,) if isinstance(v, str | int) else tuple(v) for v in self.values]


Asked = PerPrompt | Sequence[Token]


def asked_as(tokens: Token | Asked) -> Asked:
    """One token as a list of it."""
    return [tokens] if isinstance(tokens, str | int) else tokens


def answered(model: Model, prompts: Prompts, targets: Asked, against: Asked) -> Prompts:
    """Prompts with the tokens of their answers, and of their distractors where there are any.

    Raises:
        BadMetric: not one for each prompt, or an answer that cannot be told from its distractor, or is several tokens
            and has no distractor.
        BadPrompt: no room for what both begin with.
    """
    wanted, others = (_rows(asked, len(prompts), name) for asked, name in ((targets, "targets"), (against, "against")))
    found = [_pair(model, p, ids, wanted[p], others[p] if others else ()) for p, ids in enumerate(prompts.ids)]
    ids = tuple(own + shared for own, (shared, _, _) in zip(prompts.ids, found, strict=True))
    texts = tuple(
        text + model.text_after(own, shared) if shared else text
        for text, own, (shared, _, _) in zip(prompts.texts, prompts.ids, found, strict=True)
    )
    long = next((p for p, row in enumerate(ids) if len(row) > model.n_ctx), None)
    if long is not None:
        raise BadPrompt(
            f"prompt {long + 1} has {len(ids[long])} tokens with the beginning of its answer; expected at most "
            f"{model.n_ctx}; shorten it"
        )
    answers, rest = (tuple(row[n] for row in found) for n in (1, 2))
    return replace(prompts, ids=ids, texts=texts, targets=answers, against=rest if others else ())


def _rows(asked: Asked, count: int, name: str) -> list[tuple[Token, ...]]:
    if not isinstance(asked, PerPrompt):
        return [tuple(asked)] * count if asked else []
    if len(asked) != count:
        raise BadMetric(f"got {name} of {len(asked)} prompts for {count} prompts; expected one each; give as many")
    return asked.rows


def _pair(
    model: Model, number: int, ids: Ids, wanted: tuple[Token, ...], others: tuple[Token, ...]
) -> tuple[Ids, Ids, Ids]:
    """What answer and distractor begin with in common, and the tokens that are compared behind it."""
    found, rest = ([_tokens(model, number, ids, token) for token in side] for side in (wanted, others))
    shared: Ids = ()
    if len(found) == len(rest) == 1 and max(len(found[0]), len(rest[0])) > 1:
        first, second = found[0], rest[0]
        size = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
        if size is None:
            raise BadMetric(
                f"the answer {shown(wanted[0])} of prompt {number + 1} and its distractor {shown(others[0])} begin "
                "with each other; expected tokens that differ; mend them"
            )
        shared, found, rest = first[:size], [first[size : size + 1]], [second[size : size + 1]]
    unknown = getattr(model.tokenizer, "unk_token_id", None)
    for side, texts in ((found, wanted), (rest, others)):
        long = next((n for n, row in enumerate(side) if len(row) != 1 or row[0] == unknown), None)
        if long is not None:
            pieces = ", ".join(repr(model.token_text(i)) for i in side[long][:12]) or "nothing"
            raise BadMetric(
                f"{shown(texts[long])} of prompt {number + 1} is not a single token of {model.name}: it becomes "
                f"{pieces}; expected one token, or one answer and one distractor, whose first tokens that differ are "
                "compared; choose another, or add a distractor"
            )
    for token in (row[0] for row in (*found, *rest)):
        model.target(token)  # says so where it has no logit
    targets, distractors = (tuple(sorted({row[0] for row in side})) for side in (found, rest))
    if targets == distractors:
        raise BadMetric(
            f"answer and distractor of prompt {number + 1} are the same token {model.token_text(targets[0])!r}; "
            "expected two; mend them"
        )
    return shared, targets, distractors


def _tokens(model: Model, number: int, ids: Ids, token: Token) -> Ids:
    if isinstance(token, str):
        return model.following(ids, token).ids
    if not 0 <= token < model.d_vocab:
        raise BadMetric(
            f"the token id {token} of prompt {number + 1} is outside of the vocabulary of {model.name}; expected 0 to "
            f"{model.d_vocab - 1}; give ids of its own tokenizer"
        )
    return (token,)


def with_own(model: Model, prompts: Prompts, metric: Any, scored: Any) -> tuple[Prompts, Any, Any]:
    """Prompts that hold what the metric and the scored positions ask of each, and these two without it.

    Raises:
        BadMetric, BadPrompt: it does not fit the prompts.
    """
    continuation = metric.options.get("continuation")
    if continuation is not None:
        prompts = continued(model, prompts, continuation)
    if metric.answers is not None:
        prompts, metric = answered(model, prompts, *metric.answers), replace(metric, answers=None)
    if isinstance(scored, PerPrompt):
        prompts, scored = scored_of(prompts, scored), "own"
    return prompts, metric, scored


def scored_of(prompts: Prompts, scored: PerPrompt) -> Prompts:
    """Prompts with the positions that are scored in each.

    Raises:
        BadPrompt: not one entry for each prompt, or a position that is none of it.
    """
    if len(scored) != len(prompts):
        raise BadPrompt(
            f"got scored positions of {len(scored)} prompts for {len(prompts)}; expected as many; mend them"
        )
    found = []
    for number, (row, full) in enumerate(zip(scored.rows, prompts.full, strict=True), 1):
        wrong: Any = next((i for i in row if not isinstance(i, int) or not -len(full) <= i < len(full)), None)
        if wrong is not None:
            raise BadPrompt(
                f"prompt {number} is scored at {shown(wrong)}; expected {-len(full)} to {len(full) - 1}; mend them"
            )
        found.append(tuple(sorted({int(i) % len(full) for i in row})))
    return replace(prompts, scored=tuple(found))


def padded(rows: Sequence[tuple[int, ...]]) -> Int[Tensor, "prompt token"]:
    """Rows of token ids, filled up with -1."""
    width = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows], dtype=torch.long)


def together(logits: Float[Tensor, "read vocab"], ids: Int[Tensor, "read token"]) -> Float[Tensor, " read"]:
    """Log of the summed exponentials of some logits of each row; ids below 0 are none."""
    return logits.gather(1, ids.clamp_min(0)).masked_fill(ids < 0, -torch.inf).logsumexp(dim=-1)
