"""Shapley values: how many coalitions the regression and the permutation estimator need for the same spread.

The spread is the standard deviation of a node's mean value over independent runs, as a root mean square over nodes.
"fewer" is how many times as many coalitions the permutations would need for the regression's spread, since their
spread falls with the square root of the number.

    python -m benchmarks.shapley [--quick] [--model FOLDER ...]
"""

import argparse
from dataclasses import replace

import numpy as np

from benchmarks.common import line, quiet
from steerscope.analysis.carriers.shapley import ESTIMATORS, Game
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.loader import load
from steerscope.tinystories.zoo import prompts as stories

COLUMNS = ["passes a node", "regression", "stated", "permutation", "fewer"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--model", nargs="*", default=[], help="folders of further models")
    options = parser.parse_args()
    quiet()
    runs = 4 if options.quick else 12
    for name in ["tinystories-2l", *options.model]:
        model = load(name)
        vector = Injection(prompt_pair(model, " wedding", " ", 0), 3.0)
        texts = make_prompts(model, stories("off_topic")[:6])
        experiment = Experiment(model, (vector,), texts, references=0)
        print(f"{name.split('/')[-1]}: {len(experiment.reachable)} nodes, {runs} runs")
        line("", *COLUMNS)
        for passes in (4, 8) if options.quick else (4, 8, 16, 32):
            found = {e: spread(experiment, e, passes, runs) for e in ESTIMATORS}
            regression, permutation = found["regression"], found["permutation"]
            fewer = (permutation[0] / regression[0]) ** 2
            line(
                "",
                str(passes),
                f"{regression[0]:.3f}",
                f"{regression[1]:.3f}",
                f"{permutation[0]:.3f}",
                f"{fewer:.1f}x",
            )


def spread(experiment: Experiment, estimator: str, passes: int, runs: int) -> tuple[float, float]:
    """What estimates scatter over seeds, and what one of them says it does."""
    players = experiment.reachable
    values, stated = [], []
    for seed in range(runs):
        asked = replace(experiment, seed=seed)
        game = Game(asked, players, 0, asked.along)
        fit, _ = ESTIMATORS[estimator](game, passes * len(players) + 2, False)
        values.append(fit.values.mean(axis=-1))
        stated.append(fit.error)
    return float(np.sqrt(np.var(values, axis=0, ddof=1).mean())), float(np.sqrt(np.nanmean(np.square(stated))))


if __name__ == "__main__":
    main()
