"""Delta precision on SmolLM2: at a few late nodes, so that it is quick where bfloat16 is emulated, too."""

from dataclasses import replace

import numpy as np
import pytest

import steerscope as st
from steerscope.analysis.carriers.effect_table import carrier_table
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.tools import coarse
from steerscope.analysis.tools.patching import Effects, effects

pytestmark = pytest.mark.llm
NODES = ("L27M", "L28M", "L28H3", "L29M", "L29H1")
TEXTS = ["I went up to my friend", "The weather was", "Far out at sea", "Dear Mr. Collins,"]


@pytest.fixture(scope="module")
def exactly(smollm2: st.Model) -> st.Experiment:
    injection = st.Injection(st.steering_vector(smollm2, " wedding", " ", layer=24).row(-1), 20.0, positions=1)
    return st.Experiment(smollm2, injection, TEXTS, references="isotropic:4", seed=1)


def nodes_of(experiment: st.Experiment) -> list[st.Node]:
    return [node for node in experiment.reachable if str(node) in NODES]


@pytest.fixture(scope="module")
def truth(exactly: st.Experiment) -> Effects:
    return effects(exactly, nodes_of(exactly))


def against_references(raw: Effects) -> np.ndarray:
    """The prediction t of the real vector's shares among those of its references: what verdicts ask."""
    shares = raw.own.mean(axis=-1) / raw.basis.own.mean(axis=-1)[:, None, None]
    others = shares[1:]
    found: np.ndarray = (shares[0] - others.mean(axis=0)) / (others.std(axis=0, ddof=1) * np.sqrt(1 + 1 / len(others)))
    return found


def test_the_real_vector_is_exact_and_references_are_within_the_bound(exactly: st.Experiment, truth: Effects) -> None:
    asked = replace(exactly, precision="delta")
    found = effects(asked, nodes_of(asked))
    about = found.precision
    assert about.mode == "delta" and about.worst is not None and 0 < about.worst <= 1 and about.bound is not None
    assert 0 < about.again <= about.runs == 4 * 2 * len(NODES) * len(TEXTS)
    np.testing.assert_allclose(found.along, truth.along, atol=1e-4)
    np.testing.assert_allclose(found.own[0], truth.own[0], atol=1e-4)
    off = np.abs(found.own[1:] - truth.own[1:])
    whole = np.abs(truth.basis.own[1:].mean(axis=-1))
    assert off.max() > 1e-6, "all of it ran in float32"
    assert (off / whole[:, None, None, None]).max() <= about.bound
    tables = [carrier_table(asked, raw, Statistics())[0] for raw in (found, truth)]
    assert list(tables[0]["verdict"]) == list(tables[1]["verdict"])
    np.testing.assert_allclose(against_references(found), against_references(truth), rtol=0.1, atol=0.05)


def test_beyond_the_limit_all_references_run_again_in_float32(
    exactly: st.Experiment, truth: Effects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coarse, "LIMIT", 1e-9)
    asked = replace(exactly, precision="delta")
    found = effects(asked, nodes_of(asked)[-2:])
    assert found.precision.mode == "exact" and "times the limit" in found.precision.why
    np.testing.assert_allclose(found.own, truth.own[:, :, -2:], atol=1e-4)
