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
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.errors import BadArgument, BadPrompt, DamagedRun
from steerscope.analysis.model.models import Model
from steerscope.analysis.progress import track
from steerscope.analysis.question.prompts import Prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.results.stats import interval

from .lens import Lens, logit_lens, new_lens

MOMENTUM, DECAY, CLIP = 0.9, 1e-3, 1.0
CHECKPOINT = "lens.checkpoint.safetensors"
Values = NDArray[np.float64]
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


@dataclass(frozen=True)
class Recipe:
    """What a run is: a checkpoint goes on only with the same.

    Attributes:
        rate: learning rate at the start; times 1 - momentum, as in the paper's code.
        batch: windows a step.
        held_out: windows that nothing is learned from, at least; whole documents are put aside until there are so many.
    """

    steps: int = 250
    batch: int = 64
    rate: float = 1.0
    held_out: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.held_out) < 1 or not self.rate > 0 or self.seed < 0:
            raise BadArgument(
                f"{self}; expected at least one step, window and held-out window, a rate above 0 and a seed of "
                "at least 0; 250 steps of 64 windows are usual"
            )

    def hash(self, model: Model, windows: Prompts) -> str:
        text = json.dumps([self.__dict__, model.weights_hash, windows.hash, windows.by_group.tolist()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def train_lens(
    model: Model,
    windows: Prompts,
    out: str | Path,
    *,
    steps: int = 250,
    batch: int = 64,
    rate: float = 1.0,
    held_out: int = 64,
    seed: int = 0,
    checkpoint_every: int = 25,
) -> tuple[Lens, Result]:
    """Trains a tuned lens and writes it to `out`, with what it is worth.

    Args:
        windows: text to learn from, for example `windows(model, file, count=10_000, tokens=128)`; their groups are the
            documents that they come from.
        out: folder; a checkpoint of the same run in it is gone on from.
        steps, batch, rate, held_out: see `Recipe`.

    Returns:
        the lens, and a `Result` of kind "train_lens".

    Raises:
        BadPrompt: too few windows, or all of one document.
        BadArgument: a model that is not in float32, or a recipe that makes no sense.
        DamagedRun: a checkpoint of another run lies in the folder.
    """
    recipe = Recipe(steps, batch, rate, held_out, seed)
    if model.dtype != torch.float32:
        raise BadArgument(
            f"the model is in {model.dtype}; expected float32, small steps are lost in less; load it with "
            "dtype='float32'"
        )
    if len(windows) < held_out + batch:
        raise BadPrompt(
            f"{len(windows)} windows; expected at least {held_out + batch}: {held_out} to hold out and {batch} "
            "for a step; give more text"
        )
    learned, aside = parted(windows, recipe)
    start, folder = time.perf_counter(), Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    lens = new_lens(model)
    losses = _learn(lens, windows, learned, recipe, folder / CHECKPOINT, checkpoint_every)
    assert lens.tuned is not None
    lens.tuned.requires_grad_(False)
    lens = Lens(model, lens.unembed, lens.tuned, str(folder))
    frames = {
        "layers": _score(lens, windows, aside),
        "steps": pd.DataFrame({"step": range(1, steps + 1), "loss": losses}),
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
            "seed": seed,
            "seconds": round(time.perf_counter() - start, 2),
        },
    )
    result.save(folder, overwrite=True)
    lens.save(folder)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return lens, result


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
    losses = _resume(checkpoint, name, weights, optimizer)
    drawn = list(_batches(learned, recipe))
    for step in track(range(len(losses), recipe.steps), "lens", recipe.steps - len(losses)):
        losses.append(_step(lens, windows, drawn[step]))
        torch.nn.utils.clip_grad_norm_(weights, CLIP)
        optimizer.param_groups[0]["lr"] = recipe.rate * (1 - MOMENTUM) * (1 - step / recipe.steps)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % every == 0:
            _keep(checkpoint, name, weights, optimizer, losses)
    return losses


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
    """Writes a checkpoint beside its place and renames it."""
    tensors = {f"{i}.weight": w.detach() for i, w in enumerate(weights)}
    tensors |= {f"{i}.momentum": optimizer.state[w]["momentum_buffer"] for i, w in enumerate(weights)}
    fresh = path.with_name(path.name + ".new")
    save_file(tensors, fresh, {"run": name, "losses": json.dumps(losses)})
    fresh.replace(path)


@torch.no_grad()
def _resume(path: Path, name: str, weights: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> list[float]:
    """Puts a checkpoint into the weights; the losses up to it."""
    if not path.exists():
        return []
    try:
        with safe_open(path, "pt") as saved:
            about = saved.metadata() or {}
            if about.get("run") != name:
                raise DamagedRun(
                    f"{str(path)!r} is a checkpoint of another run (model, text or recipe differ); expected one of "
                    "this run; train into another folder, or remove it"
                )
            for i, weight in enumerate(weights):
                weight.copy_(saved.get_tensor(f"{i}.weight"))
                optimizer.state[weight]["momentum_buffer"] = saved.get_tensor(f"{i}.momentum").to(weight)
            losses: list[float] = json.loads(about["losses"])
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise DamagedRun(
            f"the checkpoint {str(path)!r} cannot be read ({error}); expected one that was written whole; remove it"
        ) from error
    return losses
