"""Sweeps: trials a second, against TransformerLens' plain loop of one hooked forward pass a trial.

Both sides run the same trials of the same design on the same model, in the same process, and work out the
same numbers of each (effect, KL, loss and entropy at every scored position). The loop is given the clean and the
fully steered runs; our side makes them itself, and makes and writes the rows. They take turns.

    python -m benchmarks.sweeps [--quick] [--rounds N] [--threads N] [--only gpt2|tinystories|ray]
"""

import argparse
import statistics
import sys
import tempfile
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import gpt2_small, line, processor, product_rate, quiet
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import Readout
from steerscope.analysis.executors.executors import Ray
from steerscope.analysis.model.models import Model
from steerscope.analysis.sweeps.bench import Bench, answer, bench
from steerscope.analysis.sweeps.design import Trial
from steerscope.analysis.sweeps.plan import plan
from steerscope.analysis.sweeps.store import Store
from steerscope.analysis.sweeps.work import Block
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.loader import load

COLUMNS = [
    "loop trials/s",
    "ours trials/s",
    "ratio",
    "share of product",  # of a plain fp32 matrix product, in floating-point operations that are really run
    "forward",
    "metrics",
    "writing",
    "difference",  # the largest, in nats, of KL, loss and entropy
]
GPT2 = [(tokens, k, "all") for tokens in (16, 64) for k in (1, 4, 16)]
STORIES = [(16, k, place) for place in ("all", "front", "last") for k in (1, 4, 16)] + [(8, 1, "last"), (8, 4, "front")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the first setting of each model")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each side takes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=["gpt2", "tinystories", "ray"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet()
    print(f"torch {torch.__version__}, {options.threads} threads; {processor()}")
    line("", *COLUMNS, first=28)
    wanted = [options.only] if options.only else ["gpt2", "tinystories", "ray"]
    for name, settings in (("gpt2", GPT2), ("tinystories", STORIES)):
        if name in wanted:
            model = gpt2_small() if name == "gpt2" else load("tinystories-2l", device="cpu")
            for setting in settings[:1] if options.quick else settings:
                compare(model, *setting, rounds=options.rounds)
    if "ray" in wanted:
        on_ray(load("tinystories-2l", device="cpu"))


@torch.no_grad()
def compare(model: Model, tokens: int, k: int, place: str, rounds: int) -> None:
    """One line of the table: prompts of `tokens` tokens, `k` nodes a trial."""
    large = model.d_model > 500
    trials, sample = (96, 12) if large else (1024, 64)
    where = bench_of(model, tokens, k, place, trials)
    if where is None:
        return
    place_, block = where
    with FlopCounterMode(display=False) as counter:
        place_.answer(block)
    flops = counter.get_total_flops()
    # every k-th trial, so that each visit and kind is among them
    chosen = [place_.work.design.trial(i, place_.work.additions.units) for i in range(0, trials, trials // sample)]
    loop = Loop(place_, chosen, block)
    loop.run(chosen[:2])
    ours, theirs, rates, shares = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.create({}, {})
        for turn in range(rounds):
            start = time.perf_counter()
            found = place_.answer(block)
            done = time.perf_counter()
            store.append(turn, found.table)
            end = time.perf_counter()
            ours.append((end - start) / trials)
            shares.append([found.seconds["forward"], found.seconds["metrics"], end - done])
            start = time.perf_counter()
            numbers = loop.run(chosen)
            theirs.append((time.perf_counter() - start) / len(chosen))
            rates.append(product_rate())
    difference = loop.difference(numbers, found.table.to_pandas())
    if not difference <= 2e-3:
        sys.exit(f"the two sides differ by {difference:.1e} nats; expected at most 2e-3")
    total = [sum(column) for column in zip(*shares, strict=True)]
    line(
        f"{model.name[-12:]} {tokens} x k={k} {place}",
        f"{1 / statistics.median(theirs):.1f}",
        f"{1 / statistics.median(ours):.1f}",
        f"{statistics.median(b / a for a, b in zip(ours, theirs, strict=True)):.1f}x",
        f"{statistics.median(flops / trials / s / 1e9 / r for s, r in zip(ours, rates, strict=True)):.0%}",
        *(f"{value / sum(total):.1%}" for value in total),
        f"{difference:.0e}",
        first=28,
    )


def bench_of(model: Model, tokens: int, k: int, place: str, trials: int) -> tuple[Bench, Block] | None:
    """A bench and one block of trials on random prompts; the last token of a prompt is only predicted."""
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(1, model.d_vocab, (16, tokens), generator=generator).tolist()
    prompts = [[model.bos or 0, *row] for row in ids]
    vector = prompt_pair(model, [5, 9], [7, 11], model.n_layers // 2)
    reachable = len(model.nodes) * (model.n_layers - (place == "front")) // model.n_layers
    if k > reachable:
        return None
    made = plan(model, vector, prompts, trials=trials, k=k, positions=place, visit=32)
    return bench(made.work, model), Block(0, 0, trials, dict(enumerate(made.prompts.ids)))


class Loop:
    """The plain loop: TransformerLens' bridge, one pass and its hooks for each trial."""

    def __init__(self, place: Bench, trials: list[Trial], block: Block) -> None:
        self.model, self.place = place.model, place
        self.visits = place._visits(trials, block.prompts)
        self.clean = self.visits.scores.reference.log_softmax(-1)

    def run(self, trials: list[Trial]) -> list[tuple[int, list[float]]]:
        """The numbers of each trial."""
        return [(trial.index, self.trial(trial)) for trial in trials]

    def trial(self, trial: Trial) -> list[float]:
        slot = self.visits.slot(trial)
        ids = self.visits.ids[slot]
        hooks = [
            (self.model.hook(edit.site.name, edit.site.layer), partial(added, edit=edit))
            for edit in self.place.edits(trial, ids)
        ]
        logits = self.model.bridge.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks)[0]
        at = list(self.visits.scored.positions[slot])
        scores = self.visits.scores
        first = sum(map(len, self.visits.scored.positions[:slot]))
        places = slice(first, first + len(at))
        own = logits[at].log_softmax(-1)
        p = own.exp()
        kl = (p * (own - self.clean[places])).sum(-1).mean()
        loss = -own.gather(1, scores.following[places][:, None]).mean()
        entropy = -(p * own).sum(-1).mean()
        row = torch.zeros(len(at), dtype=torch.long)
        hidden = torch.zeros(len(at), self.model.d_model)
        scores.effect(Readout([Variant(slot)], row, torch.tensor(at), logits[at], hidden))
        return [kl.item(), loss.item(), entropy.item()]

    def difference(self, numbers: list[tuple[int, list[float]]], table: Any) -> float:
        rows = table.set_index("trial")
        worst = 0.0
        for index, (kl, loss, entropy) in numbers:
            row = rows.loc[index]
            found = [row["kl"], torch.tensor(float(row["perplexity"])).log().item(), row["entropy"]]
            worst = max(worst, *(abs(a - b) for a, b in zip(found, (kl, loss, entropy), strict=True)))
        return worst


def added(x: Tensor, hook: Any, edit: Edit) -> Tensor:
    assert edit.positions is not None and isinstance(edit.value, Tensor)
    at = list(edit.positions)
    if edit.site.head is None:
        x[:, at] += edit.value
    else:
        x[:, at, edit.site.head] += edit.value
    return x


def on_ray(model: Model, trials: int = 24_000) -> None:
    """Ray with two workers of one thread each, against this process with one thread; after all have loaded the model"""
    made = plan(
        model,
        prompt_pair(model, " wedding", " ", 0),
        [[0, *range(5, 37)]] * 16,
        trials=trials,
        loader=partial(load, "tinystories-2l", device="cpu", selfcheck=False),
    )
    work = partial(answer, made.work)
    torch.set_num_threads(1)
    bench(made.work, model)
    alone = rate(map(work, (made.block(i) for i in range(made.blocks // 3))), skip=1)
    both = rate(Ray(workers=2)(work, (made.block(i) for i in range(made.blocks))), skip=6)
    again = rate(map(work, (made.block(i) for i in range(made.blocks // 3))), skip=1)
    one = statistics.mean([alone, again])
    print(
        f"ray: one process with one thread {one:.0f} trials/s ({alone:.0f} before, {again:.0f} after), "
        f"two workers of one thread {both:.0f} trials/s: {both / one:.2f}x"
    )


def rate(answers: Any, skip: int) -> float:
    """Trials a second after the first answers, while which models are loaded."""
    done, start = 0, 0.0
    for number, found in enumerate(answers):
        if number == skip:
            start = time.perf_counter()
        elif number > skip:
            done += found.table.num_rows
    return done / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
