"""A small random GPT-2 with a real tokenizer, and a planted model: fast, and nothing is downloaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from steerscope.analysis.loading import load
from steerscope.analysis.models import Model

TEXT = (
    "Once upon a time there was a wedding. The bride had a red ring and a big cake. "
    "Tom and Lily saw a dragon near the ship. One day they went to the park and played with the ball. "
) * 20


def save_tokenizer(folder: Path, vocabulary: int = 400) -> int:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end, pad_token=end
    ).save_pretrained(folder)
    return tokenizer.get_vocab_size()


def save_gpt2(folder: Path, layers: int = 2, heads: int = 4, width: int = 32) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    size = save_tokenizer(folder)
    hf = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=size,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            n_positions=64,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    for (
        parameter
    ) in hf.parameters():  # far from the tiny initial weights, so that effects are large
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    hf.save_pretrained(folder)
    return hf


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_gpt2(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Model:
    return load(tiny_folder, name="tiny")


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """One node alone writes into the stream: head L1H2. Every other head and MLP writes nothing."""
    folder = tmp_path_factory.mktemp("planted")
    hf = save_gpt2(folder)
    with torch.no_grad():
        blocks: Any = hf.transformer.h
        for layer, block in enumerate(blocks):
            block.mlp.c_proj.weight.zero_()
            block.mlp.c_proj.bias.zero_()
            keep = block.attn.c_proj.weight[16:24].clone()
            block.attn.c_proj.weight.zero_()
            block.attn.c_proj.bias.zero_()
            if layer == 1:
                block.attn.c_proj.weight[16:24] = 3 * keep
    hf.save_pretrained(folder)
    return load(folder, name="planted")


@pytest.fixture(scope="session")
def stories() -> list[str]:
    names = "Tom Lily Ben Mia Sam Anna Max Sue Tim Amy Jack Zoe Rob Kim".split()
    return [
        f"One day {name} went to the {'park' if i % 2 else 'ship'} and saw a big red"
        for i, name in enumerate(names)
    ]
