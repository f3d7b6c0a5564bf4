"""Which positions of each prompt a metric reads."""

from collections.abc import Sequence
from typing import Literal

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadPrompt
from steerscope.analysis.model.positions import Layout

from .metrics import Metric
from .prompts import Prompts

Wanted = Literal["all", "last", "own"] | Sequence[int] | None


def scoring(
    metric: Metric, prompts: Prompts, wanted: Wanted, injected: Sequence[Sequence[int]], layouts: Sequence[Layout]
) -> tuple[tuple[tuple[int, ...], ...], str]:
    """By prompt, the positions that are scored, and the rule in words.

    Args:
        wanted: None for all that are neither BOS nor injected, or what the metric asks for; "all", "last", "own"
            (those that the prompts hold), or indices.
        injected: by prompt, the positions that are edited.

    Raises:
        BadPrompt: a prompt has none left.
    """
    found, rule = [], ""
    if wanted is None and metric.at_end:
        wanted = "last"
    if wanted == "own" and not prompts.scored:
        raise BadPrompt("scored='own', and the prompts hold no positions; expected them; give scored=PerPrompt([...])")
    for prompt, (ids, full) in enumerate(zip(prompts.ids, prompts.full, strict=True)):
        last = len(full) - (1 if metric.needs_next else 0)  # a loss needs a token that follows
        first = len(ids) - 1 if prompts.continuations else None
        if wanted == "own":
            chosen, rule = tuple(p for p in prompts.scored[prompt] if p < last), "positions of each prompt's own"
        else:
            chosen, rule = _chosen(wanted, len(full), last, injected[prompt], layouts[prompt].has_bos, first)
        if not chosen:
            raise BadPrompt(
                f"prompt {prompt + 1} ({brief(prompts.texts[prompt])!r}) has no position left to score "
                f"({brief(rule, 100)}); expected tokens after the injected ones; use a longer prompt or scored='last'"
            )
        found.append(chosen)
    return tuple(found), rule


def _chosen(
    wanted: Wanted, full: int, last: int, injected: Sequence[int], has_bos: bool, continues: int | None
) -> tuple[tuple[int, ...], str]:
    """Positions of a prompt of `full` tokens, of which those before `last` can be scored.

    Args:
        continues: the position that predicts the first token of a continuation.
    """
    final = tuple(range(max(0, last - 1), last))
    if continues is not None:
        return tuple(range(continues, last)), "the positions that predict the continuation"
    if wanted == "last":
        return final, "the last position of each prompt"
    if wanted == "all":
        return tuple(range(last)), "all positions"
    if wanted is not None:
        places = {int(i) % full for i in wanted if -full <= int(i) < full}
        return tuple(i for i in sorted(places) if i < last), f"positions {list(wanted)}"
    free = tuple(p for p in range(int(has_bos), last) if p not in injected and p > injected[0])
    if free:
        return free, "positions after the first injected one that are not injected themselves, BOS left out"
    return final, "the last position: every position from the injection on is injected"
