"""What each node carries of an effect: of an experiment, patched exactly; or of a result that says it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype

from steerscope.analysis.brief import brief
from steerscope.analysis.carriers.effect_table import effect_table
from steerscope.analysis.errors import BadArgument, BadNode
from steerscope.analysis.model.nodes import Node, parse_node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import EFFECTS, Statistics
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.verdicts import LEAST, TOLD, Basis
from steerscope.analysis.tools.patching import MEASURES, effects
from steerscope.analysis.tools.writes import head_writes

KINDS = ("exact", "screen", "attribute", "shapley")  # of results that say what each node carries
FEW = f"fewer than {LEAST} reference vectors of a kind: no node is told from noise"
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Carried:
    """What each node carries.

    Attributes:
        nodes: those that the injection can reach: before it nothing is defined.
        measures: necessity and sufficiency, or what the result has.
        table: a row a measure and node, with the columns of `EFFECTS`.
        shares: of the whole effect; missing where that is not told from zero.
        told: which nodes are told from noise; None where none could be.
        total: the whole effect, mean over prompts.
        seed: of draws.
        model: what `Circuit.of` asks of one.
        basis: what inference knows of an experiment.
    """

    nodes: tuple[Node, ...]
    measures: tuple[str, ...]
    table: pd.DataFrame
    shares: Float[Values, "measure node"]
    told: Bool[NDArray[np.bool_], "measure node"] | None
    total: float
    seed: int
    model: Any
    basis: Basis | None = None

    @property
    def clear(self) -> bool:
        """Whether the whole effect is told from zero, so that there are shares of it."""
        return bool(np.isfinite(self.shares).all())

    @property
    def strata(self) -> list[tuple[int, str]]:
        """Layer and kind of every node."""
        return [(node.layer, node.kind) for node in self.nodes]

    def holds(self, members: Sequence[Node]) -> Bool[NDArray[np.bool_], " node"]:
        """Which of the nodes are among some."""
        chosen = set(members)
        return np.array([node in chosen for node in self.nodes], dtype=bool)

    def inside(self, members: Sequence[Node]) -> list[Node]:
        """The nodes that are among some."""
        return [node for node, own in zip(self.nodes, self.holds(members), strict=True) if own]

    def reached(self, members: Sequence[Node]) -> list[bool]:
        """Which of some are nodes that the injection can reach."""
        known = set(self.nodes)
        return [node in known for node in members]


def of_experiment(experiment: Experiment, options: Statistics) -> Carried:
    """Every node that the injection can reach, patched exactly."""
    raw = effects(experiment)
    table = effect_table(raw.nodes, MEASURES, raw.along, raw.own, raw.basis, options, len(raw.nodes))
    total, basis = float(raw.basis.total.mean()), raw.basis
    enough = max(len(basis.members(noise)) for noise in (True, False)) >= LEAST
    told = np.stack([table["verdict"][table["measure"] == m].isin(TOLD).to_numpy() for m in MEASURES])
    shares = raw.along.mean(axis=-1) / (total if basis.clear[0] else np.nan)
    told_of = told if enough else None
    return Carried(raw.nodes, MEASURES, table, shares, told_of, total, experiment.seed, experiment.model, basis)


def of_result(result: Result) -> Carried:
    """What a result says of every node behind the injection; of a screen, where nodes were not patched, its estimates.

    Raises:
        BadArgument: a result of another kind, or one that is not as its question made it.
    """
    table = result.frames.get("effects")
    if result.kind not in KINDS or table is None:
        raise BadArgument(
            f"a map of a result of kind {brief(repr(result.kind), 80)}; expected one of {', '.join(KINDS)}; make it "
            "with localize(experiment), or give the experiment"
        )
    try:
        model = _model(result.manifest)
        first = min(int(re.findall(r"^L(\d+)", str(one["site"]))[0]) for one in result.manifest["injections"])
        table = table[[layer >= first for layer in table["layer"]]]
        table = table[list(EFFECTS)].sort_values(["measure", "layer", "head"], na_position="last", ignore_index=True)
        shares, nodes = _shares(result, table, first)
        names, measures = [str(node) for node in nodes], tuple(shares)
        rows = {m: table[table["measure"] == m].set_index("node")["verdict"] for m in measures}
        enough = int(result.manifest["references"]["count"]) >= LEAST
        total, seed = _total(result), int(result.manifest["seed"])
        told = np.array([[rows[m].get(name) in TOLD for name in names] for m in measures])
    except (LookupError, TypeError, ValueError, AttributeError, BadNode) as error:
        raise BadArgument(
            f"the effects of this result cannot be read ({brief(str(error), 100)}); expected them as {result.kind} "
            "makes them; make them again"
        ) from error
    values = np.array(list(shares.values()), dtype=float)
    return Carried(nodes, measures, table, values, told if enough else None, total, seed, model)


def _total(result: Result) -> float:
    if "totals" in result.frames:
        return float(result.frames["totals"].set_index("quantity")["value"]["total"])
    return float(result.manifest["total"])


def _shares(result: Result, table: pd.DataFrame, first: int) -> tuple[dict[str, Values], tuple[Node, ...]]:
    """By measure, shares of all nodes."""
    estimates = result.frames.get("estimates")
    source, column = table, "share"
    if result.kind == "screen" and estimates is not None:
        source, column = estimates[estimates["layer"] >= first], "estimate"
        source = source.assign(estimate=source["effect"].fillna(source["estimate"]) / (_total(result) or np.nan))
    if not len(source) or not is_numeric_dtype(source[column]):
        raise ValueError(f"no numbers in {column}")
    found, names = {}, list(dict.fromkeys(source["node"]))
    for measure, rows in source.groupby("measure", sort=False):
        found[str(measure)] = rows.set_index("node")[column].loc[names].to_numpy(dtype=float)
    nodes = tuple(map(parse_node, names))
    if not table["own_share"].notna().any():  # of a whole effect that is not told from zero
        found = {measure: np.full(len(names), np.nan) for measure in found}
    order = sorted(range(len(nodes)), key=lambda n: (nodes[n].layer, nodes[n].head is None, nodes[n].head or 0))
    return {m: own[order] for m, own in found.items()}, tuple(nodes[n] for n in order)


def _model(manifest: Mapping[str, Any]) -> Any:
    about = manifest["model"]
    sizes = {name: int(about[name]) for name in ("n_layers", "n_heads", "d_model")}
    return SimpleNamespace(**sizes, name=str(about["name"]), has_mlp=bool(about["has_mlp"]))


def write_norms(experiment: Experiment, nodes: Sequence[Node]) -> Float[Values, " node"]:
    """Mean norm of what each node writes in clean runs, over positions and prompts."""
    sites = sorted({(node.site.name, node.layer) for node in nodes})
    total = np.zeros(len(nodes))
    for run in experiment.activations(None, sites):
        with torch.no_grad():
            writes = {at: head_writes(experiment.model, at, run["z", at]) for name, at in sites if name == "z"}
            total += [
                float((run["mlp_out", n.layer] if n.head is None else writes[n.layer][n.head]).norm(dim=-1).mean())
                for n in nodes
            ]
    return total / len(experiment.prompts)
