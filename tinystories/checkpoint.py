"""Checkpoints: weights and optimizer state as safetensors, the rest as JSON; nothing is pickled.

A checkpoint is written beside its place and then renamed, so that a run that is killed while it
writes leaves the previous one whole.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from steerscope.analysis.errors import DamagedRun


def save_checkpoint(
    folder: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], state: dict[str, Any]
) -> None:
    """Writes the weights, the optimizers' state and `state` (anything that JSON holds)."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({name: weight.detach() for name, weight in model.named_parameters()}, fresh / "model.safetensors")
    save_file(_flat(optimizers), fresh / "optimizer.safetensors")
    (fresh / "state.json").write_text(json.dumps(state, indent=1))
    replace_folder(fresh, folder)


def load_checkpoint(folder: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """Puts a checkpoint into the model and the optimizers; returns the saved state.

    Raises:
        DamagedRun: a file is missing, or belongs to a model of another shape.
    """
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text())
        weights = load_file(folder / "model.safetensors")
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(weights[name])
        flat = load_file(folder / "optimizer.safetensors")
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise DamagedRun(
            f"The checkpoint {folder} cannot be read ({error}); expected one of the same configuration. "
            "Train into another folder or remove it."
        ) from error
    for index, optimizer in enumerate(optimizers):
        saved: dict[int, dict[str, Tensor]] = {}
        for key, value in flat.items():
            which, parameter, name = key.split(".")
            if int(which) == index:
                saved.setdefault(int(parameter), {})[name] = value
        optimizer.load_state_dict({"state": saved, "param_groups": optimizer.state_dict()["param_groups"]})
    return state


def replace_folder(fresh: Path, folder: Path) -> None:
    """Moves `fresh` to `folder`; whoever reads `folder` sees the old one or the new one."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    fresh.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def _flat(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    return {
        f"{index}.{parameter}.{name}": value.contiguous().clone()
        for index, optimizer in enumerate(optimizers)
        for parameter, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
