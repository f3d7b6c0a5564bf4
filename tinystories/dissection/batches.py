"""Prompts of equal length together, each batch with its two runs, its secants and the rows that are read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from steerscope.analysis.model.positions import Positions
from steerscope.analysis.question.experiment import Experiment

from .form import Form
from .readouts import Readout, Rows, movers, rows, values
from .runs import Runs, fitted, runs
from .stack import Stack, stack

TOKENS = 512  # positions of a batch
LOGITS = 10_000_000  # of a batch, at all positions


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts of equal length.

    Attributes:
        prompts: their numbers.
        chosen: of each row, why its token is read.
    """

    prompts: tuple[int, ...]
    stack: Stack
    rows: Rows
    chosen: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """What is read: tokens at positions.

    Attributes:
        tokens: those that are read everywhere; None for those that gain and lose most.
        targets: read besides, where tokens are chosen.
        most: how many that gain, and as many that lose.
    """

    positions: Positions
    tokens: tuple[int, ...] | None
    targets: tuple[int, ...]
    readout: Readout
    most: int


def alike(experiment: Experiment, chosen: Sequence[int]) -> list[tuple[int, ...]]:
    """Numbers of prompts of equal length, in pieces."""
    by_length: dict[int, list[int]] = {}
    for prompt in chosen:
        by_length.setdefault(len(experiment.prompts.ids[prompt]), []).append(prompt)
    found = []
    for length, own in sorted(by_length.items()):
        step = max(1, min(TOKENS, LOGITS // experiment.model.d_vocab_out) // length)
        found += [tuple(own[start : start + step]) for start in range(0, len(own), step)]
    return found


def two_runs(experiment: Experiment, model: Form, prompts: Sequence[int]) -> tuple[Form, Runs]:
    """The runs of some prompts of equal length, and the model with its scores' form found."""
    edits = experiment.edits(0)
    found = runs(model, [experiment.prompts.ids[p] for p in prompts], [edits[p] for p in prompts])
    return fitted(model, found), found


def batches(experiment: Experiment, model: Form, asked: Asked) -> Iterator[Batch]:
    """All prompts, batch by batch."""
    for prompts in alike(experiment, range(len(experiment.prompts))):
        own, found = two_runs(experiment, model, prompts)
        wanted, chosen = _wanted(experiment, found, prompts, asked)
        yield Batch(prompts, stack(own, found), rows(own, found, wanted, asked.readout), chosen)


def _wanted(
    experiment: Experiment, found: Runs, prompts: Sequence[int], asked: Asked
) -> tuple[list[tuple[int, int, int]], tuple[str, ...]]:
    wanted: list[tuple[int, int, int]] = []
    chosen: list[str] = []
    for b, prompt in enumerate(prompts):
        for position in asked.positions.resolve(experiment.layouts[prompt]):
            why: dict[int, str] = {}
            if asked.tokens is not None:
                why = dict.fromkeys(asked.tokens, "asked")
            else:
                clean, steered = (values(run[b, position], asked.readout) for run in found.logits)
                change = steered - clean
                for token in movers(change, asked.most):
                    why[token] = "gains" if change[token] > 0 else "loses"
                why |= dict.fromkeys(asked.targets, "target")
            wanted += [(b, position, token) for token in why]
            chosen += why.values()
    return wanted, tuple(chosen)
