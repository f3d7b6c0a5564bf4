"""Chats: what the tokenizer's own template makes of messages, and positions by the names of their parts."""

from dataclasses import replace
from pathlib import Path

import pytest
from checkpoints import save_gpt2

from steerscope.analysis.errors import BadInjection, BadPrompt
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.positions import Layout, parse_positions
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.generation import generate
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompt_files import read_prompts
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.vectors.prompt_pair import prompt_pair

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
ASKED = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Tom had a red ball"}]
SAID = [*ASKED, {"role": "assistant", "content": "The dragon"}]


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("chatty")
    save_gpt2(folder)
    model = load(folder, name="chatty")
    model.tokenizer.chat_template = TEMPLATE
    return model


def spoken(model: Model, ids: tuple[int, ...], positions: str, chat: object) -> str:
    [layout] = make_prompts(model, [chat]).layouts(model)
    return model.text([ids[p] for p in parse_positions(positions).resolve(layout)])


@pytest.mark.parametrize("chat", [ASKED, ASKED[1:]])
def test_ids_are_those_of_the_template_and_bos_is_not_doubled(chatty: Model, chat: list[dict[str, str]]) -> None:
    found = make_prompts(chatty, [chat, "Tom had a red ball"])
    expected = chatty.tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert list(found.ids[0]) == list(expected) and found.ids[0].count(chatty.bos) == 1
    assert found.ids[1] == tuple(chatty.tokens("Tom had a red ball")) and found.parts[1] == ()
    assert found.texts[0].startswith("<|endoftext|>[")
    without = make_prompts(replace(chatty, bos=None), [chat])
    assert without.ids[0] == found.ids[0]  # the template has the say


def test_positions_are_named_by_part(chatty: Model) -> None:
    ids = make_prompts(chatty, [SAID]).ids[0]
    for name, text in (
        ("system", " Be short."),
        ("user", " Tom had a red ball"),
        ("instruction", " Tom had a red ball"),
        ("first of user", " Tom"),
        ("assistant", " The dragon"),
        ("assistant start", "[assistant]"),
    ):
        assert spoken(chatty, ids, name, SAID).strip() == text.strip(), name
    last = spoken(chatty, ids, "last of instruction", SAID)
    assert "ball".endswith(last.strip()) and last
    asked = make_prompts(chatty, [ASKED]).ids[0]
    assert spoken(chatty, asked, "assistant start", ASKED).strip() == "[assistant]"
    assert chatty.text(ids).endswith("The dragon")  # left open, to be gone on with


def test_turns_of_a_role_stand_together_and_the_instruction_is_the_last(chatty: Model) -> None:
    said = [{**message, "content": message["content"][:8]} for message in SAID[1:]]
    chat = [*said, {"role": "user", "content": "One day"}]
    ids = make_prompts(chatty, [chat]).ids[0]
    assert spoken(chatty, ids, "user", chat).split() == "Tom had One day".split()
    assert spoken(chatty, ids, "instruction", chat).strip() == "One day"


def test_an_experiment_and_a_completion_inject_at_the_part(chatty: Model) -> None:
    injection = Injection(prompt_pair(chatty, " wedding", " ", 0).row(-1), 3.0, positions="last of instruction")
    experiment = Experiment(chatty, (injection,), make_prompts(chatty, [ASKED, SAID]), references=0)
    [layout, _] = experiment.layouts
    assert experiment.injected[0] == (dict(layout.parts)["instruction"][-1],)
    assert replace(experiment, prompts=experiment.prompts.some([1])).injected == experiment.injected[1:]
    by_index = replace(injection, positions=list(experiment.injected[0]))
    made = [generate(chatty, ASKED, one, tokens=6, temperature=0) for one in (injection, by_index)]
    assert made[0] == made[1]
    plain = make_prompts(chatty, ["Tom had a red ball"])
    with pytest.raises(BadInjection, match="no part 'user'.*give chats"):
        Experiment(chatty, (replace(injection, positions="user"),), plain, references=0)


def test_a_template_that_looks_into_contents_leaves_no_parts(chatty: Model) -> None:
    tokenizer = chatty.tokenizer
    kept = tokenizer.chat_template
    try:
        tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
        found = make_prompts(chatty, [[{"role": "user", "content": "Tom\ue000"[:3]}]])
        assert found.texts == ("TOM",) and found.parts == ()
        tokenizer.chat_template = "{{ raise_exception('no ' + messages[0]['role']) }}"
        with pytest.raises(BadPrompt, match=r"template refuses \(no user\)"):
            make_prompts(chatty, [ASKED[1:]])
        tokenizer.chat_template = "{{ ''.__class__.__mro__ }}"
        with pytest.raises(BadPrompt, match="template refuses"):
            make_prompts(chatty, [ASKED[1:]])
    finally:
        tokenizer.chat_template = kept


@pytest.mark.parametrize(
    "chat",
    [
        [{"role": "user"}],
        [{"role": "user", "content": 3}],
        [{"role": "", "content": "a"}],
        [{"role": "user", "content": "a", "x": "b"}],
        [{}],
    ],
)
def test_messages_that_are_none_are_refused(chatty: Model, chat: object) -> None:
    with pytest.raises(BadPrompt, match="prompt 1 has a message 1 that is none"):
        make_prompts(chatty, [chat])


def test_a_model_without_a_template_says_so(tiny: Model) -> None:
    with pytest.raises(BadPrompt, match="prompt 1 is a chat, and the model has no chat template"):
        make_prompts(tiny, [ASKED])
    with pytest.raises(BadPrompt, match="prompt 1 is a dictionary: a chat is a list of messages"):
        make_prompts(tiny, [ASKED[0]])


def test_chats_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n{"prompt": "One"}\n')
    assert read_prompts(tmp_path / "a.jsonl") == [[{"role": "user", "content": "Hi"}], "One"]
    for bad in ('{"messages": "Hi"}', '{"messages": []}', '{"messages": [{"role": "user", "content": null}]}'):
        (tmp_path / "b.jsonl").write_text(bad)
        with pytest.raises(BadPrompt, match="line 1 holds .*; expected messages such as"):
            read_prompts(tmp_path / "b.jsonl")


def test_parts_parse_as_they_print() -> None:
    for text in ("user", "last of instruction", "first of assistant start"):
        assert str(parse_positions(text)) == text and parse_positions(text).repeats
    layout = Layout(9, True, (("user", (2, 3, 4)),))
    assert parse_positions("first of user").resolve(layout) == (2,)
    with pytest.raises(BadInjection, match="unknown position 'last of nothing'"):
        parse_positions("last of nothing")
