"""Screen and verify against patching every node: forward-equivalents, seconds, and whether both find the same nodes.

A random model of GPT-2 small's shape with prompts of 64 tokens, then the trained models: the shipped ones, and a
folder of your own with `--model`.

    python -m benchmarks.screen [--quick] [--model FOLDER ...]
"""

import argparse

import torch

from benchmarks.common import gpt2_small, line, processor, quiet, seconds
from steerscope.analysis.carriers.screen import screen
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.tools.patching import effects
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.loader import load
from steerscope.tinystories.zoo import prompts as stories

COLUMNS = ["nodes", "verified", "passes screen", "passes exact", "ratio", "screen s", "exact s", "same top ten"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the shipped models alone")
    parser.add_argument("--model", nargs="*", default=[], help="folders of further models")
    parser.add_argument("--prompts", type=int, default=1, help="of the random model")
    options = parser.parse_args()
    quiet()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; {processor()}")
    line("", *COLUMNS, first=28)
    for name in ["tinystories-1l", "tinystories-2l", *options.model]:
        model = load(name)
        vector = prompt_pair(model, " wedding", " ", 0)
        texts = make_prompts(model, stories("off_topic")[:16])
        show(name.split("/")[-1], Experiment(model, (Injection(vector, 3.0),), texts, references=0))
    if not options.quick:
        show("GPT-2 small shape, 64 tokens", random_gpt2(gpt2_small(), options.prompts))


def random_gpt2(model: Model, count: int) -> Experiment:
    """A vector and prompts of random tokens."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, model.d_vocab, (count + 2, 64), generator=generator).tolist()
    vector = prompt_pair(model, tokens[0][:4], tokens[1][:4], 0, pad=0)
    prompts = make_prompts(model, tokens[2:])
    return Experiment(model, (Injection(vector, 4.0),), prompts, references=0)


def show(name: str, experiment: Experiment) -> None:
    """A line of the table."""
    _ = experiment.steered  # both begin with the runs made
    found: dict[str, object] = {}
    fast = seconds(lambda: found.update(screen=screen(experiment, top=None)))
    slow = seconds(lambda: found.update(exact=effects(experiment)))
    result, exact = found["screen"], found["exact"]
    cost = result.frames["cost"].set_index("what")["passes"]  # type: ignore[attr-defined]
    verified = result.frames["effects"]["node"].nunique()  # type: ignore[attr-defined]
    same = []
    for row, measure in enumerate(("necessity", "sufficiency")):
        table = result.frames["effects"]  # type: ignore[attr-defined]
        own = table[table["measure"] == measure].set_index("node")["effect"].abs()
        best = set(own.nlargest(10).index)
        size = abs(exact.along[0, row].mean(-1))  # type: ignore[attr-defined]
        truth = {str(exact.nodes[i]) for i in size.argsort()[::-1][:10]}  # type: ignore[attr-defined]
        same.append(f"{len(best & truth)}/{len(truth)}")
    line(
        name,
        str(len(experiment.reachable)),
        str(verified),
        f"{cost['screen']:.1f}",
        f"{cost['exact']:.1f}",
        f"{cost['exact'] / cost['screen']:.1f}x",
        f"{fast:.1f}",
        f"{slow:.1f}",
        ", ".join(same),
        first=28,
    )


if __name__ == "__main__":
    main()
