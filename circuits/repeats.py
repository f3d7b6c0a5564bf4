"""Random tokens said twice, and the same with nothing said twice: what detectors of heads are run on.

    repeated     BOS  r1 ... rn  r1 ... rn
    unrepeated   BOS  s1 ... sn  r1 ... rn

All tokens of a sequence differ from one another, so that "the earlier copy" is one place. Both kinds end in the same
tokens at the same places: what differs between them is the repetition and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.model.models import Model

LEAST = 4  # tokens of a part
LOOKED_AT = 8192  # token ids among which words are looked for


@dataclass(frozen=True)
class Repeats:
    """Both kinds of sequences.

    Attributes:
        start: where the first part begins: 1 behind a BOS, else 0.
        length: tokens of a part.
        pool: token ids that they were drawn from.
    """

    start: int
    length: int
    pool: tuple[int, ...]
    repeated: tuple[tuple[int, ...], ...]
    unrepeated: tuple[tuple[int, ...], ...]

    @property
    def end(self) -> int:
        return self.start + 2 * self.length

    @property
    def second(self) -> range:
        """Places of the second part."""
        return range(self.start + self.length, self.end)


def repeats(
    model: Model, sequences: int, length: int, begin: int | None, tokens: Sequence[int] | None, seed: int
) -> Repeats:
    """Draws them.

    Args:
        length: of a part; less where the context or the tokens are too few.
        begin: token id that every sequence begins with; None for none.
        tokens: ids to draw from; by default words (a space, then letters) where the tokenizer has enough, else all
            that the model can answer with.

    Raises:
        BadArgument: too few tokens.
    """
    dice = np.random.default_rng(seed)
    pool = _pool(model, 2 * length, begin, dice) if tokens is None else sorted(set(tokens) - {begin})
    start = 0 if begin is None else 1
    length = min(length, (model.n_ctx - start) // 2, len(pool) // 2)
    if length < LEAST:
        raise BadArgument(
            f"{len(pool)} tokens to draw from and a context of {model.n_ctx}; expected at least {2 * LEAST} and "
            f"{2 * LEAST + start}; give more tokens"
        )
    head = () if begin is None else (begin,)
    twice, once = [], []
    for _ in range(sequences):
        drawn = [pool[i] for i in dice.choice(len(pool), 2 * length, replace=False)]
        first, second = tuple(drawn[:length]), tuple(drawn[length:])
        twice.append((*head, *second, *second))
        once.append((*head, *first, *second))
    return Repeats(start, length, tuple(pool), tuple(twice), tuple(once))


def _pool(model: Model, enough: int, begin: int | None, dice: np.random.Generator) -> list[int]:
    special = {begin, model.bos, model.bos_token, *getattr(model.tokenizer, "all_special_ids", ())}
    ids = [i for i in range(min(model.d_vocab, model.d_vocab_out)) if i not in special]
    if model.tokenizer is None:
        return ids
    ids = sorted(ids[i] for i in dice.permutation(len(ids))[:LOOKED_AT])
    texts = [model.token_text(i) for i in ids]
    words = [i for i, text in zip(ids, texts, strict=True) if text[:1] == " " and text[1:].isalpha()]
    return words if len(words) >= enough else ids
