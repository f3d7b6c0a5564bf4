"""The shipped models: small, safe to load, and as good as their cards say."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from benchmarks.cards import census
from steerscope.analysis.errors import DamagedRun
from steerscope.analysis.seals import CHECKSUMS, check_folder_seal, digest
from steerscope.loader import load
from steerscope.tinystories.card import card
from steerscope.tinystories.corpus import is_held_out, read_stories
from steerscope.tinystories.evaluate import evaluate
from steerscope.tinystories.forward import fast_logits
from steerscope.tinystories.topics import TOPICS
from steerscope.tinystories.zoo import cards, prompts, shipped

REAL_TEXT = Path(__file__).parents[2].parent / "shared" / "data" / "tinystories.txt"
GOALS = {"tinystories-1l": 1.05, "tinystories-2l": 0.95, "tinystories-2l-induction": 0.95}

WEDDING = next(topic for topic in TOPICS if topic.name == "wedding")

each = pytest.mark.parametrize("name", sorted(GOALS))


def tokenizer(name: str) -> Tokenizer:
    return Tokenizer.from_file(str(shipped()[name] / "tokenizer.json"))


def test_all_models_are_shipped() -> None:
    assert sorted(shipped()) == sorted(cards()) == sorted(GOALS)


@each
def test_a_model_takes_at_most_eight_megabytes_and_holds_no_pickle(name: str) -> None:
    files = [path for path in shipped()[name].rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix == ".safetensors") <= 8_000_000
    known = {".json", ".safetensors", ".md", ".png"}
    assert {path.suffix for path in files} == known


@each
@pytest.mark.parametrize("part", [".", "lens"])
def test_the_checksums_that_are_shipped_are_true_and_of_all_files(name: str, part: str) -> None:
    folder = shipped()[name] / part
    listed = json.loads((folder / CHECKSUMS).read_text())["files"]
    there = {path.name: digest(path.read_bytes()) for path in folder.iterdir() if path.is_file()}
    del there[CHECKSUMS]
    assert listed == there
    check_folder_seal(folder, DamagedRun, "shipped model")


@each
def test_words_of_the_topics_are_single_tokens(name: str) -> None:
    words = [word for topic in TOPICS for word in topic.words]
    split = [word for word in words if len(tokenizer(name).encode(" " + word).ids) != 1]
    assert split == []


@each
def test_a_card_is_drawn_from_the_numbers_in_training_json(name: str) -> None:
    folder, entry = shipped()[name], cards()[name]
    training = json.loads((folder / "training.json").read_text())
    text = (folder / "README.md").read_text()
    assert text == card(training)
    assert f"| held-out bits per character | {entry.bits_per_character} |" in text
    assert f"| held-out loss | {entry.loss} nats per token |" in text
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_layers"], config["num_heads"]) == (entry.layers, entry.heads)
    assert (config["vocab_size"], config["hidden_size"]) == (entry.vocabulary, entry.d_model)
    assert entry.heads >= 8
    assert config["max_position_embeddings"] == config["window_size"] == entry.context


@each
def test_a_card_tells_what_was_found_of_its_model(name: str) -> None:
    training = json.loads((shipped()[name] / "training.json").read_text())
    tables = {table["title"]: table for table in training["studies"]["tables"]}
    assert list(tables) == ["What each layer does on text", "What the heads do", "One vector taken apart"]
    text = (shipped()[name] / "README.md").read_text()
    for title, table in tables.items():
        assert f"## {title}\n" in text and table["rows"]
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}
    assert "## What the heads do" not in card({**training, "studies": None})  # of a model that one trains oneself


def test_one_model_has_heads_that_induction_can_be_studied_on() -> None:
    claimed = {}
    for name, folder in shipped().items():
        training = json.loads((folder / "training.json").read_text())
        [heads] = [table for table in training["studies"]["tables"] if table["title"] == "What the heads do"]
        claimed[name] = {row[0] for row in heads["rows"] if row[-1] == "yes"}
    both = {"induction", "induction, causal"}
    assert [name for name, roles in claimed.items() if both <= roles] == ["tinystories-2l-induction"]


@each
@pytest.mark.slow
def test_the_census_in_a_card_is_that_of_its_model(name: str) -> None:
    training = json.loads((shipped()[name] / "training.json").read_text())
    [told] = [table for table in training["studies"]["tables"] if table["title"] == "What the heads do"]
    found = census(load(name))
    assert [(row[0], row[1], row[-1]) for row in found["rows"]] == [(row[0], row[1], row[-1]) for row in told["rows"]]


@each
def test_a_card_names_no_folder_of_the_machine_that_trained_it(name: str) -> None:
    training = json.loads((shipped()[name] / "training.json").read_text())
    config = training["config"]
    assert not [path for path in [*config["text"], *config["weaker_text"], config["out"]] if "/" in path]


@each
def test_a_model_reaches_its_goal_on_held_out_stories(name: str) -> None:
    training = json.loads((shipped()[name] / "training.json").read_text())
    assert cards()[name].bits_per_character < GOALS[name]
    if not REAL_TEXT.is_file():
        pytest.skip(f"the corpus is not on this machine: {REAL_TEXT}")
    torch.set_num_threads(1)
    one_in = training["config"]["held_out_one_in"]
    stories = [story for story in read_stories(REAL_TEXT) if is_held_out(story, one_in)]
    assert len(stories) == training["held_out"]["stories"]
    model: Any = AutoModelForCausalLM.from_pretrained(shipped()[name])

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        return fast_logits(model, tokens)

    few = evaluate(logits, tokenizer(name), stories[::6], cards()[name].context)
    assert few.bits_per_character < GOALS[name]
    assert few.bits_per_character == pytest.approx(cards()[name].bits_per_character, abs=0.04)


@each
def test_a_wedding_in_the_prompt_makes_a_bride_more_likely_than_a_dragon_does(name: str) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(shipped()[name])
    words = tokenizer(name)
    bride = words.encode(" bride").ids[0]

    def chance(text: str) -> float:
        with torch.no_grad():
            logits = model(torch.tensor([[0, *words.encode(text).ids]])).logits[0, -1]
        return float(torch.log_softmax(logits, 0)[bride])

    neutral = " He looked up and saw the"
    assert chance("Tom went to the wedding." + neutral) > chance("Tom went to the dragon." + neutral) + 1


@pytest.mark.parametrize("kind", ["on_topic", "off_topic"])
def test_forty_different_prompts_of_ten_to_twenty_four_tokens_are_prepared(kind: Any) -> None:
    lines = prompts(kind)
    assert len(set(lines)) == len(lines) == 40
    lengths = {line: len(tokenizer("tinystories-2l").encode(line).ids) for line in lines}
    assert {line: length for line, length in lengths.items() if not 10 <= length <= 24} == {}
    assert [line for line in lines if line != line.strip()] == []


def test_only_the_prompts_on_topic_speak_of_weddings() -> None:
    wedding = re.compile(r"\b(wedding|weddings|bride|groom|married|marry)\b")
    other = re.compile(rf"\b({'|'.join(WEDDING.words)})\b")
    assert [line for line in prompts("on_topic") if not wedding.search(line)] == []
    off_topic = [line for line in prompts("off_topic") if wedding.search(line) or other.search(line)]
    assert off_topic == []


def test_the_list_of_models_needs_no_torch() -> None:
    code = "import sys, steerscope.tinystories.zoo as zoo; zoo.cards(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
