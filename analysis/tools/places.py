"""Places: names for positions that mean the same in prompts of different lengths.

    bos           the BOS, where the injection reaches it
    injected i    the i-th position that the vector is added to (rows of zeros do not count), up to 6
    injected +    the other injected ones but the last of the prompt, together
    after +i      i positions after the last injected one, up to 4
    last, last -i the last position and the two before it
    between       everything else from the first injected position on, together

A position takes the first name that fits, `last` before `after +1`; what stands before the first injected
position cannot be reached and has none. A prompt need not have every place.
"""

from dataclasses import replace

from steerscope.analysis.engine.edits import touched
from steerscope.analysis.question.experiment import Experiment

Places = dict[str, tuple[int, ...]]  # of a prompt
INJECTED, AFTER, BEFORE_LAST = 6, 4, 2
ORDER = (
    "bos",
    *(f"injected {i}" for i in range(1, INJECTED + 1)),
    "injected +",
    *(f"after +{i}" for i in range(1, AFTER + 1)),
    "between",
    *(f"last -{i}" for i in range(BEFORE_LAST, 0, -1)),
    "last",
)


def added(experiment: Experiment, prompt: int) -> tuple[int, ...]:
    """The positions of a prompt that a vector is added to, rows of zeros left out."""
    edits = [replace(i, coefficient=1.0).edit(experiment.layouts[prompt]) for i in experiment.injections]
    return touched(edits) or experiment.injected[prompt]


def places(injected: tuple[int, ...], length: int, has_bos: bool) -> Places:
    """The places of a prompt of `length` tokens, in the order of `ORDER`, each with its positions."""
    found: dict[str, list[int]] = {}
    for position in range(injected[0], length):
        found.setdefault(_name(position, injected, length, has_bos), []).append(position)
    return {name: tuple(found[name]) for name in ORDER if name in found}


def _name(position: int, injected: tuple[int, ...], length: int, has_bos: bool) -> str:
    if has_bos and position == 0:
        return "bos"
    if position in injected:
        number = 1 + [p for p in injected if p or not has_bos].index(position)
        if number <= INJECTED:
            return f"injected {number}"
    left, passed = length - 1 - position, position - injected[-1]
    if left == 0:
        return "last"
    if position in injected:
        return "injected +"
    if 1 <= passed <= AFTER:
        return f"after +{passed}"
    return f"last -{left}" if left <= BEFORE_LAST else "between"
