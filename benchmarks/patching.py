"""Patching all nodes of a model: the wavefront against TransformerLens' own loop.

For every attention head and MLP, the clean prompt's activation is written into the corrupted prompt's
pass at all positions, and the difference of two logits at the last position is read: 156 nodes of a
random model of GPT-2 small's shape. Both sides use the same model in the same process and the same
clean activations, recorded beforehand, and take turns; ratios are medians over the turns.

    python -m benchmarks.patching [--quick] [--rounds N] [--threads N]
"""

import argparse
import ctypes
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import psutil
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformer_lens import patching

from benchmarks.common import bandwidth, gpt2_small, line, processor, product_rate, quiet
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import Readout, measure, run
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node

SETTINGS = [(16, 1), (16, 8), (64, 1), (64, 8)]  # tokens, prompts
COLUMNS = [
    "loop s",
    "wavefront s",
    "ratio",
    "GFLOP/s",
    "product GFLOP/s",  # of a plain fp32 matrix product
    "share of product",
    "loop MB",  # growth of the process's memory
    "wavefront MB",
    "difference",  # the largest, beside the spread of the effects over nodes
]
SAMPLE = 24  # nodes that the peer runs where all of them would take minutes


@dataclass(frozen=True)
class Pairs:
    """Clean and corrupted prompts of equal length, and the two tokens whose logits are compared."""

    clean: Tensor
    corrupted: Tensor
    tokens: tuple[int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="16 tokens and one prompt only")
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns that each side takes (default 5; at 64 tokens and 8 prompts 2)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet()
    model = gpt2_small()
    print(f"torch {torch.__version__}, {options.threads} threads; {processor()}; ", end="")
    print(f"reads {bandwidth():.0f} GB/s")
    line("", *COLUMNS)
    for length, prompts in SETTINGS[:1] if options.quick else SETTINGS:
        rounds = options.rounds if length * prompts < 512 else min(options.rounds, 2)
        line(f"{length} x {prompts}", *compare(model, length, prompts, rounds))
    print(f"* timed on {SAMPLE} nodes spread over the layers, times {len(model.nodes)} / {SAMPLE}")


@torch.no_grad()
def compare(model: Model, length: int, prompts: int, rounds: int) -> list[str]:
    """One line of the table."""
    generator = torch.Generator().manual_seed(length)
    clean, corrupted = torch.randint(0, model.d_vocab, (2, prompts, length), generator=generator)
    pairs = Pairs(clean, corrupted, (11, 12))
    whole = length * prompts <= 16
    spread = torch.linspace(0, len(model.nodes) - 1, SAMPLE).round().int().tolist()
    nodes = model.nodes if whole else tuple(model.nodes[i] for i in spread)
    ours = partial(wavefront, model, pairs, clean_activations(model, clean))
    theirs = partial(peer, model, pairs, clean_cache(model, clean), nodes)
    with FlopCounterMode(display=False) as counter:
        ours()
    flops = counter.get_total_flops()
    ours_s, theirs_s, rates = [], [], []
    for _ in range(rounds):
        taken, values, memory = timed(ours)
        peer_taken, expected, peer_memory = timed(theirs)
        ours_s.append(taken)
        theirs_s.append(peer_taken * len(model.nodes) / len(nodes))
        rates.append(product_rate())
    chosen = [model.nodes.index(node) for node in nodes]
    difference = (values[chosen] - expected).abs().max().item()
    if not difference <= 1e-4:
        sys.exit(f"the two sides differ by {difference:.1e}; expected at most 1e-4")
    return [
        f"{statistics.median(theirs_s):.2f}{'' if whole else ' *'}",
        f"{statistics.median(ours_s):.2f}",
        f"{statistics.median(b / a for a, b in zip(ours_s, theirs_s, strict=True)):.1f}x",
        f"{flops / statistics.median(ours_s) / 1e9:.0f}",
        f"{statistics.median(rates):.0f}",
        f"{statistics.median(flops / s / 1e9 / r for s, r in zip(ours_s, rates, strict=True)):.0%}",
        f"{peer_memory:.0f}",
        f"{memory:.0f}",
        f"{difference:.0e} of {values.std(0).mean().item():.1f}",
    ]


def clean_activations(model: Model, clean: Tensor) -> dict[Node, Tensor]:
    """By node: its clean output, `[prompt, pos, width]`."""
    sites = [(name, layer) for layer in range(model.n_layers) for name in ("z", "mlp_out")]
    variants = [Variant(prompt) for prompt in range(len(clean))]
    _, readout = next(run(model, clean.tolist(), variants, reads="none", sites=sites))
    return {
        node: readout.activations["mlp_out", node.layer]
        if node.head is None
        else readout.activations["z", node.layer][:, :, node.head]
        for node in model.nodes
    }


def wavefront(model: Model, pairs: Pairs, activations: dict[Node, Tensor]) -> Tensor:
    """`[node, prompt]` with the engine."""
    variants = [
        Variant(prompt, (Edit(node.site, "set", activations[node][prompt]),))
        for node in model.nodes
        for prompt in range(len(pairs.corrupted))
    ]
    left, right = pairs.tokens

    def difference(readout: Readout) -> Tensor:
        assert readout.logits is not None
        return readout.logits[:, left] - readout.logits[:, right]

    values = measure(model, pairs.corrupted.tolist(), variants, None, difference)
    return values.view(len(model.nodes), -1)


def clean_cache(model: Model, clean: Tensor) -> Any:
    return model.bridge.run_with_cache(
        clean, names_filter=lambda name: name.endswith(("hook_z", "hook_mlp_out", "o.hook_in", "mlp.hook_out"))
    )[1]


def peer(model: Model, pairs: Pairs, cache: Any, nodes: Sequence[Node]) -> Tensor:
    """`[node, prompt]` with TransformerLens: one pass per node."""
    left, right = pairs.tokens

    def metric(logits: Tensor) -> Tensor:
        return logits[:, -1, left] - logits[:, -1, right]

    def set_mlp(activation: Tensor, index: Sequence[int], clean: Tensor) -> Tensor:
        return clean

    patch = partial(patching.generic_activation_patch, model.bridge, pairs.corrupted, cache, metric, reduce="none")
    heads = pd.DataFrame([(n.layer, n.head) for n in nodes if n.head is not None], columns=["layer", "head"])
    layers = pd.DataFrame([(n.layer,) for n in nodes if n.head is None], columns=["layer"])
    head_values: Any = patch(patching.layer_head_vector_patch_setter, "z", index_df=heads).values
    mlp_values: Any = patch(set_mlp, "mlp_out", index_df=layers).values
    of_head, of_mlp = iter(head_values), iter(mlp_values)
    return torch.stack([next(of_mlp if node.head is None else of_head) for node in nodes])


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor, float]:
    """Seconds, the result, and how many megabytes the process grew at most."""
    with peak_memory() as peak:
        start = time.perf_counter()
        result = work()
        taken = time.perf_counter() - start
    return taken, result, peak[0] / 1e6


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    process, peak, done = psutil.Process(), [0.0], threading.Event()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # what the other side freed is not ours to reuse unseen
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], process.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


if __name__ == "__main__":
    main()
