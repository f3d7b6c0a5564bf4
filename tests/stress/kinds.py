"""Every kind of folder and file that is read back: how it is made, and what a reader has of it, as a hash.

A new kind is a line in `KINDS`; bits are flipped, files cut, emptied, removed and exchanged in all of them.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
import torch

from steerscope.analysis import files
from steerscope.analysis.errors import DamagedRun
from steerscope.analysis.lens import train as lenses
from steerscope.analysis.lens.lens import load_lens, new_lens
from steerscope.analysis.loading import remembered
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.results.result import PAGE, Result, check_folder
from steerscope.analysis.sweeps.plan import reopen
from steerscope.analysis.sweeps.store import LOG, Store
from steerscope.analysis.tools import keeping
from steerscope.analysis.vectors import vector_files
from steerscope.analysis.vectors.bundle import VectorBundle
from steerscope.analysis.vectors.vector import SteeringVector
from steerscope.circuits.toys import zoo as toys
from steerscope.commands.demo import _is_demo
from steerscope.tinystories import compare
from steerscope.tinystories.checkpoint import load_checkpoint, read_state
from steerscope.tinystories.run import Run
from steerscope.tinystories.start import beginning
from steerscope.tinystories.train import checkpoint_folder, read_corpus

from .doors import LEARN, half_told, learn_lens, save, save_lens, save_vector, sweep_of, tell
from .world import NEW, World


@dataclass(frozen=True)
class Kind:
    """A kind of folder (or one file).

    Attributes:
        make: writes it to `folder / "run"`.
        read: what a reader has of it, as text; raises one of our errors.
        only_explains: files (patterns) that only explain or draw: they may change, and nothing else may for it.
        flips: bits a file in the slow test.
    """

    make: Callable[[World, Path], object]
    read: Callable[[World, Path], str]
    only_explains: tuple[str, ...] = ()
    flips: int = 2000


def hashed(*parts: object) -> str:
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, pd.DataFrame):
            found.update(part.to_csv().encode())
        elif isinstance(part, torch.Tensor):
            found.update(str((part.dtype, part.shape)).encode() + part.contiguous().numpy().tobytes())
        elif isinstance(part, Mapping):
            found.update(hashed(*(p for key in sorted(part, key=str) for p in (str(key), part[key]))).encode())
        elif isinstance(part, list | tuple):
            found.update(hashed(*(p for item in part for p in (item, "|"))).encode())
        else:
            found.update(repr(part).encode())
        found.update(b"\0")
    return found.hexdigest()


def read_result(world: World, folder: Path) -> str:
    out = folder / "run"
    check_folder(out, True)
    _is_demo(out)
    result = Result.load(out)
    return hashed(result.kind, dict(result.frames), repr(result.columns), dict(result.manifest))


def read_sweep(world: World, folder: Path) -> str:
    """A damaged part is named (and computed again by who goes on), never read."""
    store = Store(folder / "run")
    plan = reopen(store, world.model)
    rows = [table.to_pandas() for table in store.read()]
    if damaged := store.damaged():
        raise DamagedRun(f"{damaged[0].name} is damaged")
    if len(rows) < plan.blocks:
        raise DamagedRun("a part is missing")
    store.sessions()
    added, texts = plan.work.additions, [plan.prompts.ids, plan.prompts.texts, plan.prompts.groups]
    injected = [added.hash, list(map(str, added.units))]
    return hashed(store.manifest(), rows, texts, injected, repr(plan.work.design))


def read_lens(world: World, folder: Path) -> str:
    lens = load_lens(world.model, folder / "run")
    assert lens.tuned is not None
    return hashed(dict(lens.tuned.state_dict()), lens.tuned.config.to_dict())


def read_learned(world: World, folder: Path) -> str:
    lenses.check_kind(folder / "run")
    return hashed(read_result(world, folder), read_lens(world, folder))


def half_learned(world: World, folder: Path) -> None:
    """Stopped behind its first checkpoint."""
    step = lenses._step
    try:
        lenses._step = partial(_stopped, step, [0])
        learn_lens(NEW, world, folder)
    except KeyboardInterrupt:
        pass
    finally:
        lenses._step = step


def _stopped(step: Callable[..., float], count: list[int], *given: Any) -> float:
    count[0] += 1
    if count[0] > 3:
        raise KeyboardInterrupt
    return step(*given)


def read_lens_checkpoint(world: World, folder: Path) -> str:
    lens = new_lens(world.model)
    assert lens.tuned is not None
    weights = list(lens.tuned.layer_translators.parameters())
    optimizer = torch.optim.SGD(weights, lr=1.0, momentum=0.9)
    given = {key: value for key, value in LEARN.items() if key != "checkpoint_every"}
    name = lenses.Recipe(**given, seed=1).hash(world.model, world.windows)
    losses = lenses._resume(folder / "run" / lenses.CHECKPOINT, name, weights, optimizer, LEARN["steps"])
    if not losses:
        raise DamagedRun("there is none: the training begins anew")
    momentum = [optimizer.state[weight].get("momentum_buffer", torch.zeros(1)) for weight in weights]
    return hashed(losses, [w.detach() for w in weights], [m.detach() for m in momentum])


@cache
def _run(world: World) -> Run:
    config = world.stories(world.home / "run", NEW)
    return Run(config, read_corpus(config))


def read_checkpoint(world: World, folder: Path) -> str:
    run = _run(world)
    at = checkpoint_folder(world.stories(folder / "run", NEW))
    state = read_state(at)
    load_checkpoint(at, run.model, run.optimizers, begun=state.step > 0)
    weights = {name: weight.detach() for name, weight in run.model.named_parameters()}
    kept = [optimizer.state_dict()["state"] for optimizer in run.optimizers]
    return hashed(repr(state), weights, kept)


def read_model(world: World, folder: Path) -> str:
    model = load(folder / "run", selfcheck=False)
    text = model.tokenizer.decode(list(range(0, model.d_vocab, 7)))
    return hashed(model.weights_hash, text, repr(model.describe()).replace(str(folder), ""))


def read_trained(world: World, folder: Path) -> str:
    """A story model, and what a run would begin with."""
    begun = beginning(str(folder / "run"))
    return hashed(read_model(world, folder), begun.weights, begun.tokenizer.to_str())


def copy_toy(world: World, folder: Path) -> None:
    copytree(toys.ZOO / "toy-ioi-query", folder / "run")


def read_toy(world: World, folder: Path) -> str:
    """A native model, and its card."""
    return hashed(read_model(world, folder), repr(toys.card(folder / "run")))


def read_vector(world: World, folder: Path) -> str:
    vector = SteeringVector.load(folder / "run")
    return hashed(vector.values, str(vector.site), dict(vector.source))


def save_control(world: World, folder: Path) -> None:
    layers = {n: SteeringVector(torch.full((1, 8), float(n)), Site("resid_pre", n), {"label": str(n)}) for n in (2, 5)}
    files.write(folder / "run", VectorBundle(layers, {"label": "both"}).save(folder / "run.gguf").read_bytes())
    (folder / "run.gguf").unlink()


def read_control(world: World, folder: Path) -> str:
    with TemporaryDirectory() as elsewhere:
        link = Path(elsewhere, "run.gguf")
        link.symlink_to(folder / "run")
        found = vector_files.read_vector(link)
    assert isinstance(found, VectorBundle)
    return hashed([(v.values, str(v.site), dict(v.source)) for v in found.values()], found.source)


KEPT = "0" * 40 + ".safetensors"


def keep(world: World, folder: Path) -> None:
    place = keeping._Place(folder / "run", loop="vectors")
    place.keep(KEPT, (torch.arange(6.0).numpy(), torch.tensor([[True, False]]).numpy()))
    place.write()


def read_kept(world: World, folder: Path) -> str:
    """What is damaged is read of the model again."""
    found = keeping._Place(folder / "run").find(KEPT)
    if found is None:
        raise DamagedRun("read again")
    return hashed([torch.from_numpy(array) for array in found])


@contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """The user's cache lies in `folder / "run"`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "run"))
        yield


