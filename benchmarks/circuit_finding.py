"""Finders of circuits on planted ones, where every edge is known.

Models of `planted_verdicts`, clean and under the injection: the chain that does the task then has three edges (the
token into its first head, that into the second, that into the logits). By way of scoring edges: AUROC of the three
against all others, and how many of the three strongest are theirs (precision at size). Then what `find_circuit` keeps:
how often it is the chain and nothing else, its precision and recall. A finder of random scores stands beside.

    python -m benchmarks.circuit_finding [--seeds N] [--prompts N]
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import quiet
from benchmarks.ground_truth import area
from benchmarks.planted import NORMS
from benchmarks.planted_verdicts import VERDICTS, PlantedVerdict, plant_verdict
from benchmarks.stressed import prompts_of
from steerscope.analysis.model.nodes import Node
from steerscope.circuits.circuit_run import CircuitRuns
from steerscope.circuits.conductance import EdgeScores, Interval, _batch, edge_conductance
from steerscope.circuits.contrast import Contrast, contrast_of_task
from steerscope.circuits.find_circuit import halves
from steerscope.circuits.masks import Mask
from steerscope.circuits.pruning import prune

Values = NDArray[np.float64]
DICE = np.random.default_rng(0)
NEAR = 2.0**-20  # of the way: the gradient of the base run
SCORES: dict[str, Callable[[Contrast, EdgeScores], Values]] = {
    "conductance": lambda contrast, found: found.conductance.mean(-1),
    "integrated gradients": lambda contrast, found: found.integrated.mean(-1),
    "gradient (EAP)": lambda contrast, found: gradients(contrast),
    "random": lambda contrast, found: DICE.normal(size=found.conductance.shape[:2]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=12)
    options = parser.parse_args()
    quiet()
    print("| norm | runs | score | AUROC (lowest) | precision at size |\n| --- | --- | --- | --- | --- |")
    kept: dict[str, list[tuple[float, float, bool]]] = {}
    for norm in NORMS:
        rows: dict[str, list[tuple[float, float]]] = {name: [] for name in SCORES}
        for seed in range(options.seeds):
            for verdict in VERDICTS:
                planted = plant_verdict(verdict, norm=norm, seed=seed, prompts=options.prompts)
                for contrast, chain in contrasts(planted):
                    truth = edges_of(contrast, chain)
                    found = edge_conductance(contrast, what=None)
                    for name, score in SCORES.items():
                        rows[name].append(judged(contrast, score(contrast, found), truth))
                    kept.setdefault(str(norm), []).append(searched(contrast, truth))
        for name, judgements in rows.items():
            areas, precision = np.array(judgements).T
            print(
                f"| {norm} | {len(areas)} | {name} | {areas.mean():.2f} ({areas.min():.2f}) | {precision.mean():.2f} |"
            )
    print("\n| norm | runs | precision | recall | the chain and nothing else |\n| --- | --- | --- | --- | --- |")
    for name, found_ones in kept.items():
        precision, recall, same = np.array(found_ones, dtype=float).T
        print(f"| {name} | {len(same)} | {precision.mean():.2f} | {recall.mean():.2f} | {same.mean():.0%} |")


def contrasts(planted: PlantedVerdict) -> list[tuple[Contrast, list[Node]]]:
    """The task clean and under the injection, each with the chain that does it; none where nothing does."""
    clean, corrupted = prompts_of(planted)
    found = []
    for chain, injections in ((planted.circuits.clean, ()), (planted.circuits.steered, planted.experiment.injections)):
        if chain is not None:
            contrast = contrast_of_task(planted.model, clean, corrupted, injections)
            found.append((contrast, sorted(chain)))
    return found


def edges_of(contrast: Contrast, chain: list[Node]) -> Mask:
    """The edges of a chain of two heads, by their values."""
    names = [str(receiver) for receiver in contrast.receivers]
    first, last = chain
    mask = np.zeros_like(contrast.connected)
    mask[0, names.index(f"{first}.v")] = True
    mask[contrast.senders.index(first), names.index(f"{last}.v")] = True
    mask[contrast.senders.index(last), -1] = True
    return mask


def gradients(contrast: Contrast) -> Values:
    """Edge attribution patching: the base run's gradient times the whole change."""
    intervals = [Interval(p, 0.0, NEAR) for p in range(len(contrast))]
    return np.asarray(np.mean([part.integrated / NEAR for part in _batch(contrast, intervals).values()], axis=0))


def judged(contrast: Contrast, scores: Values, truth: Mask) -> tuple[float, float]:
    """AUROC, and precision at size."""
    size, right = np.abs(scores[contrast.connected]), truth[contrast.connected]
    strongest = np.argsort(-size, kind="stable")[: right.sum()]
    return area(size, right), float(right[strongest].mean())


def searched(contrast: Contrast, truth: Mask) -> tuple[float, float, bool]:
    """Precision and recall of the circuit that is found with half of the prompts, and whether it is the chain."""
    search, _ = halves(contrast.groups, 0)
    scores = edge_conductance(contrast, search, what=None).conductance.mean(-1)
    mask = prune(CircuitRuns(contrast), scores, search, lost=0.1).mask
    both = float((mask & truth).sum())
    return both / max(1.0, float(mask.sum())), both / float(truth.sum()), bool((mask == truth).all())


if __name__ == "__main__":
    main()
