"""`train_toy`: a recipe becomes a trained native model, with its accuracy on prompts that it has not learned.

1. A `NativeModel` with attention alone; embeddings start large, biases at zero (see `recipes`).
2. AdamW on the cross-entropy at the asked positions; batches are drawn anew (induction: and their length).
3. Accuracy: IOI on pairs of names that were held out; induction on random tokens, and on distinct ones.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge.sources.native import NativeModel

from steerscope.analysis.gate import gated
from steerscope.analysis.progress import track

from .recipes import Recipe
from .tasks import Batch, context, ioi, repeated, words

FINAL, TESTED = 0.05, 256  # of the rate, at the end; prompts of each length that induction is tested on


@dataclass(frozen=True, eq=False)
class Trained:
    """A toy.

    Attributes:
        model: the `NativeModel`, in evaluation mode.
        accuracy: by kind of test, the share of right answers.
        losses: (step, nats per answer), on batches of the training.
    """

    model: Any
    accuracy: dict[str, float]
    losses: list[tuple[int, float]]


@gated
def train_toy(recipe: Recipe) -> Trained:
    """Trains a toy; seconds on one core."""
    dice = torch.Generator().manual_seed(recipe.seed)
    model = _start(recipe, dice)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(recipe, step))
    learned, _ = ioi(recipe.names, recipe.seed)
    losses = []
    for step in track(range(recipe.steps), "training"):
        batch = _draw(recipe, learned, dice)
        logits = model(batch.ids)[:, list(batch.asked)]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch.answers.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == recipe.steps - 1:
            losses.append((step, round(loss.item(), 4)))
    model.eval()
    return Trained(model, accuracy(model, recipe), losses)


def _start(recipe: Recipe, dice: torch.Generator) -> Any:
    vocabulary = len(words(recipe))
    cfg = TransformerBridgeConfig(
        d_model=recipe.d_model,
        d_head=recipe.d_head,
        n_heads=recipe.heads,
        n_layers=recipe.layers,
        n_ctx=context(recipe),
        d_vocab=vocabulary,
        d_vocab_out=vocabulary,
        attn_only=True,
        normalization_type=recipe.norm,
        init_weights=False,
    )
    with torch.random.fork_rng(devices=[]):  # building draws weights, which are replaced
        model = NativeModel(cfg)
    stds = {"tok_embed.weight": recipe.tokens, "pos.weight": recipe.positions}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
            elif weight.ndim == 2:
                std = stds.get(name, recipe.d_model**-0.5)
                weight.copy_(std * torch.randn(weight.shape, generator=dice))
    return model


def _rate(recipe: Recipe, step: int) -> float:
    """The learning rate, as a share of its top."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return FINAL + (1 - FINAL) * (1 + math.cos(math.pi * done)) / 2


def _draw(recipe: Recipe, learned: Batch, dice: torch.Generator) -> Batch:
    if recipe.task == "ioi":
        rows = torch.randint(len(learned.ids), (recipe.batch,), generator=dice)
        return Batch(learned.ids[rows], learned.asked, learned.answers[rows])
    length = int(torch.randint(recipe.shortest, recipe.longest + 1, (1,), generator=dice))
    return repeated(length, recipe.batch, dice)


@torch.no_grad()
def accuracy(model: Any, recipe: Recipe) -> dict[str, float]:
    """By kind of test, the share of answers that have the highest logit of all tokens.

    Args:
        model: ids `[prompt, pos]` -> logits `[prompt, pos, vocab]`.
    """
    if recipe.task == "ioi":
        learned, held_out = ioi(recipe.names, recipe.seed)
        return {"learned": _right(model, [learned]), "held out": _right(model, [held_out])}
    dice = torch.Generator().manual_seed(recipe.seed + 1)
    lengths = range(recipe.shortest, recipe.longest + 1)
    return {
        kind: _right(model, [repeated(n, TESTED, dice, kind == "distinct tokens") for n in lengths])
        for kind in ("random tokens", "distinct tokens")
    }


def _right(model: Any, batches: list[Batch]) -> float:
    hits = [(model(b.ids)[:, list(b.asked)].argmax(-1) == b.answers).double().flatten() for b in batches]
    return float(torch.cat(hits).mean())
