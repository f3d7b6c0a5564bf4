"""Every door that writes: what stands there before, what it does, and what a reader sees afterwards.

A new door is a line in `DOORS`; killing, full disks, read-only places, odd names and links are tried at all of them.
`test_doors.py` fails where a command, or a function that writes, is at none of them.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import networkx as nx
import pandas as pd
import torch
from small_circuits import FILE

from steerscope import cli
from steerscope.analysis.errors import DamagedRun
from steerscope.analysis.lens.lens import load_lens
from steerscope.analysis.lens.train import train_lens
from steerscope.analysis.loading.loading import load
from steerscope.analysis.results.result import MANIFEST, PAGE, Result
from steerscope.analysis.seals import read_json
from steerscope.analysis.sweeps.runner import resume, sweep
from steerscope.analysis.sweeps.store import Store
from steerscope.analysis.tools import keeping
from steerscope.analysis.vectors.bundle import VectorBundle
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.vector import SteeringVector
from steerscope.analysis.vectors.vector_files import read_vector
from steerscope.circuits.circuit_files import read_circuit
from steerscope.circuits.exchange import from_circuit_tracer
from steerscope.circuits.library import circuit
from steerscope.questions import QUESTIONS
from steerscope.reports.report import html, report
from steerscope.tinystories.compare import compare_variants
from steerscope.tinystories.train import checkpoint_folder, train
from steerscope.tinystories.variants import Recipe

from .children import child
from .world import NEW, NOTHING, OLD, RESUMABLE, SEEDS, World, world

SHIPPED = "tinystories-1l"
FOREIGN = "thesis.txt"  # a file of somebody else in a folder that is replaced


@dataclass(frozen=True)
class Door:
    """A door that writes into a folder that the test gives it.

    Attributes:
        prepare: makes what stands there before.
        run: writes; again after a kill, and again after that.
        state: what a reader sees: nothing, old, new or resumable; anything else is an error of the assertion.
        before: the state after `prepare`.
        command: of the command line, in words; empty for a function.
        also: a state that a kill may leave, too.
        quick: whether it is cheap enough for the default tests.
    """

    prepare: Callable[[World, Path], object]
    run: Callable[[World, Path], object]
    state: Callable[[World, Path], str]
    before: str = NOTHING
    command: str = ""
    also: tuple[str, ...] = ()
    quick: bool = True

    @property
    def states(self) -> set[str]:
        """What a reader may see after a kill."""
        return {self.before, NEW, *self.also}


def nothing(world: World, folder: Path) -> None:
    """Nothing stands there."""


@contextmanager
def undisturbed(run: Callable[[World, Path], object]) -> Iterator[Path]:
    """A folder in which a door has run to its end."""
    with tempfile.TemporaryDirectory() as name:
        end = child(lambda: run(world(), Path(name)), Path(name))
        assert end.status == 0, end.said[-3000:]
        yield Path(name)


def command(*words: object) -> None:
    """A command of the command line, in this process."""
    sys.argv = ["steerscope", *map(str, words)]
    try:
        cli.main()
    except SystemExit as stop:
        if stop.code not in (0, None):
            raise


# Results.


def save(word: str, world: World, folder: Path) -> None:
    world.result[word].save(folder / "run", overwrite=True, beside={PAGE: world.page[word]})


def save_where_it_stands(world: World, folder: Path) -> None:
    """The current folder cannot be moved."""
    os.chdir(folder / "run")
    save(NEW, world, folder)


def beside_a_foreign_file(world: World, folder: Path) -> None:
    save(OLD, world, folder)
    (folder / "run" / FOREIGN).write_text("mine")


def of_result(world: World, folder: Path) -> str:
    """Old, new or nothing; the page is that of the tables."""
    out = folder / "run"
    if not (out / MANIFEST).exists():
        return NOTHING  # in a folder that cannot be moved some tables may lie about, which no reader takes for a result
    result = Result.load(out)
    [word] = [word for word, seed in SEEDS.items() if result.manifest["seed"] == seed]
    if (out / PAGE).exists():
        page = world.page[word] if result.kind == "made" else html(result)
        assert (out / PAGE).read_bytes() == page.encode(errors="replace"), "the page is not that of the tables"
    if result.kind == "made":
        pd.testing.assert_frame_equal(result.frames["first"], world.result[word].frames["first"])
        assert set(result.frames) == set(world.result[word].frames)
    return word


def old_page(world: World, folder: Path) -> None:
    world.result[NEW].save(folder / "run", beside={PAGE: world.page[OLD]})


def of_page(world: World, folder: Path) -> str:
    assert Result.load(folder / "run").manifest["seed"] == SEEDS[NEW]
    page = (folder / "run" / PAGE).read_text(encoding="utf-8")
    return {world.page[word]: word for word in SEEDS}[page]


# Vectors and lenses.


def save_vector(word: str, world: World, folder: Path) -> None:
    world.vector[word].save(folder / "run")


def of_vector(world: World, folder: Path) -> str:
    if not (folder / "run").exists():
        return NOTHING
    found = SteeringVector.load(folder / "run")
    assert torch.equal(found.values, world.vector[found.label].values)
    return found.label


def save_bundle(word: str, world: World, folder: Path) -> None:
    VectorBundle({0: world.vector[word]}, {"label": word}).save(folder / "run")


def of_bundle(world: World, folder: Path) -> str:
    if not (folder / "run").exists():
        return NOTHING
    with tempfile.TemporaryDirectory() as name:
        link = Path(name, "run.safetensors")
        link.symlink_to(folder / "run")
        found = read_vector(link)
    assert isinstance(found, VectorBundle) and torch.equal(found[0].values, world.vector[found.label].values)
    return found.label


def make_command(word: str, world: World, folder: Path) -> None:
    given = ["--model", world.home / "tiny", "--layer", 1, "--overwrite", "--out", folder / "run"]
    command("vectors", "make", "single_prompt", f"prompt= {word}", *given)


def of_made(world: World, folder: Path) -> str:
    if not (folder / "run").exists():
        return NOTHING
    return {f" {word}": word for word in SEEDS}[SteeringVector.load(folder / "run").source["prompt"]]


def convert_command(word: str, world: World, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        file = world.vector[word].save(Path(name) / "v.safetensors")
        command("vectors", "convert", file, "--overwrite", "--out", folder / "run")


def build_command(world: World, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        table = Path(name, "table.csv")
        table.write_text("name,plus,minus,layer\na, wedding, ship,1\nb, ball, ship,1\nc, ball,,9\n")
        command("vectors", "build", table, "--model", world.home / "tiny", "--out", folder / "run")


def of_built(world: World, folder: Path) -> str:
    """Each vector is whole; the table comes last."""
    for path in (folder / "run").glob("?.safetensors"):
        SteeringVector.load(path)
    if not (folder / "run" / "failed.csv").exists():
        return RESUMABLE if any((folder / "run").glob("*")) else NOTHING
    assert len(pd.read_csv(folder / "run" / "vectors.csv")) == 2
    return NEW


def compare_command(word: str, world: World, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        file = world.vector[word].save(Path(name) / "v.safetensors")
        given = ["--model", world.home / "tiny", "--prompts", world.home / "prompts.txt", "--seed", SEEDS[word]]
        command("vectors", "compare", file, file, *given, "--overwrite", "--out", folder / "run")


def save_lens(word: str, world: World, folder: Path) -> None:
    world.lens[word].save(folder / "run")


def of_lens(world: World, folder: Path) -> str:
    if not (folder / "run" / "config.json").exists():
        return NOTHING
    found = load_lens(world.model, folder / "run")
    for word, lens in world.lens.items():
        assert found.tuned is not None and lens.tuned is not None
        pairs = zip(found.tuned.state_dict().values(), lens.tuned.state_dict().values(), strict=True)
        if all(torch.equal(*pair) for pair in pairs):
            return word
    raise AssertionError("a lens that nobody saved")


LEARN: Mapping[str, Any] = {"steps": 4, "batch": 8, "held_out": 4, "checkpoint_every": 2}


def learn_lens(word: str, world: World, folder: Path) -> None:
    train_lens(world.model, world.windows, folder / "run", seed=SEEDS[word], **LEARN)


def lens_command(word: str, world: World, folder: Path) -> None:
    given = ["--model", world.home / "tiny", "--text", world.home / "text.txt", "--windows", 24, "--tokens", 12]
    steps = ["--steps", 4, "--batch", 8, "--held-out", 4, "--seed", SEEDS[word], "--overwrite"]
    command("lens", "train", *given, *steps, "--out", folder / "run")


@cache
def learned(word: str) -> Mapping[str, torch.Tensor]:
    """The weights of a training that nobody stopped."""
    with undisturbed(partial(learn_lens, word)) as folder:
        tuned = load_lens(world().model, folder / "run").tuned
        assert tuned is not None
        return dict(tuned.state_dict())


def of_learned(world: World, folder: Path, exact: bool = True) -> str:
    out = folder / "run"
    if not (out / MANIFEST).exists():
        return RESUMABLE if out.exists() and any(out.iterdir()) else NOTHING
    result = Result.load(out)
    [word] = [word for word, seed in SEEDS.items() if result.manifest["seed"] == seed]
    tuned = load_lens(world.model, out).tuned
    assert tuned is not None
    if exact:
        assert all(torch.equal(tensor, learned(word)[name]) for name, tensor in tuned.state_dict().items())
    if (out / PAGE).exists():
        assert (out / PAGE).read_bytes() == html(result).encode(errors="replace")
    return word


# Sweeps.

TRIALS: Mapping[str, Any] = {"trials": 120, "visit": 4, "controls": 2, "k": (1, 3), "block": 40}


def sweep_of(world: World, folder: Path) -> None:
    vector = prompt_pair(world.model, " wedding", " ship", 1)
    sweep(world.model, vector, (world.home / "prompts.txt").read_text().splitlines(), folder / "run", **TRIALS)


def sweep_command(world: World, folder: Path) -> None:
    vector = ["--plus", " wedding", "--minus", " ship", "--layer", 1]
    texts = ["--prompts", world.home / "prompts.txt", "--tokens", 0]
    design = ["--trials", 120, "--controls", 2, "--k", "1-3"]
    command("sweep", "run", "--model", world.home / "tiny", *vector, *texts, *design, "--out", folder / "run")


def half_a_sweep(world: World, folder: Path) -> None:
    sweep_of(world, folder)
    next((folder / "run" / "trials").glob("part-000001-*")).unlink()


@cache
def rows(run: Callable[[World, Path], object]) -> pd.DataFrame:
    """The rows of a sweep that nobody stopped."""
    with undisturbed(run) as folder:
        return _rows(Store(folder / "run"))


def _rows(store: Store) -> pd.DataFrame:
    found: pd.DataFrame = pd.concat([table.to_pandas() for table in store.read()], ignore_index=True)
    return found


def of_sweep(run: Callable[[World, Path], object], world: World, folder: Path, done: int = 120) -> str:
    """New: all rows are there, and (of a command) the page; resumable: some, and each as it should be."""
    store = Store(folder / "run")
    if not store.exists:
        return NOTHING
    assert store.manifest()["design"]["trials"] == 120 and not store.damaged()
    expected = rows(run)
    found = _rows(store) if store.done() else expected[:0]
    pd.testing.assert_frame_equal(
        found.reset_index(drop=True), expected[expected["trial"].isin(found["trial"])].reset_index(drop=True)
    )
    if run is sweep_command and not (folder / "run" / PAGE).exists():
        return RESUMABLE
    return NEW if len(found) == done else RESUMABLE


def of_summary(world: World, folder: Path) -> str:
    """Of a sweep whose page was removed."""
    assert of_sweep(sweep_of, world, folder) == NEW
    out = folder / "run"
    if (out / "summary" / MANIFEST).exists():
        Result.load(out / "summary")
    return NEW if (out / PAGE).exists() else OLD


# Story models.


def tell(word: str, world: World, folder: Path) -> None:
    train(world.stories(folder / "run", word), overwrite=True)


def half_told(world: World, folder: Path) -> None:
    train(world.stories(folder / "run", NEW), stop_after=2)


def census_command(name: str, word: str, world: World, folder: Path) -> None:
    sizes = ["--sequences", 4, "--length", 6, "--causal", 1, "--seed", SEEDS[word]]
    command(*name.split(), "--model", world.home / "tiny", *sizes, "--overwrite", "--out", folder / "run")


def find_command(word: str, world: World, folder: Path) -> None:
    sizes = ["--task", "ioi-minimal", "--n", 6, "--points", 4, "--trials", 3, "--seed", SEEDS[word]]
    command("circuits", "find", "--model", "toy-ioi-query-2", *sizes, "--overwrite", "--out", folder / "run")


def scrub_command(word: str, world: World, folder: Path) -> None:
    given = ["--task", "ioi-minimal", "--hypothesis", "ioi-minimal", "--n", 6, "--draws", 1, "--seed", SEEDS[word]]
    toy = ["--model", "toy-ioi-query-2", *given, "--whole"]
    command("circuits", "scrub", *toy, "--overwrite", "--out", folder / "run")


def layers_command(word: str, world: World, folder: Path) -> None:
    given = ["--at", "L0.resid_pre", "--vectors", "happy", "--seed", SEEDS[word]]
    command("tinystories", "layers", "--model", SHIPPED, *given, "--overwrite", "--out", folder / "run")


def stories_command(word: str, world: World, folder: Path) -> None:
    sizes = ["--layers", 1, "--heads", 2, "--width", 16, "--vocabulary", 300, "--context", 32]
    given = ["--text", world.home / "stories.txt", "--topic-stories", 20, "--steps", 3, "--seed", SEEDS[word]]
    command("tinystories", "train", *given, *sizes, "--overwrite", "--out", folder / "run")


def of_stories(world: World, folder: Path) -> str:
    out = folder / "run"
    kept = checkpoint_folder(world.stories(out, NEW))
    if not out.exists():
        return RESUMABLE if kept.exists() else NOTHING
    told = load(out, selfcheck=False)
    training = json.loads((out / "training.json").read_text())
    assert told.d_vocab == training["vocabulary"] and (out / "README.md").exists() and (out / "loss.png").exists()
    [word] = [word for word, seed in SEEDS.items() if training["config"]["seed"] == seed]
    return word


# Circuits.


def save_circuit(world: World, folder: Path) -> None:
    circuit("ioi").save(folder / "run.yaml")


def show_circuit(world: World, folder: Path) -> None:
    for suffix in (".graphml", ".tracer.json"):
        command("circuits", "show", "ioi", "--out", folder / f"run{suffix}")


def ask_task(world: World, folder: Path) -> None:
    asked = ["--model", SHIPPED, "--task", "gender", "--n", 4]
    command("circuits", "tasks", *asked, "--out", folder / "run.jsonl")


def stress_command(word: str, world: World, folder: Path) -> None:
    asked = ["--model", SHIPPED, "--task", "gender", "--n", 4, "--coefficients", "1", "--randoms", 1, "--ask"]
    given = ["--inject", 'plus=" wedding",minus=" ship",layer=0', "--find", "never", "--seed", SEEDS[word]]
    command("circuits", "stress", *asked, *given, "--overwrite", "--out", folder / "run")


def of_circuit(world: World, folder: Path) -> str:
    path = folder / "run.yaml"
    return NEW if path.exists() and read_circuit(path).n_edges == circuit("ioi").n_edges else NOTHING


def of_shown(world: World, folder: Path) -> str:
    graphs = [len(nx.read_graphml(path)) for path in folder.glob("run.graphml")]
    graphs += [len(from_circuit_tracer(path).graph) for path in folder.glob("run.tracer.json")]
    assert set(graphs) <= {len(circuit("ioi").graph)}
    return {0: NOTHING, 1: RESUMABLE, 2: NEW}[len(graphs)]


def of_task(world: World, folder: Path) -> str:
    path = folder / "run.jsonl"
    return NOTHING if not path.exists() else NEW if len(pd.read_json(path, lines=True)) == 4 else OLD


STUDY: Mapping[str, Any] = {"layers": 1, "width": 8, "heads": 2, "stories": 150, "steps": 1}


def study_of(world: World, folder: Path) -> None:
    few: Mapping[str, Any] = {"concepts": ("wedding", "ship"), "openings": 2, "windows": 1, "tokens": 16}
    compare_variants(folder / "run", Recipe((), 2, **STUDY, **few))


def study_command(world: World, folder: Path) -> None:
    given = [word for name, value in STUDY.items() for word in (f"--{name}", value)]
    command(
        "tinystories", "compare", "--variants", "gelu", "--seeds", 2, *given, "--overwrite", "--out", folder / "run"
    )


def of_measured(world: World, folder: Path) -> str:
    """Every measurement that is there is whole."""
    out = folder / "run"
    there = [read_json(path, DamagedRun, "measurement") for path in sorted(out.glob("measured/*.json"))]
    assert all(found["rows"] for found in there)
    return NEW if len(there) == 2 else RESUMABLE if out.exists() and any(out.iterdir()) else NOTHING


def of_study(world: World, folder: Path) -> str:
    out = folder / "run"
    if not (out / MANIFEST).exists():
        return RESUMABLE if out.exists() and any(out.iterdir()) else NOTHING
    assert of_measured(world, folder) == NEW
    result = Result.load(out)
    assert (out / PAGE).read_bytes() == html(result).encode(errors="replace")
    return NEW


def task_command(word: str, world: World, folder: Path) -> None:
    given = ["--seeds", 2, "--steps", 1, "--kl", 0.01, "--seed", SEEDS[word], "--overwrite"]
    command("tinystories", "task-vector", "--model", SHIPPED, *given, "--out", folder / "run")


# Commands of questions.

MORE: Mapping[str, tuple[object, ...]] = {
    "path-effect": ("--senders", "injection,L0H1", "--receivers", "L1M,logits"),
    "path_effect": ("--senders", "injection,L0H1", "--receivers", "L1M,logits"),
    "self-repair": ("--nodes", "L0M,L0H1"),
    "self_repair": ("--nodes", "L0M,L0H1"),
    "sparsify": ("--fractions", "0.5", "--steps", 2),
    "by-position": ("--nodes", "L0M,L1H1"),
    "by_position": ("--nodes", "L0M,L1H1"),
    "tinystories dissect": ("--most", 1),
    "circuits map": ("--circuit", FILE, "--sets", 3, "--controls", 1),
}


def ask(name: str, word: str, world: World, folder: Path) -> None:
    vector = ["--plus", " wedding", "--minus", " ship", "--layer", 1 if name == "writers" else 0, "--coef", 3]
    given = ["--model", world.home / "tiny", "--prompts", world.home / "prompts.txt", "--references", 2]
    command(
        *name.split(),
        *vector,
        *given,
        "--seed",
        SEEDS[word],
        *MORE.get(name, ()),
        "--overwrite",
        "--out",
        folder / "run",
    )


def demo(word: str, world: World, folder: Path) -> None:
    command("demo", "--model", SHIPPED, "--references", 2, "--seed", SEEDS[word], "--out", folder / "run")


def gallery_command(world: World, folder: Path) -> None:
    command("tinystories", "gallery", "--model", SHIPPED, "--count", 1, "--overwrite", "--out", folder / "run")


def of_gallery(world: World, folder: Path) -> str:
    page = folder / "run" / "index.html"
    if not page.exists():
        return NOTHING  # of its vectors, some may have been dissected: each is whole
    text = page.read_text()
    assert text.count("<article") == 12 and text.rstrip().endswith("</html>")
    for link in re.findall(r'<a href="([^"]+)"', text):
        assert Result.load((page.parent / link).parent).kind == "dissect"
    return NEW


def report_command(world: World, folder: Path) -> None:
    command("report", folder / "run")


def ask_and_keep(world: World, folder: Path) -> None:
    """What is read of each vector is kept at once."""
    keeping.SECONDS = -1.0
    ask("localize", NEW, world, folder)


def _asked(name: str) -> Door:
    return Door(nothing, partial(ask, name, NEW), of_result, command=name, quick=False)


DOORS: Mapping[str, Door] = {
    "Result.save": Door(nothing, partial(save, NEW), of_result),
    "Result.save over another": Door(beside_a_foreign_file, partial(save, NEW), of_result, OLD),
    "Result.save where it stands": Door(partial(save, OLD), save_where_it_stands, of_result, OLD, also=(NOTHING,)),
    "report": Door(old_page, lambda world, folder: report(folder / "run"), of_page, OLD),
    "report, the command": Door(old_page, report_command, of_page, OLD, command="report"),
    "SteeringVector.save": Door(nothing, partial(save_vector, NEW), of_vector),
    "SteeringVector.save over another": Door(partial(save_vector, OLD), partial(save_vector, NEW), of_vector, OLD),
    "VectorBundle.save": Door(nothing, partial(save_bundle, NEW), of_bundle),
    "vectors make": Door(
        partial(make_command, OLD), partial(make_command, NEW), of_made, OLD, "vectors make", quick=False
    ),
    "vectors compare": Door(nothing, partial(compare_command, NEW), of_result, command="vectors compare", quick=False),
    "vectors convert": Door(nothing, partial(convert_command, NEW), of_vector, command="vectors convert"),
    "vectors build": Door(nothing, build_command, of_built, command="vectors build", also=(RESUMABLE,), quick=False),
    "Lens.save": Door(nothing, partial(save_lens, NEW), of_lens),
    "Lens.save over another": Door(partial(save_lens, OLD), partial(save_lens, NEW), of_lens, OLD),
    "train_lens": Door(nothing, partial(learn_lens, NEW), of_learned, also=(RESUMABLE,)),
    "lens train": Door(
        partial(lens_command, OLD),
        partial(lens_command, NEW),
        partial(of_learned, exact=False),
        OLD,
        "lens train",
        also=(RESUMABLE,),
    ),
    "Circuit.save": Door(nothing, save_circuit, of_circuit),
    "circuits show": Door(nothing, show_circuit, of_shown, command="circuits show", also=(RESUMABLE,)),
    "circuits tasks": Door(nothing, ask_task, of_task, command="circuits tasks"),
    "circuits stress": Door(nothing, partial(stress_command, NEW), of_result, command="circuits stress", quick=False),
    "sweep": Door(nothing, sweep_of, partial(of_sweep, sweep_of), also=(RESUMABLE,)),
    "sweep run": Door(nothing, sweep_command, partial(of_sweep, sweep_command), command="sweep run", also=(RESUMABLE,)),
    "resume": Door(
        half_a_sweep,
        lambda world, folder: resume(folder / "run", world.model),
        partial(of_sweep, sweep_of),
        RESUMABLE,
        quick=False,
    ),
    "sweep resume": Door(
        half_a_sweep,
        lambda world, folder: command("sweep", "resume", folder / "run"),
        partial(of_sweep, sweep_of),
        RESUMABLE,
        "sweep resume",
    ),
    "sweep report": Door(
        sweep_of, lambda world, folder: command("sweep", "report", folder / "run"), of_summary, OLD, "sweep report"
    ),
    "train": Door(nothing, partial(tell, NEW), of_stories, also=(RESUMABLE,)),
    "train over another": Door(partial(tell, OLD), partial(tell, NEW), of_stories, OLD, quick=False),
    "train on": Door(half_told, partial(tell, NEW), of_stories, RESUMABLE, quick=False),
    "tinystories train": Door(
        nothing, partial(stories_command, NEW), of_stories, command="tinystories train", also=(RESUMABLE,), quick=False
    ),
    "tinystories gallery": Door(nothing, gallery_command, of_gallery, command="tinystories gallery", quick=False),
    **{
        name: Door(
            partial(census_command, name, OLD), partial(census_command, name, NEW), of_result, OLD, name, quick=False
        )
        for name in ("tinystories census", "circuits detect")
    },
    "circuits find": Door(
        partial(find_command, OLD), partial(find_command, NEW), of_result, OLD, "circuits find", quick=False
    ),
    "circuits scrub": Door(
        partial(scrub_command, OLD), partial(scrub_command, NEW), of_result, OLD, "circuits scrub", quick=False
    ),
    "tinystories layers": Door(
        nothing, partial(layers_command, NEW), of_result, command="tinystories layers", quick=False
    ),
    "compare_variants": Door(nothing, study_of, of_measured, also=(RESUMABLE,), quick=False),
    "tinystories compare": Door(
        nothing, study_command, of_study, command="tinystories compare", also=(RESUMABLE,), quick=False
    ),
    "tinystories task-vector": Door(
        nothing, partial(task_command, NEW), of_result, command="tinystories task-vector", quick=False
    ),
    "demo": Door(nothing, partial(demo, NEW), of_result, command="demo", quick=False),
    "demo over another": Door(partial(demo, OLD), partial(demo, NEW), of_result, OLD, "demo", quick=False),
    "a question that keeps": Door(nothing, ask_and_keep, of_result, command="localize", quick=False),
    "localize over another": Door(
        partial(ask, "localize", OLD), partial(ask, "localize", NEW), of_result, OLD, "localize", quick=False
    ),
    **{
        question.command: _asked(question.command)
        for question in QUESTIONS.values()
        if question.experiment and not question.door
    },
}

SILENT = {"circuits list", "circuits hypotheses", "models", "sweep status"}  # commands that write nothing
WRITERS: Mapping[str, str] = {  # every function that calls the one writer, and a door that reaches it
    "analysis/lens/lens.py:save": "Lens.save",
    "analysis/lens/train.py:_keep": "train_lens",
    "analysis/results/result.py:save": "Result.save",
    "analysis/sweeps/store.py:append": "sweep",
    "analysis/sweeps/store.py:create": "sweep",
    "analysis/sweeps/store.py:log": "sweep",
    "analysis/tools/keeping.py:write": "a question that keeps",
    "analysis/vectors/bulk.py:build_vectors": "vectors build",
    "analysis/vectors/bundle.py:save": "VectorBundle.save",
    "analysis/vectors/vector.py:save": "SteeringVector.save",
    "circuits/circuit.py:save": "Circuit.save",
    "circuits/exchange.py:to_circuit_tracer": "circuits show",
    "circuits/exchange.py:to_graphml": "circuits show",
    "reports/report.py:report": "report",
    "steerscope/commands/circuits.py:tasks_": "circuits tasks",
    "steerscope/commands/gallery.py:gallery": "tinystories gallery",
    "steerscope/commands/finish.py:check_out": "a question that keeps",
    "tinystories/card.py:write_model_folder": "train",
    "tinystories/checkpoint.py:save_checkpoint": "train",
    "tinystories/compare.py:keep": "compare_variants",
}
MAY_BE_LOST: Mapping[str, str] = {  # functions whose files nobody misses, so that no error of the system is told
    "analysis/loading/remembered.py:remember": "a self-check that is not remembered is made again"
}
RAW: Mapping[str, str] = {  # functions that change a folder without the one writer, and why they may
    "analysis/lens/lens.py:save": "into a fresh folder",
    "analysis/lens/train.py:forget": "removes a checkpoint",
    "analysis/loading/checkpoints.py:_gguf": "a link in a temporary folder of its own",
    "analysis/results/result.py:save": "into a fresh folder",
    "analysis/sweeps/store.py:_remove_half": "removes what a killed run of an older version left",
    "analysis/sweeps/store.py:busy": "asks whether it is locked",
    "analysis/sweeps/store.py:create": "into a fresh folder",
    "analysis/sweeps/store.py:lock": "the lock",
    "analysis/sweeps/store.py:set_aside": "moves a damaged part away",
    "analysis/tools/keeping.py:forget": "removes what was kept",
    "steerscope/commands/finish.py:check_out": "removes the folders that it made for trying",
    "steerscope/commands/sweep.py:summary": "removes an older page",
    "tinystories/card.py:_write_weights": "into a fresh folder",
    "tinystories/card.py:write_model_folder": "into a fresh folder",
    "tinystories/checkpoint.py:remove_checkpoint": "removes a checkpoint",
    "tinystories/checkpoint.py:save_checkpoint": "into a fresh folder",
}
