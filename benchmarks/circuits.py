"""Circuits against one forward pass at a time: a task under steering, and how faithful a circuit is.

A random model of GPT-2 small's shape, 64 prompts and their counterfactuals of 16 tokens. Steering: the answer to all of
them under one vector at 11 coefficients (and none), added at the last position of layer 6; one call of the engine
against TransformerLens' own pass with a hook that adds, for one prompt and one coefficient. Faithfulness: of 26 heads
and the first MLPs, whole, circuit and none; against the same passes with hooks that set every other node, one prompt
at a time. Peers are timed on a sample. Then, asked for, the whole of `stress` on the same circuit.

    python -m benchmarks.circuits [--prompts 64] [--sample 96] [--threads N] [--whole]
"""

import argparse
import time
from functools import partial
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from benchmarks.common import gpt2_small, line, processor, quiet, seconds
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node, Site
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import Prompts
from steerscope.analysis.vectors.vector import SteeringVector
from steerscope.circuits.circuit import Circuit
from steerscope.circuits.circuit_run import CircuitRuns
from steerscope.circuits.contrast import contrast_of_task
from steerscope.circuits.masks import mask_of
from steerscope.circuits.pairs import Pairs
from steerscope.circuits.stress import stress

LAYER, TOKENS = 6, 16
COEFFICIENTS = [-8.0, -4.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]


def made(model: Model, count: int) -> Pairs:
    """Pairs of random tokens that differ in the third."""
    ids = torch.randint(1000, model.d_vocab, (count, TOKENS), generator=torch.Generator().manual_seed(0))
    others = ids.clone()
    others[:, 2] = ids[:, 2].roll(1)
    sides: dict[str, Any] = {"targets": ((7,),) * count, "against": ((8,),) * count}
    texts = tuple(map(str, range(count)))
    clean, corrupted = (Prompts(tuple(map(tuple, x.tolist())), texts, **sides) for x in (ids, others))
    return Pairs(model, "random tokens", clean, corrupted)


def injections(model: Model) -> list[tuple[Injection, ...]]:
    values = torch.randn(1, model.d_model, generator=torch.Generator().manual_seed(1))
    vector = SteeringVector(values, Site("resid_pre", LAYER), {"label": "random"})
    return [(), *((Injection(vector, c, positions="last"),) for c in COEFFICIENTS)]


@torch.no_grad()
def one_by_one(model: Model, pairs: Pairs, steered: list[tuple[Injection, ...]], rows: list[tuple[int, int]]) -> Any:
    """m of some rows (number of the injection, prompt), one pass each."""
    prompts = [*pairs.clean.ids, *pairs.corrupted.ids]
    found = []
    for number, p in rows:
        hooks = []
        for one in steered[number]:
            value = one.coefficient * one.vector.values[0]

            def add(x: Tensor, hook: Any, value: Tensor = value) -> Tensor:
                return torch.cat([x[:, :-1], x[:, -1:] + value], dim=1)

            hooks.append((f"blocks.{LAYER}.hook_in", add))
        logits = model.bridge.run_with_hooks(torch.tensor([prompts[p]]), fwd_hooks=hooks)[0, -1]
        found.append(float(logits[7] - logits[8]))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--sample", type=int, default=96)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--whole", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet()
    model = gpt2_small()
    pairs, steered = made(model, options.prompts), injections(model)
    print(f"torch {torch.__version__}, {options.threads} threads; {processor()}")
    every = [(number, p) for number in range(len(steered)) for p in range(2 * len(pairs))]
    dice = np.random.default_rng(0)
    sample = [every[i] for i in dice.permutation(len(every))[: options.sample]]
    one_by_one(model, pairs, steered, sample[:4])
    start = time.perf_counter()
    plain = one_by_one(model, pairs, steered, sample)
    loop = (time.perf_counter() - start) * len(every) / len(sample)
    start = time.perf_counter()
    answers = pairs.answers(steered)
    ours = time.perf_counter() - start
    found = np.stack([own.m.reshape(-1) for own in answers])
    off = max(abs(found[at] - own) for at, own in zip(sample, plain, strict=True))
    line("", "runs", "one by one s *", "one call s", "ratio", "difference")
    line("steering", str(len(every)), f"{loop:.1f}", f"{ours:.1f}", f"{loop / ours:.1f}", f"{off:.1e}")
    _faithful(model, pairs, options.sample)
    print(f"* timed on {len(sample)} runs")
    if options.whole:
        [vector] = steered[7]
        given: dict[str, Any] = {"model": model, "coefficients": COEFFICIENTS, "randoms": 0, "find": "never"}
        took = seconds(lambda: stress(claimed(), [pairs.clean, pairs.corrupted], vector, **given))
        print(f"stress of 26 heads, {len(COEFFICIENTS)} coefficients, {len(pairs)} pairs: {took:.0f} s")


def claimed() -> Circuit:
    """26 heads and an MLP in every layer but the last."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from([f"L{layer}H{h}" for layer in range(12) for h in (1, 5)] + ["L9H9", "L11H10"])
    graph.add_nodes_from([f"L{layer}M" for layer in range(11)])
    return Circuit("26 heads", "none", "gpt2", graph)


def _faithful(model: Model, pairs: Pairs, sample: int) -> None:
    """M of the whole run, of the circuit and of no edge, of all prompts."""
    start = time.perf_counter()
    contrast = contrast_of_task(model, pairs.clean, pairs.corrupted)
    runs = CircuitRuns(contrast)
    found = np.stack([*runs.ends[::-1], runs.values([mask_of(contrast, claimed())])[0]])
    ours = time.perf_counter() - start
    some = range(min(len(pairs), max(1, sample // 3)))
    start = time.perf_counter()
    plain = np.array([patched_by_hand(model, pairs, p) for p in some]).T
    loop = (time.perf_counter() - start) * len(pairs) / len(some)
    off = np.abs(found[:, : len(some)] - plain).max()
    line("faithfulness", str(3 * len(pairs)), f"{loop:.1f}", f"{ours:.1f}", f"{loop / ours:.1f}", f"{off:.1e}")


@torch.no_grad()
def patched_by_hand(model: Model, pairs: Pairs, p: int) -> list[float]:
    """The same of one prompt: the corrupted run with its activations, the whole run, and one with hooks that set."""
    names = [f"blocks.{n}.{site}" for n in range(12) for site in ("attn.hook_z", "mlp.hook_out")]
    clean, corrupted = (torch.tensor([own.ids[p]]) for own in (pairs.clean, pairs.corrupted))
    empty, kept = model.bridge.run_with_cache(corrupted, names_filter=lambda name: name in names)
    members = set(claimed().nodes)

    def set_heads(x: Tensor, hook: Any, layer: int) -> Tensor:
        x = x.clone()
        others = [h for h in range(12) if Node(layer, h) not in members]
        x[:, :, others] = kept[f"blocks.{layer}.attn.hook_z"][:, :, others]
        return x

    hooks: list[tuple[str, Any]] = [(f"blocks.{n}.attn.hook_z", partial(set_heads, layer=n)) for n in range(12)]
    hooks.append(("blocks.11.mlp.hook_out", lambda x, hook: kept["blocks.11.mlp.hook_out"]))
    whole, circuit = model.bridge(clean), model.bridge.run_with_hooks(clean, fwd_hooks=hooks)
    return [float(logits[0, -1, 7] - logits[0, -1, 8]) for logits in (whole, empty, circuit)]


if __name__ == "__main__":
    main()
