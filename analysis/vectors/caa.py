"""Contrastive activation addition: answers to multiple-choice questions that show a behaviour, or do not.

1. Each question is run twice, followed by the answer that matches the behaviour and by the one that does not, up to the
   letter (or the word) of the answer: the last token.
2. `v = sum over orders o of share_o * mean over the questions of order o of (x(matching) - x(not matching))`. The order
   is which letter matches: A against B, or B against A. Both orders count alike, so that the letters themselves cancel;
   questions whose order has no counterpart cannot be balanced, are left out, and counted in the source (`left_out`).
3. Labels are exchanged within questions, half of each order turned round (see `contrast`): letters cancel there, too.

Source: Rimsky et al., "Steering Llama 2 via Contrastive Activation Addition", arXiv 2312.06681, section 3; the
questions are of the kind of Perez et al., arXiv 2212.09251 (anthropics/evals).
What it cannot see: what the model would answer; only how the two answers differ inside of it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from steerscope.analysis.errors import BadVector
from steerscope.analysis.gate import gated
from steerscope.analysis.model.models import Model

from .contrast import difference, exchanged, kinds_of, shares, ways
from .plans import HERE, ROUNDING, Plan, Weighed, last, make_one, place
from .records import rows
from .texts import quoted, tokens_of
from .vector import SteeringVector

EXAMPLE = {
    "questions": [
        ("Do you like parties?\n (A) Yes\n (B) No", " (A)", " (B)"),
        ("Do you like to be alone?\n (A) Yes\n (B) No", " (B)", " (A)"),
        ("Would you rather meet friends?\n (A) Yes\n (B) No", " (A)", " (B)"),
        ("Are you quiet?\n (A) Yes\n (B) No", " (B)", " (A)"),
    ],
    "layer": 1,
}
FIELDS = ("question", "answer_matching_behavior", "answer_not_matching_behavior")
ASKED = "\n\nAnswer:"  # behind a question that does not end in it

Questions = str | Sequence[tuple[str, str, str]]


@gated(error=BadVector)
def caa(
    model: Model,
    questions: str | Sequence[tuple[str, str, str]],
    layer: int = 0,
    *,
    site: str = "resid_pre",
    head: int | None = None,
    chat: bool = False,
) -> SteeringVector:
    """The mean difference between answers that match a behaviour and answers that do not, `[1, width]`.

    Args:
        questions: each with the answer that matches and the one that does not; or a file (.jsonl, .csv) with columns
            question, answer_matching_behavior, answer_not_matching_behavior.
        layer: where it is recorded, and injected unless the injection says otherwise.
        site: resid_pre, attn_out, mlp_out, or z with a head.
        head: head, for the site z.
        chat: ask through the tokenizer's chat template.

    Raises:
        BadVector: no questions, none that can be balanced, texts that cannot be used, or no chat template.
        BadNode: the model has no such layer, site or head.
    """
    return make_one(model, plan(model, questions, chat), place(model, layer, site, head))


def plan(model: Model, questions: Questions, chat: bool = False) -> Plan:
    """What it asks of the model (see `plans`)."""
    listed = read_questions(questions) if isinstance(questions, str) else [tuple(map(str, one)) for one in questions]
    orders, left = _orders(listed)
    if not orders:
        raise BadVector(
            f"none of the {len(listed)} questions can be balanced: the same letter is always the answer that "
            "matches; expected some of both orders; exchange the letters of half of them"
        )
    kept = [one for one in listed if _order(one) in orders]
    texts = (
        (f"{what} of question {n}", _asked(model, one, answer, chat))
        for n, one in enumerate(kept, 1)
        for what, answer in zip(("the matching answer", "the other answer"), one[1:], strict=True)
    )
    ids = tokens_of(model, texts)
    same = sum(a == b for a, b in zip(ids[::2], ids[1::2], strict=True))
    if same:
        raise BadVector(f"{same} questions have two equal answers; expected different ones; mend or remove them")
    label = f"{len(kept)} questions answered one way or the other ({quoted(kept[0][0])}{', ...' * (len(kept) > 1)})"
    source = {"recipe": "caa", "questions": [list(one) for one in listed], "chat": chat, "model": model.name}
    source |= {"orders": {f"{a.strip()} against {b.strip()}": n for (a, b), n in orders.items()}, "left_out": left}
    nothing = (
        f"both answers have the same mean activation at {HERE}; expected different ones; at layer 0 only the letters "
        "count, which cancel: choose a later one"
    )
    groups, of_group = _groups(kept, orders)
    weights = difference(shares(groups, of_group))
    runs = tuple(map(last, ids))
    return Plan(source | {"label": label}, runs, lambda found: Weighed(weights), nothing, ROUNDING)


def shuffled(model: Model, vector: SteeringVector, count: int, generator: Generator) -> list[SteeringVector]:
    """Vectors of the same questions, the answers of half of each order turned round (see `contrast.exchanged`)."""
    made = plan(model, vector.source["questions"], vector.source.get("chat", False))
    groups, of_group, kinds = _of(vector.source)
    return exchanged(model, vector, made, groups, kinds, of_group, count, generator)


def splits(source: Mapping[str, Any]) -> int:
    """In how many ways the labels of a vector's answers can be exchanged, up to its sign."""
    groups, _, kinds = _of(source)
    return ways(groups, kinds)


def read_questions(path: str) -> list[tuple[str, ...]]:
    """Questions of a file, each with its two answers.

    Raises:
        BadVector: no such columns, or texts that cannot be used.
    """
    return [tuple(row.fields[name] for name in FIELDS) for row in rows(path, FIELDS)]


def _of(source: Mapping[str, Any]) -> tuple[NDArray[np.int64], dict[int, float], NDArray[np.int64]]:
    """By question that is kept, its order; what each order counts; and which question it is."""
    listed = [tuple(one) for one in source["questions"]]
    orders, _ = _orders(listed)
    kept = [one for one in listed if _order(one) in orders]
    return *_groups(kept, orders), kinds_of(kept)


def _order(question: Sequence[str]) -> tuple[str, str]:
    return question[1], question[2]


def _orders(questions: Sequence[Sequence[str]]) -> tuple[dict[tuple[str, str], int], int]:
    """How many questions there are of each order that has a counterpart, and how many have none."""
    found = Counter(map(_order, questions))
    kept = {order: n for order, n in found.items() if order[::-1] in found and order[0] != order[1]}
    return kept, len(questions) - sum(kept.values())


def _groups(
    questions: Sequence[Sequence[str]], orders: Mapping[tuple[str, str], int]
) -> tuple[NDArray[np.int64], dict[int, float]]:
    """By question, the number of its order; and what each order counts: half of what it and its counterpart are."""
    numbers = {order: n for n, order in enumerate(orders)}
    both = {order: orders[order] + orders[order[::-1]] for order in orders}
    of_group = {numbers[order]: both[order] / 2 / len(questions) for order in orders}
    return np.array([numbers[_order(one)] for one in questions]), of_group


def _asked(model: Model, question: Sequence[str], answer: str, chat: bool) -> str:
    """A question and an answer as the model reads them, up to the answer's letter or word."""
    said = re.sub(r"\)\s*$", "", answer)
    if not chat:
        asked = question[0].rstrip()
        return (asked if asked.endswith("Answer:") else asked + ASKED) + (said if said[:1].isspace() else " " + said)
    if getattr(model.tokenizer, "chat_template", None) is None:
        raise BadVector(
            f"{model.name} has no chat template; expected a chat model; leave chat out, or load one with a template"
        )
    turn = [{"role": "user", "content": question[0].strip()}]
    return str(model.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)) + said.strip()
