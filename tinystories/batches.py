"""Batches for training: windows drawn from several texts by weights that may change on the way.

A batch depends on the seed and the number of its step only, so that a resumed run draws exactly the
batches which the uninterrupted one would have drawn, with no generator to save.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ALIGNED = 0.5  # share of windows that begin at a story's beginning, as prompts do


@dataclass(frozen=True)
class Text:
    """One tokenised text and how often it is drawn from."""

    tokens: np.ndarray
    """[n] ids; every story stands behind an end-of-text token."""
    early: float
    """Share of windows at the beginning of training."""
    late: float
    """Share of windows in the last third."""


class Batches:
    """Draws windows of `length` + 1 tokens, so that inputs and targets both have `length`."""

    def __init__(self, texts: list[Text], *, batch: int, length: int, seed: int, end: int) -> None:
        self.texts, self.batch, self.length, self.seed = texts, batch, length, seed
        self.starts = [np.flatnonzero(text.tokens[: -length - 1] == end) for text in texts]

    def draw(self, step: int, progress: float) -> Tensor:
        """Windows [batch, length + 1] of step `step`; `progress` runs from 0 to 1."""
        dice = np.random.default_rng((self.seed, step))
        shares = np.array([text.late if progress > 2 / 3 else text.early for text in self.texts])
        picks = dice.choice(len(self.texts), size=self.batch, p=shares / shares.sum())
        rows = [self._window(int(pick), dice) for pick in picks]
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def _window(self, pick: int, dice: np.random.Generator) -> np.ndarray:
        tokens, starts = self.texts[pick].tokens, self.starts[pick]
        aligned = len(starts) > 0 and dice.random() < ALIGNED
        begin = int(dice.choice(starts)) if aligned else int(dice.integers(len(tokens) - self.length))
        return tokens[begin : begin + self.length + 1]


def epochs(texts: list[Text], tokens_seen: int) -> list[float]:
    """How often each text was seen on average after `tokens_seen` tokens."""
    thirds = [(2 / 3, [text.early for text in texts]), (1 / 3, [text.late for text in texts])]
    drawn = [sum(part * shares[index] / sum(shares) for part, shares in thirds) for index in range(len(texts))]
    return [share * tokens_seen / len(text.tokens) for share, text in zip(drawn, texts, strict=True)]
