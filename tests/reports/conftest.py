"""Results of every kind, of any size, with numbers that are made up but hang together; and those of a small model."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from checkpoints import save_gpt2
from made_study import made_study, made_tasks
from made_sweep import make_sweep
from made_up import (
    EFFECTS,
    effects,
    fitting,
    made_attention,
    made_numbers,
    made_references,
    made_tests,
    made_writers,
    result,
)
from small_runs import small_results

from steerscope.analysis.breakdown.breakdown import breakdown
from steerscope.analysis.lens.train import train_lens
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.origin.compare_vectors import compare_vectors
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import Prompts, make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.trace import trace
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.circuits.circuit import Circuit
from steerscope.circuits.detect import head_census
from steerscope.circuits.find_circuit import find_circuit
from steerscope.circuits.scrub import scrub
from steerscope.circuits.stress import stress
from steerscope.circuits.tasks import task
from steerscope.loader import load as load_shipped
from steerscope.questions import QUESTIONS
from steerscope.tinystories import layer_roles, layer_steering
from steerscope.tinystories.dissect import dissect
from steerscope.tinystories.layers import layer_study
from steerscope.tinystories.twelve import twelve

Maker = Callable[..., Result]


def make_result(
    layers: int = 2,
    heads: int = 4,
    mlp: bool = True,
    scale: float = 1.0,
    text: str = "One day",
    references: int = 5,
    **manifest: Any,
) -> Result:
    """A result of kind "exact"; `text` stands wherever a model, a prompt or a file could put something."""
    generator = np.random.default_rng(0)
    nodes: list[tuple[str, int, int | None, str]] = []
    nodes += [(f"L{layer}H{h}", layer, h, "head") for layer in range(layers) for h in range(heads)]
    nodes += [(f"L{layer}M", layer, None, "mlp") for layer in range(layers)] if mlp else []
    frames_of = []
    for measure in ("necessity", "sufficiency"):
        values = generator.normal(size=len(nodes)) * scale
        about = {name: [node[i] for node in nodes] for i, name in enumerate(("node", "layer", "head", "kind"))}
        numbers = made_numbers(values, fitting(values, 2.0 * scale), 2.0 * scale, references > 0)
        frames_of.append(pd.DataFrame(about | {"measure": measure} | numbers | {"stability": 0.9}))
    effects = pd.concat(frames_of, ignore_index=True)
    effects["head"] = effects["head"].astype("Int64")
    totals = pd.DataFrame(
        [
            {
                "quantity": name,
                "value": 2.0 * scale,
                "low": 1.5 * scale,
                "high": 2.5 * scale,
                "unit": "nats",
                "share": share,
                "share_low": share - 0.1,
                "share_high": share + 0.1,
                "reference": 0.1,
                "reference_low": -0.2,
                "reference_high": 0.4,
                "p": 0.001,
                "wrong_way": 0.05,
            }
            for name, share in [
                ("total", np.nan),
                ("kl", np.nan),
                ("told_necessity", 0.7),
                ("told_sufficiency", 0.6),
                ("all_necessity", 1.0),
                ("all_sufficiency", 1.0),
            ]
        ]
    )
    vectors = pd.DataFrame(
        [
            {
                "vector": "steering" if i == 0 else f"reference {i - 1}",
                "family": "" if i == 0 else "isotropic",
                "label": f"{text} {i}",
                "norm": 3.0,
                "coefficient": 3.0,
                "effect": 2.0 / (i + 1),
                "low": 1.0 / (i + 1),
                "high": 3.0 / (i + 1),
                "kl": 0.5 + i / 10,
                "kl_low": 0.4,
                "kl_high": 1.2,
            }
            for i in range(1 + references)
        ]
    )
    prompts = pd.DataFrame(
        [
            {
                "prompt": i,
                "group": i,
                "text": f"{text} {i}",
                "tokens": 9,
                "injected": "0,1",
                "scored": "2,3",
                "clean": -3.0,
                "steered": -1.0,
                "effect": -0.5 if i == 2 else 2.0,
                "kl": 0.5,
            }
            for i in range(3)
        ]
    )
    tokens = pd.DataFrame(
        [
            {
                "token": f" {text}",
                "id": i,
                "clean": 0.1,
                "steered": 0.3 if side == "gain" else 0.01,
                "change": 1.0,
                "kl": 0.2,
                "side": side,
            }
            for i in range(3)
            for side in ("gain", "loss")
        ]
    )
    completions = pd.DataFrame(
        [
            {
                "prompt": 0,
                "text": text,
                "clean": f" {text} clean",
                "steered": f" {text} steered",
                "clean_surprise": 1.2,
                "steered_surprise": 1.4,
            }
        ]
    )
    columns = QUESTIONS["exact"].columns
    frames = {
        "writers": made_writers(layers, heads, mlp, scale, references),
        "attention": made_attention(layers, heads, scale, references, ("all",)),
        "effects": effects,
        "minimal": made_minimal(nodes),
        "per_prompt": pd.DataFrame(columns=list(columns["per_prompt"])),
        "totals": totals,
        "vectors": vectors,
        "prompts": prompts,
        "positions": pd.DataFrame(columns=list(columns["positions"])),
        "tokens": tokens,
        "completions": completions,
    }
    base = {
        "model": {"name": f"model {text}", "device": "cpu"},
        "injections": [
            {"vector": {"label": f'"{text}" - " "'}, "coefficient": 3.0, "site": "L0.resid_pre", "positions": "front"}
        ],
        "metric": {
            "name": "log_prob",
            "unit": "nats",
            "targets": [f" {text}"],
            "scored": "positions after the injection",
        },
        "prompts": {"count": 3, "groups": 3},
        "references": made_references(references),
        "leave_one_out": {"necessity": 0.05, "sufficiency": 0.04},
        "reference_tests": made_tests(references),
        "alpha": 0.05,
        "level": 0.95,
        "smallest": 0.02,
        "stability": {"jaccard": 0.9, "low": 0.8, "high": 1.0, "resamples": 100, "note": ""},
        "checks": [{"name": "sampled nodes equal one plain pass each", "value": 1e-6, "limit": 1e-4, "passed": True}],
        "command": f"steerscope localize --plus '{text}'",
        "missing": {},
        "seconds": 12.0,
        "created": "2026-11-20",
        "versions": {"steerscope": "0.1.0"},
    }
    return Result("exact", frames, columns, base | manifest)


def made_minimal(nodes: list[tuple[str, int, int | None, str]]) -> pd.DataFrame:
    """Growing sets of all nodes, in both directions."""
    rows = []
    for measure in ("necessity", "sufficiency"):
        for size, (node, *_) in enumerate(nodes, 1):
            share = 1 - 0.8**size
            for name, value in (("chosen", share), ("best", share), ("rest", 1 - share), ("random", share / 2)):
                row = {"size": size, "node": node if name == "chosen" else "", "measure": measure, "set": name}
                rows.append(row | {"share": value, "low": value - 0.05, "high": value + 0.05})
    return pd.DataFrame(rows)


@pytest.fixture
def maker() -> Maker:
    return make_result


@pytest.fixture(scope="session")
def sweep_maker() -> Maker:
    made: Maker = make_sweep
    return made


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Every question about effects, asked of a small model on three prompts."""
    found: dict[str, Result] = small_results(tmp_path_factory.mktemp("small"))
    return found


