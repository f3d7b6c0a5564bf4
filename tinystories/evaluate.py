"""Loss and bits per character on held-out stories.

The protocol: each story is tokenised alone, begins with the end-of-text token as BOS, and must also
predict its end. A story longer than the context is read in windows of the whole context that move on
by half of it; every token counts once, from the window that shows it the most of what came before.
Bits per character = all nats / (ln 2 x all characters of the stories), the end token being charged to
the nats and not counted as a character: it compares models whatever their tokens are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from .tokenizer import end_token


@dataclass(frozen=True)
class HeldOut:
    """What a model scores on stories that it has not seen."""

    stories: int
    characters: int
    tokens: int
    nats: float

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def bits_per_character(self) -> float:
        """Bits per character of story text."""
        return self.nats / (math.log(2) * self.characters)


@torch.no_grad()
def evaluate(logits: Callable[[Tensor], Tensor], tokenizer: Tokenizer, stories: list[str], context: int) -> HeldOut:
    """Scores `logits` (tokens [batch, pos] to logits [batch, pos, vocabulary]) on whole stories."""
    end = end_token(tokenizer)
    windows = [
        window for encoded in tokenizer.encode_batch(stories) for window in _windows([end, *encoded.ids, end], context)
    ]
    windows.sort(key=lambda window: len(window[0]))  # equal lengths batch well
    nats = sum(_nats(logits, windows[i : i + 16]) for i in range(0, len(windows), 16))
    tokens = sum(len(ids) - 1 - skip for ids, skip in windows)
    return HeldOut(len(stories), sum(map(len, stories)), tokens, nats)


def _windows(ids: list[int], context: int) -> list[tuple[list[int], int]]:
    """(ids of a window and its last target, how many of its targets are already counted)."""
    found, counted, begin = [], 0, 0
    while counted < len(ids) - 1:
        window = ids[begin : begin + context + 1]
        found.append((window, counted - begin))
        counted = begin + len(window) - 1
        begin += context // 2
    return found


def _nats(logits: Callable[[Tensor], Tensor], windows: list[tuple[list[int], int]]) -> float:
    width = max(len(ids) for ids, _ in windows)
    tokens = torch.zeros(len(windows), width, dtype=torch.long)
    targets = torch.full((len(windows), width - 1), -100)
    for row, (ids, skip) in enumerate(windows):
        tokens[row, : len(ids)] = torch.tensor(ids)
        targets[row, skip : len(ids) - 1] = torch.tensor(ids[skip + 1 :])
    scores = logits(tokens[:, :-1]).flatten(0, 1).float()
    return float(F.cross_entropy(scores, targets.flatten(), ignore_index=-100, reduction="sum"))
