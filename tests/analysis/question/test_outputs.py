"""Models that answer with fewer tokens than they read: numbers are those of plain passes, or the token is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from architectures import boot_native
from questions import PROMPTS, experiment
from transformer_lens import TransformerBridgeConfig

from steerscope.analysis.breakdown.breakdown import breakdown
from steerscope.analysis.carriers.exact import exact
from steerscope.analysis.errors import BadMetric
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.metrics import kl, log_prob, perplexity

OUT, TARGET = 10, 3


@pytest.fixture(scope="module")
def narrow() -> Model:
    sizes: dict[str, Any] = {"d_model": 32, "d_head": 8, "n_heads": 4, "n_layers": 2, "n_ctx": 64, "d_mlp": 64}
    return load(
        boot_native(
            TransformerBridgeConfig(
                **sizes, d_vocab=96, d_vocab_out=OUT, act_fn="gelu_new", normalization_type="LN", seed=0
            )
        ),
        name="toy",
    )


@torch.no_grad()
def test_effects_equal_plain_passes(narrow: Model) -> None:
    asked = experiment(narrow, metric=log_prob([TARGET]))
    values = asked.injections[0].vector.values * 1.5
    effects = []
    for ids in PROMPTS:

        def steer(x: torch.Tensor, hook: Any) -> torch.Tensor:
            x = x.clone()
            x[:, 1:3] += values
            return x

        tokens = torch.tensor([ids])
        steered = narrow.bridge.run_with_hooks(tokens, fwd_hooks=[(narrow.hook("resid_pre", 0), steer)])
        change = steered.log_softmax(-1) - narrow.bridge(tokens).log_softmax(-1)
        scored = list(range(3, len(ids)))
        effects.append(change[0, scored, TARGET].mean().item())
    np.testing.assert_allclose(asked.effect(), effects, atol=1e-5)
    found = exact(asked)
    assert found.manifest["model"]["d_vocab_out"] == OUT
    assert set(found.frames["tokens"]["id"]) <= set(range(OUT))


def test_targets_without_a_logit_are_refused(narrow: Model) -> None:
    with pytest.raises(BadMetric, match="11 is the token 11, and toy has logits of the tokens 0 to 9"):
        experiment(narrow, metric=log_prob([11]))
    with pytest.raises(BadMetric, match=r"the token 35 follows a scored position, and toy has logits of .* 0 to 9"):
        exact(experiment(narrow, metric=perplexity()))
    assert len(exact(experiment(narrow, metric=perplexity([3, 4]))).frames["effects"])


@pytest.mark.slow
def test_breakdown_is_asked_of_it(narrow: Model) -> None:
    generator = np.random.default_rng(0)
    own = [generator.integers(0, OUT - 1, 20).tolist() for _ in range(4)]
    assert len(breakdown(experiment(narrow, metric=kl()), text=own).frames["response"])
