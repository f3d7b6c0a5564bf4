"""Random tokens that are said again and again: what a model learns induction from.

In stories few things are repeated word by word, and a small model learns to look for topics, not for copies. A passage
here is random tokens, each as likely as any other, said several times with others in between: nothing but an earlier
copy tells what comes next, and neither their number nor the distance of the copies is fixed, so looking back by a
fixed distance is of no use.
"""

import numpy as np

from steerscope.analysis.gate import Count, Seed, Whole, gated

SHORTEST, BETWEEN = 4, 8  # tokens of a segment; most of what stands between two copies


@gated
def repeated_tokens(seed: Seed, vocabulary: Count, context: Count, passages: Count, end: Whole = 0) -> np.ndarray:
    """One stream of tokens [passages * context + 1]: every passage fills the context with an `end` before it.

    Args:
        vocabulary: ids to draw from; `end` is not among those that are drawn.
    """
    dice, ends = np.random.default_rng(seed), np.array([end])
    others = np.setdiff1d(np.arange(vocabulary), ends)
    told = [part for _ in range(passages) for part in (ends, _passage(dice, others, context - 1))]
    return np.concatenate([*told, ends]).astype(np.uint16)


def _passage(dice: np.random.Generator, tokens: np.ndarray, most: int) -> np.ndarray:
    longest = max(most // 2, 1)
    length = round(np.exp(dice.uniform(np.log(min(SHORTEST, longest)), np.log(longest))))
    segment, parts = dice.choice(tokens, length), list[np.ndarray]()
    while sum(map(len, parts)) < most:
        parts += [segment, dice.choice(tokens, dice.integers(BETWEEN + 1))]
    return np.concatenate(parts)[:most]
