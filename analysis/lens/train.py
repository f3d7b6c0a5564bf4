"""`train_lens`: translators for all layers at once, so that each layer's stream predicts what the model predicts.

1. Put whole documents aside: windows of one document are alike, so none of them may be learned from. For every step
   draw windows of the others; run the model; keep the stream before every layer.
2. Loss: KL(model's prediction || lens's prediction), mean over positions, summed over layers.
3. SGD with Nesterov momentum, linear decay, gradients clipped, weight decay towards the identity.
4. On the documents put aside: KL and agreement of each layer, beside the logit lens'; intervals go by document.

A checkpoint is written now and then; a run that was stopped goes on from it and gives the same weights.

Source: Belrose et al. 2023 (arXiv 2303.08112) for the recipe.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.errors import BadArgument, BadPrompt, DamagedRun, OutputExists
from steerscope.analysis.files import storing, write
from steerscope.analysis.gate import Count, Seed, Within, gated, shown
from steerscope.analysis.model.models import Model
from steerscope.analysis.progress import track
from steerscope.analysis.question.prompts import Prompts, make_prompts
from steerscope.analysis.results.result import MANIFEST, Result, check_folder
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.results.stats import interval
from steerscope.analysis.seals import read_json
from steerscope.analysis.tensors import read_tensors, tensor_bytes

from .lens import FILES, Lens, logit_lens, new_lens

MOMENTUM, DECAY, CLIP = 0.9, 1e-3, 1.0
CHECKPOINT = "lens.checkpoint.safetensors"
Values = NDArray[np.float64]
Rate: TypeAlias = Annotated[float, Within(0, 100, open=True)]
Steps: TypeAlias = Annotated[int, Within(1, 100_000)]  # hundreds are usual
COLUMNS: Frames = {
    "layers": {
        "layer": Column("the lens reads the stream before this layer", role="axis"),
        "lens": Column("tuned, or logit for the lens without training", role="label"),
        "kl": Column(
            "KL(model's prediction || lens's prediction) on held-out documents, mean over positions", "nats", "estimate"
        ),
        "low": Column("lower end of its interval over documents", "nats", "low"),
        "high": Column("upper end of its interval over documents", "nats", "high"),
        "agreement": Column("share of positions at which both name the same first token"),
    },
    "steps": {
        "step": Column("step of the training, from 1", role="axis"),
        "loss": Column("KL summed over layers, on the windows of the step", "nats", "estimate"),
    },
}


@gated
@dataclass(frozen=True)
class Recipe:
    """What a run is: a checkpoint goes on only with the same.

    Attributes:
        rate: learning rate at the start; times 1 - momentum, as in the paper's code.
        batch: windows a step.
        held_out: windows that nothing is learned from, at least; whole documents are put aside until there are so many.
    """

    steps: Steps = 250
    batch: Count = 64
    rate: Rate = 1.0
    held_out: Count = 64
    seed: Seed = 0

    def hash(self, model: Model, windows: Prompts) -> str:
        text = json.dumps([self.__dict__, model.weights_hash, windows.hash, windows.by_group.tolist()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@gated
def train_lens(
    model: Model,
    windows: Prompts,
    out: str | Path,
    *,
    steps: Steps = 250,
    batch: Count = 64,
    rate: Rate = 1.0,
    held_out: Count = 64,
    seed: Seed = 0,
    checkpoint_every: Count = 25,
) -> tuple[Lens, Result]:
    """Trains a tuned lens and writes it to `out`, with what it is worth.

    Args:
        windows: text to learn from, for example `windows(model, file, count=10_000, tokens=128)`; their groups are the
            documents that they come from.
        out: folder; a checkpoint of the same run in it is gone on from, a lens that was trained into it is replaced.
        steps, batch, rate, held_out: see `Recipe`.

    Returns:
        the lens, and a `Result` of kind "train_lens".

    Raises:
        BadPrompt: too few windows, all of one document, or none of this model.
        BadArgument: a model that is not in float32, or a rate at which nothing is learned.
        OutputExists: the folder holds something else.
        DamagedRun: the checkpoint in the folder is one of another run, or has changed since it was written.
        DiskFull, CannotWrite: the system refuses; the checkpoint stays.
    """
    check_kind(out)
    check_folder(out, True, COLUMNS, FILES)
    lens, result = trained(model, windows, out, Recipe(steps, batch, rate, held_out, seed), checkpoint_every)
    result.save(out, overwrite=True, beside=lens.files())
    forget(out)
    return lens, result


def check_kind(out: str | Path) -> None:
    """Refuses a folder that holds a result of another kind.

    Raises:
        OutputExists: it does.
    """
    try:
        kind = read_json(Path(out, MANIFEST), DamagedRun, "manifest", needed=lambda found: False).get("kind")
    except DamagedRun:
        return  # no result, or what is left of one
    if kind != "train_lens":
        raise OutputExists(
            f"{str(out)!r} holds a result of {shown(kind)}; expected a new folder, or one that a lens was trained "
            "into; choose another"
        )


def trained(
    model: Model, windows: Prompts, out: str | Path, recipe: Recipe, checkpoint_every: int = 25
) -> tuple[Lens, Result]:
    """What `train_lens` gives, before it is saved: on the disk there is the checkpoint only."""
    if model.dtype != torch.float32:
        raise BadArgument(
            f"the model is in {model.dtype}; expected float32, small steps are lost in less; load it with "
            "dtype='float32'"
        )
    windows = make_prompts(model, windows)
    if len(windows) < recipe.held_out + recipe.batch:
        raise BadPrompt(
            f"{len(windows)} windows; expected at least {recipe.held_out + recipe.batch}: {recipe.held_out} to hold "
            f"out and {recipe.batch} for a step; give more text"
        )
    learned, aside = parted(windows, recipe)
    start, folder = time.perf_counter(), Path(out)
    lens = new_lens(model)
    losses = _learn(lens, windows, learned, recipe, folder / CHECKPOINT, checkpoint_every)
    assert lens.tuned is not None
    lens.tuned.requires_grad_(False)
    lens = Lens(model, lens.unembed, lens.tuned, str(folder))
    frames = {
        "layers": _score(lens, windows, aside),
        "steps": pd.DataFrame({"step": range(1, recipe.steps + 1), "loss": losses}),
    }
    result = Result(
        "train_lens",
        frames,
        COLUMNS,
        {
            "model": model.describe(),
            "recipe": recipe.__dict__,
            "momentum": MOMENTUM,
            "weight_decay": DECAY,
            "clip": CLIP,
            "windows": {
                "count": len(windows),
                "documents": _documents(windows, range(len(windows))),
                "learned": len(learned),
                "held_out": len(aside),
                "held_out_documents": _documents(windows, aside),
                "tokens": len(windows.ids[0]),
                "hash": windows.hash,
                "source": windows.source,
            },
            "checks": [],
            "missing": {},
            "level": 0.95,
            "seed": recipe.seed,
            "seconds": round(time.perf_counter() - start, 2),
        },
    )
    return lens, result


def forget(out: str | Path) -> None:
    """Removes the checkpoint of a run that is saved."""
    with storing(out):
        Path(out, CHECKPOINT).unlink(missing_ok=True)


def parted(windows: Prompts, recipe: Recipe) -> tuple[list[int], list[int]]:
    """Windows to learn from, and those of whole documents, drawn at random, that are put aside.

    Raises:
        BadPrompt: the documents cannot be parted so that both have windows enough.
    """
    groups = windows.by_group
    names, sizes = np.unique(groups, return_counts=True)
    most = len(windows) - recipe.batch
    chosen: set[int] = set()
    held = 0
    for place in np.random.default_rng(recipe.seed).permutation(len(names)).tolist():
        if held < recipe.held_out and held + sizes[place] <= most:
            chosen.add(int(names[place]))
            held += int(sizes[place])
    if not chosen:
        raise BadPrompt(
            f"{len(windows)} windows of {len(names)} document{'s' * (len(names) > 1)}, none of which can be put aside "
            f"so that {recipe.batch} windows are left to learn from; expected several documents (in a .txt file "
            "paragraphs between blank lines); give more text"
        )
    own = groups.tolist()
    return [i for i, n in enumerate(own) if n not in chosen], [i for i, n in enumerate(own) if n in chosen]


def _documents(windows: Prompts, chosen: Sequence[int]) -> int:
    return len(set(windows.by_group[list(chosen)].tolist()))


def _learn(
    lens: Lens, windows: Prompts, learned: Sequence[int], recipe: Recipe, checkpoint: Path, every: int
) -> list[float]:
    """The loss of every step."""
    assert lens.tuned is not None
    weights = list(lens.tuned.layer_translators.parameters())
    optimizer = torch.optim.SGD(
        weights, lr=recipe.rate * (1 - MOMENTUM), momentum=MOMENTUM, nesterov=True, weight_decay=DECAY
    )
    name = recipe.hash(lens.model, windows)
    losses = _resume(checkpoint, name, weights, optimizer, recipe.steps)
    if not losses:
        _keep(checkpoint, name, weights, optimizer, losses)  # a place that cannot be written to is found out at once
    kept, batches = len(losses), islice(_batches(learned, recipe), len(losses), None)
    try:
        for step, chosen in track(enumerate(batches, len(losses)), "lens", recipe.steps - len(losses)):
            losses.append(_update(lens, windows, chosen, recipe, optimizer, step))
            if (step + 1) % every == 0:
                _keep(checkpoint, name, weights, optimizer, losses)
                kept = step + 1
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"stopped; the same run goes on behind step {kept}, from {str(checkpoint)!r}") from stop
    return losses


def _update(
    lens: Lens, windows: Prompts, chosen: Sequence[int], recipe: Recipe, optimizer: torch.optim.Optimizer, step: int
) -> float:
    """One step; its loss."""
    loss = _step(lens, windows, chosen)
    if not math.isfinite(loss):
        raise BadArgument(
            f"the loss is {loss} at step {step + 1}; expected a finite number; lower the rate, or look whether the "
            "model's own predictions are finite"
        )
    group = optimizer.param_groups[0]
    torch.nn.utils.clip_grad_norm_(group["params"], CLIP)
    group["lr"] = recipe.rate * (1 - MOMENTUM) * (1 - step / recipe.steps)
    optimizer.step()
    optimizer.zero_grad()
    return loss


def _batches(learned: Sequence[int], recipe: Recipe) -> Iterator[list[int]]:
    """Windows of every step: all of them once, then all again in another order."""
    made = np.random.default_rng(recipe.seed)
    order: list[int] = []
    for _ in range(recipe.steps):
        while len(order) < recipe.batch:
            order += made.permutation(learned).tolist()
        yield order[: recipe.batch]
        order = order[recipe.batch :]


def _streams(model: Model, windows: Prompts, chosen: Sequence[int]) -> Iterator[tuple[Tensor, list[Tensor], Tensor]]:
    """Log-probabilities of the model at every position, the streams before every layer there, and the place of each
    position's window among `chosen`."""
    prompts = [windows.ids[i] for i in chosen]
    everywhere = [tuple(range(len(ids))) for ids in prompts]
    sites = [("resid_pre", layer) for layer in range(model.n_layers)]
    variants = [Variant(p) for p in range(len(prompts))]
    for chunk, readout in run(model, prompts, variants, everywhere, sites=sites):
        assert readout.logits is not None
        at = readout.row, readout.position
        yield (
            readout.logits.float().log_softmax(-1),
            [readout.activations[site][at] for site in sites],
            torch.tensor(chunk, device=readout.row.device)[readout.row],
        )


