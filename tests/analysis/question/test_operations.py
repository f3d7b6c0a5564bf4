"""Every question of injections that do other than add: exact as ever, or refused by name."""

from typing import Any

import numpy as np
import pytest
import torch
from small_circuits import FILE

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.errors import BadInjection
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.bundles import bundle, everywhere
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.routes.edge_scores import complete_scores
from steerscope.analysis.routes.path_effect import Receiver, _Question, exact_paths
from steerscope.analysis.tools.gradients import estimate
from steerscope.analysis.tools.patching import MEASURES, _one
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.questions import QUESTIONS
from steerscope.reports.report import report

TEXTS = ["One day Lily saw a dragon", "Tom had a red ball and a dog", "The ship was on the sea"]
KNOBS: dict[str, dict[str, Any]] = {
    "exact": {"completions": 1},
    "path_effect": {"senders": ["injection", "L0H1"], "receivers": ["L1M", "L1H2.q", "logits"]},
    "self_repair": {"nodes": ["L1M", "L0H1"]},
    "by_position": {"nodes": ["L1M", "L1H2"]},
    "screen": {"top": 3},
    "map_effect": {"circuit": str(FILE), "sets": 5, "permutations": 20},
}
KINDS = 5
REFUSED = ("writers", "sparsify", "breakdown")


def kinds(model: Model) -> dict[str, tuple[Injection, ...]]:
    """Injections by what is special about them."""
    vector = prompt_pair(model, " wedding", " ship", 0)
    row = vector.row(-1)
    return {
        "ablated everywhere": everywhere(model, row, during="prompt"),
        "turned at one site": (Injection(row, 60.0, positions="last", operation="rotate"),),
        "two operations at one site": (
            Injection(vector, 2.0, 0, "front"),
            Injection(vector, 3.0, 0, "front", operation="set"),
        ),
        "a bundle of norm-preserving additions": bundle({0: row, 1: -1 * row}, 2.0, "all", "norm_add"),
        "a bundle that adds": bundle({0: row, 1: -2 * row}, 2.0, "all"),
    }


ASKED = [name for name, question in QUESTIONS.items() if question.experiment and name not in ("localize", *REFUSED)]


def ask(model: Model, kind: int) -> Experiment:
    return Experiment(model, list(kinds(model).values())[kind], make_prompts(model, TEXTS), references=3, scored="last")


def check(asked: Experiment, name: str, folder: Any) -> None:
    result: Result = QUESTIONS[name].function(asked, **KNOBS.get(name, {}))
    assert all(check["passed"] for check in result.manifest["checks"]), result.manifest["checks"]
    assert "wedding" in report(result.save(folder)).read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "kind"), [(name, number % KINDS) for number, name in enumerate(ASKED)])
def test_every_question_is_exact_and_has_a_page(name: str, kind: int, tiny: Model, tmp_path: Any) -> None:
    check(ask(tiny, kind), name, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("kind", range(KINDS))
@pytest.mark.parametrize("name", ASKED)
def test_every_question_of_every_kind_is_exact(name: str, kind: int, tiny: Model, tmp_path: Any) -> None:
    check(ask(tiny, kind), name, tmp_path / "out")


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_an_addition_says_so(name: str, tiny: Model) -> None:
    one = Injection(prompt_pair(tiny, " wedding", " ship", 0).row(-1), 1.0, positions="all", operation="ablate")
    with pytest.raises(BadInjection, match="which ablate has not; expected the operation add"):
        QUESTIONS[name].function(Experiment(tiny, (one,), make_prompts(tiny, TEXTS), references=0))


def test_patching_runs_an_operation_anew(tiny: Model) -> None:
    """A head that is set back before an ablated layer gives that layer another stream to ablate."""
    vector = prompt_pair(tiny, " wedding", " ship", 0).row(-1)
    several = everywhere(tiny, vector, during="prompt")
    asked = Experiment(tiny, several, make_prompts(tiny, TEXTS), references=0, scored="last")
    node = Node(0, 1)
    found = _one(asked, 0, [node], False)[0][0][:, 0]
    patch = asked.patches(None, [node])[node]
    anew = asked.score([Variant(p, (*asked.edits(0)[p], patch[p])) for p in range(3)])
    held = asked.score([Variant(p, (*asked.held.edits(0)[p], patch[p])) for p in range(3)])
    np.testing.assert_allclose(found[MEASURES.index("necessity")], asked.value(0) - anew, atol=1e-5)
    assert np.abs(anew - held).max() > 1e-4


@pytest.mark.parametrize("kind", range(KINDS))
def test_estimates_and_edges_that_leave_injections_add_up(kind: int, tiny: Model) -> None:
    """Of several sites, each reader sees what was injected before it."""
    asked = ask(tiny, kind)
    assert estimate(asked, "ig").gap == pytest.approx(0, abs=0.01)
    assert complete_scores(asked, 0, 5).gap < 0.01
    paths = [(None, Receiver(Node(1), ())), (None, Receiver(None))]
    assert np.isfinite(exact_paths(asked, paths)).all()


def test_a_path_takes_what_is_injected_before_its_receiver_alone(tiny: Model) -> None:
    """An injection behind all that a receiver reads does not change its paths."""
    row = prompt_pair(tiny, " wedding", " ship", 0).row(-1)
    prompts = make_prompts(tiny, TEXTS)
    alone = Experiment(tiny, (Injection(row, 2.0, 0, "all"),), prompts, references=0, scored="last")
    both = Experiment(tiny, bundle({0: row, 1: row}, 2.0), prompts, references=0, scored="last")
    early = Receiver(Node(0, 1), ("q", "k", "v"))
    logits = {id(one): one.clean.logits for one in (alone, both)}
    assert torch.equal(*logits.values())
    score = alone.along
    found, expected = (_sufficient(one, early, score) for one in (alone, both))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def _sufficient(asked: Experiment, receiver: Receiver, score: Any) -> Any:
    question = _Question(asked.held, [(None, receiver)], 0, None, 0)
    [variants] = question.outputs()
    return asked.scores(variants, [score])[:, 0]
