"""Every method on planted models, where the carriers are known.

By case and method: AUROC of carriers against all other nodes by the size of the score (mean over norms, depths
and seeds, lowest in brackets), and how often a carrier's sign is right. A dash: by definition there is nothing
to find. Then false carriers: idle heads that exact patching calls significant, and those of them whose effect also
lies outside of the band of 39 random vectors (by chance 5% would), for the planted vector and for each of 20 random
ones in its place.

    python -m benchmarks.ground_truth [--quick] [--seeds N]
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import quiet
from benchmarks.planted import CASES, Planted, plant
from steerscope.analysis.carriers.shapley import shapley
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import band, over_references
from steerscope.analysis.results.stats import benjamini_hochberg, carrier_p
from steerscope.analysis.tools.gradients import rank
from steerscope.analysis.tools.patching import effects

TRIED = 20  # random vectors in the place of the planted one
Values = NDArray[np.float64]
Scores = Callable[[Experiment], Values]


def exact(measure: int) -> Scores:
    return lambda asked: effects(asked.fewer(0)).along[0, measure].mean(-1)


def gradient(method: str, measure: int) -> Scores:
    return lambda asked: rank(asked, method)[0][measure]


def values(asked: Experiment) -> Values:
    result = shapley(asked.fewer(0), passes=20 * len(asked.reachable), interactions=False)
    return result.frames["effects"]["effect"].to_numpy()


METHODS: dict[str, tuple[Scores, str]] = {
    "exact necessity": (exact(0), "necessity"),
    "exact sufficiency": (exact(1), "sufficiency"),
    "gradient, necessity": (gradient("gradient", 0), "necessity"),
    "gradient, sufficiency": (gradient("gradient", 1), "sufficiency"),
    "relp, necessity": (gradient("relp", 0), "necessity"),
    "atp*, necessity": (gradient("atp*", 0), "necessity"),
    "ig": (gradient("ig", 0), "sufficiency"),
    "shapley": (values, "sufficiency"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one norm, one depth, one seed")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    quiet()
    norms = ["LN"] if options.quick else ["LN", "RMS", None]
    depths = [2] if options.quick else [2, 4]
    seeds = range(1 if options.quick else options.seeds)
    settings = [{"norm": n, "layers": d, "seed": s} for n in norms for d in depths for s in seeds]
    print("| case | " + " | ".join(METHODS) + " |")
    print("| --- |" + " --- |" * len(METHODS))
    for case in CASES:
        models = [plant(case, references=0, prompts=8, **setting) for setting in settings]  # type: ignore[arg-type]
        print(f"| {case} | " + " | ".join(_cell(models, name) for name in METHODS) + " |", flush=True)
    shallow = [setting for setting in settings if setting["layers"] == 2]
    _false([plant("direct", references=39, prompts=10, **setting) for setting in shallow])  # type: ignore[arg-type]


def _cell(models: list[Planted], name: str) -> str:
    method, measure = METHODS[name]
    areas, signs = [], []
    for planted in models:
        truth = planted.truth[measure]
        if truth:
            found = method(planted.experiment)
            nodes = planted.experiment.reachable
            carries = np.array([node in truth for node in nodes])
            areas.append(area(np.abs(found), carries))
            signs += [bool(np.sign(found[nodes.index(n)]) == sign) for n, sign in truth.items()]
    if not areas:
        return "–"
    return f"{np.mean(areas):.2f} ({min(areas):.2f}), {np.mean(signs):.0%}"


def area(scores: Values, true: NDArray[np.bool_]) -> float:
    """AUROC: how often a carrier stands above another node."""
    wins = (scores[true][:, None] > scores[~true]) + 0.5 * (scores[true][:, None] == scores[~true])
    return float(wins.mean())


def _false(models: list[Planted]) -> None:
    """For the planted vector, and for each of its random vectors in turn, the others being its references."""
    print("\n| vector | idle heads, both measures | significant | and outside of the band |")
    print("| --- | --- | --- | --- |")
    counts = {"planted": np.zeros(3), "random": np.zeros(3)}
    for planted in models:
        found = effects(planted.experiment)
        idle = [i for i, n in enumerate(found.nodes) if n.head is not None and n not in planted.roles]
        for vector in range(1 + TRIED):
            others = [c for c in range(1, len(found.along)) if c != vector]
            for measure in (0, 1):
                real, references = found.along[vector, measure], found.along[others, measure]
                p = carrier_p(real, over_references(references), resamples=4_999)
                called = (benjamini_hochberg(p) < 0.05)[idle]
                low, high = band(references.mean(-1))
                beyond = ((real.mean(-1) < low) | (real.mean(-1) > high))[idle]
                name = "random" if vector else "planted"
                counts[name] += [len(idle), called.sum(), (called & beyond).sum()]
    for name, (heads, found_in_all, outside) in counts.items():
        print(
            f"| {name} | {heads:.0f} | {found_in_all:.0f} ({found_in_all / heads:.0%}) | {outside:.0f} "
            f"({outside / heads:.1%}) |"
        )


if __name__ == "__main__":
    main()
