"""An own byte-level BPE, small enough for a small model and yet with whole words for topics.

The special token `<|endoftext|>` begins, ends, pads and stands for the unknown (which a byte-level
vocabulary never meets): one role per name, one token for all, as GPT-2 has it.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from steerscope.analysis.errors import BadCorpus

from .corpus import END

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def train_tokenizer(stories: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE of `vocabulary` tokens; token 0 is the end of text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(stories, trainer)
    return tokenizer


def end_token(tokenizer: Tokenizer) -> int:
    """The id of the end of text."""
    found = tokenizer.token_to_id(END)
    if found is None:
        raise BadCorpus(f"the tokenizer has no token {END}; expected one made by train_tokenizer; make one")
    return int(found)


def encode(tokenizer: Tokenizer, stories: Iterable[str]) -> np.ndarray:
    """One stream of tokens [n], in which every story follows an end-of-text token."""
    end = end_token(tokenizer)
    ids = [np.array([end, *story.ids], dtype=np.uint16) for story in tokenizer.encode_batch(list(stories))]
    return np.concatenate([*ids, np.array([end], dtype=np.uint16)])


def as_transformers(tokenizer: Tokenizer, context: int) -> "PreTrainedTokenizerFast":
    """The tokenizer as Hugging Face and TransformerLens load it from a folder."""
    from transformers import PreTrainedTokenizerFast  # slow to import

    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END, pad_token=END, model_max_length=context
    )
