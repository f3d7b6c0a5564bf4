"""Small random checkpoints with a real tokenizer, as folders."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

TEXT = (
    "Once upon a time there was a wedding. The bride had a red ring and a big cake. "
    "Tom and Lily saw a dragon near the ship. One day they went to the park and played with the ball. "
) * 20
END = "<|endoftext|>"


def save_tokenizer(folder: Path, vocabulary: int = 400) -> int:
    """Trains a BPE on `TEXT`, saves it, and returns its size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END, pad_token=END
    ).save_pretrained(folder)
    return int(tokenizer.get_vocab_size())


def save_gpt2(folder: Path, layers: int = 2, heads: int = 4, width: int = 32) -> GPT2LMHeadModel:
    """A GPT-2 with weights far from the tiny initial ones, so that effects are large."""
    torch.manual_seed(0)
    size = save_tokenizer(folder)
    hf = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=size, n_embd=width, n_layer=layers, n_head=heads, n_positions=64, bos_token_id=0, eos_token_id=0
        )
    )
    for parameter in hf.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    hf.save_pretrained(folder)
    return hf


GPT2 = Path(__file__).parents[2] / "shared/tokenizers/gpt2"


def save_gpt2_shape(folder: Path, layers: int = 12, heads: int = 12, width: int = 48) -> Path:
    """A random model with GPT-2's own tokenizer, and, by default, its layers and heads."""
    if not GPT2.exists():
        pytest.skip("GPT-2's tokenizer is not here")
    inner = Tokenizer(models.BPE.from_file(str(GPT2 / "vocab.json"), str(GPT2 / "merges.txt")))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made: Any = PreTrainedTokenizerFast
    made(tokenizer_object=inner, bos_token="<|endoftext|>").save_pretrained(folder)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=layers, n_head=heads, n_embd=width, n_positions=128)).save_pretrained(folder)
    return folder
