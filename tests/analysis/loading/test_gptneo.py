"""GPT-Neo as GPT-2: the same function up to the window, and not a token further."""

from typing import Any

import pytest
import torch
from architectures import CONTEXT, NEO_WINDOW, checkpoint
from torch.testing import assert_close
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.errors import BadPrompt
from steerscope.analysis.loading.gptneo import context, to_gpt2
from steerscope.analysis.loading.loading import load


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 5, NEO_WINDOW])
def test_the_gpt2_equivalent_gives_the_same_logits(length: int) -> None:
    neo = checkpoint("gpt_neo")
    tokens = torch.randint(0, 96, (3, length), generator=torch.Generator().manual_seed(0))
    assert_close(to_gpt2(neo)(tokens).logits, neo(tokens).logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_beyond_the_window_they_would_differ() -> None:
    """Why prompts are limited: a converted model that read on would be another model."""
    neo = checkpoint("gpt_neo")
    tokens = torch.randint(0, 96, (1, NEO_WINDOW + 8), generator=torch.Generator().manual_seed(0))
    wider = _neo(window_size=CONTEXT)
    wider.load_state_dict(neo.state_dict())
    difference = (to_gpt2(wider)(tokens).logits - neo(tokens).logits).abs()
    assert difference[:, :NEO_WINDOW].max() < 1e-5
    assert difference[:, NEO_WINDOW:].max() > 1e-2


def _config(**changes: Any) -> GPTNeoConfig:
    return GPTNeoConfig(**(checkpoint("gpt_neo").config.to_diff_dict() | changes))


def _neo(**changes: Any) -> Any:
    neo: Any = GPTNeoForCausalLM(_config(**changes))
    return neo.eval()


def test_the_context_is_the_window_only_where_a_layer_is_local() -> None:
    everywhere = {"attention_types": [[["global"], 4]], "attention_layers": ["global"] * 4}
    assert context(_config()) == NEO_WINDOW
    assert context(_config(**everywhere)) == CONTEXT


def test_prompts_beyond_the_window_are_refused(small_models: Any) -> None:
    model = small_models["gpt_neo"]
    assert model.n_ctx == NEO_WINDOW
    next(run(model, [[1] * NEO_WINDOW], [Variant(0)]))
    with pytest.raises(
        BadPrompt, match=f"has {NEO_WINDOW + 1} tokens; expected at most the {NEO_WINDOW} that gpt_neo reads"
    ):
        next(run(model, [[1] * (NEO_WINDOW + 1)], [Variant(0)]))


def test_the_manifest_says_what_was_done(small_models: Any) -> None:
    model = small_models["gpt_neo"]
    assert model.architecture == "GPTNeoForCausalLM"
    conversion, window = model.notes
    assert "exact GPT-2 equivalent" in conversion
    assert f"the window of its local attention, {NEO_WINDOW} of {CONTEXT} tokens" in window


def test_half_precision_and_untied_weights_survive(tmp_path: Any) -> None:
    neo = _neo(tie_word_embeddings=False)
    neo.save_pretrained(tmp_path)
    model = load(tmp_path)
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert_close(model.bridge(tokens), neo(tokens).logits, rtol=0, atol=1e-5)
    assert load(tmp_path, dtype="bfloat16").dtype == torch.bfloat16
