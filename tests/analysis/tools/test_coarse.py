"""References in delta precision: nearly the same numbers, checked on the run, in float32 where the check fails."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from steerscope.analysis.carriers.exact import exact
from steerscope.analysis.carriers.screen import screen
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import log_prob
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.question.scores import Projection
from steerscope.analysis.tools import coarse
from steerscope.analysis.tools.patching import effects
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.reports.pages.common import precision as told


@pytest.fixture(scope="module")
def experiment(tiny: Model, stories: list[str]) -> Experiment:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 0), 3.0)
    prompts = make_prompts(tiny, stories[:6], groups="each")
    return Experiment(tiny, (injection,), prompts, references=4, precision="delta")


@pytest.fixture(scope="module")
def float32(experiment: Experiment) -> Experiment:
    return replace(experiment, precision="exact")


@torch.no_grad()
def test_references_are_near_those_of_float32_and_the_real_vector_is_the_same(
    experiment: Experiment, float32: Experiment
) -> None:
    found, expected = effects(experiment), effects(float32)
    assert (found.precision.mode, expected.precision.mode) == ("delta", "exact")
    assert found.along.shape == expected.own[0].shape
    np.testing.assert_array_equal(found.along, expected.along)
    np.testing.assert_array_equal(found.own[0], expected.own[0])
    np.testing.assert_array_equal(found.basis.own, expected.basis.own)
    off = np.abs(found.own[1:] - expected.own[1:])
    assert off.max() > 0  # it was coarse
    assert off.max() < 0.01 * np.abs(expected.own[1:]).max()
    large = np.abs(expected.own[1:]) > 0.05 * np.abs(expected.own[1:]).max()
    assert np.median((off / np.abs(expected.own[1:]))[large]) < 0.01
    whole = np.abs(expected.basis.own[1:].mean(-1))[:, None, None, None]
    assert found.precision.bound is not None
    assert (off / whole).max() < found.precision.bound
    assert found.precision.again == 4 * (coarse.LARGEST + coarse.DRAWN)
    assert found.precision.runs == 4 * found.own[0].size
    assert found.precision.worst is not None
    assert 0 < found.precision.worst < 1


def test_sizes_bound_effects_by_the_length_of_the_change(float32: Experiment) -> None:
    """A change projects by at most the product of lengths, and by that where it goes along the direction."""
    score = float32.own(1)
    readout = float32.scored_positions.readout(float32.outputs_of(1))
    base = float32.clean.hidden
    assert isinstance(score, Projection)
    assert base is not None
    assert (score(readout).abs() <= score.size(readout, base) * (1 + 1e-5)).all()
    along = replace(readout, hidden=base + score.along[score.which])
    torch.testing.assert_close(score(along), score.size(along, base), rtol=1e-3, atol=1e-4)


def test_a_broken_limit_runs_all_references_again_in_float32(
    experiment: Experiment, float32: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coarse, "LIMIT", 1e-9)
    found, expected = effects(experiment), effects(float32)
    np.testing.assert_array_equal(found.own, expected.own)
    assert found.precision.mode == "exact"
    assert found.precision.again == 4 * found.own[0].size
    assert found.precision.worst is not None
    assert found.precision.worst > 1
    assert "times the limit" in found.precision.why


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda asked: replace(asked, precision="exact"), "asked for"),
        (lambda asked: replace(asked, references=0), "no reference vectors"),
        (lambda asked: replace(asked, precision="auto"), "is 1.5 times as fast"),
    ],
)
def test_why_it_is_float32(
    experiment: Experiment, change: Callable[[Experiment], Experiment], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coarse, "gain", lambda model: 1.5)
    found = coarse.precision(change(experiment))
    assert found.mode == "exact"
    assert why in found.why


def test_auto_is_delta_where_it_pays(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse, "gain", lambda model: 2.5)
    assert coarse.precision(replace(experiment, precision="auto")).mode == "delta"


def test_models_whose_bound_is_unknown_stay_float32(small_models: dict[str, Model]) -> None:
    for name, why in (("gemma2", "not linear"),):
        model = small_models[name]
        vector = Injection(prompt_pair(model, [3, 4], [5, 6], 0), 2.0)
        asked = Experiment(model, (vector,), make_prompts(model, [[1, 2, 3, 4, 5]]), references=2, precision="delta")
        assert why in coarse.precision(asked).why


def test_results_and_pages_say_it(experiment: Experiment, float32: Experiment) -> None:
    found = exact(experiment, completions=0, writers=False, attention=False, growing=False)
    about = found.manifest["precision"]
    assert (about["asked"], about["mode"], about["limit"]) == ("delta", "delta", 2.0**-8)
    [said] = told(found.manifest)
    assert f"Of {about['runs']} such runs {about['again']} were made again" in said
    assert told(screen(float32, top=2, sample=1).manifest) == []
    verdicts = [
        r.frames["effects"].set_index(["node", "measure"])["verdict"]
        for r in (found, exact(float32, completions=0, writers=False, attention=False, growing=False))
    ]
    assert verdicts[0].equals(verdicts[1])


def test_another_metric_reads_references_by_their_own_change_all_the_same(experiment: Experiment) -> None:
    asked = replace(experiment, metric=log_prob([" wedding"]))
    found, expected = effects(asked), effects(replace(asked, precision="exact"))
    assert found.precision.mode == "delta"
    np.testing.assert_array_equal(found.along, expected.along)
    np.testing.assert_allclose(found.own, expected.own, atol=0.01 * np.abs(expected.own).max())
