"""Logits are made in pieces: the same numbers, and a peak of memory that stays within the budget."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from steerscope.analysis.carriers.exact import exact
from steerscope.analysis.model.models import Model
from steerscope.analysis.question import outputs as module
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import METRICS, Metric, kl, log_prob, perplexity
from steerscope.analysis.question.outputs import Outputs, apart, pieced
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.question.scores import divergence
from steerscope.analysis.vectors.prompt_pair import prompt_pair

PEAK = """
import json, resource, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from steerscope.analysis.loading.loading import load
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import METRICS
from steerscope.analysis.tools.patching import effects
from steerscope.analysis.vectors.vector import SteeringVector
from steerscope.analysis.model.nodes import Node, Site

torch.set_num_threads(1)
torch.manual_seed(0)
name, budget, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
options = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, intermediate_size=48)
config = LlamaConfig(vocab_size=128_000, max_position_embeddings=512, **options)
bridge = build_bridge_from_module(LlamaForCausalLM(config).eval(), "LlamaForCausalLM", hf_config=config)
model = load(bridge, device="cpu", selfcheck=False)
prompts = torch.randint(0, 128_000, (3, length)).tolist()
vector = SteeringVector(torch.randn(1, 32), Site("resid_pre", 0), {})
metric = METRICS[name](5) if name == "log_prob" else METRICS[name]()
def asked(ids, scored):
    return Experiment(model, (Injection(vector, 1.0, 0, [1]),), ids, metric, 1, scored=scored, budget=budget)
effects(asked([p[:8] for p in prompts], None), [Node(0)])  # what torch takes once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
effects(asked(prompts, None), [Node(0), Node(1, 0)])
print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024))
"""


ASKED = [METRICS["logit_direction"](), METRICS["own_direction"](), kl(), log_prob(3), perplexity()]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 0)
    monkeypatch.setattr(module, "PIECE", 4 * 200)


def asked(tiny: Model, stories: list[str], metric: Metric) -> Experiment:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 0), 3.0)
    return Experiment(tiny, (injection,), make_prompts(tiny, stories[:4]), metric, references=2)


@pytest.mark.parametrize("metric", ASKED)
def test_in_pieces_are_the_same_numbers(
    tiny: Model, stories: list[str], metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    def frames() -> dict[str, pd.DataFrame]:
        found = exact(asked(tiny, stories, metric), completions=0, writers=False, attention=False, growing=False)
        return dict(found.frames)

    whole = frames()
    monkeypatch.setattr(module, "KEPT", 0)
    monkeypatch.setattr(module, "PIECE", 3 * 4 * tiny.d_vocab)
    monkeypatch.setattr(module, "ROWS", 1)
    pieces = frames()
    for name, frame in whole.items():
        for column in frame.select_dtypes("number"):
            np.testing.assert_allclose(
                np.asarray(pieces[name][column], float),
                np.asarray(frame[column], float),
                rtol=2e-3,
                atol=1e-4,
                err_msg=f"{name}.{column}",
            )


def test_rows_pieces_and_what_is_kept(small_model: Model, small_pieces: None) -> None:
    hidden = torch.randn(7, small_model.d_model, generator=torch.Generator().manual_seed(0))
    unembed = small_model.bridge.unembed
    made = Outputs(hidden, None, unembed, small_model.d_vocab)
    expected = unembed(hidden[None])[0].detach()
    assert not made.kept
    assert made.shape == expected.shape
    assert_close(made.rows(torch.tensor([6, 0])), expected[[6, 0]])
    assert len(list(made.pieces)) > 1
    assert_close(pieced(lambda x: x, made), expected)
    other = Outputs(None, expected.flip(0))
    assert_close(apart(made, other), (expected.log_softmax(-1) - other.logits.log_softmax(-1)).abs().amax(-1))
    assert_close(
        pieced(lambda a, b: divergence(a, b.log_softmax(-1)), made, other),
        divergence(expected, other.logits.log_softmax(-1)),
    )
    assert repr(made) == "<Outputs: logits of 96 tokens at 7 positions>"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["logit_direction", "log_prob", "kl"])
def test_the_peak_stays_within_the_budget(name: str) -> None:
    """400 tokens of 128,000: logits of one run are 205 MB, and an analysis of three prompts held 3 GB of them."""
    budget = 300_000_000
    done = subprocess.run(
        [sys.executable, "-c", PEAK, name, str(budget), "400"], capture_output=True, text=True, check=True, timeout=300
    )
    assert json.loads(done.stdout.splitlines()[-1]) < 1.2 * budget


def test_a_budget_is_no_other_number(tiny: Model, stories: list[str]) -> None:
    experiment = asked(tiny, stories, kl())
    small = replace(experiment, budget=1_000_000)
    np.testing.assert_allclose(small.effect(), experiment.effect(), rtol=1e-4)
