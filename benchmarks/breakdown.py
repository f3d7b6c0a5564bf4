"""The default breakdown, part by part; and coefficients as rows of the engine against one hooked pass at a time.

Run with `python -m benchmarks.breakdown`, on an idle machine. Both sides read the same logits; their largest
difference is printed beside the ratio.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from benchmarks.common import processor, quiet
from steerscope.analysis.breakdown.breakdown import breakdown
from steerscope.analysis.breakdown.outcomes import Asked
from steerscope.analysis.breakdown.response import default_coefficients, response
from steerscope.analysis.breakdown.strength import at
from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import log_prob
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.loader import load
from steerscope.tinystories.zoo import prompts

PROMPTS = 32
T = TypeVar("T")


def main() -> None:
    quiet()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; {processor()}")
    model = load("tinystories-2l")
    injection = Injection(prompt_pair(model, " wedding", " ", 0), 3.0)
    metric = log_prob([" wedding"])
    asked = Experiment(model, (injection,), make_prompts(model, prompts("off_topic")[:PROMPTS]), metric, references=0)
    coefficients = sorted({*(c for c in default_coefficients() if c), injection.coefficient})
    both = Asked(asked)  # of the prompts alone, as the other side
    ours, fast = timed(lambda: torch.from_numpy(response(both, coefficients).of("effect")[1:-1]))
    theirs, slow = timed(lambda: plain(asked, coefficients))
    gap = float((fast - slow).abs().max())
    runs = len(coefficients) * PROMPTS
    print(
        f"{runs} steered runs ({len(coefficients)} coefficients, {PROMPTS} prompts): engine {ours:.1f} s (with KL, "
        f"entropy and the limits), one hooked pass each {theirs:.1f} s: {theirs / ours:.1f}x; largest difference "
        f"{gap:.1e} nats"
    )
    whole, result = timed(lambda: breakdown(replace(asked, references=4)))
    print(f"the whole default breakdown with 4 references: {whole:.1f} s (goal 60); {len(result.frames)} tables")


def plain(asked: Experiment, coefficients: list[float]) -> torch.Tensor:
    """TransformerLens' way: a hooked forward pass for each prompt and coefficient."""
    model, target = asked.model, asked.model.single_token(" wedding")
    found = torch.zeros(len(coefficients), len(asked.prompts), dtype=torch.float64)
    with torch.no_grad():
        for p, ids in enumerate(asked.prompts.ids):
            tokens, scored = torch.tensor([ids]), list(asked.scored_positions.positions[p])
            clean = model.bridge(tokens)[0, scored].log_softmax(-1)[:, target].mean()
            for i, c in enumerate(coefficients):
                hooks = [(model.hook(e.site.name, e.site.layer), adding(e)) for e in at(asked, c)[p]]
                logits = model.bridge.run_with_hooks(tokens, fwd_hooks=hooks)[0, scored]
                found[i, p] = (logits.log_softmax(-1)[:, target].mean() - clean).double()
    return found


def adding(edit: Edit) -> Callable[..., torch.Tensor]:
    def hook(x: torch.Tensor, hook: object) -> torch.Tensor:
        assert isinstance(edit.value, torch.Tensor) and edit.positions is not None
        x = x.clone()
        x[0, list(edit.positions)] += edit.value
        return x

    return hook


def timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


if __name__ == "__main__":
    main()
