"""How often is the verdict of `stress` right? On planted circuits under steering, over seeds, and on random vectors.

    python -m benchmarks.stressed [--seeds 10] [--randoms 3] [--prompts 12]

A random vector's truth is not that it does nothing: with few dimensions some turn a planted head. It is the verdict by
values alone on many prompts of the same model.
"""

import argparse
from collections import Counter
from dataclasses import replace

import networkx as nx
import pandas as pd

from benchmarks.planted import NORMS, OTHER, TARGET
from benchmarks.planted_verdicts import VERDICTS, PlantedVerdict, plant_verdict
from steerscope.analysis.progress import track
from steerscope.analysis.question.prompts import Prompts
from steerscope.analysis.results.result import Result
from steerscope.circuits.circuit import Circuit
from steerscope.circuits.stress import stress

EXPECTED = {name: (name, "") for name in VERDICTS} | {
    "overwritten": ("overwritten", "outvoted"),
    "silenced": ("overwritten", "silenced"),
}
MANY = 96  # prompts that say what is true


def prompts_of(planted: PlantedVerdict) -> tuple[Prompts, Prompts]:
    """Prompts and counterfactuals, with the answers that the signal asks for."""
    asked = [(TARGET,) if label > 0 else (OTHER,) for label in planted.labels]
    others = [(OTHER,) if label > 0 else (TARGET,) for label in planted.labels]
    clean, corrupted = (
        replace(one.prompts, targets=tuple(asked), against=tuple(others), groups=())
        for one in (planted.experiment, planted.counterfactual)
    )
    return clean, corrupted


def claim_of(planted: PlantedVerdict) -> Circuit:
    """The planted circuit of c = 0."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    for node in sorted(planted.circuits.clean):
        graph.add_node(str(node), roles=(planted.roles[node].split(":")[0],))
    return Circuit("planted", "the sign of the third token", planted.model.name, graph)


def stressed(planted: PlantedVerdict, randoms: int = 0, seed: int = 0) -> Result:
    """The planted circuit under the planted vector."""
    [injection] = planted.experiment.injections
    vectors = {"planted": injection}
    return stress(
        claim_of(planted),
        prompts_of(planted),
        vectors,
        model=planted.model,
        coefficients=[1.0],
        randoms=randoms,
        seed=seed,
    )


def trial(verdict: str, norm: str | None, seed: int, randoms: int, prompts: int) -> pd.DataFrame:
    """Verdicts of one planted model: of its vector and of random ones, beside what is true."""
    few, many = (plant_verdict(verdict, norm=norm, seed=seed, prompts=n) for n in (prompts, MANY))
    found = stressed(few, randoms, seed).frames["verdicts"]
    truth = stressed(many, randoms, seed).frames["verdicts"]
    told = pd.DataFrame({"verdict": found["verdict"], "detail": found["detail"], "by_value": found["point"]})
    told["random"] = found["beside"] != ""
    told["truth"] = truth["point"]
    return told.assign(case=verdict, norm=str(norm), seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--randoms", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=12)
    given = parser.parse_args()
    cases = [(v, norm, seed) for norm in NORMS for v in VERDICTS for seed in range(given.seeds)]
    rows = pd.concat(trial(*case, given.randoms, given.prompts) for case in track(cases, "planted models"))
    print("| planted | norm | right | by values | else |")
    print("| --- | --- | --- | --- | --- |")
    for (case, norm), own in rows[~rows["random"]].groupby(["case", "norm"], sort=False):
        verdict, detail = EXPECTED[str(case)]
        right = (own["verdict"] == verdict) & (own["detail"] == detail)
        others = Counter(" ".join(pair).strip() for pair in own[~right][["verdict", "detail"]].to_numpy().tolist())
        said = ", ".join(f"{name} {count}" for name, count in others.items())
        print(f"| {case} | {norm} | {right.sum()} of {len(own)} | {(own['by_value'] == verdict).sum()} | {said} |")
    print()
    print("| random vectors, norm | " + " | ".join(sorted(set(rows["verdict"]))) + " | wrong |")
    print("| --- " * (2 + rows["verdict"].nunique()) + "|")
    for norm, own in rows[rows["random"]].groupby("norm", sort=False):
        counts = [str((own["verdict"] == verdict).sum()) for verdict in sorted(set(rows["verdict"]))]
        wrong = (own["verdict"] != "undetermined") & (own["verdict"] != own["truth"])
        print(f"| {norm!s} | " + " | ".join(counts) + f" | {wrong.sum()} of {len(own)} |")


if __name__ == "__main__":
    main()