@torch.enable_grad()
def _step(lens: Lens, windows: Prompts, chosen: Sequence[int]) -> float:
    """Adds a batch's gradients up; its loss, summed over layers."""
    total, positions = 0.0, sum(len(windows.ids[i]) for i in chosen)
    for target, streams, _ in _streams(lens.model, windows, chosen):
        for layer, stream in enumerate(streams):
            loss = _kl(target, lens.logits(stream, layer)).sum() / positions
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
    return total


def _kl(target: Tensor, logits: Tensor) -> Tensor:
    return (target.exp() * (target - logits.log_softmax(-1))).sum(-1)


@torch.no_grad()
def _score(lens: Lens, windows: Prompts, chosen: Sequence[int]) -> pd.DataFrame:
    """KL to the model's prediction and agreement on its first token, by layer, for both lenses."""
    plain, model = logit_lens(lens.model), lens.model
    values = np.zeros((2, 2, model.n_layers, len(chosen)))  # lens, quantity, layer, window
    for target, streams, window in _streams(model, windows, chosen):
        for layer, stream in enumerate(streams):
            for which, other in enumerate((lens, plain)):
                logits = other.logits(stream, layer)
                found = _kl(target, logits), (logits.argmax(-1) == target.argmax(-1)).double()
                for quantity, row in enumerate(found):
                    np.add.at(values[which, quantity, layer], window.cpu().numpy(), row.double().cpu().numpy())
    values /= np.array([len(windows.ids[i]) for i in chosen])
    rows = []
    for which, name in enumerate(("tuned", "logit")):
        for layer in range(model.n_layers):
            low, high = interval(values[which, 0, layer], groups=windows.by_group[list(chosen)])
            rows.append(
                {
                    "layer": layer,
                    "lens": name,
                    "kl": values[which, 0, layer].mean(),
                    "low": float(low),
                    "high": float(high),
                    "agreement": values[which, 1, layer].mean(),
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS["layers"]))


