"""Gradients at every site against those of plain passes, and the memory that they take."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import AT_ONCE
from reference import plain_pass
from torch import Tensor
from torch.testing import assert_close

from steerscope.analysis.engine.backward import backward
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import Readout
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site

PROMPTS = [[3, 14, 15, 9, 26, 5, 35], [2, 71, 82, 81, 8]]
READ = [(3, 6), (4,)]
TARGET = 7


def score(readout: Readout) -> Tensor:
    assert readout.logits is not None
    return readout.logits.log_softmax(-1)[:, TARGET]


def groups(model: Model) -> list[list[Variant]]:
    """Each prompt clean and steered."""
    vector = torch.linspace(-1, 1, model.d_model)
    edit = Edit(Site("resid_pre", 1), "add", vector, (1, 2))
    return [[Variant(p), Variant(p, (edit,))] for p in (0, 1)]


def sites(model: Model) -> list[tuple[str, int]]:
    names = ["resid_pre", "q", "k", "v", "z", "attn_out", *(["mlp_out"] if model.has_mlp else [])]
    return [(name, layer) for layer in range(model.n_layers) for name in names]


def found(model: Model, wanted: list[tuple[str, int]], **options: Any) -> tuple[Tensor, dict[Any, Any]]:
    kept: dict[Any, Any] = {}

    def collect(indices: list[int], site: str, layer: int, activation: Tensor, gradient: Tensor) -> None:
        for row, index in enumerate(indices):
            assert (index, site, layer) not in kept
            kept[index, site, layer] = (activation[row], gradient[row])

    values = backward(model, PROMPTS, groups(model), READ, score, wanted, collect, **options)
    return values, kept


def slow(model: Model, variant: Variant, site: str, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean score, activation and gradient of one plain pass with zeros added at the site."""
    length = len(PROMPTS[variant.prompt])
    heads = model.heads(site) if site in ("q", "k", "v", "z") else None
    places = [Site(site, layer)] if heads is None else [Site(site, layer, h) for h in range(heads)]
    zeros = [torch.zeros(length, model.width(p), requires_grad=True) for p in places]
    added = [Edit(place, "add", zero) for place, zero in zip(places, zeros, strict=True)]
    seen = plain_pass(model, PROMPTS[variant.prompt], [*variant.edits, *added])
    read = list(READ[variant.prompt])
    mean = seen["logits"].log_softmax(-1)[read, TARGET].mean()
    gradient = torch.stack(torch.autograd.grad(mean, zeros), dim=1)
    return mean, seen[site, layer], gradient[:, 0] if heads is None else gradient


@pytest.mark.parametrize("every_architecture", AT_ONCE, indirect=True)
def test_gradients_equal_those_of_plain_passes(every_architecture: Model) -> None:
    model = every_architecture
    wanted = sites(model)
    values, kept = found(model, wanted, recompute=True)
    variants = [variant for group in groups(model) for variant in group]
    assert len(kept) == len(wanted) * len(variants)
    for index, variant in enumerate(variants):
        length = len(PROMPTS[variant.prompt])
        for site, layer in wanted:
            mean, activation, gradient = slow(model, variant, site, layer)
            own, back = kept[index, site, layer]
            assert_close(values[index], mean.detach(), rtol=1e-4, atol=1e-5)
            assert_close(own[:length], activation.detach(), rtol=1e-4, atol=1e-5)
            assert_close(back[:length], gradient, rtol=1e-3, atol=2e-5)
            assert not back[length:].any()


def test_chunks_and_recomputation_change_nothing(small_model: Model) -> None:
    wanted = sites(small_model)
    values, kept = found(small_model, wanted)
    for options in ({"budget": 1}, {"recompute": False}, {"recompute": True}):
        others, again = found(small_model, wanted, **options)
        assert_close(values, others)
        assert kept.keys() == again.keys()
        for key, pair in kept.items():
            for a, b in zip(pair, again[key], strict=True):
                rows = min(len(a), len(b))
                assert_close(a[:rows], b[:rows])


