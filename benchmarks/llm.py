"""Localizing on a real language model: one hooked pass a question against one growing batch, side by side.

Exact patching of both directions for one vector, on SmolLM2-135M and on a random model of GPT-2 small's shape:

- a TransformerLens loop: `run_with_hooks` once for every node, direction and prompt;
- a Hugging Face loop: forward hooks of torch at the same places of the model that the bridge holds, the same passes;
- the wavefront in float32, and in delta precision.

The loops run a sample of nodes spread over the layers, times all nodes over the sample (said by `*`). All use the same
weights and patches in one process and take turns. `product` is the share of the rate of a plain product of the same
precision that the wavefront reaches. What else runs on the machine slows all of them: compare ratios.

    python -m benchmarks.llm [--prompts N] [--sample N] [--threads N] [--localize]
"""

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import gpt2_small, line, processor, product_rate, quiet, seconds
from steerscope.analysis.carriers.localize import localize
from steerscope.analysis.engine.delta import gain
from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.plain import plain_hooks
from steerscope.analysis.engine.run import Precision, Readout
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.outputs import pieced
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.question.scores import Score
from steerscope.analysis.tools.patching import MEASURES, patched
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.loader import load
from steerscope.prompt_sets import prompts as shipped

Logits = Callable[[Model, Sequence[int], Variant], Tensor]
Values = NDArray[np.float64]
COLUMNS = ["passes", "seconds", "times as fast", "product", "peak MB"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--sample", type=int, default=12, help="nodes that the loops run")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--localize", action="store_true", help="time whole runs on SmolLM2, exact and screen, too")
    parser.add_argument("--delta", action="store_true", help="time delta precision where it does not pay, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet()
    print(f"torch {torch.__version__}, {options.threads} threads; {processor()}; fp32 {product_rate():.0f} GFLOP/s")
    line("", *COLUMNS, first=50)
    models: dict[str, Callable[[], Experiment]] = {
        "SmolLM2-135M": partial(smollm2, options.prompts),
        "random GPT-2 small, 16 tokens": partial(random_gpt2, options.prompts),
    }
    for name, made in models.items():
        compare(name, made(), options.sample, options.delta)
    if options.localize:
        for method in ("screen", "exact"):
            experiment = smollm2(12, references=20)
            taken = seconds(lambda m=method, e=experiment: localize(e, method=m))  # type: ignore[misc]
            line(f"localize --method {method}, 20 references", "", f"{taken:.0f}", "", "", peak(), first=50)


def smollm2(count: int, references: int = 0) -> Experiment:
    """10 x (" wedding" - " ") at layer 6, on shipped prompts."""
    model = load("smollm2")
    vector = prompt_pair(model, " wedding", " ", 6)
    prompts = make_prompts(model, shipped("general")[:count])
    return Experiment(model, (Injection(vector, 10.0),), prompts, references=references)


def random_gpt2(count: int) -> Experiment:
    """A vector and prompts of 16 random tokens."""
    model, generator = gpt2_small(), torch.Generator().manual_seed(0)
    tokens = torch.randint(0, model.d_vocab, (count + 2, 16), generator=generator).tolist()
    vector = prompt_pair(model, tokens[0][:2], tokens[1][:2], 0, pad=0)
    return Experiment(model, (Injection(vector, 4.0),), make_prompts(model, tokens[2:]), references=0)


@torch.no_grad()
def compare(name: str, experiment: Experiment, sample: int, slow: bool) -> None:
    """Lines of the table; what all sides found is compared."""
    nodes, unit = len(experiment.reachable), direction(experiment)
    picked = sorted({int(n) for n in np.linspace(0, nodes - 1, min(sample, nodes)).round()})
    every, few = places(experiment, range(nodes)), places(experiment, picked)
    variants, sampled = made(experiment, every), made(experiment, few)
    first, others = 0.0, {}
    for label, logits in (("TransformerLens loop", transformer_lens), ("Hugging Face hooks", hugging_face)):
        taken, others[label] = timed(partial(loop, experiment, sampled, unit, logits))
        taken *= len(every) / len(few)
        first = first or taken
        line(f"{name}: {label}", f"{len(every):,}", f"{taken:.1f} *", f"{first / taken:.1f}x", "", peak(), first=50)
    modes: list[Precision] = ["exact", "delta"] if slow or gain(experiment.model) >= 1 else ["exact"]
    score = projection(experiment, unit)
    for mode in modes:
        run = partial(experiment.scores, variants, [score], "logits", mode)
        with FlopCounterMode(display=False) as counter:
            run()
        taken, found = timed(run)
        share = counter.get_total_flops() / taken / 1e9 / product_rate()
        cells = [f"{len(every):,}", f"{taken:.1f}", f"{first / taken:.1f}x", f"{share:.0%}", peak()]
        line(f"{name}: wavefront, {mode}", *cells, first=50)
        own = found[[every.index(place) for place in few], 0]
        for label, values in others.items():
            off = np.abs(own - values).max() / np.abs(values).max()
            print(f"    {label} and {mode} differ by at most {off:.0e} of the largest change")
    if "delta" not in modes:
        print(f"    delta was not run: a bfloat16 product is {gain(experiment.model):.2f} times as fast here (--delta)")


def places(experiment: Experiment, picked: Sequence[int]) -> list[tuple[int, int, int]]:
    """Questions: (measure, node, prompt)."""
    return [(m, n, p) for m in range(len(MEASURES)) for n in picked for p in range(len(experiment.prompts))]


def made(experiment: Experiment, asked: Sequence[tuple[int, int, int]]) -> list[Variant]:
    """Their edits: necessity and sufficiency."""
    nodes, edits = experiment.reachable, experiment.edits(0)
    sources = [experiment.patches(vector, nodes) for vector in (None, 0)]
    return [patched(MEASURES[m], p, edits, [sources[m][nodes[n]][p]]) for m, n, p in asked]


def direction(experiment: Experiment) -> Tensor:
    """Unit direction of the injection's mean change of logits."""
    change = pieced(lambda a, b: b - a, experiment.clean, experiment.steered).mean(0)
    found: Tensor = (change - change.mean()) / (change - change.mean()).norm()
    return found


def projection(experiment: Experiment, unit: Tensor) -> Score:
    def score(readout: Readout) -> Tensor:
        assert readout.logits is not None
        return readout.logits @ unit

    return score


def loop(experiment: Experiment, variants: Sequence[Variant], unit: Tensor, logits: Logits) -> Values:
    """The same score, one pass a question."""
    positions, full = experiment.scored_positions.positions, experiment.prompts.full
    return np.array(
        [
            (logits(experiment.model, full[v.prompt], v)[list(positions[v.prompt])] @ unit).mean().item()
            for v in variants
        ]
    )


def transformer_lens(model: Model, ids: Sequence[int], variant: Variant) -> Tensor:
    """Logits, with hooks of the bridge."""
    hooks = plain_hooks(model, variant.edits, len(ids))
    found: Tensor = model.bridge.run_with_hooks(torch.tensor([list(ids)]), fwd_hooks=hooks)[0]
    return found


def hugging_face(model: Model, ids: Sequence[int], variant: Variant) -> Tensor:
    """Logits of the Hugging Face model as the bridge holds it, with hooks of torch at the same places."""
    bridge: Any = model.bridge
    points, handles = bridge.hook_dict, []

    def with_heads(hook: Callable[[Tensor, Any], Tensor], heads: int | None) -> Callable[..., Tensor]:
        def changed(module: Any, given: Any, out: Tensor) -> Tensor:
            shape = (*out.shape[:2], heads, -1) if heads and out.ndim == 3 else out.shape
            return hook(out.reshape(shape), None).reshape(out.shape)

        return changed

    for edit, (name, hook) in zip(variant.edits, plain_hooks(model, variant.edits, len(ids)), strict=True):
        heads = None if edit.site.head is None else model.heads(edit.site.name)
        handles.append(points[name].register_forward_hook(with_heads(hook, heads)))
    try:
        found: Tensor = bridge.original_model(torch.tensor([list(ids)]), use_cache=False).logits[0]
        return found
    finally:
        for handle in handles:
            handle.remove()


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def peak() -> str:
    """The process's largest memory up to here, in megabytes."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f}"


if __name__ == "__main__":
    main()
