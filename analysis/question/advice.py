"""What a user must know of a question before its answer: sentences, measured in the run or read off what was given.

1. A row is added at position 0, and the clean stream there is more than `SINK` times as long as elsewhere, as that of
   attention sinks is in trained models. How much is added, relative to it, is said.
2. A prompt pair added at the front of prompts that begin otherwise than it did: without BOS its row 0 is the
   difference of two first positions; with BOS it is zero, and nothing is added to a first word.
3. Which row it is that stands at every position.
4. Prompts that are copies and count as independent; continuations that a token of the tokenizer would join.
"""

from collections import defaultdict

import torch

from steerscope.analysis.brief import brief, counted

from .experiment import Experiment
from .injection import Injection

SINK = 10.0  # times the median norm of the other positions


def advice(experiment: Experiment) -> list[str]:
    """The sentences, in the order of the module."""
    found = []
    for injection in experiment.injections:
        found += [*_sink(experiment, injection), *_begun(experiment, injection), *_row(injection)]
    return [*dict.fromkeys([*found, *_copies(experiment), *_seams(experiment)])]


def _first_row(experiment: Experiment, injection: Injection) -> list[tuple[int, float]]:
    """Prompts whose position 0 gets something, and its norm."""
    found = []
    for number, prompt in enumerate(experiment.layouts):
        edit = injection.edit(prompt)
        assert isinstance(edit.value, torch.Tensor)
        values = edit.value if edit.value.ndim == 2 else edit.value[None]
        for n, position in enumerate(edit.positions or ()):
            norm = float(values[n if len(values) > 1 else 0].norm())
            if position == 0 and norm > 0:
                found.append((number, norm))
    return found


def _sink(experiment: Experiment, injection: Injection) -> list[str]:
    if injection.operation != "add" or injection.site.name != "resid_pre":
        return []
    reached = _first_row(experiment, injection)
    if not reached:
        return []
    kept = experiment.activations(None, [("resid_pre", injection.site.layer)])
    streams = {p: kept[p]["resid_pre", injection.site.layer].float().norm(dim=-1) for p, _ in reached}
    others = {p: x[1:].median() for p, x in streams.items() if len(x) > 1}
    if not others:
        return []
    ratio = float(torch.stack([streams[p][0] / others[p].clamp_min(1e-30) for p in others]).median())
    if ratio <= SINK:
        return []
    share = float(torch.tensor([norm / float(streams[p][0]) for p, norm in reached if p in others]).median())
    return [
        f"In {counted(len(reached), 'prompt')} something is added at position 0, where the stream of layer "
        f"{injection.site.layer} is {ratio:.0f} times as long as at the other positions, as attention sinks are. What "
        f"is added is {share:.1%} as long as the stream there (medians over prompts), and hardly turns it where "
        "that is little. Begin prompts and vector with BOS, whose row is zero, or choose other positions."
    ]


def _begun(experiment: Experiment, injection: Injection) -> list[str]:
    vector = injection.vector
    if injection.place.place != "front" or vector.source.get("recipe") != "prompt_pair" or vector.rows < 2:
        return []
    without = sum(not prompt.has_bos for prompt in experiment.layouts)
    if not without:
        return []
    many = f"{without} of {counted(len(experiment.layouts), 'prompt')}"
    if vector.norms[0] == 0:
        return [
            f"{many} do not begin with BOS, and row 0 of ({brief(vector.label)}) is zero, as it is at BOS: nothing is "
            "added to their first token."
        ]
    return [
        f"{many} do not begin with BOS, and row 0 of ({brief(vector.label)}) is the difference of two first positions: "
        "in models whose first position is an attention sink, a difference of sinks. With BOS before the pair and the "
        "prompts, row 0 is zero."
    ]


def _row(injection: Injection) -> list[str]:
    row = injection.vector.source.get("row")
    if not injection.place.repeats or not isinstance(row, int):
        return []
    which = "the last row" if row == -1 else f"row {row}"
    return [f"One row is put at every position ({injection.place}): {which} of ({brief(injection.vector.label)})."]


def _copies(experiment: Experiment) -> list[str]:
    groups = defaultdict(set)
    for ids, group in zip(experiment.prompts.full, experiment.prompts.by_group.tolist(), strict=True):
        groups[ids].add(group)
    twice = sum(len(found) - 1 for found in groups.values())
    if not twice:
        return []
    return [
        f"{counted(twice, 'prompt')} repeat others and are counted as independent, as the groups that were given say."
    ]


def _seams(experiment: Experiment) -> list[str]:
    text, prompts = experiment.metric.options.get("continuation"), experiment.prompts
    if not isinstance(text, str) or experiment.model.tokenizer is None:
        return []
    joined = sum(not experiment.model.following(ids, text).seamless for ids in prompts.ids)
    if not joined:
        return []
    return [
        f"Behind {joined} of {counted(len(prompts), 'prompt')} the continuation is tokenized by itself: with the "
        "prompt, the tokenizer would join both in one token, or part the prompt otherwise."
    ]
