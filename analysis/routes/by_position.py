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
from itertools import product

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steerscope.analysis.columns import COLUMNS
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.results.result import Result
from steerscope.analysis.tools.patches import activations, patches
from steerscope.analysis.tools.patching import MEASURES, against_plain, effect, patched
from steerscope.analysis.tools.places import ORDER, Places, added, partial_estimates, places
from steerscope.analysis.tools.record import check, record, tolerance
from steerscope.analysis.tools.strongest import chosen

TOP, DETAILED, SAMPLES = 12, 4, 4
ALL = "all"
READS = ("attention", "value")
Values = NDArray[np.float64]
Placed = dict[tuple[Node, int, tuple[int, ...]], Edit]  # node, prompt, positions


def by_position(
    experiment: Experiment,
    *,
    nodes: Sequence[Node | str] | None = None,
    controls: int = 4,
    level: float = 0.95,
    alpha: float = 0.05,
) -> Result:
    """Exact necessity and sufficiency of carriers at each place of the prompt.

    Args:
        nodes: by default the 12 with the largest exact effect: of all nodes, or, in a model with more than 200, of
            the 48
            that gradients rank highest.
        controls: random vectors of equal norm, at most as many as the experiment has.

    Returns:
        a `Result` of kind "positions"; frames and columns as in `columns.COLUMNS["positions"]`.

    Raises:
        BadNode: a node that is not there, or that the injection cannot reach.
    """
    options = Statistics(level, alpha)
    start = time.perf_counter()
    experiment = experiment.fewer(controls)
    carriers, rule = chosen(experiment, nodes, TOP)
    at = _places(experiment)
    names = [name for name in ORDER if any(name in row for row in at)]
    to_clean = _placed(experiment, carriers, at, None)
    found, read = [], []
    for vector in track(range(1 + experiment.controls), "positions"):
        found.append(_effects(experiment, carriers, at, [*names, ALL], vector, to_clean))
        read.append(_reads(experiment, carriers, at, names, vector))
    values, total = np.stack(found), effect(experiment)
    strongest = _strongest(values[0, :, :, -1], DETAILED)
    detail = [carriers[i] for i in strongest]
    frames = {
        "positions": _table(experiment, carriers, [*names, ALL], values, total, options),
        "reads": _reads_table(experiment, carriers, names, np.stack([r for r, _ in read]), options),
        "per_prompt": _detail(experiment, detail, at),
        "prompts": pd.DataFrame(
            {
                "prompt": range(len(total)),
                "text": experiment.prompts.texts,
                "effect": total,
                "injected": [",".join(map(str, added(experiment, p))) for p in range(len(total))],
            }
        ),
    }
    return record(
        "positions",
        experiment,
        frames,
        start,
        checks=_checks(experiment, carriers, at, to_clean, max(gap for _, gap in read)),
        nodes=[str(node) for node in carriers],
        rule=rule,
        detailed=[str(node) for node in detail],
        total=float(total.mean()),
        level=level,
        alpha=alpha,
    )


def _places(experiment: Experiment) -> list[Places]:
    has_bos = experiment.model.bos is not None
    return [places(added(experiment, p), len(ids), has_bos) for p, ids in enumerate(experiment.prompts.full)]


def _placed(experiment: Experiment, nodes: Sequence[Node], at: Sequence[Places], vector: int | None) -> Placed:
    """Every edit that sets a node, at some positions of a prompt, to its output in another run: clean, or steered."""
    other = experiment.nothing if vector is None else experiment.edits(vector)
    whole = patches(experiment, other, nodes)
    found: Placed = {}
    for node, p in product(nodes, range(len(at))):
        x = whole[node][p].value
        assert isinstance(x, Tensor)
        single = [(i,) for where in at[p].values() for i in where]
        for where in {*at[p].values(), *single}:
            found[node, p, where] = Edit(node.site, "set", x[list(where)], where)
        found[node, p, ()] = whole[node][p]  # all positions
    return found


