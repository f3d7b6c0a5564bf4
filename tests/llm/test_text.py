"""Text on SmolLM2: its chat template, positions by part, BOS or not, answers of each prompt's own, warnings."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import steerscope as st
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.advice import advice
from steerscope.analysis.question.prompts import make_prompts

pytestmark = pytest.mark.llm
ASKED = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def smollm2(smollm2_file: Path) -> Model:
    model: Model = st.load(str(smollm2_file), selfcheck=False)
    return model


def test_bos_is_put_by_default_and_its_template_brings_its_own(smollm2: Model) -> None:
    model = smollm2
    assert (model.bos, model.bos_token) == (1, 1) and model.tokens("The capital")[0] == 1
    assert model.tokenizer("The capital")["input_ids"][0] != 1  # the tokenizer alone adds none
    found = make_prompts(model, [ASKED])
    expected = model.tokenizer.apply_chat_template(ASKED, add_generation_prompt=True)["input_ids"]
    assert list(found.ids[0]) == list(expected) and list(found.ids[0][:2]).count(1) == 1
    bare = replace(model, bos=None)
    assert not bare.has_bos(bare.tokens("The capital")) and bare.has_bos(make_prompts(bare, [ASKED]).ids[0])


def test_parts_of_a_chat_are_where_they_stand(smollm2: Model) -> None:
    prompts = make_prompts(smollm2, [ASKED])
    [layout] = prompts.layouts(smollm2)
    said = {name: smollm2.text([prompts.ids[0][p] for p in at]) for name, at in layout.parts}
    assert said["user"] == said["instruction"] == "What is the capital of France?"
    assert said["assistant start"] == "<|im_start|>assistant\n"
    vector = st.steering_vector(smollm2, " wedding", " ", layer=6).row(-1)
    experiment = st.Experiment(
        smollm2, st.Injection(vector, 2.0, positions="last of instruction"), [ASKED], references=0
    )
    [[place]] = experiment.injected
    assert smollm2.token_text(prompts.ids[0][place]) == "?"
    assert abs(float(experiment.effect()[0])) > 0


def test_a_byte_level_bpe_goes_on_as_it_did(smollm2: Model) -> None:
    for before, text in (("Once upon a time", " there"), ("I am", "\n\nYes"), ("", " wedding")):
        ids = smollm2.tokens(before)
        assert list(smollm2.following(ids, text).ids) == smollm2.encode(text)


def test_answers_of_their_own_are_those_of_each_prompt_alone(smollm2: Model) -> None:
    texts = ["The capital of France is", "The capital of Italy is", "The opposite of hot is"]
    answers, others = [" Paris", " Rome", " cold"], [" Rome", " Paris", " warm"]
    injection = st.Injection(st.steering_vector(smollm2, " Italy", " France", layer=6), 2.0)
    experiment = st.Experiment(
        smollm2, injection, texts, st.log_prob(st.PerPrompt(answers), st.PerPrompt(others)), references=0
    )
    clean = experiment.value(None)
    for p, (text, answer, other) in enumerate(zip(texts, answers, others, strict=True)):
        with torch.no_grad():
            logits = smollm2.bridge(torch.tensor([smollm2.tokens(text)]))[0, -1]
        expected = float(logits[smollm2.single_token(answer)] - logits[smollm2.single_token(other)])
        assert clean[p] == pytest.approx(expected, abs=1e-3)
    assert (clean > 0).all()  # it knows


def test_a_sink_is_told_where_one_injects_into_it(smollm2: Model) -> None:
    texts, bare = ["I went to the market and saw", "The weather today is very"], replace(smollm2, bos=None)
    vector = st.steering_vector(bare, " happy", " sad", layer=12)
    told = advice(st.Experiment(bare, st.Injection(vector, 5.0), texts, references=0))
    assert any("times as long as at the other positions" in sentence for sentence in told)
    with_bos = st.Injection(st.steering_vector(smollm2, " happy", " sad", layer=12), 5.0)
    assert advice(st.Experiment(smollm2, with_bos, texts, references=0)) == []
