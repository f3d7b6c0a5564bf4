"""The vector let through at some nodes alone: at a circuit's, outside of it, at each of its roles.

1. In the clean run these nodes are set to what they write in the steered run; nothing else is injected, and what reads
   them reacts. The vector itself does not go past them along the stream.
2. The same with the change of every node times one factor, so that the run disturbs as much as the whole vector does
   (KL to the clean run, mean over prompts): of two ways to the same effect, which one costs less?
3. Beside the circuit, other sets of its make (as many nodes of every layer and kind).
4. Where the circuit has a task that the model solves, the same nodes and factors on the prompts of that task.

Serial nodes are all set to what they are in the whole steered run: no node of the set reacts to another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.errors import Overflow, SteerscopeError
from steerscope.analysis.model.nodes import Node
from steerscope.analysis.progress import track
from steerscope.analysis.question.answers import PerPrompt
from steerscope.analysis.question.disturbance import factor_at
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.metrics import log_prob
from steerscope.analysis.question.reading import values_at
from steerscope.analysis.results.stats import interval

from .carried import Carried
from .circuit import Circuit
from .enrichment import Matched
from .joint import chosen
from .map_columns import COLUMNS
from .tasks import task as named

AS_IT_IS, EQUAL = "as it is", "equal KL"
NOTHING, WHOLE, INSIDE, OUTSIDE = "nothing", "whole", "circuit", "outside"
REACH = 100.0  # times larger or smaller
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Through:
    """An experiment whose vector is let through at some nodes."""

    experiment: Experiment

    def edits(self, nodes: Sequence[Node], factor: float) -> tuple[tuple[Edit, ...], ...]:
        clean, steered = (self.experiment.patches(vector, nodes, everywhere=False) for vector in (None, 0))
        return tuple(
            tuple(_between(clean[node][p], steered[node][p], factor) for node in nodes)
            for p in range(len(self.experiment.prompts))
        )

    def read(self, nodes: Sequence[Node] | str, factor: float = 1.0) -> Float[Values, "score prompt"]:
        """Effect and disturbance, by prompt, of nodes, of nothing, or of the whole vector."""
        asked = self.experiment
        if isinstance(nodes, str):
            outputs = asked.clean if nodes == NOTHING else asked.steered
        else:
            outputs = asked.outputs(self.edits(nodes, factor))
        value = asked.scored_positions.mean(values_at(asked.scored_positions, outputs, asked.along)).cpu().numpy()
        return np.stack([value - asked.value(None), asked.disturbance(outputs)])

    def odds(self, nodes: Sequence[Node] | str, factor: float) -> Float[Values, " prompt"]:
        """The metric itself, by prompt; missing where the numbers of a run end."""
        try:
            return np.asarray(self.read(nodes, factor)[0] + self.experiment.value(None))
        except Overflow:
            return np.full(len(self.experiment.prompts), np.nan)

    @cached_property
    def target(self) -> float:
        return float(self.experiment.disturbed(0).mean())

    def factor(self, nodes: Sequence[Node]) -> float | None:
        """What the change of these nodes is multiplied with, so that they disturb as much as the whole."""
        if not nodes:
            return None

        def kl(factor: float) -> float:
            try:
                return float(self.read(nodes, factor)[1].mean())
            except Overflow:
                return float("inf")

        return factor_at(kl, self.target, 1 / REACH, REACH)


def _between(clean: Edit, steered: Edit, factor: float) -> Edit:
    """As it is in the clean run, and so much of the way to the steered one."""
    assert isinstance(clean.value, torch.Tensor) and isinstance(steered.value, torch.Tensor)
    return steered if factor == 1.0 else replace(clean, value=clean.value + factor * (steered.value - clean.value))


def let_through(
    experiment: Experiment | None,
    carried: Carried,
    circuits: Sequence[Circuit],
    wanted: bool,
    controls: int,
    tasks: int,
    level: float,
) -> tuple[pd.DataFrame, dict[str, str], dict[str, Any]]:
    """The columns of `targeted`; what could not be computed, and why; and of every task how it is solved."""
    columns = list(COLUMNS["targeted"])
    if experiment is None or not wanted:
        return pd.DataFrame(columns=columns), {}, {}
    through, rows, missing, about = _Through(experiment), [], {}, {}
    for circuit in circuits:
        found = None
        if circuit.task is not None and tasks:
            try:
                found, about[circuit.name] = _task(experiment, circuit.task, tasks)
            except SteerscopeError as error:
                missing[f"task of {circuit.name}"] = str(error)
        elif tasks:
            missing[f"task of {circuit.name}"] = "the circuit names no task"
        rows += _rows(through, found, carried, circuit, controls, level)
    return pd.DataFrame(rows, columns=columns), missing, about


def _rows(
    through: _Through, task: _Through | None, carried: Carried, circuit: Circuit, controls: int, level: float
) -> list[dict[str, Any]]:
    inside = carried.inside(circuit.nodes)
    outside = [node for node in carried.nodes if node not in set(inside)]
    places: dict[str, Sequence[Node] | str] = {NOTHING: NOTHING, WHOLE: WHOLE, INSIDE: inside, OUTSIDE: outside}
    places |= {f"role: {role}": carried.inside(nodes) for role, nodes in circuit.roles.items()}
    rows = []
    for at, nodes in track(list(places.items()), f"injection at {circuit.name}"):
        about = {"circuit": circuit.name, "at": at, "nodes": len(carried.nodes) if at == WHOLE else len(nodes)}
        if isinstance(nodes, str):
            rows.append(about | {"nodes": 0} | _row(through, task, nodes, AS_IT_IS, 1.0, level))
            continue
        for scale in (AS_IT_IS, EQUAL) if nodes else ():
            factor = 1.0 if scale == AS_IT_IS else through.factor(nodes)
            row = about | _row(through, task, nodes, scale, factor, level)
            if at == INSIDE and factor is not None and controls:
                row |= _beside(through, task, carried, circuit, scale, controls)
            rows.append(row)
    return rows


def _row(
    through: _Through,
    task: _Through | None,
    nodes: Sequence[Node] | str,
    scale: str,
    factor: float | None,
    level: float,
) -> dict[str, Any]:
    row: dict[str, Any] = {"scale": scale, "factor": np.nan if factor is None else factor}
    if factor is None:
        return row
    groups = through.experiment.prompts.by_group
    effect, kl = through.read(nodes, factor)
    total = float(through.experiment.effect().mean())
    row |= {"effect": float(effect.mean()), "share": float(effect.mean()) / total if total else np.nan}
    row |= _ends("", effect, level, groups) | {"kl": float(kl.mean())} | _ends("kl_", kl, level, groups)
    if task is not None:
        odds = task.odds(nodes, factor)
        row |= {"task": float(odds.mean())} | _ends("task_", odds, level, task.experiment.prompts.by_group)
    return row


def _ends(name: str, values: Values, level: float, groups: NDArray[np.int64]) -> dict[str, float]:
    low, high = interval(values, level, groups)
    return {f"{name}low": float(low), f"{name}high": float(high)}


def _beside(
    through: _Through, task: _Through | None, carried: Carried, circuit: Circuit, scale: str, controls: int
) -> dict[str, float]:
    """What other sets of the circuit's make do; its nodes that have no others are in all of them."""
    matched = Matched(carried.strata, carried.holds(circuit.nodes))
    if not matched.tested.any():
        return {}
    fixed = matched.members & ~matched.varied
    effects, odds = [], []
    for flags in matched.others(controls, carried.seed)[0]:
        nodes = chosen(carried.nodes, flags | fixed)
        factor = 1.0 if scale == AS_IT_IS else through.factor(nodes)
        if factor is not None:
            effects.append(float(through.read(nodes, factor)[0].mean()))
            odds += [] if task is None else [float(task.odds(nodes, factor).mean())]
    if not effects:
        return {}
    ends = {"reference_low": min(effects), "reference_high": max(effects)}
    return {"reference": float(np.mean(effects)), **ends, "task_reference": float(np.mean(odds)) if odds else np.nan}


def _task(experiment: Experiment, name: str, count: int) -> tuple[_Through, dict[str, Any]]:
    """The same injection on the prompts of a task, scored by the log odds of their answers.

    Raises:
        BadCircuit: the model has not the tokens, or does not solve it.
        BadInjection: the injection does not fit its prompts.
    """
    made = named(name)(experiment.model, count, experiment.seed)
    metric = log_prob(PerPrompt(made.clean.targets), against=PerPrompt(made.clean.against))
    asked = replace(experiment, prompts=made.clean, metric=metric, references=0, scored="last")
    solved = {key: float(value) for key, value in vars(made.solved).items()}
    return _Through(asked), {"task": name, "prompts": len(made), **solved}
