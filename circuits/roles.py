"""What a head can be found to do: each role with its threshold, and when it is claimed.

A role is claimed of a head only where all of these hold:

1. the lower end of its score's interval, over sequences or words, lies above the role's threshold;
2. the score is larger than the largest of its controls, told apart by a paired t over the same sequences after Holm
   over all heads (each role is a table of its own, as each measure is elsewhere);
3. it is larger than the 99th percentile of the same score with permuted targets.

Where 2 and 3 hold and 1 does not, the head is *beyond its controls*: something is there, but less than the role's name
says. Limits in use are few and not agreed upon (0.4 for previous tokens and induction in tutorials, 0.3 for sinks in
Gu et al. 2024, arXiv 2410.10781); the others are this project's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.model.nodes import Node
from steerscope.analysis.results.stats import holm, interval, nonzero_p

Values = NDArray[np.float64]
PERMUTATIONS, TAIL = 200, 99.0  # draws of permuted targets, and their percentile that a score must pass


@dataclass(frozen=True)
class Role:
    """What a head may do.

    Attributes:
        threshold: what the lower end of the score's interval must pass.
        score: what is measured, in words.
    """

    threshold: float
    score: str
    unit: str = ""


ROLES: dict[str, Role] = {
    "previous token": Role(0.4, "attention on the token before, in random tokens"),
    "duplicate token": Role(0.4, "attention on the earlier copy of the same token, in random tokens said twice"),
    "induction": Role(0.4, "attention on the token behind the earlier copy, in random tokens said twice"),
    "induction, causal": Role(
        0.1,
        "drop of the log-probability of the token that is repeated next, when the head's output is that of a run "
        "without the first copy",
        "nats",
    ),
    "first position": Role(0.3, "attention on the first position, in random tokens"),
    "copying": Role(0.5, "share of tokens that are among the 5 that the head's OV raises most when it reads them"),
    "copy suppression": Role(0.5, "share of tokens that are among the 10 that the head's OV lowers most"),
    "topic copying": Role(
        0.5,
        "how far the head's OV, reading a word of a topic, raises the other words of that topic, in standard "
        "deviations over the vocabulary",
        "sd",
    ),
}


@dataclass(frozen=True, eq=False)
class Measured:
    """Scores of one role.

    Attributes:
        values: of every node, on every sample (a sequence, or a word).
        controls: the same of what the score must be larger than, by name.
        chance: by node, the 99th percentile over permuted targets.
        groups: samples that are not independent; each by itself where there are none.
        natural: by node, the score on natural text; NaN where it was not taken.
    """

    role: str
    nodes: tuple[Node, ...]
    values: Float[Values, "node sample"]
    controls: Mapping[str, Float[Values, "node sample"]]
    chance: Float[Values, " node"]
    groups: NDArray[np.int64] | None = None
    natural: Float[Values, " node"] | None = field(default=None)


def judged(
    found: Measured, threshold: float, tests: int, level: float, alpha: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row a head, and a row a head and control.

    Args:
        tests: heads that could have been chosen.
    """
    score = found.values.mean(axis=-1)
    low, high = interval(found.values, level, found.groups)
    beside = np.stack(list(found.controls.values()))
    largest = beside.mean(axis=-1).argmax(axis=0)
    control = beside[largest, np.arange(len(score))]
    p = holm(nonzero_p(found.values - control, found.groups), tests)
    beyond = (score > control.mean(axis=-1)) & (score > found.chance) & (p < alpha)
    place = {
        "node": [str(node) for node in found.nodes],
        "layer": [node.layer for node in found.nodes],
        "head": [node.head for node in found.nodes],
        "role": found.role,
    }
    names = list(found.controls)
    scores = pd.DataFrame(place).assign(
        score=score,
        low=low,
        high=high,
        control=control.mean(axis=-1),
        of=[names[i] for i in largest],
        chance=found.chance,
        p_holm=p,
        threshold=threshold,
        natural=np.full(len(score), np.nan) if found.natural is None else found.natural,
        beyond=beyond,
        holds=beyond & (low > threshold),
    )
    each = []
    for name, values in found.controls.items():
        below, above = interval(values, level, found.groups)
        each.append(pd.DataFrame(place).assign(control=name, value=values.mean(axis=-1), low=below, high=above))
    return scores, pd.concat(each, ignore_index=True)


def tail(draws: Float[Values, "node draw"]) -> Float[Values, " node"]:
    """What a score must pass: the 99th percentile over permuted targets."""
    return np.asarray(np.percentile(draws, TAIL, axis=-1), dtype=float)
