"""A copy of a model's weights that has learned more, as a difference: a task vector (Ilharco et al. 2022, arXiv
2212.04089); and models with changed weights, for the length of a block.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.model.models import Model
from steerscope.analysis.progress import track

Weights = dict[str, Tensor]


def weights_of(model: Model) -> Weights:
    """Copies of all weights, by name."""
    return {name: weight.detach().clone() for name, weight in model.bridge.named_parameters()}


@torch.no_grad()
def put(model: Model, weights: Mapping[str, Tensor]) -> None:
    """Overwrites the model's weights."""
    for name, weight in model.bridge.named_parameters():
        weight.copy_(weights[name])


@contextmanager
def changed(model: Model, base: Weights, task: Weights, scale: float) -> Iterator[None]:
    """The model with base + scale x task for its weights; with base again afterwards, to the last bit."""
    put(model, {name: weight + scale * task[name] for name, weight in base.items()})
    try:
        yield
    finally:
        put(model, base)


def task_of(
    model: Model, base: Weights, windows: Sequence[Sequence[int]], *, steps: int, batch: int, rate: float, seed: int
) -> Weights:
    """What the weights change by when the model learns from windows of equal length; the model stays as it was.

    AdamW without decay; the learning rate falls linearly. The seed decides the order of the windows.

    Raises:
        BadArgument: the loss is no number: the rate is too high.
    """
    ids = torch.tensor([list(window) for window in windows], device=model.device)
    named: list[tuple[str, Any]] = list(model.bridge.named_parameters())
    flags = [weight.requires_grad for _, weight in named]
    dice = np.random.default_rng(seed)
    try:
        for _, weight in named:
            weight.requires_grad_(True)
        optimizer = torch.optim.AdamW([weight for _, weight in named], lr=rate, weight_decay=0.0)
        for step in track(range(steps), "fine-tuning"):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
            loss = _step(model, ids[dice.choice(len(ids), size=min(batch, len(ids)), replace=False)], optimizer)
            if not np.isfinite(loss):
                raise BadArgument(f"the loss is {loss} at step {step + 1}; expected a number; lower the rate")
        return {name: weight.detach() - base[name] for name, weight in named}
    finally:
        for (_, weight), flag in zip(named, flags, strict=True):
            weight.requires_grad_(flag)
            weight.grad = None
        put(model, base)


@torch.enable_grad()
def _step(model: Model, ids: Tensor, optimizer: torch.optim.Optimizer) -> float:
    logits = model.bridge(ids, return_type="logits")
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())


def random_task(task: Weights, seed: int) -> Weights:
    """Random changes of the size that a task vector has in every tensor."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, value in task.items():
        drawn = torch.randn(value.shape, generator=generator).to(value)
        found[name] = drawn * (value.norm() / drawn.norm().clamp_min(1e-30))
    return found
