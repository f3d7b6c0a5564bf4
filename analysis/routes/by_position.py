"""`by_position`: where in the prompt a carrier does its work, and where it reads the vector.

1. Patch each carrier's output at one place of the prompt alone (see `places`): necessity is the effect that is
   lost when it is set back to clean there in the steered run, sufficiency the effect that appears when it alone
   is steered there in the clean run. `all` is every position at once.
2. For heads, how they read: the share of attention that each place pays to the injected positions, and the
   share of the head's output that comes from there (projection of the part that is mixed from the injected
   positions' values on the whole z), clean and steered.
3. The same for random vectors of equal norm.
4. For the strongest carriers every single position of every prompt, with its token.

A carrier's places need not add up to `all`: what it writes at one position can change what is read at another.

Source: PEAP (Haklay et al. 2025, arXiv 2502.04577) for why positions should not be averaged over; Vig et al.
2020 (arXiv 2004.12265) for the two directions.
What it cannot see: which later node needs the carrier at that place (see paths); backup.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.gate import Level, Share, Whole, gated
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment, beyond_rounding
from steerscope.analysis.results.effects import NODE, NUMBERS, Statistics, node_columns, partial_estimates
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.results.verdicts import TOLD
from steerscope.analysis.tools.keeping import Arrays, each
from steerscope.analysis.tools.patching import MEASURES, against_plain, patched
from steerscope.analysis.tools.places import ORDER, Places, added, places
from steerscope.analysis.tools.record import check, record, tolerance
from steerscope.analysis.tools.strongest import chosen

_WHERE = Column(
    "place in the prompt: bos; injected i (i-th position that the vector is added to; + for those after the sixth); "
    "after +i (i positions later); last and last -i; between (everything else that can be reached, together); all "
    "(every position)",
    role="label",
)
READ = ("effect", "low", "high", "reference", "reference_low", "reference_high", "p", "p_noise", "p_holm")
_PROMPTS = Column("how many prompts have this place; means are over them")
COLUMNS: Frames = {
    "positions": {
        **NODE,
        "where": _WHERE,
        "measure": Column(
            "necessity: effect lost when the node is set to its clean value at this place in the steered run; "
            "sufficiency: effect that appears when only this node is set to its steered value there in the clean run",
            role="measure",
        ),
        "prompts": _PROMPTS,
        **NUMBERS,
    },
    "reads": {
        **NODE,
        "where": _WHERE,
        "quantity": Column(
            "attention: share of the head's attention that goes from this place to the injected positions; value: "
            "share of its z that comes from there (projection of the part mixed from their values on the whole)",
            role="measure",
        ),
        "prompts": _PROMPTS,
        "clean": Column("mean over prompts, clean run"),
        "steered": Column("mean over prompts, steered run"),
        **{name: replace(column, unit="") for name, column in NUMBERS.items() if name in READ},
        "effect": Column("steered minus clean, mean over prompts", role="estimate"),
        "reference": Column("the same change under random vectors of equal norm; mean", role="reference"),
        "told": Column(
            "whether the change differs from zero over prompts and from that under random vectors (Holm)",
            role="verdict",
        ),
    },
    "per_prompt": {
        "prompt": Column("index of the prompt", role="label"),
        "position": Column("a position that the injection reaches, patched alone", role="axis"),
        "token": Column("its token"),
        "where": Column("its place", role="label"),
        "node": Column("one of the strongest carriers", role="node"),
        "measure": Column("necessity or sufficiency", role="measure"),
        "effect": Column("effect of the node at this position", "{metric}", "estimate"),
    },
    "prompts": {
        "prompt": Column("index of the prompt", role="label"),
        "text": Column("the prompt, as given"),
        "effect": Column("steered minus clean, of the whole injection", "{metric}", "estimate"),
        "injected": Column("positions that the vector is added to, rows of zeros left out"),
    },
}

TOP, DETAILED, SAMPLES = 12, 4, 4
ALL = "all"
READS = ("attention", "value")
Values = NDArray[np.float64]
Patch = tuple[int, Node, int, tuple[int, ...]]  # measure, node, prompt, positions (none: all of them)


@gated
def by_position(
    experiment: Experiment,
    *,
    nodes: Sequence[Node | str] | None = None,
    references_at_most: Whole = 8,
    level: Level = 0.95,
    alpha: Level = 0.05,
    smallest: Share = 0.02,
) -> Result:
    """Exact necessity and sufficiency of carriers at each place of the prompt.

    Args:
        nodes: by default the 12 with the largest exact effect: of all nodes, or, in a model with more than 200, of
            the 48 that gradients rank highest.
        references_at_most: reference vectors, noise first, at most as many as the experiment has.

    Returns:
        a `Result` of kind "by_position"; frames and columns as in `COLUMNS`.

    Raises:
        BadNode: a node that is not there, or that the injection cannot reach.
    """
    options = Statistics(level, alpha, smallest)
    start = time.perf_counter()
    experiment = experiment.fewer(references_at_most)
    carriers, rule = chosen(experiment, nodes, TOP)
    injected = [added(experiment, p) for p in range(len(experiment.prompts))]
    at = [
        places(i, len(ids), prompt.has_bos)
        for i, ids, prompt in zip(injected, experiment.prompts.full, experiment.layouts, strict=True)
    ]
    names = [name for name in ORDER if any(name in row for row in at)]
    heads = [node for node in carriers if node.head is not None]
    clean, mixed = _reads(experiment, heads, at, names, None)

    def of_vector(vector: int) -> Arrays:
        effects = _effects(experiment, carriers, at, [*names, ALL], vector)
        reads = _reads(experiment, heads, at, names, vector)[0]
        experiment.own_effect(vector)  # kept from here on, its run is not
        return effects, reads

    found, read = zip(*each(experiment, "positions", of_vector, *carriers), strict=True)
    values, own, total = found[0][0], np.stack([one[-1] for one in found]), experiment.effect()
    size = np.abs(values[:, :, -1].mean(axis=-1)).max(axis=0)
    detailed = [carriers[i] for i in np.argsort(-size, kind="stable")[:DETAILED]]
    prompts = {"prompt": range(len(at)), "text": experiment.prompts.texts, "effect": total}
    frames = {
        "positions": _table(experiment, carriers, [*names, ALL], values, own, options),
        "reads": _reads_table(experiment, heads, names, clean, np.stack(read), options),
        "per_prompt": _detail(experiment, detailed, at),
        "prompts": pd.DataFrame(prompts).assign(injected=[",".join(map(str, i)) for i in injected]),
    }
    return record(
        "by_position",
        experiment,
        frames,
        COLUMNS,
        start,
        checks=_checks(experiment, carriers, at, mixed),
        nodes=[str(node) for node in carriers],
        rule=rule,
        detailed=[str(node) for node in detailed],
        total=float(total.mean()),
        level=level,
        alpha=alpha,
        smallest=smallest,
    )


def _effects(
    experiment: Experiment, nodes: Sequence[Node], at: Sequence[Places], names: Sequence[str], vector: int
) -> Float[Values, "score measure node place prompt"]:
    """Step 1, of one vector, by each of its readings; missing where a prompt lacks a place."""
    shape = (len(MEASURES), len(nodes), len(names), len(at))
    values = np.full((1 if vector else 2, *shape), np.nan)
    asked = [i for i in np.ndindex(shape) if names[i[2]] in at[i[3]] or names[i[2]] == ALL]
    patches = [(m, nodes[n], p, at[p].get(names[w], ())) for m, n, w, p in asked]
    values[(slice(None), *np.array(asked).T)] = _changes(experiment, vector, nodes, patches)
    return values


def _changes(
    experiment: Experiment, vector: int, nodes: Sequence[Node], patches: Sequence[Patch]
) -> Float[Values, "score patch"]:
    """What single patches change, of one vector, by each of its readings."""
    scores = experiment.readings(vector)
    edits = experiment.edits(vector)
    made = _edits(experiment, vector, nodes, patches)
    variants = [patched(MEASURES[m], p, edits, [edit]) for (m, _, p, _), edit in zip(patches, made, strict=True)]
    base = np.array([[experiment.value(v, score) for score in scores] for v in (vector, None)])
    measure, prompt = np.array([(m, p) for m, _, p, _ in patches]).T
    values = experiment.scores(variants, scores).T
    before = base[:, :, prompt]  # [run, score, patch]
    change = beyond_rounding(np.where(measure == 0, *before) - values, values, *before)
    return np.asarray(np.where(measure == 0, change, -change))


def _edits(experiment: Experiment, vector: int, nodes: Sequence[Node], patches: Sequence[Patch]) -> list[Edit]:
    """By patch, the edit that sets the node, at these positions, to its output in the other run: clean, or steered."""
    sources = [experiment.patches(other, nodes) for other in (None, vector)]
    found = []
    for m, node, p, where in patches:
        whole = sources[m][node][p]
        assert isinstance(whole.value, Tensor)
        found.append(replace(whole, value=whole.value[list(where)], positions=where) if where else whole)
    return found


def _reads(
    experiment: Experiment, heads: Sequence[Node], at: Sequence[Places], names: Sequence[str], vector: int | None
) -> tuple[Float[Values, "quantity head place prompt"], float]:
    """Step 2, of one run; and how far attention times values is from z in it."""
    model = experiment.model
    sites = [(name, layer) for layer in sorted({node.layer for node in heads}) for name in ("pattern", "v", "z")]
    values = np.full((len(READS), len(heads), len(names), len(at)), np.nan)
    worst = 0.0
    kept = experiment.activations(vector, sites)
    for (h, node), p in product(enumerate(heads), range(len(at))):
        injected, head = list(added(experiment, p)), node.head or 0
        pattern = kept[p]["pattern", node.layer][head].double()
        v = kept[p]["v", node.layer][:, head * model.n_kv_heads // model.n_heads].double()
        z = pattern @ v
        gap = z - kept[p]["z", node.layer][:, head]
        worst = max(worst, (gap.abs().max() / z.abs().max().clamp_min(1e-30)).item())
        part = pattern[:, injected] @ v[injected]
        share = (part * z).sum(-1) / z.square().sum(-1).clamp_min(1e-30)
        row = torch.stack([pattern[:, injected].sum(-1), share]).cpu().numpy()
        for w, name in enumerate(names):
            if name in at[p]:
                values[:, h, w, p] = row[:, list(at[p][name])].mean(axis=1)
    return values, worst


def _table(
    experiment: Experiment,
    nodes: Sequence[Node],
    names: Sequence[str],
    values: Float[Values, "measure node place prompt"],
    own: Float[Values, "vector measure node place prompt"],
    options: Statistics,
) -> pd.DataFrame:
    """Corrected as if every node that the injection reaches had been patched: which ones were, the same prompts said"""
    basis, prompts, frames = experiment.basis(), values.shape[-1], []
    tests = len(names) * len(experiment.reachable)
    for m, measure in enumerate(MEASURES):
        flat = own[:, m].reshape(len(own), -1, prompts)
        columns = partial_estimates(basis, values[m].reshape(-1, prompts), flat, options, tests)
        frames.append(_items(nodes, names).assign(measure=measure, **columns))
    return pd.concat(frames, ignore_index=True)[list(COLUMNS["positions"])]


def _reads_table(
    experiment: Experiment,
    heads: Sequence[Node],
    names: Sequence[str],
    clean: Float[Values, "quantity head place prompt"],
    steered: Float[Values, "vector quantity head place prompt"],
    options: Statistics,
) -> pd.DataFrame:
    """The change of attention and of the share of z, steered minus clean."""
    if not heads:
        return pd.DataFrame(columns=list(COLUMNS["reads"]))
    change = steered - clean
    # A share of attention is one by itself: what is compared with other vectors is the change, not a part of a whole.
    whole = np.ones((len(change), change.shape[-1]))
    basis, frames = replace(experiment.basis(), total=whole[0], own=whole), []
    for q, quantity in enumerate(READS):
        flat = change[:, q].reshape(len(change), -1, clean.shape[-1])
        way = np.where(np.nanmean(flat[0], axis=-1) < 0, -1.0, 1.0)  # tested in its own direction
        found = partial_estimates(basis, way[:, None] * flat[0], way[:, None] * flat, replace(options, smallest=0.0))
        columns = {name: way * found[name] for name in ("effect", "reference")}
        for part in ("{}", "reference_{}"):
            ends = [way * found[part.format(end)] for end in ("low", "high")]
            columns |= {part.format("low"): np.minimum(*ends), part.format("high"): np.maximum(*ends)}
        columns |= {name: found[name] for name in ("p", "p_noise", "p_holm", "prompts")}
        columns["told"] = np.isin(found["verdict"].astype(str), TOLD)
        means = {name: np.nanmean(run[q], axis=-1).ravel() for name, run in (("clean", clean), ("steered", steered[0]))}
        frames.append(_items(heads, names).assign(quantity=quantity, **means, **columns))
    return pd.concat(frames, ignore_index=True)[list(COLUMNS["reads"])]


def _items(nodes: Sequence[Node], names: Sequence[str]) -> pd.DataFrame:
    """A row for each node and place."""
    return pd.DataFrame(node_columns([n for n in nodes for _ in names]) | {"where": list(names) * len(nodes)})


def _detail(experiment: Experiment, nodes: Sequence[Node], at: Sequence[Places]) -> pd.DataFrame:
    """Step 4: every position by itself."""
    rows, patches = [], []
    for p, (m, measure), node in product(range(len(at)), enumerate(MEASURES), nodes):
        ids = experiment.prompts.full[p]
        for i, where in sorted((i, name) for name, found in at[p].items() for i in found):
            patches.append((m, node, p, (i,)))
            rows.append((p, i, experiment.model.token_text(ids[i]), where, str(node), measure))
    columns = ["prompt", "position", "token", "where", "node", "measure"]
    return pd.DataFrame(rows, columns=columns).assign(effect=_changes(experiment, 0, nodes, patches)[0])


def _checks(
    experiment: Experiment, nodes: Sequence[Node], at: Sequence[Places], mixed: float
) -> list[dict[str, object]]:
    """All places of a node at once are the whole node; sampled rows equal plain passes; attention times values is z."""
    edits, generator = experiment.edits(0), np.random.default_rng(experiment.seed)
    rows: list[list[Variant]] = [[], [], []]
    for _ in range(SAMPLES):
        m, p, n = (int(generator.integers(size)) for size in (2, len(at), len(nodes)))
        *parts, everywhere = _edits(experiment, 0, nodes, [(m, nodes[n], p, at_) for at_ in (*at[p].values(), ())])
        drawn = parts[int(generator.integers(len(parts)))]
        for row, own in zip(rows, (parts, [everywhere], [drawn]), strict=True):
            row.append(patched(MEASURES[m], p, edits, own))
    union, whole, single = rows
    values = experiment.score([*union, *whole]).reshape(2, -1)
    gap = np.abs(values[0] - values[1]).max() / max(1.0, np.abs(values).max())
    limit = tolerance(experiment.model)
    return [
        check("all places of a node at once equal the whole node (sampled, relative)", gap, limit),
        check("sampled rows equal one plain pass each", against_plain(experiment, single), limit),
        check("attention times values equals z (relative)", mixed, limit),
    ]
