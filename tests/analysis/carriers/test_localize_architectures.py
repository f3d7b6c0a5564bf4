"""The whole chain on every architecture: effects of nodes are those of plain passes, and the run checks itself."""

import numpy as np
import pytest
import torch

from steerscope import localize
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.tools.patching import checks, effects, together
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.vector import SteeringVector


def experiment(model: Model, layer: int = 1) -> Experiment:
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, model.d_vocab, (n,), generator=generator).tolist() for n in (9, 6, 11)]
    vector = SteeringVector(torch.randn(2, model.d_model, generator=generator), Site("resid_pre", layer))
    return Experiment(model, (Injection(vector, 2.0),), make_prompts(model, prompts), references=1)


def test_sampled_nodes_equal_plain_passes_and_all_nodes_give_the_other_run(every_architecture: Model) -> None:
    found = checks(experiment(every_architecture), samples=12)
    assert len(found) == 3
    assert all(check["value"] <= 2e-5 for check in found), found  # type: ignore[operator]


def test_all_nodes_together_are_the_total_effect(every_architecture: Model) -> None:
    asked = experiment(every_architecture)
    raw = effects(asked)
    joint = together(asked, [("necessity", raw.nodes), ("sufficiency", raw.nodes)])
    np.testing.assert_allclose(joint, np.tile(raw.basis.total, (2, 1)), rtol=1e-3, atol=1e-3)
    own = together(asked, [("necessity", raw.nodes), ("sufficiency", raw.nodes)], 1)
    np.testing.assert_allclose(own, np.tile(raw.basis.own[1], (2, 1)), rtol=1e-3, atol=1e-3)
    assert (np.abs(raw.along).max(axis=(0, 2)) > 0).all()


def test_a_model_without_a_tokenizer_is_localized_on_token_ids(small_models: "dict[str, Model]") -> None:
    model = small_models["native_attention_only"]
    vector = prompt_pair(model, [5, 6], [7, 8], 0)
    found = localize(model, Injection(vector, 3.0), [[1, 2, 3, 4, 5, 6], [9, 8, 7, 6, 5]], references=1, completions=2)
    assert "has no tokenizer" in found.manifest["missing"]["completions"]
    assert found.frames["prompts"]["text"][0] == "1 2 3 4 5 6"
    assert set(found.frames["effects"]["kind"]) == {"head"}


def test_real_models_are_localized_on_text(real_model: Model) -> None:
    injection = Injection(prompt_pair(real_model, "wedding", "dragons", 1), 2.0)
    texts = ["One day a little girl named Lily went to the park", "Tom had a big red ball and he liked to play"]
    found = localize(real_model, injection, texts, references="concepts:1,isotropic:1", completions=1)
    assert all(check["passed"] for check in found.manifest["checks"])
    assert len(found.frames["effects"]) == 2 * len(real_model.nodes)
    assert found.frames["totals"].set_index("quantity")["value"]["total"] > 0


@pytest.mark.parametrize("site", ["attn_out", "mlp_out", "z"])
def test_injections_at_other_sites_are_localized_too(site: str, tiny: Model, stories: list[str]) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 0, site=site, head=1 if site == "z" else None)
    asked = Experiment(tiny, (Injection(vector, 3.0),), make_prompts(tiny, stories[:3]), references=1)
    assert all(check["passed"] for check in checks(asked))
    assert np.abs(effects(asked).basis.total).min() > 0
