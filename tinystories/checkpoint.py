"""Checkpoints: weights and optimizer state as safetensors, the rest as JSON; nothing is pickled.

A checkpoint is a folder that takes its place in one step, so that a run that is killed while it writes leaves the
previous one whole. It is sealed: what has changed since it was written is refused, not gone on from.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from steerscope.analysis.errors import DamagedRun
from steerscope.analysis.files import renewed, storing
from steerscope.analysis.gate import Whole, Within, gated
from steerscope.analysis.seals import CHECKSUMS, check_folder_seal, read_json, seal_folder, sealed
from steerscope.analysis.tensors import read_tensors, tensor_bytes

STATE, WEIGHTS, OPTIMIZER, TOKENIZER = "state.json", "model.safetensors", "optimizer.safetensors", "tokenizer.json"
PARTS = (STATE, WEIGHTS, OPTIMIZER, TOKENIZER, CHECKSUMS)
KEPT = {"Muon": ("momentum_buffer",), "AdamW": ("step", "exp_avg", "exp_avg_sq")}  # by an optimizer, of a weight


@gated(error=DamagedRun)
@dataclass(frozen=True)
class State:
    """How far a run has come.

    Attributes:
        config: the settings, as JSON holds them.
        corpus: the hash of what is learned from.
        seconds: of training up to here.
        losses: (step, nats per token), as the card shows them.
        held_out_losses: (step, bits per character).
    """

    config: dict[str, Any]
    corpus: str
    step: Whole
    seconds: Annotated[float, Within(0)]
    losses: list[tuple[int, float]]
    held_out_losses: list[tuple[int, float]]


def save_checkpoint(
    folder: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], state: State, tokenizer: Tokenizer
) -> None:
    """Writes weights, optimizers, state and tokenizer in one step.

    Raises:
        DiskFull, CannotWrite: the system refuses; the checkpoint that is there stays.
    """
    with renewed(folder, PARTS.__contains__) as fresh:
        (fresh / WEIGHTS).write_bytes(tensor_bytes(dict(model.named_parameters())))
        (fresh / OPTIMIZER).write_bytes(tensor_bytes(_flat(optimizers)))
        (fresh / STATE).write_bytes(sealed(asdict(state)))
        (fresh / TOKENIZER).write_bytes(tokenizer.to_str(pretty=True).encode())
        seal_folder(fresh)


def is_checkpoint(folder: Path) -> bool:
    """Whether there is one; without its state a folder is none."""
    with storing(folder):
        return (folder / STATE).is_file()


def read_state(folder: Path) -> State:
    """How far the run of a checkpoint had come.

    Raises:
        DamagedRun: a file is missing, has changed, or holds something else.
    """
    try:
        if not (folder / CHECKSUMS).is_file():
            raise DamagedRun(f"{str(folder)!r} has no {CHECKSUMS}; expected the checkpoint as it was written")
        check_folder_seal(folder, DamagedRun, "checkpoint")
        return State(**read_json(folder / STATE, DamagedRun, "state of a training"))
    except DamagedRun as error:
        raise _damaged(folder, error) from error


def load_checkpoint(folder: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], begun: bool) -> None:
    """Puts a checkpoint into the model and the optimizers.

    Args:
        begun: whether a step was done before it was written, so that optimizers have something to go on from.

    Raises:
        DamagedRun: a file is missing, has changed, or belongs to a model of another shape.
    """
    own = dict(model.named_parameters())
    try:
        weights, _ = read_tensors(folder / WEIGHTS, DamagedRun, "file of weights")
        kept, _ = read_tensors(folder / OPTIMIZER, DamagedRun, "file of optimizers")
        if _shapes(weights) != _shapes(own) or _shapes(kept) != (_expected(optimizers) if begun else {}):
            raise DamagedRun(f"{str(folder)!r} holds other tensors than this model has; expected its own checkpoint")
    except DamagedRun as error:
        raise _damaged(folder, error) from error
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(weights[name])
    for index, optimizer in enumerate(optimizers):
        saved: dict[int, dict[str, Tensor]] = {}
        for key, value in kept.items():
            which, parameter, name = key.split(".")
            if int(which) == index:
                saved.setdefault(int(parameter), {})[name] = value
        optimizer.load_state_dict({"state": saved, "param_groups": optimizer.state_dict()["param_groups"]})


def remove_checkpoint(folder: Path) -> None:
    """Removes what a checkpoint consists of, its state first: a half-removed one is none."""
    with storing(folder):
        for name in PARTS:
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # gone, or somebody else's files in it
            folder.rmdir()


def _damaged(folder: Path, error: DamagedRun) -> DamagedRun:
    return DamagedRun(f"the checkpoint {str(folder)!r} cannot be read: {error}; to begin anew, remove it")


def _flat(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    return {
        f"{index}.{parameter}.{name}": value
        for index, optimizer in enumerate(optimizers)
        for parameter, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def _expected(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, tuple[int, ...]]:
    """Shapes of what `_flat` gives after the first step."""
    return {
        f"{index}.{parameter}.{name}": () if name == "step" else tuple(weight.shape)
        for index, optimizer in enumerate(optimizers)
        for parameter, weight in enumerate(w for group in optimizer.param_groups for w in group["params"])
        for name in KEPT[type(optimizer).__name__]
    }


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
