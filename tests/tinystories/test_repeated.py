"""Passages of random tokens that are said again and again, for a model that has learned to tell stories before."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_training import small_training, stories
from tokenizers import Tokenizer

from steerscope.analysis.errors import BadArgument, BadCorpus, DamagedRun
from steerscope.analysis.seals import seal_folder
from steerscope.tinystories.batches import Batches
from steerscope.tinystories.muon import Muon, orthogonal
from steerscope.tinystories.repeated import repeated_tokens
from steerscope.tinystories.run import Run
from steerscope.tinystories.tokenizer import end_token
from steerscope.tinystories.train import read_corpus, train


def told_before(tokens: np.ndarray) -> np.ndarray:
    """Whether each token of a passage is what stood behind an earlier copy of the two before it."""
    pairs: dict[tuple[int, int], int] = {}
    found = []
    for one, two, three in zip(tokens, tokens[1:], tokens[2:], strict=False):
        found.append(pairs.get((one, two)) == three)
        pairs[one, two] = three
    return np.array(found)


def test_a_passage_fills_the_context_with_segments_of_many_lengths_at_many_distances() -> None:
    tokens = repeated_tokens(0, 1000, 64, 300, end=7)
    passages = tokens[:-1].reshape(300, 64)
    assert (passages[:, 0] == 7).all() and tokens[-1] == 7 and not (passages[:, 1:] == 7).any()
    told = np.array([told_before(passage[1:]) for passage in passages])
    assert 0.3 < told.mean() < 0.8
    first = told.argmax(1)
    assert len(set(first)) > 15  # where a second copy begins
    distances: Counter[int] = Counter()
    for passage in passages[:, 1:]:
        _, place = np.unique(passage, return_index=True)
        again = [i for i in range(len(passage)) if i not in set(place)]
        distances.update(i - int(np.flatnonzero(passage[:i] == passage[i])[-1]) for i in again)
    assert distances.most_common(1)[0][1] < 0.2 * sum(distances.values())  # no distance tells where to look
    assert np.array_equal(tokens, repeated_tokens(0, 1000, 64, 300, end=7))
    assert not np.array_equal(tokens, repeated_tokens(1, 1000, 64, 300, end=7))


def test_windows_have_their_share_and_the_texts_keep_theirs_of_the_rest(tmp_path: Path) -> None:
    config = small_training(stories(tmp_path / "text"), tmp_path / "model", repeated=0.25, shares=(0.5, 0.3, 0.2))
    corpus = read_corpus(config)
    shares = np.array([text.early for text in corpus.texts])
    assert np.allclose(shares / shares.sum(), [0.75 * 5 / 7, 0.75 * 2 / 7, 0.25])
    end = end_token(corpus.tokenizer)
    batches = Batches(corpus.texts, batch=400, length=config.context, seed=0, end=end)
    repeated = [told_before(row.numpy()).mean() > 0.3 for row in batches.draw(0, 0.0)]
    assert 0.1 < np.mean(repeated) < 0.35  # short segments alone are told so
    card = (train(config) / "README.md").read_text()
    assert "| text | " in card and "| 54% |" in card and "| topic stories | " in card and "| 21% |" in card
    assert "| repeated random tokens | – | 25% | 25% |" in card and "weaker text" not in card
    with pytest.raises(BadArgument, match="leaves no window"):
        replace(config, repeated=1.0)
    with pytest.raises((BadArgument, BadCorpus), match="repeated"):
        replace(config, repeated=-0.1)


def test_a_run_begins_with_the_weights_and_the_tokenizer_of_a_model(tmp_path: Path) -> None:
    first = small_training(stories(tmp_path / "text"), tmp_path / "first", steps=4)
    begun = train(first)
    later = replace(first, out=str(tmp_path / "later"), start=str(begun), topic_stories=60, repeated=0.5, steps=1)
    run = Run(later, read_corpus(later))
    for name, weight in load_file(begun / "model.safetensors").items():
        assert torch.equal(dict(run.model.named_parameters())[name], weight.float()), name
    assert run.corpus.tokenizer.to_str() == Tokenizer.from_file(str(begun / "tokenizer.json")).to_str()
    folder = train(later)
    card = (folder / "README.md").read_text()
    assert "It began with the weights and the tokenizer of `first`" in card and str(tmp_path) not in card
    assert json.loads((folder / "training.json").read_text())["config"]["start"] == "first"
    with pytest.raises(BadArgument, match="expected a model of the same sizes and form"):
        train(replace(later, out=str(tmp_path / "wider"), d_model=32))
    for wrong in ("tinystories-9l", str(tmp_path / "text"), str(tmp_path), "a\0b", "", "n" * 300, "n/" * 3000):
        with pytest.raises(BadArgument, match="expected a shipped model .tinystories-1l"):
            read_corpus(replace(later, start=wrong))
    for name in ("tokenizer.json", "model.safetensors"):
        whole = (begun / name).read_bytes()
        (begun / name).write_bytes(b"something else")
        with pytest.raises(DamagedRun, match="changed"):
            read_corpus(later)
        seal_folder(begun)
        with pytest.raises(DamagedRun, match="cannot be read|no weights"):
            read_corpus(later)
        (begun / name).write_bytes(whole)
        seal_folder(begun)


@pytest.mark.parametrize("shape", [(24, 24), (16, 64), (64, 16)])
def test_muon_takes_the_steps_of_the_one_of_torch(shape: tuple[int, int]) -> None:
    dice = torch.Generator().manual_seed(0)
    begun = torch.randn(shape, generator=dice)
    ours, theirs = (torch.nn.Parameter(begun.clone()) for _ in range(2))
    steps = [Muon([ours], 0.01, 0.1), torch.optim.Muon([theirs], 0.01, 0.1, adjust_lr_fn="match_rms_adamw")]
    for _ in range(5):
        gradient = torch.randn(shape, generator=dice)
        for weight, one in zip((ours, theirs), steps, strict=True):
            weight.grad = gradient.clone()
            one.step()
    moved = (theirs - begun).norm()
    assert moved > 0 and (ours - theirs).norm() < 0.02 * moved  # theirs rounds to bfloat16
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=dice)))
    assert 0.6 < values.median() and values.max() < 1.3
