"""`ordinary`: the same injections asked of ordinary text, where what counts is the damage they do.

Damage is the rise of the loss (nats a token) of the tokens that truly follow. It is read after the injected
positions. Where the injection leaves none (`all`, `last`, `back`), each text is cut in two: the first half is
the prompt that is injected into, the loss is that of the second half.
"""

from collections.abc import Sequence
from dataclasses import replace

from steerscope.analysis.errors import BadPrompt
from steerscope.analysis.question.corpora import windows
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.metrics import perplexity
from steerscope.analysis.question.prompts import Prompts, make_prompts

COUNT, TOKENS = 16, 48  # windows, and tokens of each
MOST = 1_000  # texts of the user's own: damage is a mean, and more of them only take longer
Text = Prompts | str | Sequence[str] | Sequence[Sequence[int]]


def ordinary(experiment: Experiment, text: Text | None = None) -> Experiment:
    """The experiment on ordinary text, with the loss as its metric.

    Args:
        text: prompts; or what `windows` reads: a file, a folder, `shipped`. 16 windows of 48 tokens of the text
            that comes with steerscope by default.

    Raises:
        BadPrompt: no tokenizer to cut windows with, or a text that does not fit the model.
        BadInjection: the injection does not fit into a text.
    """
    model = experiment.model
    if text is None or isinstance(text, str):
        tokens = min(TOKENS, model.n_ctx)
        prompts = windows(model, "shipped" if text is None else text, count=COUNT, tokens=tokens)  # the same for all
    else:
        prompts = not_many(make_prompts(model, text))
    asked = replace(experiment, prompts=prompts, metric=perplexity(), scored=None)
    if all(map(_room, prompts.full, asked.injected)):
        return asked
    half = replace(
        prompts,
        ids=tuple(ids[: max(1, len(ids) // 2)] for ids in prompts.ids),
        continuations=tuple(ids[max(1, len(ids) // 2) :] for ids in prompts.full),
    )
    return replace(asked, prompts=half)


def not_many(texts: Prompts) -> Prompts:
    """Texts, if they are few enough to measure damage on.

    Raises:
        BadPrompt: more than `MOST`.
    """
    if len(texts) > MOST:
        raise BadPrompt(
            f"{len(texts):,} texts to measure damage on; expected at most {MOST:,}; give fewer, or windows of a file"
        )
    return texts


def _room(ids: Sequence[int], injected: Sequence[int]) -> bool:
    """Whether a position after the first injected one is free, with a token after it."""
    return any(position not in injected for position in range(injected[0] + 1, len(ids) - 1))
