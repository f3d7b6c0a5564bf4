"""Training on a few stories: it learns, it resumes exactly, and what it writes is a GPT-Neo."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from small_training import small_training, stories
from transformers import AutoModelForCausalLM, AutoTokenizer

from steerscope.analysis.errors import BadArgument, BadCorpus, BrokenInvariant, DamagedRun, OutputExists
from steerscope.tinystories.batches import Batches, Text, epochs
from steerscope.tinystories.config import TrainConfig
from steerscope.tinystories.corpus import END
from steerscope.tinystories.forward import check_same_logits, fast_logits, gpt_neo
from steerscope.tinystories.progress import progress_bar
from steerscope.tinystories.run import Run, rate
from steerscope.tinystories.train import Progress, checkpoint_folder, read_corpus, train


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = stories(tmp_path_factory.mktemp("text") / "stories.txt")
    return found


@pytest.fixture
def config(text: Path, tmp_path: Path) -> TrainConfig:
    found: TrainConfig = small_training(
        text,
        tmp_path / "model",
        d_model=32,
        n_heads=4,
        n_layers=2,
        context=48,
        vocabulary=320,
        batch=4,
        steps=24,
        warmup=4,
        dropout=0.1,
        evaluate_every=6,
        checkpoint_every=10,
    )
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_loss_falls(config: TrainConfig, optimizer: str) -> None:
    changed = replace(config, optimizer=optimizer)  # type: ignore[arg-type]
    folder = train(changed)
    training = json.loads((folder / "training.json").read_text())
    losses = [loss for _, loss in training["losses"]]
    assert losses[0] > 5 > losses[-1]
    assert training["steps"] == 24
    assert training["tokens_seen"] == 24 * 4 * 48


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(config: TrainConfig, tmp_path: Path) -> None:
    whole = train(config)
    halves = replace(config, out=str(tmp_path / "halves"))
    assert train(halves, stop_after=13) == checkpoint_folder(halves)
    assert not Path(halves.out).exists()
    train(halves)
    one, other = weights(whole), weights(Path(halves.out))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not checkpoint_folder(halves).exists()


def test_another_seed_gives_other_weights_to_begin_with_and_other_batches(config: TrainConfig) -> None:
    corpus = read_corpus(config)
    one, same, other = (Run(replace(config, seed=seed), corpus) for seed in (0, 0, 1))

    def begin(run: Run) -> torch.Tensor:
        found: torch.Tensor = run.model.get_parameter("transformer.wte.weight")
        return found

    assert torch.equal(begin(one), begin(same))
    assert not torch.equal(begin(one), begin(other))
    assert torch.equal(one.batches.draw(0, 0.0), same.batches.draw(0, 0.0))
    assert not torch.equal(one.batches.draw(0, 0.0), other.batches.draw(0, 0.0))


def test_a_checkpoint_of_other_settings_is_refused_by_name(config: TrainConfig) -> None:
    train(config, stop_after=2)
    with pytest.raises(BadArgument, match="other settings of learning_rate, seed"):
        train(replace(config, learning_rate=1.0, seed=5))


def test_a_damaged_checkpoint_is_refused(config: TrainConfig) -> None:
    folder = train(config, stop_after=2)
    (folder / "optimizer.safetensors").write_bytes(b"nothing")
    with pytest.raises(DamagedRun, match="cannot be read"):
        train(config)


def test_an_existing_folder_is_kept_unless_overwritten(config: TrainConfig) -> None:
    short = replace(config, steps=1)
    train(short)
    with pytest.raises(OutputExists, match="holds a model already; expected a new folder"):
        train(short)
    train(short, overwrite=True)


def test_a_written_model_is_a_gpt_neo_with_the_logits_of_the_training_pass(config: TrainConfig) -> None:
    folder = train(replace(config, steps=3))
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "GPTNeoForCausalLM"
    assert model.dtype == torch.float32
    assert model.config.attention_layers == ["global", "local"]
    assert all(weight.dtype == torch.float16 for weight in weights(folder).values())
    tokens = torch.randint(320, (3, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(fast_logits(model, tokens), model(tokens).logits, atol=1e-5, rtol=0)
    assert not model.training
    stored = weights(folder)["transformer.h.1.mlp.c_fc.weight"].float()
    assert torch.equal(model.transformer.h[1].mlp.c_fc.weight, stored)


def test_a_training_pass_that_differs_from_hugging_faces_is_noticed() -> None:
    model: Any = gpt_neo(d_model=32, n_heads=4, n_layers=2, vocabulary=300, context=16, end_token=0)
    model.eval()
    tokens = torch.arange(12)[None]
    assert check_same_logits(model, tokens) < 1e-5
    # now the local layer sees three tokens only, fewer than the context holds
    model.transformer.h[1].attn.attention.bias.logical_and_(torch.ones(16, 16).triu(-2).bool())
    with pytest.raises(BrokenInvariant, match="differs from GPTNeoForCausalLM"):
        check_same_logits(model, tokens, tolerance=1e-6)


def test_the_tokenizer_is_written_with_one_special_token(config: TrainConfig) -> None:
    folder = train(replace(config, steps=1))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    special = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token}
    assert special == {END}
    assert tokenizer.bos_token_id == 0
    assert len(tokenizer) == 320
    sentence = "Zoë's ship \u2014 and a wedding!"
    assert tokenizer.decode(tokenizer(sentence)["input_ids"]) == sentence


def test_held_out_stories_are_in_no_text_that_is_learned_from(config: TrainConfig) -> None:
    corpus = read_corpus(replace(config, topic_stories=0))
    learned = corpus.tokenizer.decode(corpus.texts[0].tokens.tolist())
    assert len(corpus.held_out) >= 3
    assert not [story for story in corpus.held_out if story in learned]
    assert corpus.characters["text"] == len(learned)


def test_a_text_that_is_too_short_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("Only one story.")
    with pytest.raises(BadCorpus, match="1 stories are too few"):
        train(replace(config, text=(str(tmp_path / "one.txt"),)))
    with pytest.raises(BadCorpus, match="shorter than one window"):
        train(replace(config, context=2_000, topic_stories=1))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_heads": 5}, "d_model=32 cannot be divided among n_heads=5"),
        ({"steps": 0}, "steps=0; expected an integer from 1 to"),
        ({"vocabulary": 256}, "vocabulary=256; expected an integer from 257 to 65,536"),
        ({"optimizer": "sgd"}, "optimizer='sgd'; expected one of muon, adamw"),
    ],
)
def test_a_setting_out_of_range_is_named(config: TrainConfig, setting: dict[str, object], message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        replace(config, **setting)  # type: ignore[arg-type]


def test_the_rate_rises_falls_and_ends_at_its_last_share(config: TrainConfig) -> None:
    rates = [rate(config, step, step / 100) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 4, rel=0.01)
    assert max(rates) == rates[3]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(config.final_rate)


def test_a_run_by_the_clock_stops_in_time(config: TrainConfig) -> None:
    seen: list[Progress] = []
    clocked = replace(config, max_minutes=0.005, steps=10**6)
    folder = train(clocked, progress=seen.append)
    assert seen[-1].fraction >= 1
    assert seen[-2].seconds < 0.3 <= seen[-1].seconds
    assert json.loads((folder / "training.json").read_text())["steps"] == len(seen)
    assert "wall-clock" in (folder / "README.md").read_text()


def test_batches_depend_on_the_step_alone_and_follow_the_shares() -> None:
    one = Text(torch.arange(100, 600).numpy().astype("uint16"), early=1.0, late=0.0)
    other = Text(torch.arange(1000, 1500).numpy().astype("uint16"), early=0.0, late=1.0)
    batches = Batches([one, other], batch=8, length=10, seed=0, end=0)
    assert torch.equal(batches.draw(5, 0.1), batches.draw(5, 0.1))
    assert not torch.equal(batches.draw(5, 0.1), batches.draw(6, 0.1))
    assert batches.draw(5, 0.1).max() < 600
    assert batches.draw(5, 0.9).min() >= 1000
    windows = batches.draw(0, 0.1)
    assert windows.shape == (8, 11)
    assert (windows.diff(dim=1) == 1).all()
    assert epochs([one, other], 1500) == pytest.approx([2.0, 1.0])


def test_half_of_the_windows_begin_where_a_story_begins() -> None:
    tokens = torch.arange(1, 5001)
    tokens[::50] = 0
    batches = Batches([Text(tokens.numpy().astype("uint16"), 1, 1)], batch=400, length=10, seed=0, end=0)
    share = float((batches.draw(0, 0.0)[:, 0] == 0).float().mean())
    assert 0.42 < share < 0.6


def test_the_progress_bar_shows_step_loss_and_score(config: TrainConfig) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with progress_bar(console) as progress:
        train(replace(config, steps=6), progress=progress)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "step 6" in shown
    assert "100.0%" in shown
    assert "bits/char" in shown
