"""Tasks whose answer is known: minimal indirect object identification, and induction.

IOI: `BOS N1 N2 MID S END` -> the name of N1, N2 that is not S; every ordered pair of names, with either as S.
Induction: `BOS r r`, each token of the second r from the second on being predicted by what followed its predecessor.

Source: the task of arXiv 2510.25013 (layout and sizes are ours), after Wang et al. 2022 (arXiv 2211.00593); induction
after Olsson et al. 2022 (arXiv 2209.11895).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from .recipes import Recipe

BOS = 0
NAMES = (
    *("Anna", "Ben", "Clara", "David", "Emma", "Finn", "Grace", "Henry", "Ida", "Jack"),
    *("Kate", "Leo", "Mia", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor"),
    *("Alex", "Bella", "Carl", "Dora", "Erik", "Flora", "Georg", "Hanna", "Ivan", "Julia"),
    *("Karl", "Laura", "Max", "Nora", "Otto", "Petra", "Ruth", "Simon", "Theo", "Ute"),
)
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDE"
FIRST, SECOND, SUBJECT, END = 1, 2, 4, 5  # positions in a prompt of IOI
HELD_OUT = 0.2  # of the ordered pairs of names


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts of one length, and what they are asked for.

    Attributes:
        ids: token ids.
        asked: positions that are scored. answers: the right next token at each of them.
    """

    ids: Int[Tensor, "prompt pos"]
    asked: tuple[int, ...]
    answers: Int[Tensor, "prompt asked"]


def words(recipe: Recipe) -> list[str]:
    """The vocabulary, by id."""
    return ["BOS", *NAMES[: recipe.names], "MID", "END"] if recipe.task == "ioi" else ["BOS", *LETTERS]


def context(recipe: Recipe) -> int:
    """The longest prompt, in tokens."""
    return 6 if recipe.task == "ioi" else 1 + 2 * recipe.longest


def ioi_prompt(first: int, second: int, subject: int, names: int) -> list[int]:
    """Token ids of a prompt; names are the ids 1 to `names`."""
    return [BOS, first, second, names + 1, subject, names + 2]


def ioi(names: int, seed: int) -> tuple[Batch, Batch]:
    """All prompts of IOI: those that are learned, and those whose ordered pair of names is held out."""
    pairs = [(a, b) for a in range(1, names + 1) for b in range(1, names + 1) if a != b]
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    held = {pairs[i] for i in order[: round(HELD_OUT * len(pairs))]}
    return tuple(_ioi([p for p in pairs if (p in held) is out], names) for out in (False, True))  # type: ignore[return-value]


def _ioi(pairs: list[tuple[int, int]], names: int) -> Batch:
    rows = [(ioi_prompt(a, b, s, names), a if s == b else b) for a, b in pairs for s in (a, b)]
    return Batch(torch.tensor([ids for ids, _ in rows]), (END,), torch.tensor([[answer] for _, answer in rows]))


def repeated(length: int, prompts: int, generator: torch.Generator, distinct: bool = False) -> Batch:
    """Prompts of induction.

    Args:
        length: of what is repeated.
        distinct: no token twice in it, so that what follows is never ambiguous.
    """
    tokens = len(LETTERS)
    if distinct:
        drawn = torch.stack([torch.randperm(tokens, generator=generator)[:length] for _ in range(prompts)]) + 1
    else:
        drawn = torch.randint(1, tokens + 1, (prompts, length), generator=generator)
    ids = torch.cat([torch.full((prompts, 1), BOS), drawn, drawn], dim=1)
    asked = tuple(range(length + 1, 2 * length))
    return Batch(ids, asked, ids[:, [p + 1 for p in asked]])