def _effects(
    experiment: Experiment,
    nodes: Sequence[Node],
    at: Sequence[Places],
    names: Sequence[str],
    vector: int,
    to_clean: Placed,
) -> Float[Values, "measure node place prompt"]:
    """Step 1, of one vector; missing where a prompt lacks a place."""
    to_steered = _placed(experiment, nodes, at, vector)
    shape = (len(MEASURES), len(nodes), len(names), len(at))
    asked = [(m, n, w, p) for m, n, w, p in product(*map(range, shape)) if names[w] in at[p] or names[w] == ALL]
    sources = (to_clean, to_steered)
    questions = [(m, p, sources[m][nodes[n], p, at[p].get(names[w], ())]) for m, n, w, p in asked]
    values = np.full(shape, np.nan)
    values[tuple(np.array(asked).T)] = _changes(experiment, vector, questions)
    return values


def _changes(
    experiment: Experiment, vector: int, questions: Sequence[tuple[int, int, Edit]]
) -> Float[Values, " question"]:
    """Effects of single edits: (measure, prompt, edit)."""
    edits, prompts = experiment.edits(vector), range(len(experiment.prompts))
    score = experiment.metric.prepare(experiment.scored_positions, experiment.clean, experiment.steered)
    variants = [Variant(p, edits[p]) for p in prompts] + [Variant(p) for p in prompts]
    variants += [patched(MEASURES[m], p, edits, [edit]) for m, p, edit in questions]
    values = experiment.scores(variants, [score], experiment.reads)[:, 0]
    base = values[: 2 * len(prompts)].reshape(2, -1)
    measure, prompt = (np.array([q[i] for q in questions]) for i in (0, 1))
    change = base[measure, prompt] - values[2 * len(prompts) :]
    return np.asarray(np.where(measure == 0, change, -change))


