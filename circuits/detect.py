"""`head_census`: what each attention head of a model does, as far as detectors with controls can say.

1. Draw random tokens said twice, and the same with nothing said twice (`repeats`).
2. Where heads look: on the token before, on earlier copies, behind them, on the first position (`attention`).
3. What the likeliest induction heads do: how far the repetition is less likely without them (`causal`).
4. What heads move: do they raise the token that they read, or lower it, or raise words of its topic (`copying`)?
5. A role is claimed above its threshold, its largest control, and the 99th percentile over permuted targets (`roles`).

Source: Olsson et al. 2022 (arXiv 2209.11895), Wang et al. 2023 (2211.00593), McDougall et al. 2023 (2310.04625),
Gu et al. 2024 (2410.10781).
What it cannot see: roles that are not listed, heads that do one thing on random tokens and another on text, and whether
a head that has a role is used for anything.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd

from steerscope.analysis.errors import BadArgument, BadPrompt
from steerscope.analysis.gate import Bytes, Level, Seed, Whole, Within, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.corpora import windows
from steerscope.analysis.question.prompts import Prompts, make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.results.stats import interval
from steerscope.analysis.tools.record import check, made_now, tolerance

from .attention import attention, heads
from .causal import causal as causal_scores
from .causal import repetition
from .copying import Copies, all_words, copies, copying, topic_copying, words_of
from .repeats import Repeats, repeats
from .roles import ROLES, Measured, Values, judged

SAMPLE = 128  # tokens that copying is tried on
TEXTS, TEXT_TOKENS = 32, 64  # windows of natural text, and their tokens
COLUMNS: Frames = {
    "scores": {
        "node": Column("head", role="node"),
        "layer": Column("its layer", role="layer"),
        "head": Column("its number in the layer", role="head"),
        "role": Column("what it may do; see How to read this", role="measure"),
        "score": Column("mean of the role's score over sequences (of copying: over tokens)", "{unit}", "estimate"),
        "low": Column("lower end of its interval over sequences (tokens; topics)", "{unit}", "low"),
        "high": Column("upper end of its interval", "{unit}", "high"),
        "holds": Column(
            "whether the role is claimed: low above the threshold, the score above its largest control (Holm) and "
            "above chance",
            role="verdict",
        ),
        "control": Column("the largest of its controls", "{unit}", "reference"),
        "of": Column("which control that is"),
        "chance": Column("99th percentile of the score with permuted targets", "{unit}"),
        "threshold": Column("what the lower end must pass", "{unit}"),
        "p_holm": Column("p that score and control are equal, after Holm over all heads"),
        "beyond": Column("whether the score is above its largest control (Holm) and above chance, whatever its size"),
        "natural": Column("the same score on natural text, where it has one", "{unit}"),
        "unit": Column("unit of the score; empty for a share"),
    },
    "controls": {
        "node": Column("head", role="node"),
        "layer": Column("its layer", role="layer"),
        "head": Column("its number in the layer", role="head"),
        "role": Column("what it may do", role="measure"),
        "control": Column("what the score is compared with", role="label"),
        "value": Column("mean over sequences (tokens)", "of the score", "estimate"),
        "low": Column("lower end of its interval", "of the score", "low"),
        "high": Column("upper end of its interval", "of the score", "high"),
    },
    "raised": {
        "node": Column("head", role="node"),
        "read": Column("the word that it looks at alone", role="label"),
        "topic": Column("the word's topic", role="label"),
        "raised": Column("the tokens that its OV raises most, most first"),
    },
}
Topics = Mapping[str, Sequence[str | int]]


@gated
def head_census(
    model: Model,
    *,
    sequences: Annotated[int, Within(2, 10_000)] = 128,
    length: Annotated[int, Within(4, 1024)] = 50,
    causal: Whole = 24,
    topics: Topics | None = None,
    text: Prompts | Sequence[str] | None = None,
    begin: int | None = None,
    tokens: Sequence[int] | None = None,
    thresholds: Mapping[str, float] | None = None,
    seed: Seed = 0,
    level: Level = 0.95,
    alpha: Level = 0.05,
    budget: Bytes | None = None,
) -> Result:
    """Which heads attend to the previous token, to duplicates, behind them, to the first position; which copy.

    Args:
        sequences: of random tokens.
        length: tokens of the part that is said twice; fewer where context or vocabulary are small.
        causal: how many heads are tried for what they do in a repetition: those that look most as induction heads do.
        topics: words by topic, for topic copying; single tokens only.
        text: natural text to score heads on, beside random tokens; by default some of ours where the model has a
            tokenizer, `()` for none.
        begin: token id that every sequence begins with; by default the model's BOS.
        tokens: ids that sequences are drawn from; by default words, where there is a tokenizer, else all ids.
        thresholds: by role, other thresholds than those of `steerscope.circuits.roles`.
        seed: of sequences and permutations.
        level: of intervals.
        alpha: of the comparison with controls, after Holm.
        budget: bytes that the engine may take; worked out by default.

    Returns:
        a `Result` of kind "head_census": `scores` (a row a head and role), `controls`, `raised`.

    Raises:
        BadArgument: too few tokens to draw from, or a threshold of an unknown role.
        BadPrompt: token ids that the model does not know.
    """
    start = time.perf_counter()
    limits = _limits(thresholds)
    begin = model.bos if begin is None else begin
    texts = repeats(model, sequences, length, begin, tokens, seed)
    natural = _natural(model, text)
    found, worst = attention(model, texts, natural, seed, budget)
    nodes = heads(model)
    by_pattern = next(one for one in found if one.role == "induction").values.mean(axis=-1)
    tried = [nodes[i] for i in sorted(np.argsort(-by_pattern, kind="stable")[:causal])]
    if tried:
        found.append(causal_scores(model, texts, tried, seed, budget))
    words = words_of(model, topics or {})
    made = copies(model, _sample(texts, words, seed), all_words(words), begin, budget)
    found += copying(made, nodes, seed)
    if len(words) >= 2:
        found.append(topic_copying(made, nodes, words, seed))
    scores, controls = _tables(found, limits, level, alpha)
    return Result(
        "head_census",
        {"scores": scores, "controls": controls, "raised": _raised(model, made, words, scores)},
        COLUMNS,
        {
            "model": model.describe(),
            "sequences": sequences,
            "length": texts.length,
            "begin": begin,
            "drawn_from": len(texts.pool),
            "causal": [str(node) for node in tried],
            "repetition": _repetition(repetition(model, texts, budget), level),
            "topics": {name: len(own) for name, own in words.items()},
            "text": None if natural is None else {"count": len(natural), "source": natural.source},
            "thresholds": limits,
            "level": level,
            "alpha": alpha,
            "seed": seed,
            "checks": [check("attention of every query adds up to 1", worst, tolerance(model, 1.0))],
            "missing": _missing(tried, words, natural, model),
            **made_now(start),
        },
    )


def _limits(given: Mapping[str, float] | None) -> dict[str, float]:
    wrong = sorted(set(given or {}) - set(ROLES))
    if wrong:
        raise BadArgument(
            f"thresholds of {', '.join(map(repr, wrong))}; expected roles of {', '.join(ROLES)}; choose among these"
        )
    return {name: role.threshold for name, role in ROLES.items()} | dict(given or {})


def _repetition(values: Values, level: float) -> dict[str, float]:
    """Log-probability of random tokens that were said before, that of the same tokens where they were not, and the
    difference with its interval, in nats."""
    low, high = interval(values[0] - values[1], level)
    numbers = {"said_before": values[0].mean(), "new": values[1].mean(), "gain": (values[0] - values[1]).mean()}
    return {name: float(x) for name, x in (numbers | {"low": low, "high": high}).items()}


def _natural(model: Model, text: Prompts | Sequence[str] | None) -> Prompts | None:
    if text is None:
        if model.tokenizer is None:
            return None
        try:
            return windows(model, "shipped", count=TEXTS, tokens=min(TEXT_TOKENS, model.n_ctx))
        except BadPrompt:  # its tokenizer does not read English
            return None
    given = make_prompts(model, text) if len(text) else None
    return given


def _sample(texts: Repeats, words: Mapping[str, Sequence[int]], seed: int) -> list[int]:
    dice = np.random.default_rng(seed)
    return [texts.pool[i] for i in dice.permutation(len(texts.pool))[:SAMPLE]]


def _tables(
    found: Sequence[Measured], limits: Mapping[str, float], level: float, alpha: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    order = {role: number for number, role in enumerate(ROLES)}
    tests = max(len(one.nodes) for one in found)
    pairs = [
        judged(one, limits[one.role], tests, level, alpha) for one in sorted(found, key=lambda one: order[one.role])
    ]
    scores = pd.concat([own for own, _ in pairs], ignore_index=True)
    return scores.assign(unit=scores["role"].map(lambda role: ROLES[role].unit)), pd.concat(
        [own for _, own in pairs], ignore_index=True
    )


def _raised(model: Model, made: Copies, words: Mapping[str, Sequence[int]], scores: pd.DataFrame) -> pd.DataFrame:
    """Of the first word of every topic, what heads raise that copy, that copy topics, or that do so most."""
    rows: list[dict[str, Any]] = []
    own = scores[scores["role"].isin(["copying", "topic copying"])]
    best = own.loc[own.groupby("role")["score"].idxmax(), "node"]
    chosen = set(own["node"][own["holds"]]) | set(best)
    place = {token: number for number, token in enumerate(made.words)}
    for number, node in enumerate(heads(model)):
        for topic, tokens in words.items() if str(node) in chosen else ():
            top = made.top[number][place[tokens[0]]]
            said = ", ".join(repr(model.token_text(token)) for token in top)
            rows.append({"node": str(node), "read": model.token_text(tokens[0]), "topic": topic, "raised": said})
    return pd.DataFrame(rows, columns=list(COLUMNS["raised"]))


def _missing(tried: Sequence[Any], words: Mapping[str, Any], natural: Prompts | None, model: Model) -> dict[str, str]:
    found = {}
    if not tried:
        found["induction, causal"] = "run with causal=0: no head was taken out of a repetition"
    if len(words) < 2:
        found["topic copying"] = "no topics with three words or more that are single tokens; give topics"
        found["raised"] = found["topic copying"]
    if natural is None:
        found["natural text"] = (
            "none was given that its tokenizer reads"
            if model.tokenizer is not None
            else f"{model.name} has no tokenizer to read text with"
        )
    return found
