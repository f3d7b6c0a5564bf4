"""Every method on planted models, where the carriers are known.

By case and method: AUROC of carriers against all other nodes by the size of the score (mean over norms, depths
and seeds, lowest in brackets), and how often a carrier's sign is right. A dash: by definition there is nothing
to find. Then relays, where one head's write decides what a second head's queries, keys or values read: what each
method says of the first head, over its exact effect. Then false carriers: idle heads that are told from noise, of the
planted vector and of each of 20 random ones in its place, the others being its references.

    python -m benchmarks.ground_truth [--quick] [--seeds N]
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import quiet
from benchmarks.planted import CASES, Planted, plant
from steerscope.analysis.carriers.shapley import shapley
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import Statistics, estimates
from steerscope.analysis.results.verdicts import TOLD
from steerscope.analysis.tools.gradients import estimate
from steerscope.analysis.tools.patching import effects
from steerscope.circuits.conductance import edge_conductance
from steerscope.circuits.contrast import contrast_of

TRIED = 20  # random vectors in the place of the planted one
Values = NDArray[np.float64]
Scores = Callable[[Experiment], Values]


def exact(measure: int) -> Scores:
    return lambda asked: np.asarray(effects(asked.fewer(0)).along[measure].mean(-1))


def gradient(method: str, measure: int) -> Scores:
    return lambda asked: np.asarray(estimate(asked, method).values.mean(axis=-1)[measure])


def values(asked: Experiment) -> Values:
    result = shapley(asked.fewer(0), passes=20 * len(asked.reachable), interactions=False)
    return result.frames["effects"]["effect"].to_numpy()


def through(which: str) -> Scores:
    """What leaves a node along all of its edges."""

    def scores(asked: Experiment) -> Values:
        found = edge_conductance(contrast_of(asked), what=None)
        return np.asarray(getattr(found, which)[1:].sum(1).mean(-1))

    return scores


METHODS: dict[str, tuple[Scores, str]] = {
    "exact necessity": (exact(0), "necessity"),
    "exact sufficiency": (exact(1), "sufficiency"),
    "gradient, necessity": (gradient("gradient", 0), "necessity"),
    "gradient, sufficiency": (gradient("gradient", 1), "sufficiency"),
    "relp, necessity": (gradient("relp", 0), "necessity"),
    "atp*, necessity": (gradient("atp*", 0), "necessity"),
    "atp*, sufficiency": (gradient("atp*", 1), "sufficiency"),
    "ig, conductance": (gradient("ig", 0), "sufficiency"),
    "edges, conductance": (through("conductance"), "sufficiency"),
    "edges, ig": (through("integrated"), "sufficiency"),
    "shapley": (values, "sufficiency"),
}
RELAYS = ("relay_value", "relay_query", "relay_key")
FINDS = {  # the relays that a gradient method is said to find
    "gradient": ("relay_value",),
    "relp": ("relay_value",),
    "atp*": RELAYS,
    "ig": RELAYS,
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
    settings: list[dict[str, Any]] = [{"norm": n, "layers": d, "seed": s} for n in norms for d in depths for s in seeds]
    print("| case | " + " | ".join(METHODS) + " |")
    print("| --- |" + " --- |" * len(METHODS))
    for case in CASES:
        models = [plant(case, references=0, prompts=8, **setting) for setting in settings]
        print(f"| {case} | " + " | ".join(_cell(models, name) for name in METHODS) + " |", flush=True)
    _relays(settings)
    shallow = [setting for setting in settings if setting["layers"] == 2]
    _false([plant("direct", references=39, prompts=10, **setting) for setting in shallow])


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


def _relays(settings: list[dict[str, Any]]) -> None:
    names = [name for name in METHODS if not name.startswith(("exact", "shapley"))]
    print("\n| the first head of a | " + " | ".join(names) + " |")
    print("| --- |" + " --- |" * len(names))
    for case in RELAYS:
        models = [plant(case, references=0, prompts=8, **setting) for setting in settings]
        cells = []
        for name in names:
            found = [first(planted, name) for planted in models]
            cells.append(f"{np.mean(found):.2f} ({min(found):.2f} to {max(found):.2f})")
        print(f"| {case} | " + " | ".join(cells) + " |", flush=True)


def first(planted: Planted, name: str) -> float:
    """What a method says of a relay's first head, over the exact effect of the measure that it stands for."""
    method, measure = METHODS[name]
    at = planted.experiment.reachable.index(next(iter(planted.roles)))
    whole = METHODS[f"exact {measure}"][0](planted.experiment)[at]
    return float(method(planted.experiment)[at] / whole)


def _false(models: list[Planted]) -> None:
    """For the planted vector, and for each of its random vectors in turn, the others being its references."""
    print("\n| vector | idle heads, both measures | told from noise |")
    print("| --- | --- | --- |")
    counts = {"planted": np.zeros(2), "random": np.zeros(2)}
    for planted in models:
        found = effects(planted.experiment)
        idle = [i for i, n in enumerate(found.nodes) if n.head is not None and n not in planted.roles]
        for vector in range(1 + TRIED):
            # The vector in question first; the planted one is nobody's reference.
            order = [vector, *(v for v in range(1, len(found.own)) if v != vector)]
            total = found.basis.own[vector] if vector else found.basis.total
            families = ("", *(found.basis.families[v] for v in order[1:]))
            basis = replace(found.basis, total=total, own=found.basis.own[order], families=families)
            for measure in (0, 1):
                own = found.own[order, measure]
                along = own[0] if vector else found.along[measure]
                called = np.isin(estimates(basis, along, own, Statistics())["verdict"][idle], TOLD)
                counts["random" if vector else "planted"] += [len(idle), called.sum()]
    for name, (heads, told) in counts.items():
        print(f"| {name} | {heads:.0f} | {told:.0f} ({told / heads:.1%}) |")


if __name__ == "__main__":
    main()
