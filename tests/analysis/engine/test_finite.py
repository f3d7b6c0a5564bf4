"""Numbers that are none are named where they leave a run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from steerscope.analysis.engine.backward import backward
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.plain import plain_logits
from steerscope.analysis.engine.run import Readout, run
from steerscope.analysis.errors import BadMetric, Overflow
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.generation import generate
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import METRICS, Metric, log_prob, perplexity
from steerscope.analysis.question.outputs import Outputs
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.question.scored import Scored
from steerscope.analysis.question.scores import Score
from steerscope.analysis.vectors.prompt_pair import prompt_pair

IDS = [[1, 2, 3, 4], [5, 6, 7]]
TEXTS = ["One day Lily saw a dragon", "Tom had a red ball"]
READS: list[dict[str, Any]] = [
    {"reads": "logits"},
    {"reads": "hidden"},
    {"reads": "none", "sites": [("resid_post", 2)]},
    {"reads": "none", "sites": [("pattern", 2)]},
    {"reads": "logits", "sites": [("z", 2)], "budget": 1},
]


def scaled(layer: int, by: float) -> Variant:
    return Variant(1, (Edit(Site("resid_pre", layer), "scale", by, (1,)),))


@pytest.fixture(scope="module")
def half(small_models: Any) -> Model:
    return load(small_models.folder("gpt2"), name="half", dtype="float16", selfcheck=False)


@pytest.fixture
def own(tmp_path: Path, tiny_folder: Path) -> Model:
    """A model whose weights a test may change."""
    return load(tiny_folder, name="own", selfcheck=False)


@pytest.mark.parametrize("options", READS)
def test_a_run_that_overflows_names_prompt_layer_and_dtype(options: dict[str, Any], half: Model) -> None:
    fine = [Variant(0), Variant(1), scaled(1, 2.0)]
    every = [tuple(range(4)), tuple(range(3))]
    assert list(run(half, IDS, fine, every, **options))
    told = (
        r"the run of prompt 2 \('5 6 7'\) with its edits gives no finite numbers: the stream after layer 1 is not "
        r"\(float16\); expected finite ones; choose a smaller coefficient, or load the model with dtype='float32'"
    )
    with pytest.raises(Overflow, match=told):
        list(run(half, IDS, [*fine, scaled(1, 1e6)], every, **options))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("options", READS)
def test_a_value_that_is_no_number_is_named(value: float, options: dict[str, Any], small_model: Model) -> None:
    edit = Edit(Site("resid_pre", 1), "add", torch.full((small_model.d_model,), value), (0,))
    with pytest.raises(Overflow, match=r"prompt 1 \('1 2 3 4'\).*: what is added at L1.resid_pre is not"):
        list(run(small_model, IDS, [Variant(1), Variant(0, (edit,))], **options))


def test_logits_of_minus_infinity_are_the_models_own_where_its_unembedding_says_so(own: Model) -> None:
    bias = own.bridge.unembed.b_U
    with torch.no_grad():
        bias[7] = -torch.inf
    [(_, readout)] = run(own, IDS, [Variant(0)])
    assert readout.logits is not None and readout.logits.isneginf().sum() == 1
    plain_logits(own, IDS[0], ())
    assert 7 not in generate(own, IDS[0], tokens=20)
    vector = prompt_pair(own, " wedding", " ship", 1)
    for name in METRICS:
        metric = log_prob([" ship"]) if name == "log_prob" else METRICS[name]()
        asked = Experiment(own, (Injection(vector, 3.0),), make_prompts(own, TEXTS), metric, references=1)
        assert asked.effect().any() and asked.disturbed().all() and asked.own_effect(1).any()
    asked = Experiment(own, (Injection(vector, 3.0),), make_prompts(own, TEXTS), log_prob([7]), references=1)
    with pytest.raises(Overflow, match="a score gave numbers that are not finite; expected"):
        asked.effect()
    with torch.no_grad():
        bias[8] = torch.inf
    with pytest.raises(Overflow, match="without an edit gives no finite numbers: its logits are not"):
        list(run(own, IDS, [Variant(0)]))


def test_a_model_that_gives_none_cannot_be_read_or_written_with(own: Model) -> None:
    with torch.no_grad():
        own.bridge.unembed.b_U[3] = torch.nan
    with pytest.raises(Overflow, match="a plain pass gave logits that are not finite"):
        plain_logits(own, IDS[0], ())
    for cache in (True, False):
        with pytest.raises(Overflow, match="token 1 after the prompt gave logits that are not finite"):
            generate(own, TEXTS[0], cache=cache)
    asked = Experiment(
        own, (Injection(prompt_pair(own, " a", " the", 1)),), make_prompts(own, TEXTS), perplexity(), references=0
    )
    with pytest.raises(Overflow, match="a run of the prompts gave logits that are not finite"):
        asked.effect()


def _back(model: Model, variants: list[Variant], score: Any) -> None:
    backward(model, IDS, [variants], [(3,), (2,)], score, [("resid_pre", 1)], lambda *_: None)


def test_gradients_that_overflow_are_named(small_model: Model, half: Model) -> None:
    def steep(readout: Readout) -> torch.Tensor:
        assert readout.logits is not None
        return readout.logits.sum(dim=-1) * 1e38 * 1e3

    with pytest.raises(Overflow, match=r"the gradient at L1.resid_pre of gpt2 is not finite \(float32\); expected"):
        _back(small_model, [Variant(0)], steep)
    with pytest.raises(Overflow, match="prompt 2.*the stream after layer 1 is not"):
        _back(half, [scaled(1, 1e6)], lambda readout: readout.logits.sum(dim=-1))


@pytest.mark.parametrize(
    ("score", "error", "what"),
    [
        (lambda readout: readout.logits[:, 0] / 0, Overflow, "a score gave numbers that are not finite"),
        (lambda readout: readout.logits, BadMetric, r"a score gave \[.*\]; expected one number for each of"),
        (lambda readout: 3.0, BadMetric, "a score gave float; expected"),
        (lambda: 3.0, BadMetric, "a score failed .*; expected a function of a readout"),
        (len, BadMetric, "a score failed"),
    ],
)
def test_a_score_that_gives_no_numbers_is_named(score: Any, error: type[Exception], what: str, tiny: Model) -> None:
    def prepare(scored: Scored, clean: Outputs, steered: Outputs) -> Score:
        return score  # type: ignore[no-any-return]

    metric = Metric("mine", "nats", prepare)
    vector = prompt_pair(tiny, " wedding", " ship", 1)
    asked = Experiment(tiny, (Injection(vector, 3.0),), make_prompts(tiny, TEXTS), metric, references=0)
    with pytest.raises(error, match=what):
        asked.effect()
    with pytest.raises(error, match=what):
        asked.score([Variant(0)])
    with pytest.raises(error, match=what):
        asked.value(0, score)


def test_a_run_that_reads_nothing_gives_nothing(small_model: Model) -> None:
    [(_, readout)] = run(small_model, IDS, [Variant(0)], [(), ()])
    assert readout.logits is not None and len(readout.logits) == 0


def test_a_change_whose_squares_halves_do_not_hold_has_a_direction(half: Model) -> None:
    """Each logit changes by 300: the norm over all of them would be infinite in half precision, and the effect 0."""
    prompts = make_prompts(half, IDS)
    clean = Outputs(None, torch.zeros(2, 50_000, dtype=torch.float16))
    steered = Outputs(None, torch.tensor([300.0, -300.0], dtype=torch.float16).repeat(25_000).expand(2, -1))
    scored = Scored(half, prompts, ((3,), (2,)))
    effect = METRICS["own_direction"]().prepare(scored, clean, steered)(scored.readout(steered))
    assert effect == pytest.approx([300 * 50_000**0.5] * 2, rel=1e-5)