def _keep(
    path: Path, name: str, weights: Sequence[Tensor], optimizer: torch.optim.Optimizer, losses: list[float]
) -> None:
    """Writes a checkpoint."""
    tensors = {"losses": torch.tensor(losses, dtype=torch.float64)}
    tensors |= {f"{i}.weight": weight for i, weight in enumerate(weights)}
    for i, weight in enumerate(weights):
        tensors[f"{i}.momentum"] = optimizer.state[weight].get("momentum_buffer", torch.zeros_like(weight))
    write(path, tensor_bytes(tensors, {"run": name}))


@torch.no_grad()
def _resume(
    path: Path, name: str, weights: Sequence[Tensor], optimizer: torch.optim.Optimizer, steps: int
) -> list[float]:
    """Puts a checkpoint into the weights; the losses up to it."""
    if not path.exists():
        return []
    try:
        saved, about = read_tensors(path, DamagedRun, "checkpoint")
    except DamagedRun as error:
        raise DamagedRun(f"{error}; to begin anew, remove it") from error
    if about.get("run") != name:
        raise DamagedRun(
            f"{str(path)!r} is a checkpoint of another run (model, text or recipe differ); expected one of "
            "this run; train into another folder, or remove it"
        )
    losses = saved.pop("losses", torch.zeros(()))
    if losses.ndim != 1 or len(losses) > steps or not _fits(saved, weights):
        raise DamagedRun(
            f"{str(path)!r} holds other weights than this run has; expected its checkpoint; remove it to begin anew"
        )
    for i, weight in enumerate(weights):
        weight.copy_(saved[f"{i}.weight"])
        optimizer.state[weight]["momentum_buffer"] = saved[f"{i}.momentum"].to(weight)
    return [float(loss) for loss in losses]


def _fits(saved: Mapping[str, Tensor], weights: Sequence[Tensor]) -> bool:
    shapes = {f"{i}.{part}": w.shape for i, w in enumerate(weights) for part in ("weight", "momentum")}
    return {key: tensor.shape for key, tensor in saved.items()} == shapes
