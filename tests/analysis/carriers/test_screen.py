"""Screen and verify, with estimators whose errors are known."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from steerscope.analysis.carriers import screen as module
from steerscope.analysis.carriers.exact import exact
from steerscope.analysis.carriers.screen import COLUMNS, screen
from steerscope.analysis.errors import BadArgument
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.tools.patching import effects
from steerscope.analysis.vectors.prompt_pair import prompt_pair

Estimator = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@pytest.fixture(scope="module")
def experiment(tiny: Model, stories: list[str]) -> Experiment:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 0), 3.0)
    return Experiment(tiny, (injection,), make_prompts(tiny, stories[:6], groups="each"), references=4)


@pytest.fixture
def estimated(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> Callable[[Estimator], None]:
    """Makes the gradients say something of the exact effects."""
    truth = effects(experiment).along.mean(-1)

    def use(estimator: Estimator) -> None:
        monkeypatch.setattr(module, "rank", lambda experiment, method: (estimator(truth), 10.0))

    return use


def test_what_is_verified_equals_the_exact_analysis(
    experiment: Experiment, estimated: Callable[[Estimator], None]
) -> None:
    estimated(lambda exact: exact)
    result = screen(experiment, top=4, sample=2)
    whole = exact(experiment, completions=0).frames["effects"]
    whole = whole.set_index(["node", "measure"])
    found = result.frames["effects"].set_index(["node", "measure"])
    assert len(found) == 2 * 6
    for column in ("effect", "low", "high", "share", "reference", "p", "p_noise", "own_share"):
        np.testing.assert_allclose(found[column].astype(float), whole.loc[found.index, column].astype(float), atol=1e-5)
    # Corrected as if all had been patched: never bolder than the whole analysis.
    assert (found["p_adjusted"] >= whole.loc[found.index, "p_adjusted"] - 1e-12).all()
    assert (found["p_holm"] >= whole.loc[found.index, "p_holm"] - 1e-12).all()
    assert (found["p_specific"] >= whole.loc[found.index, "p_specific"] - 1e-12).all()
    assert {name: list(frame.columns) for name, frame in result.frames.items()} == {
        name: list(columns) for name, columns in COLUMNS.items()
    }


def test_the_best_ranked_in_either_measure_are_verified(
    experiment: Experiment, estimated: Callable[[Estimator], None]
) -> None:
    count = len(experiment.reachable)
    guess = np.full((2, count), 0.01)
    guess[0, 1], guess[1, 3] = -5.0, 0.02  # the second measure is small altogether
    estimated(lambda exact: guess)
    table = screen(experiment, top=2, sample=1).frames["estimates"]
    names = [str(node) for node in experiment.reachable]
    top = table[(table["verified"] == "top") & (table["measure"] == "necessity")]
    assert sorted(top["node"]) == sorted([names[1], names[3]])
    assert (table["verified"] == "sample").sum() == 2
    assert (table["effect"].isna() == (table["verified"] == "unverified")).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_first_2k_hold_the_k_largest_of_each_measure(seed: int) -> None:
    """Whatever stands far out: sizes over many orders of magnitude."""
    guess = np.random.default_rng(seed).normal(size=(2, 40)) ** 7
    order = module.best_first(guess)
    assert sorted(order) == list(range(40))
    for k in range(1, 21):
        for own in guess:
            assert set(np.argsort(-np.abs(own))[:k]) <= set(order[: 2 * k])


def test_what_was_missed_is_measured_together_and_bounded_alone(
    experiment: Experiment, estimated: Callable[[Estimator], None]
) -> None:
    """A blind estimator: everything looks like nothing."""
    estimated(lambda exact: np.full_like(exact, 1e-9))
    result = screen(experiment, top=1, sample=3)
    missed = result.frames["missed"].set_index("measure")
    exact = effects(experiment).along.mean(-1)
    sampled = result.frames["estimates"].query("verified == 'sample'")
    for measure in ("necessity", "sufficiency"):
        own = sampled[sampled["measure"] == measure]["effect"]
        assert missed.loc[measure, "worst_error"] == pytest.approx(own.abs().max(), abs=1e-6)
        assert missed.loc[measure, "bound"] == pytest.approx(own.abs().max(), abs=1e-6)
        assert missed.loc[measure, "unverified"] == exact.shape[1] - 4
        assert missed.loc[measure, "covers"] == pytest.approx(0.05 ** (1 / 3))
    totals = result.frames["totals"].set_index("quantity")
    assert missed.loc["necessity", "together"] == pytest.approx(totals.loc["unverified_necessity", "value"])
    rest = result.frames["estimates"].query("verified == 'unverified' and measure == 'necessity'")
    rest_nodes = [n for n in experiment.reachable if str(n) in set(rest["node"])]
    from steerscope.analysis.tools.patching import together

    joint = together(experiment, [("necessity", rest_nodes)])[0].mean()
    assert missed.loc["necessity", "together"] == pytest.approx(joint, abs=1e-5)
    assert abs(joint) > 1e-3


def test_the_bound_holds_as_often_as_it_says(experiment: Experiment) -> None:
    """Of 40 nodes ranked low, with errors of any distribution: the bound covers its share in 95% of the draws."""
    generator = np.random.default_rng(0)
    held = []
    for draw in range(1000):
        size = generator.exponential(size=(1, 46)) ** 2
        chosen, drawn = module._choose(np.zeros((2, 46)), 6, 6, draw)
        rest = np.setdiff1d(np.arange(46), [*chosen, *drawn])
        covers = 0.05 ** (1 / 6)
        held.append((size[0, rest] <= size[0, drawn].max()).mean() >= covers)
    assert np.mean(held) > 0.93


def test_a_small_model_is_verified_whole(experiment: Experiment, estimated: Callable[[Estimator], None]) -> None:
    estimated(lambda exact: exact)
    result = screen(experiment, top=100)
    missed = result.frames["missed"]
    assert (missed["unverified"] == 0).all()
    assert (missed[["together", "bound"]] == 0).all(axis=None)


def test_the_cost_counts_layers(experiment: Experiment, estimated: Callable[[Estimator], None]) -> None:
    estimated(lambda exact: exact)
    result = screen(experiment, top=3, sample=1)
    cost = result.frames["cost"].set_index("what")["passes"]
    layers, prompts, vectors = experiment.model.n_layers, len(experiment.prompts), 5
    rows = sum((layers - node.layer) / layers for node in experiment.reachable)
    assert cost["exact"] == pytest.approx(2 * rows * prompts * vectors)
    assert cost["screen"] == pytest.approx(10 + cost["verified nodes"] + cost["unverified together"])
    assert cost["verified nodes"] < cost["exact"]


@pytest.mark.parametrize("options", [{"top": 0}, {"sample": 0}])
def test_a_screen_that_verifies_nothing_is_refused(experiment: Experiment, options: dict[str, int]) -> None:
    with pytest.raises(BadArgument, match="expected .*from 1 to"):
        screen(experiment, **options)  # type: ignore[arg-type]