def test_the_model_is_left_as_it_was(small_model: Model) -> None:
    before = [p.requires_grad for p in small_model.bridge.parameters()]
    found(small_model, [("z", 1)])
    assert [p.requires_grad for p in small_model.bridge.parameters()] == before
    assert all("forward" not in vars(block) for block in small_model.bridge.blocks)
    assert not any(p.grad is not None for p in small_model.bridge.parameters())


def test_rules_change_what_flows_back(small_model: Model) -> None:
    last = small_model.n_layers - 1

    def stop(model: Model) -> Any:
        return [(model.hook("attn_out", last), lambda x, hook: x.detach())], lambda: None

    _, whole = found(small_model, [("z", last)])
    _, kept = found(small_model, [("z", last), ("z", 0)], rules=stop)
    assert ("z" in {key[1] for key in whole}) and not any(key[2] == last for key in kept)
    assert any(key[2] == 0 for key in kept)


MEMORY = """
import sys, threading, time, torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils.logging import disable_progress_bar
from steerscope.analysis.loading.loading import load
from steerscope.analysis.engine.backward import backward
from steerscope.analysis.engine.edits import Variant
import tempfile
disable_progress_bar()
layers = int(sys.argv[1])
torch.manual_seed(0); torch.set_num_threads(1)
config = GPT2Config(vocab_size=64, n_embd=64, n_layer=layers, n_head=4, n_positions=512)
with tempfile.TemporaryDirectory() as folder:
    GPT2LMHeadModel(config).save_pretrained(folder)
    model = load(folder)
prompts = [list(range(60)) * 8]
sites = [(s, l) for l in range(layers) for s in ("z", "mlp_out")]
def score(r): return r.logits.log_softmax(-1)[:, 3]
def collect(*found): pass
def go(recompute): backward(model, prompts, [[Variant(0)] * 4], [(479,)], score, sites, collect, recompute=recompute)
def held():  # without pages of files, which the system takes back when it likes
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])
peak, running = 0, True
def watch():
    global peak
    while running:
        peak = max(peak, held())
        time.sleep(0.001)
threading.Thread(target=watch, daemon=True).start()
before = held()
for recompute in (True, False):
    peak = 0
    go(recompute)
    print(peak - before)
running = False
"""


def _peaks(layers: int) -> list[int]:
    """Kilobytes that a process grows by: with recomputation, then without."""
    command = [sys.executable, "-c", MEMORY, str(layers)]
    # Large blocks go back to the system when they are freed, so that what is measured is what is held.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "100000", "MALLOC_TRIM_THRESHOLD_": "100000"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return [int(line) for line in done.stdout.strip().splitlines()[-2:]]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_memory_grows_with_depth_by_the_stream_alone() -> None:
    (shallow, _), (deep, everything) = _peaks(6), _peaks(24)
    stream = 4 * 480 * 64 * 4 / 1024  # rows, positions, width, bytes: a block's input
    assert deep - shallow < 18 * stream * 2
    assert everything > 4 * deep


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_gradients_equal_finite_differences(small_models: Any, name: str) -> None:
    model = small_models[name]
    _, kept = found(model, [("z", 1)])
    activation, gradient = kept[1, "z", 1]
    step = 1e-2 * torch.sign(gradient[2, 1])
    variant = groups(model)[0][1]
    ends = []
    for sign in (1, -1):
        edit = Edit(Site("z", 1, 1), "add", sign * step, (2,))
        logits = plain_pass(model, PROMPTS[0], [*variant.edits, edit])["logits"]
        ends.append(logits.log_softmax(-1)[list(READ[0]), TARGET].mean())
    assert_close((ends[0] - ends[1]) / 2, (gradient[2, 1] * step).sum(), rtol=0.05, atol=1e-5)
    assert activation.shape == gradient.shape
