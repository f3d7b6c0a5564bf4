"""Edits that set nodes to what they are in another run: what every method of this folder is made of."""

from collections.abc import Sequence

from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Edits, Experiment

Patches = dict[Node, list[Edit]]  # by node, one edit for each prompt


def activations(
    experiment: Experiment, edits: Edits, sites: Sequence[tuple[str, int]]
) -> list[dict[tuple[str, int], Tensor]]:
    """By prompt, activations of its run under `edits`: (site, layer) -> `[pos, ...]`; of a pattern `[head, query,
    key]`.
    """
    prompts = experiment.prompts.full
    variants = [Variant(p, tuple(edits[p])) for p in range(len(prompts))]
    found: list[dict[tuple[str, int], Tensor]] = [{} for _ in prompts]
    for chunk, readout in run(experiment.model, prompts, variants, reads="none", sites=sites, budget=experiment.budget):
        for row, index in enumerate(chunk):
            length = len(prompts[index])
            found[index] = {
                site: readout.activations[site][row][
                    (slice(None), slice(length), slice(length)) if site[0] == "pattern" else slice(length)
                ].clone()
                for site in sites
            }
    return found


def patches(experiment: Experiment, edits: Edits, nodes: Sequence[Node]) -> Patches:
    """For every node and prompt, the edit that sets the node to its output under `edits`, at all positions."""
    sites = sorted({(node.site.name, node.layer) for node in nodes})
    found = activations(experiment, edits, sites)

    def patch(node: Node, p: int) -> Edit:
        x = found[p][node.site.name, node.layer]
        return Edit(node.site, "set", x if node.head is None else x[:, node.head])

    return {node: [patch(node, p) for p in range(len(found))] for node in nodes}
