"""`dissect`: the change of logits by an injection into a model of one or two layers, split exactly into paths.

1. Run every prompt clean and steered, in double precision.
2. Put the exact secant of the two runs in the place of every operation (`dissection.secants`): a linear map that takes
   the change of its inputs to that of its output. Paths are products of secants.
3. Explained is the change of single tokens' logits at a position. Its parts: the last writer of each path, by channel
   and source of a head, by input of an MLP (`dissection.parts`).
4. The tree of paths back to the injection, opened where it is large; opening a node changes neither it nor its siblings
   (`dissection.tree`).
5. The flow through each node: all paths that go through it.
6. Checked in the run itself: parts, children and flows add up to what two plain passes measure. Audited: flow against
   exact patching, and the split of single nodes against Shapley values.

Source: products are split as the Shapley value of two players; softmaxes by the logarithmic mean; activations by
divided differences.
What it cannot see: a path is a product of secants of these two runs, not what the model would do if the path alone
were cut; and large paths may cancel (see `mass`).
"""

import time
from collections.abc import Sequence
from typing import Literal

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.gate import Count, Share, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.positions import parse_positions
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.result import Result
from steerscope.analysis.tools.record import check, record

from .dissection.batches import Asked, batches
from .dissection.columns import COLUMNS
from .dissection.form import form
from .dissection.frames import Found, distances, frames, gathered, with_patching
from .dissection.patched import Patched, against_patching
from .dissection.runs import check_sites

__all__ = ["COLUMNS", "dissect"]

LIMIT = 1e-4  # of the absolute mass
FEW, FINE, COARSE = 12, 0.01, 0.05  # prompts, and down to which share paths are opened for so many, or for more


@gated
def dissect(
    experiment: Experiment,
    *,
    tokens: Sequence[str | int] | str | None = None,
    at: str | Sequence[int] = "last",
    readout: Literal["centred", "raw", "log_prob"] = "centred",
    most: Count = 5,
    share: Share | None = None,
    audit: bool = True,
) -> Result:
    """The change of logits, split exactly into paths from the injection.

    Args:
        tokens: which are read, separated by commas, or token ids; by default those that gain and lose most, and the
            vector's own.
        at: positions where they are read: last, all, or indices.
        readout: centred logits, raw ones, or log-probabilities.
        most: how many that gain, and as many that lose, where tokens are not given.
        share: paths are opened down to this share of a row's mass, 0 opens all; by default 0.01, and 0.05 where many
            prompts are read.
        audit: compare flow with exact patching, and single nodes with Shapley values.

    Returns:
        a `Result` of kind "dissect"; frames and columns as in `COLUMNS`.

    Raises:
        UnsupportedModel: more than two layers, norms after nodes, or parts of another form.
        BadInjection: an injection at a pattern or a scale.
        BadMetric: a token that is none.
    """
    start = time.perf_counter()
    experiment, model = experiment.fewer(0), experiment.model
    own = form(model)
    check_sites(model, experiment.edits(0))
    asked = Asked(
        parse_positions(at if isinstance(at, str) else tuple(at)),
        _tokens(experiment, tokens),
        _targets(experiment),
        readout,
        most,
    )
    if share is None:
        share = FINE if len(experiment.prompts) <= FEW else COARSE
    found = gathered(experiment, batches(experiment, own, asked), share, audit)
    patched = against_patching(experiment, own) if audit else None
    with_patching(found, patched)
    made = frames(experiment, found)
    audited = None if patched is None else patched.describe()
    return record(
        "dissect",
        experiment,
        made,
        COLUMNS,
        start,
        checks=_checks(found),
        missing=_missing(model, audit, patched),
        readout=readout,
        share=share,
        patching=audited,
        distances=distances(made["audit"]),
    )


def _tokens(experiment: Experiment, given: Sequence[str | int] | str | None) -> tuple[int, ...] | None:
    """Ids of the tokens that are asked for."""
    if given is None:
        return None
    model = experiment.model
    names: list[str | int] = list(given) if not isinstance(given, str) else []
    if isinstance(given, str):
        names = [given] if given.strip() in ("", ",") else [part for part in given.split(",") if part]
    if model.tokenizer is None:
        names = [int(name) if isinstance(name, str) and name.strip().isdigit() else name for name in names]
    if not names:
        raise BadArgument("tokens=[]; expected at least one token; give some, or leave it out")
    return tuple(dict.fromkeys(model.target(name) for name in names))


def _targets(experiment: Experiment) -> tuple[int, ...]:
    """The tokens that the vectors are made of, where each is a single one."""
    model, found = experiment.model, []
    for injection in experiment.injections:
        text = injection.vector.source.get("plus")
        if model.tokenizer is not None and isinstance(text, str) and text:
            ids = model.encode_inner(text)
            if len(ids) == 1 and ids[0] < model.d_vocab_out:
                found.append(ids[0])
    return tuple(dict.fromkeys(found))


def _checks(found: Found) -> list[dict[str, object]]:
    names = {
        "parts": "parts add up to the measured change (of their absolute mass)",
        "paths": "children of every path add up to it (of the absolute mass)",
        "flow": "what flows through the injection is the measured change (of the absolute mass)",
    }
    return [check(names[name], gap, LIMIT) for name, gap in found.gaps.items()]


def _missing(model: Model, audit: bool, patched: Patched | None) -> dict[str, str]:
    """What could not be computed, and why."""
    found = {}
    if not audit:
        found["audit"] = "run with audit=False: nothing was held against patching or Shapley values"
    elif patched is None:
        found["patching"] = f"{model.name} caps its logits, so that flow on the metric is not linear in them"
    if model.n_layers < 2:
        found["composition"] = "one layer: no heads read what heads wrote"
    return found
