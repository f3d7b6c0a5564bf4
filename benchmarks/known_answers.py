"""Toys with a known circuit: what each path carries, by the exact decomposition and by exact path patching.

Every question puts one token in the place of another (see `steerscope.circuits.toys.questions`), so that the answer
turns; shares are of that whole effect, means over questions.

    python -m benchmarks.known_answers [--questions N]
"""

import argparse
import re
from collections.abc import Iterator

import numpy as np

from benchmarks.common import quiet
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.routes.path_effect import Path, Receiver, exact_paths
from steerscope.circuits.toys.questions import questions
from steerscope.circuits.toys.recipes import Recipe
from steerscope.circuits.toys.zoo import toy, toys
from steerscope.tinystories.dissect import dissect

INPUTS = ("q", "k", "v")
FINAL, REST = "final norm", "rest"
SHOWN, NOTHING = 0.02, 1.0  # share of a path that is printed; logits of an effect that is none


def paths(model: Model) -> list[tuple[str, Path]]:
    """What is asked of each toy: from its layer-0 heads into the inputs of layer 1 and to the logits; of a toy with one
    layer, from its heads to the logits.
    """
    found: list[tuple[str, Path]] = []
    for head in range(model.n_heads):
        sender = Node(0, head)
        if model.n_layers > 1:
            for reader in range(model.n_heads):
                node = Node(1, reader)
                found += [(f"{sender} -> {node}.{name}", (sender, Receiver(node, (name,)))) for name in INPUTS]
        found.append((f"{sender} -> logits", (sender, Receiver(None))))
    if model.n_layers > 1:
        for reader in range(model.n_heads):
            node = Node(1, reader)
            found += [(f"injection -> {node}.{name}", (None, Receiver(node, (name,)))) for name in INPUTS[1:]]
    return found


def shares(model: Model, recipe: Recipe, count: int = 8, measure: int | None = None) -> dict[str, float]:
    """By path, its share of the whole effect by exact path patching.

    Args:
        measure: 0 for necessity, 1 for sufficiency; None for their mean.
    """
    asked = paths(model)
    found, totals = [], []
    for experiment in questions(model, recipe, count):
        both = exact_paths(experiment, [path for _, path in asked])
        found.append((both.mean(0) if measure is None else both[measure]).mean(-1))
        totals.append(experiment.effect().mean())
    kept = np.sum(found, axis=0) / np.sum(totals)
    return dict(zip([name for name, _ in asked], map(float, kept), strict=True))


def split(model: Model, recipe: Recipe, count: int = 8) -> dict[str, float]:
    """The same by the exact decomposition: of all paths from the injection, those that go this way; with what else
    there is ("final norm", "rest"), they add up to 1.
    """
    names = [name for name, _ in paths(model)]
    found: dict[str, float] = dict.fromkeys([*names, FINAL, REST], 0.0)
    total = 0.0
    for experiment in questions(model, recipe, count):
        right, wrong = (int(token) for side in ("targets", "against") for token in experiment.metric.options[side])
        for token, sign in ((right, 1), (wrong, -1)):
            frames = dissect(experiment, tokens=[token], at="last", share=0, audit=False).frames
            total += sign * frames["totals"]["change"].sum()
            leaves = frames["paths"].groupby("path")["change"].sum()
            for path, change in leaves.items():
                if (name := _address(str(path), model.n_layers)) is not None:
                    found[name] += sign * float(change)
    kept = {name: change / total for name, change in found.items()}
    return kept | {REST: 1 - sum(kept.values())}


def _address(path: str, layers: int) -> str | None:
    """Which of `paths` a node of the tree is; None for what is deeper or shallower, or another."""
    if path == FINAL:
        return FINAL
    if (match := re.fullmatch(r"(L0H\d+)", path)) is not None:
        return f"{match[1]} -> logits"
    if (match := re.fullmatch(r"(L1H\d+)\.(q|k<-\d+|ov<-\d+)<-(L0H\d+|direct)", path)) is None:
        return None
    reader, channel, sender = match.groups()
    sender = "injection" if sender == "direct" else sender
    return f"{sender} -> {reader}.{channel[0].replace('o', 'v')}"


def table(count: int = 8) -> Iterator[str]:
    """Rows in Markdown, toy by toy; of one that does not answer by the token, the whole effect alone."""
    yield "| toy | path | decomposition | necessity | sufficiency |"
    yield "| --- | --- | --- | --- | --- |"
    for name, folder in toys().items():
        model, recipe = load(folder, name=name), toy(name).recipe
        whole = np.mean([experiment.effect().mean() for experiment in questions(model, recipe, count)])
        yield f"| {name} | whole effect | {whole:.1f} logits | | |"
        if abs(whole) < NOTHING:
            continue
        ours = split(model, recipe, count)
        both = [shares(model, recipe, count, measure) for measure in (0, 1)]
        for path, share in ours.items():
            exact = [f"{own[path]:.2f}" if path in own else "" for own in both]
            if max(abs(share), *(abs(own.get(path, 0)) for own in both)) >= SHOWN:
                yield f"| {name} | {path} | {share:.2f} | {' | '.join(exact)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--questions", type=int, default=8)
    options = parser.parse_args()
    quiet()
    for row in table(options.questions):
        print(row, flush=True)


if __name__ == "__main__":
    main()
