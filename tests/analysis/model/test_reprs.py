"""What is printed of an object names what matters, in one short line, whatever it was made of."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.model.norms import readers
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import METRICS, Metric, log_prob
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.vector import SteeringVector

HOSTILE = "\x1b[2J\u202e" + 300 * "wedding "


def experiment(model: Model) -> Experiment:
    texts = make_prompts(model, ["One day Tom saw a red ball", "Lily went to the park"])
    injection = Injection(prompt_pair(model, " wedding", " ship", 1), 3.0, positions=tuple(range(1, 3)))
    return Experiment(model, (replace(injection, vector=injection.vector.row(-1)),), texts, references=0)


def readout(model: Model) -> Any:
    sites = [("z", 0), ("resid_pre", 1)]
    return next(run(model, [[1, 2, 3]], [Variant(0)], [(1, 2)], reads="hidden", sites=sites))[1]


def long_edit(model: Model) -> Edit:
    return Edit(Site("resid_pre", 0), "add", torch.ones(200, model.d_model), tuple(range(200)))


CASES: dict[str, tuple[Callable[[Model], Any], str]] = {
    "model": (lambda m: m, "<Model tiny: 2 layers x 4 heads, width 32, GPT2LMHeadModel on cpu>"),
    "vector": (
        lambda m: prompt_pair(m, " wedding", " ship", 1),
        '<SteeringVector " wedding" - " ship" at L1.resid_pre: 2 rows of 32, norms 0 to ',
    ),
    "injection": (
        lambda m: Injection(prompt_pair(m, " wedding", " ship", 0), 3, layer=1),
        '<Injection 3 x (" wedding" - " ship") at L1.resid_pre, positions front>',
    ),
    "prompts": (
        lambda m: make_prompts(m, ["One day Tom saw", "Lily went to the park"]),
        '<Prompts given: 2 of 6 to 7 tokens: "One day Tom saw">',
    ),
    "scored": (lambda m: experiment(m).scored_positions, "<Scored: "),
    "outputs": (lambda m: experiment(m).clean, "<Outputs: logits of "),
    "edit": (
        lambda m: Edit(Site("z", 1, 2), "add", torch.ones(m.d_head), (1, 2)),
        "<Edit add [8] at L1H2.z, positions 1,2>",
    ),
    "variant": (
        lambda m: Variant(1, (long_edit(m), long_edit(m))),
        "<Variant of prompt 1: <Edit add [200, 32] at L0.resid_pre, positions 0,1,2",
    ),
    "readout": (readout, "<Readout of 1 variant, 2 positions: hidden, L0.z, L1.resid_pre>"),
    "norm": (lambda m: readers(m)[0], "Reader(layer=0, name='attention', norm=Norm(centred=True, eps="),
    "experiment": (experiment, "<Experiment: "),
    "a hostile model": (lambda m: replace(m, name=HOSTILE), "<Model \\x1b[2J\\u202ewedding"),
    "a hostile vector": (
        lambda m: SteeringVector(torch.ones(m.d_model), Site("resid_pre", 0), {"label": HOSTILE}),
        "<SteeringVector \\x1b[2J\\u202ewedding",
    ),
    "hostile prompts": (
        lambda m: replace(make_prompts(m, [[1, 2]]), texts=(HOSTILE,), source=HOSTILE),
        "<Prompts \\x1b[2J\\u202ewedding",
    ),
    "a hostile metric": (lambda m: log_prob([HOSTILE] * 9, [HOSTILE]), "<Metric log_prob in nats, targets ['\\x1b[2J"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_repr_is_one_short_line_that_names_what_matters(case: str, tiny: Model) -> None:
    make, starts = CASES[case]
    shown = repr(make(tiny))
    assert shown.startswith(starts)
    assert len(shown) < 200 and shown.isprintable() and "tensor(" not in shown


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_its_name_and_unit(name: str) -> None:
    metric = METRICS[name]([" ship"]) if name == "log_prob" else METRICS[name]()
    assert repr(metric).startswith(f"<Metric {name} in {metric.unit}")


def test_a_metric_prints_what_it_was_made_with() -> None:
    assert repr(log_prob([" a", " b"])) == "<Metric log_prob in nats, targets [' a', ' b']>"
    assert repr(Metric("own", "units", lambda *given: lambda read: read.row)) == "<Metric own in units>"