def _reads(
    experiment: Experiment, nodes: Sequence[Node], at: Sequence[Places], names: Sequence[str], vector: int
) -> tuple[Float[Values, "run quantity head place prompt"], float]:
    """Step 2, of one vector; and how far attention times values is from z in the clean run."""
    model, heads = experiment.model, [node for node in nodes if node.head is not None]
    layers = sorted({node.layer for node in heads})
    sites = [(name, layer) for layer in layers for name in ("pattern", "v", "z")]
    values = np.full((2, len(READS), len(heads), len(names), len(at)), np.nan)
    worst = 0.0
    for run, edits in enumerate((experiment.nothing, experiment.edits(vector))):
        kept = activations(experiment, edits, sites) if heads else []
        for (h, node), p in product(enumerate(heads), range(len(kept))):
            injected = list(added(experiment, p))
            assert node.head is not None
            pattern = kept[p]["pattern", node.layer][node.head].double()
            v = kept[p]["v", node.layer][:, node.head * model.n_kv_heads // model.n_heads].double()
            z = pattern @ v
            if run == 0:
                gap = z - kept[p]["z", node.layer][:, node.head]
                worst = max(worst, (gap.abs().max() / z.abs().max().clamp_min(1e-30)).item())
            part = pattern[:, injected] @ v[injected]
            share = (part * z).sum(-1) / z.square().sum(-1).clamp_min(1e-30)
            row = torch.stack([pattern[:, injected].sum(-1), share]).cpu().numpy()
            for w, name in enumerate(names):
                if name in at[p]:
                    values[run, :, h, w, p] = row[:, list(at[p][name])].mean(axis=1)
    return values, worst


def _table(
    experiment: Experiment,
    nodes: Sequence[Node],
    names: Sequence[str],
    values: Values,
    total: Values,
    options: Statistics,
) -> pd.DataFrame:
    """Corrected as if every node that the injection reaches had been patched: which ones were, the same prompts said"""
    frames = []
    for m, measure in enumerate(MEASURES):
        flat = values[:, m].reshape(len(values), -1, values.shape[-1])
        tests = len(names) * len(experiment.reachable)
        columns = partial_estimates(flat, options, experiment.seed, tests)
        whole = np.where(np.isnan(flat[0]), np.nan, total)
        share = columns["effect"] / np.nanmean(np.where(whole == 0, np.nan, whole), axis=-1) if total.any() else np.nan
        frames.append(_items(nodes, names).assign(measure=measure, **columns, share=share))
    return pd.concat(frames, ignore_index=True)[list(COLUMNS["positions"]["positions"])]


def _reads_table(
    experiment: Experiment, nodes: Sequence[Node], names: Sequence[str], values: Values, options: Statistics
) -> pd.DataFrame:
    """The change of attention and of the share of z, steered minus clean."""
    heads = [node for node in nodes if node.head is not None]
    if not heads:
        return pd.DataFrame(columns=list(COLUMNS["positions"]["reads"]))
    frames = []
    for q, quantity in enumerate(READS):
        runs = values[:, :, q].reshape(len(values), 2, -1, values.shape[-1])
        change = runs[:, 1] - runs[:, 0]
        columns = partial_estimates(change, options, experiment.seed, len(change[0]))
        means = {"clean": np.nanmean(runs[0, 0], axis=-1), "steered": np.nanmean(runs[0, 1], axis=-1)}
        frames.append(_items(heads, names).assign(quantity=quantity, **means, **columns))
    return pd.concat(frames, ignore_index=True)[list(COLUMNS["positions"]["reads"])]


def _items(nodes: Sequence[Node], names: Sequence[str]) -> pd.DataFrame:
    rows = [(str(n), n.layer, n.head, n.kind, name) for n, name in product(nodes, names)]
    return pd.DataFrame(rows, columns=["node", "layer", "head", "kind", "where"]).astype({"head": "Int64"})


def _strongest(whole: Values, count: int) -> list[int]:
    """Of effects by measure, node and prompt, the nodes with the largest mean."""
    size = np.abs(whole.mean(axis=-1)).max(axis=0)
    return [int(i) for i in np.argsort(-size, kind="stable")[:count]]


def _detail(experiment: Experiment, nodes: Sequence[Node], at: Sequence[Places]) -> pd.DataFrame:
    """Step 4: every position by itself."""
    sources = [_placed(experiment, nodes, at, vector) for vector in (None, 0)]
    rows, questions = [], []
    for p, (m, measure), node in product(range(len(at)), enumerate(MEASURES), nodes):
        ids = experiment.prompts.full[p]
        for i, where in sorted((i, name) for name, found in at[p].items() for i in found):
            questions.append((m, p, sources[m][node, p, (i,)]))
            rows.append((p, i, experiment.model.token_text(ids[i]), where, str(node), measure))
    columns = ["prompt", "position", "token", "where", "node", "measure"]
    return pd.DataFrame(rows, columns=columns).assign(effect=_changes(experiment, 0, questions))


def _checks(
    experiment: Experiment, nodes: Sequence[Node], at: Sequence[Places], to_clean: Placed, mixed: float
) -> list[dict[str, object]]:
    """All places of a node at once are the whole node; sampled rows equal plain passes; attention times values is z."""
    sources = (to_clean, _placed(experiment, nodes, at, 0))
    edits, generator = experiment.edits(0), np.random.default_rng(experiment.seed)
    union, whole, single = [], [], []
    for _ in range(SAMPLES):
        m, p, n = (int(generator.integers(size)) for size in (2, len(at), len(nodes)))
        parts = [sources[m][nodes[n], p, where] for where in at[p].values()]
        union.append(patched(MEASURES[m], p, edits, parts))
        whole.append(patched(MEASURES[m], p, edits, [sources[m][nodes[n], p, ()]]))
        single.append(patched(MEASURES[m], p, edits, [parts[int(generator.integers(len(parts)))]]))
    score = experiment.metric.prepare(experiment.scored_positions, experiment.clean, experiment.steered)
    values = experiment.scores([*union, *whole], [score], experiment.reads)[:, 0].reshape(2, -1)
    gap = np.abs(values[0] - values[1]).max() / max(1.0, np.abs(values).max())
    limit = tolerance(experiment.model)
    return [
        check("all places of a node at once equal the whole node (sampled, relative)", gap, limit),
        check("sampled rows equal one plain pass each", against_plain(experiment, single), limit),
        check("attention times values equals z (relative)", mixed, limit),
    ]