def remember(world: World, folder: Path) -> None:
    with cache_in(folder):
        remembered.remember(world.model, {"model_type": "tiny"})


def read_remembered(world: World, folder: Path) -> str:
    """What is damaged is checked again."""
    with cache_in(folder):
        if not remembered.passed(world.model, {"model_type": "tiny"}):
            raise DamagedRun("checked again")
    return "passed"


def measure(world: World, folder: Path) -> None:
    rows = [{"concept": "wedding", "measure": "effect", "value": 1.5}]
    compare.keep(folder / "run", "study", {"model": {"loss": 1.0}, "rows": rows})


def read_measured(world: World, folder: Path) -> str:
    return hashed(compare.kept(folder / "run", "study"))


KINDS: Mapping[str, Kind] = {
    "result": Kind(partial(save, NEW), read_result, (PAGE,)),
    "sweep": Kind(sweep_of, read_sweep, (LOG, ".lock"), flips=400),
    "lens": Kind(partial(save_lens, NEW), read_lens),
    "trained lens": Kind(partial(learn_lens, NEW), read_learned, (PAGE,), flips=800),
    "lens checkpoint": Kind(half_learned, read_lens_checkpoint),
    "training checkpoint": Kind(half_told, read_checkpoint, flips=400),
    "model": Kind(partial(tell, NEW), read_trained, flips=60),
    "native model": Kind(copy_toy, read_toy, flips=60),
    "vector": Kind(partial(save_vector, NEW), read_vector, flips=5000),
    "control vector": Kind(save_control, read_control, flips=5000),
    "kept part": Kind(keep, read_kept, flips=5000),
    "measurement": Kind(measure, read_measured, flips=5000),
    "remembered self-check": Kind(remember, read_remembered),
}
READERS: Mapping[str, str] = {  # every function that reads what is sealed, and the kind whose bits are flipped for it
    "analysis/lens/lens.py:_config": "lens",
    "analysis/lens/lens.py:_ours": "lens",
    "analysis/lens/train.py:_resume": "lens checkpoint",
    "analysis/lens/train.py:check_kind": "trained lens",
    "analysis/loading/folders.py:_files": "model",
    "analysis/loading/folders.py:_json": "model",
    "analysis/loading/folders.py:check": "model",
    "analysis/loading/natives.py:read_native": "native model",
    "analysis/loading/remembered.py:passed": "remembered self-check",
    "analysis/results/result.py:_manifest": "result",
    "analysis/results/result.py:load": "result",
    "analysis/sweeps/additions.py:load": "sweep",
    "analysis/sweeps/store.py:_manifest": "sweep",
    "analysis/tools/keeping.py:find": "kept part",
    "analysis/vectors/arrays.py:safe_tensors": "vector",
    "analysis/vectors/vector.py:load": "vector",
    "circuits/toys/zoo.py:card": "native model",
    "steerscope/commands/demo.py:_is_demo": "result",
    "tinystories/card.py:read_card": "model",
    "tinystories/compare.py:kept": "measurement",
    "tinystories/checkpoint.py:load_checkpoint": "training checkpoint",
    "tinystories/checkpoint.py:read_state": "training checkpoint",
    "tinystories/start.py:beginning": "model",
    "tinystories/zoo.py:_card": "model",
}
