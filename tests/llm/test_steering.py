"""Steering of SmolLM2 as people do it: every generated token, refusal-style ablation, one direction a layer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_hooks import plainly

import steerscope as st
from steerscope.analysis.question.injection import compose

pytestmark = pytest.mark.llm

PROMPTS = ["I went up to my friend and said", "The weather this morning was", "Yesterday the teacher told us that"]
TOKENS = 8
CASES: list[tuple[Any, float, Any]] = [
    ("add", 0.5, "prompt"),
    ("add", 0.5, "both"),
    ("ablate", 1.0, "generation"),
    ("ablate", 1.0, "both"),
]


@pytest.fixture(scope="module")
def wedding(smollm2: st.Model) -> dict[int, st.SteeringVector]:
    return {layer: st.steering_vector(smollm2, " wedding", " ", layer).row(-1) for layer in (6, 10, 14)}


def test_text_is_that_of_plain_hugging_face_hooks(
    smollm2: st.Model, smollm2_file: Path, wedding: dict[int, st.SteeringVector]
) -> None:
    """Token by token, with a cache and without, alone and many at once, against an untouched model."""
    ids = [smollm2.tokens(text) for text in PROMPTS]
    vectors = {layer: vector.values[0].tolist() for layer, vector in wedding.items()}
    cases = [
        {"prompts": ids, "tokens": TOKENS, "vectors": vectors, "operation": operation, "coefficient": c, "during": when}
        for operation, c, when in CASES
    ]
    plain = plainly(cases, model=str(smollm2_file.parent), gguf_file=smollm2_file.name)
    end = smollm2.tokenizer.eos_token_id
    for (operation, c, when), found in zip(CASES, plain, strict=True):
        expected = [one["tokens"] for one in found]
        expected = [own[: own.index(end)] if end in own else own for own in expected]
        several = st.bundle(wedding, c, "all", operation, when)
        assert st.generate_many(smollm2, ids, several, tokens=TOKENS, temperature=0) == expected
        assert st.generate(smollm2, ids[0], several, tokens=TOKENS, temperature=0, cache=False) == expected[0]
        if when == "prompt":  # the logits that the first token is drawn from
            variant = st.Variant(0, compose(several, smollm2.layout(ids[0])))
            [(_, readout)] = list(st.run(smollm2, [ids[0]], [variant]))
            assert readout.logits is not None
            top = readout.logits[0].topk(5).values
            torch.testing.assert_close(top, torch.tensor(found[0]["top"][0]), rtol=0, atol=2e-3)


@pytest.mark.parametrize("kind", ["ablated everywhere", "a bundle"])
def test_an_ablation_everywhere_and_a_bundle_are_localized(
    kind: str, smollm2: st.Model, wedding: dict[int, st.SteeringVector]
) -> None:
    """Few prompts and no reference: that the pieces fit, at 90 sites and at 3."""
    several = st.bundle(wedding, 0.5, "all")
    if kind == "ablated everywhere":
        several = st.everywhere(smollm2, wedding[10], during="prompt")
    experiment = st.Experiment(smollm2, several, PROMPTS[:1], references=0, scored="last")
    found = st.screen(experiment, top=2, sample=2)
    assert all(check["passed"] for check in found.manifest["checks"]), found.manifest["checks"]
    assert np.abs(experiment.effect()).max() > 1e-2


def test_many_completions_at_once_are_quick_and_the_same(
    smollm2: st.Model, wedding: dict[int, st.SteeringVector]
) -> None:
    several = st.bundle({6: wedding[6]}, 3.0, "last", during="both")
    many = st.generate_many(smollm2, PROMPTS, several, tokens=8, seed=3)
    alone = [st.generate(smollm2, text, several, tokens=8, seed=3 + n) for n, text in enumerate(PROMPTS)]
    assert many == alone
