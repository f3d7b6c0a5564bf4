"""What a question is made of, at the door: odd values are refused in a sentence, arrays and generators are taken."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from odd_names import named

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.errors import BadInjection, BadMetric, SteerscopeError
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node, Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.generation import generate
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import METRICS, Metric, log_prob, perplexity
from steerscope.analysis.question.prompts import Prompts
from steerscope.analysis.question.references import MOST, References, references
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.vector import SteeringVector

TEXTS = ["One day Lily saw a dragon", "Tom had a red ball"]
NAN = float("nan")
HUGE = 10**30


def each(name: str, *odd: Any) -> list[dict[str, Any]]:
    return [{name: value} for value in odd]


def of(verb: str, several: list[dict[str, Any]], **more: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(verb, options | more) for options in several]


def refused(ask: Callable[[], Any], kind: type[SteerscopeError] = SteerscopeError) -> str:
    with pytest.raises(kind) as caught:
        ask()
    said = str(caught.value)
    assert "\n" not in said and len(said) < 1000
    return said


@pytest.fixture(scope="module")
def asked(tiny: Model) -> Experiment:
    return make(tiny)


def make(tiny: Model, /, **options: Any) -> Experiment:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 1), 3.0)
    given: dict[str, Any] = {"injections": injection, "prompts": TEXTS, "references": 1, "model": tiny} | options
    return Experiment(**given)


@pytest.mark.parametrize(
    "options",
    [
        {"vector": torch.ones(4)},
        {"vector": None},
        {"coefficient": NAN},
        {"coefficient": "x"},
        {"coefficient": None},
        {"coefficient": True},
        {"coefficient": 10**400},
        {"layer": -1},
        {"layer": 1.5},
        {"layer": HUGE},
        {"positions": "middleish"},
        {"positions": ""},
        {"positions": []},
        {"positions": [1, 1]},
        {"positions": [1.5]},
        {"positions": ["a"]},
        {"positions": None},
        {"positions": {"a": 1}},
        {"positions": "9" * 5000},
        {"strength": 1},
    ],
    ids=named,
)
def test_odd_injections_are_refused(options: dict[str, Any]) -> None:
    given: dict[str, Any] = {"vector": SteeringVector(torch.ones(4), Site("resid_pre", 0))} | options
    refused(lambda: Injection(**given), BadInjection)


@pytest.mark.parametrize(
    "options",
    [
        *each("injections", [], "x", {}, {"a": 1}, None, [None], torch.ones(2), 3),
        *each("prompts", None, [], "text", [""], [[]], [[HUGE]], [[-1]], [None], 3, [[1.5]], {"a": 1}),
        *each("metric", "kl", None, METRICS["kl"], 3),
        *each("references", -1, 10**9, "concepts:12,concepts:3", "x:3", "isotropic:1e3", [3], [[]]),
        *each("references", "isotropic:" + "9" * 5000, "\ud800", 2.5, {"a": 1}, [torch.ones(2, 32)]),
        *each("matched", "size", None, 3),
        *each("scored", "first", 3, [1.5], ["a"], {"a": 1}, [HUGE]),
        *each("seed", -1, 1.5, 2**64, None, "1"),
        *each("budget", 0, -1, 1.5, "1", 2**70),
        {"model": "tiny"},
        {"shots": 3},
    ],
    ids=named,
)
def test_odd_questions_are_refused_as_they_are_made(options: dict[str, Any], tiny: Model) -> None:
    refused(lambda: make(tiny, **options))


def test_positions_outside_of_every_prompt_are_refused_before_a_run(tiny: Model) -> None:
    for scored in ([99], [-99], []):
        assert "no position left to score" in refused(partial(lambda s: make(tiny, scored=s).clean, scored))


def test_numbers_of_numpy_and_generators_are_taken(tiny: Model, asked: Experiment) -> None:
    same = make(
        tiny,
        injections=(i for i in asked.injections),
        prompts=(text for text in TEXTS),
        references=np.int64(1),
        seed=np.int64(0),
        budget=np.int64(1),
    )
    assert same.effect() == pytest.approx(asked.effect(), abs=1e-5)
    one = make(tiny, prompts=(ids for ids in asked.prompts.ids), scored=np.array([3, -1]))
    assert one.scored_positions.positions[0][0] == 3
    vector = asked.injections[0].vector
    assert Injection(vector, np.float32(3), np.int64(1), positions="front").coefficient == 3  # type: ignore[arg-type]
    assert Injection(vector.row(-1), positions=(i for i in (2, 3))).place.indices == (2, 3)  # type: ignore[arg-type]
    assert log_prob(np.array([5, 6])).tokens == (5, 6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "targets", [[], "", " wedding cake", 10**9, -1, 1.5, None, [None], ["\ud800"], {"a": 1}, [True]]
)
@pytest.mark.parametrize("side", ["targets", "against"])
def test_odd_targets_are_refused_as_the_question_is_made(targets: Any, side: str, tiny: Model) -> None:
    if side == "against" and targets == []:
        return
    given: dict[str, Any] = {"targets": [" ship"]} | {side: targets}
    refused(lambda: make(tiny, metric=log_prob(**given)), BadMetric)


def test_the_same_target_twice_is_one(tiny: Model) -> None:
    number = tiny.single_token(" ship")
    several: list[Any] = [" ship", [" ship", number, np.int64(number)]]
    once, twice = (make(tiny, metric=log_prob(targets)).effect() for targets in several)
    assert once == pytest.approx(twice)


@pytest.mark.parametrize("continuation", ["", [], [10**9], [-1], [1.5], 3, "\ud800", "word " * 100])
def test_odd_continuations_are_refused(continuation: Any, tiny: Model) -> None:
    refused(lambda: make(tiny, metric=perplexity(continuation)).clean)


@pytest.mark.parametrize("name", METRICS)
def test_metrics_take_no_other_arguments(name: str) -> None:
    metric: Any = METRICS[name]
    refused(lambda: metric(1, 2, 3, 4), BadMetric)
    refused(lambda: metric(tones=3), BadMetric)
    refused(lambda: Metric("mine", "nats", 3), BadMetric)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "counts", [(("bogus", 3),), (("isotropic", -1),), (("isotropic", 10**9),), (("isotropic", 1), ("isotropic", 2)), 3]
)
def test_odd_references_are_refused_however_they_are_given(counts: Any, asked: Experiment) -> None:
    refused(lambda: References(counts))
    assert len(References((("isotropic", MOST),))) == MOST


def test_references_that_a_vector_does_not_have_are_refused(tiny: Model, asked: Experiment) -> None:
    vector = asked.injections[0].vector
    flat = SteeringVector(torch.zeros_like(vector.values), vector.site)
    assert "a row of zeros" in refused(lambda: references([vector, flat], tiny, [vector]))
    refused(lambda: references(References((), ((vector.row(0),),)), tiny, [vector]))


@pytest.mark.parametrize(
    "options",
    [
        *each("prompt", "", " ", [], [10**9], [-1], [1.5], None, 3, "\ud800", "word " * 100, [[1]]),
        *each("injections", "x", None, [None], {"a": 1}, 3),
        *each("tokens", -1, 1.5, 10**9, None, "3"),
        *each("temperature", -1, NAN, float("inf"), None, "1"),
        *each("top_p", -0.1, 1.1, NAN, None, "1"),
        *each("seed", -1, 2**64, 1.5, None),
        {"cache": 3},
        {"model": None},
        {"beams": 3},
    ],
    ids=named,
)
def test_odd_completions_are_refused(options: dict[str, Any], tiny: Model) -> None:
    given: dict[str, Any] = {"model": tiny, "prompt": TEXTS[0]} | options
    refused(lambda: generate(**given))


def test_what_is_documented_of_completions_works(tiny: Model, asked: Experiment) -> None:
    room = tiny.n_ctx - len(tiny.tokens(TEXTS[0]))
    greedy = generate(tiny, TEXTS[0], temperature=0, tokens=8)
    assert generate(tiny, TEXTS[0], top_p=0, tokens=8) == generate(tiny, TEXTS[0], top_p=1e-300, tokens=8) == greedy
    assert generate(tiny, TEXTS[0], temperature=1e-320, tokens=8) == greedy
    assert generate(tiny, TEXTS[0], tokens=0) == generate(tiny, [5] * tiny.n_ctx, tokens=5) == []
    for options in ({"top_p": 1.0}, {"temperature": 1e308}, {"top_p": 1, "temperature": 10**30, "seed": 2**63 - 1}):
        for seed in range(20):
            made = generate(tiny, TEXTS[0], asked.injections, **({"tokens": 10**6, "seed": seed} | options))
            assert len(made) <= room and all(0 <= token < tiny.d_vocab for token in made)


@pytest.mark.parametrize(
    "options",
    [
        *each("site", "L0.resid_pre", None, 3),
        *each("operation", "multiply", None, "hide", "scale"),
        *each("value", 3.0, None, [1.0], torch.ones(2, 2, 2), torch.tensor(1.0), np.ones(4)),
        *each("value", torch.ones(4, device="meta"), torch.eye(4).to_sparse(), torch.ones(4) * 1j),
        *each("positions", 3, "last", [1.5], [None], {"a": 1}, [HUGE]),
        {"operation": "scale", "value": NAN},
        {"operation": "scale", "value": True},
        {"where": 3},
    ],
    ids=named,
)
def test_odd_edits_are_refused(options: dict[str, Any]) -> None:
    given: dict[str, Any] = {"site": Site("resid_pre", 0), "operation": "set", "value": torch.ones(4)} | options
    refused(lambda: Edit(**given))


@pytest.mark.parametrize(
    "options",
    [
        *each("prompts", None, [], [[]], "text", ["text"], [[10**9]], [[-1]], [[1] * 65], [[1.5]]),
        *each("variants", None, 3, [3], [Variant(1)], [Variant(10**6)]),
        *each("positions", 3, [], [[9]], [[-1]], [[0], [0]], [["a"]], "last"),
        *each("sites", 3, ["z"], [("z", 99)], [("z", -1)], [("y", 0)], [("z",)], [3], [("z", HUGE)]),
        *each("reads", "all", None, 3),
        *each("budget", 0, -1, 1.5, "1"),
        *each("grad", 3, None),
        {"shards": 3},
    ],
    ids=named,
)
def test_odd_runs_are_refused(options: dict[str, Any], small_model: Model) -> None:
    given: dict[str, Any] = {"model": small_model, "prompts": [[1, 2, 3]], "variants": [Variant(0)]} | options
    refused(lambda: list(run(**given)))


def test_random_edits_run_or_are_refused(small_model: Model) -> None:
    """Sites, shapes, operations and places at random: a result that is finite, or a sentence."""
    generator = np.random.default_rng(0)
    names = ["resid_pre", "z", "q", "v", "attn_out", "mlp_out", "pattern", "ln1_scale", "final_scale"]
    ran = 0
    for _ in range(300):
        name = str(generator.choice(names))
        head = int(generator.integers(-1, 5)) if name in ("z", "q", "v", "pattern") else None
        shape = [int(n) for n in generator.choice([1, 2, 3, 8, 32, 64], generator.integers(1, 3))]
        operation = str(generator.choice(["add", "set", "scale", "hide"]))
        value: Any = 1.5 if operation == "scale" else torch.ones(shape).abs() + 1
        places = generator.integers(-1, 5, generator.integers(0, 4)).tolist() if generator.random() < 0.8 else None
        try:
            edit = Edit(Site(name, int(generator.integers(0, 4)), head), operation, value, places)  # type: ignore[arg-type]
            [(_, readout)] = run(small_model, [[1, 2, 3, 4]], [Variant(0, (edit,))], [range(4)])
            assert readout.logits is not None and readout.logits.isfinite().all()
            ran += 1
        except SteerscopeError as error:
            assert "\n" not in str(error)
    assert ran > 20


VERBS = [
    *of("edits", each("vector", -1, 2, HUGE, None, "0")),
    *of("edits", each("share", NAN, "x", None), vector=0),
    *((verb, {"vector": 2}) for verb in ("edits_of", "outputs_of", "own", "readings", "value", "effect")),
    *((verb, {"vector": 2}) for verb in ("own_effect", "disturbed")),
    *of("outputs", each("edits", [], [()], [(), (), ()], [3, 3], None)),
    *of("read", each("sites", 3, [("z", 9)], ["z"]), edits=[(), ()]),
    *of("read", each("edits", [], None), sites=[("z", 0)]),
    *of("activations", each("vector", 2, -1, "0"), sites=[("z", 0)]),
    *of("patches", each("nodes", [Node(9)], [Node(0, 99)], ["L0H0"], None), vector=0),
    *of("scores", each("scores", [3], None, [lambda: 0]), variants=[Variant(0)]),
    *of("score", each("variants", [Variant(2)], [3], None)),
    *of("change", each("values", np.zeros(3), np.array(["a", "b"]), [0, 0], np.zeros(())), base=None),
    *of("kl", each("injections", [], None, [3])),
    *of("at_kl", each("injections", [], None), target=0.1),
    *of("fewer", each("most", -1, None, 1.5)),
]


@pytest.mark.parametrize(("verb", "options"), VERBS, ids=named)
def test_odd_requests_of_an_experiment_are_refused(verb: str, options: dict[str, Any], asked: Experiment) -> None:
    refused(lambda: getattr(asked, verb)(**options))


def test_scores_that_were_not_read_and_outputs_of_others_are_refused(tiny: Model, asked: Experiment) -> None:
    for reads in ("none", "hidden"):
        one = make(tiny, metric=log_prob(" ship")) if reads == "hidden" else asked
        refused(partial(one.scores, [Variant(0)], [one.along], reads))
    refused(lambda: asked.disturbance(make(tiny, prompts=TEXTS[:1]).clean))
    refused(lambda: asked.kl([asked.injections[0]] * 2))
    assert asked.scores([], [asked.along]).shape == (0, 1) and asked.score([]).shape == (0,)
    refused(lambda: make(tiny, prompts=Prompts((), ())))