TEXTS = ["One day Lily saw a dragon", "Tom had a red ball", "The dog ran to the park"]


def _layers() -> Result:
    """A study of the smallest size, of a shipped model: it reads words that a random model does not know."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in {
            "NOISY": 3,
            "OTHERS": 3,
            "PROMPTS": 4,
            "SPLIT": 2,
            "SAMPLED": 3,
            "EARLY": 1,
            "TEXTS": 3,
        }.items():
            patch.setattr(layer_steering, name, size)
        patch.setattr(layer_roles, "EACH", 1)
        wedding = next(one for one in twelve() if one.name == "wedding")
        return layer_study(load_shipped("tinystories-1l", selfcheck=False), vectors=[wedding], at=["L0.resid_pre"])


def _scrubbed() -> Result:
    """A true hypothesis of a toy, and one that leaves out what matters."""
    toy = load_shipped("toy-ioi-query-2", selfcheck=False)
    return scrub(toy, ["ioi-minimal", "ioi-minimal-untold"], task("ioi-minimal")(toy, n=12), draws=2)


def _stress(model: Model, injection: Injection) -> Result:
    """Of a random model: what is said is mostly that nothing can be."""
    sides: dict[str, Any] = {"targets": ((7,), (8,)) * 4, "against": ((8,), (7,)) * 4}
    pairs = [Prompts(tuple((1, 2 + n, x) for n in range(8)), tuple("abcdefgh"), **sides) for x in (15, 26)]
    graphs: list[Any] = [nx.DiGraph(), nx.DiGraph()]
    graphs[0].add_node("L0H1", roles=("reader",))
    graphs[0].add_node("L0M", roles=("writer",))
    graphs[1].add_edge("L1H0", "L1M")
    claims = [Circuit(name, "made up", "tiny", graph) for name, graph in zip("ab", graphs, strict=True)]
    return stress(claims, pairs, injection, model=model, coefficients=[-2.0, 1.0], randoms=1, find="always")


@pytest.fixture(scope="session")
def kinds(small: dict[str, Result], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """A result of every kind; "unknown" is one of no question, whose page is drawn from roles."""
    found, folder = dict(small), tmp_path_factory.mktemp("kinds")
    save_gpt2(folder / "again")
    model = load(folder / "again", name="tiny")
    prompts = make_prompts(model, TEXTS)
    asked = Experiment(model, (Injection(prompt_pair(model, " wedding", " ship", 0), 3.0),), prompts, references=2)
    found["trace"] = trace(asked)
    found["breakdown"] = breakdown(asked, coefficients=[0, 1, 10, 1e4])
    found["dissect"] = dissect(asked, most=2)
    vectors = [prompt_pair(model, word, " ship", 0).row(-1) for word in (" wedding", " ball")]
    found["compare_vectors"] = compare_vectors(model, vectors, prompts, references=2)
    found["head_census"] = head_census(model, sequences=6, causal=1)
    found["layer_study"] = _layers()
    found["scrub"] = _scrubbed()
    small_search = {"points": 4, "trials": 5, "randoms": 3, "resamples": 10}
    found["find_circuit"] = find_circuit(model, asked, **small_search)  # type: ignore[arg-type]
    found["stress"] = _stress(model, asked.injections[0])
    windows = make_prompts(model, [[3 + (i * j) % 90 for j in range(9)] for i in range(1, 13)])
    _, found["train_lens"] = train_lens(model, windows, folder / "lens", steps=2, batch=4, held_out=4)
    found["sweep"] = make_sweep()
    found |= {"compare_variants": made_study(), "task_vector": made_tasks()}
    found["unknown"] = result(effects([1.0, -2.0, 0.5]), EFFECTS)
    return found


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[Path], str]:
    """The document of a page after its scripts have run in a real browser."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --virtual-time-budget=8000 --dump-dom"
    )

    def document(page: Path) -> str:
        command = [chromium, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return document
