"""Tables of `map_effect`: circuits and their roles with the shares that they carry, and what a picture needs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from steerscope.analysis.model.nodes import Node
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import NUMBERS, Statistics, estimates, node_columns
from steerscope.analysis.results.stats import holm, interval, ratio_interval
from steerscope.analysis.tools.keeping import Arrays, each
from steerscope.analysis.tools.patching import together

from .carried import Carried
from .circuit import Circuit, Graph
from .enrichment import UNTESTED, Matched, ranked, summed
from .joint import jointly
from .map_columns import COLUMNS, MATCHED

ROLE = 3  # nodes of a role that is tested
JOINED = ", "  # roles of a node
DECIDE = ("joint", "sum")  # of the tests, those that say what a circuit is among others


def circuit_table(
    carried: Carried, circuits: Sequence[Circuit], options: Statistics, experiment: Experiment | None
) -> pd.DataFrame:
    """The columns of `circuits`, without `among`: joint shares beside those of reference vectors."""
    inside = [carried.inside(circuit.nodes) for circuit in circuits]
    there = [n for n, nodes in enumerate(inside) if nodes]
    numbers = {
        m: pd.DataFrame(columns=list(NUMBERS), index=range(len(circuits)), dtype=float) for m in carried.measures
    }
    if experiment is not None and there:
        numbers |= _joint(carried, [inside[n] for n in there], there, len(circuits), options, experiment)
    tables = []
    for measure in carried.measures:
        about = {
            "circuit": [circuit.name for circuit in circuits],
            "measure": measure,
            "nodes": [len(circuit.nodes) for circuit in circuits],
            "inside": [len(nodes) for nodes in inside],
            "unreached": [len(c.nodes) - len(nodes) for c, nodes in zip(circuits, inside, strict=True)],
        }
        found = numbers[measure].reindex(columns=[*NUMBERS, "share_low", "share_high"])
        found["verdict"] = found["verdict"].astype(object).where(found["verdict"].notna(), "untested")
        tables.append(pd.DataFrame(about).join(found))
    return pd.concat(tables, ignore_index=True)


def _joint(
    carried: Carried,
    inside: Sequence[Sequence[Node]],
    rows: Sequence[int],
    count: int,
    options: Statistics,
    experiment: Experiment,
) -> dict[str, pd.DataFrame]:
    """By measure, the columns of `NUMBERS` with the share's interval; a row a circuit."""
    assert carried.basis is not None
    groups = [(measure, nodes) for measure in carried.measures for nodes in inside]

    def read(vector: int) -> Arrays:
        own = together(experiment, groups, vector, own=True)
        same = vector > 0 or experiment.metric.own_direction
        return own, own if same else together(experiment, groups)

    given = [f"{measure}: {' '.join(map(str, nodes))}" for measure, nodes in groups]
    found = list(each(experiment, "circuits", read, *given))
    shape = (len(carried.measures), len(inside), -1)
    own = np.stack([values for values, _ in found]).reshape(len(found), *shape)
    along = found[0][1].reshape(shape)
    tables = {}
    for m, measure in enumerate(carried.measures):
        low, high = ratio_interval(along[m], carried.basis.total, options.level, carried.basis.groups)
        columns = estimates(carried.basis, along[m], own[:, m], options, count)
        own_rows = pd.DataFrame(columns | {"share_low": low, "share_high": high})
        tables[measure] = own_rows.set_axis(list(rows)).reindex(range(count))
    return tables


def with_among(table: pd.DataFrame, tests: pd.DataFrame, carried: Carried, options: Statistics) -> pd.DataFrame:
    """The same with what each circuit is among sets of its make: by the joint share or the sum, whichever says more;
    both count (Bonferroni), and all circuits (Holm)."""
    rows = tests[(tests["matched"] == MATCHED[0]) & tests["test"].isin(DECIDE)]
    by = rows.groupby(["circuit", "measure"])
    found = (by[["p", "p_below", "least"]].min() * rows["test"].nunique()).clip(upper=1.0)
    found = (
        found.rename(columns={"p": "p_more", "p_below": "p_fewer"}).assign(tested=by["sets"].max() > 0).reset_index()
    )
    for _, own in found[found["tested"]].groupby("measure"):
        for name in ("p_more", "p_fewer"):
            found.loc[own.index, name] = holm(own[name].to_numpy(dtype=float))
    family = found.groupby("measure")["tested"].transform("sum")
    found["blind"] = ~found["tested"] | (found["least"] * family >= options.alpha)
    both = table.merge(found, on=["circuit", "measure"], how="left", validate="one_to_one")
    # A joint share must be told from zero and of interest; where none was made, nobody asks.
    large = both["share"].isna() | ((both["share"] >= options.smallest) & (both["share_low"] > 0))
    among = np.select(
        [
            (both["inside"] == 0) | (not carried.clear),
            (both["p_more"] < options.alpha) & large,
            both["p_fewer"] < options.alpha,
            both["blind"].astype(bool),
        ],
        ["undefined", "more", "less", "cannot tell"],
        "alike",
    )
    return both.assign(among=among)[list(COLUMNS["circuits"])]


def role_table(
    carried: Carried, circuits: Sequence[Circuit], options: Statistics, experiment: Experiment | None, permutations: int
) -> pd.DataFrame:
    """The columns of `roles`."""
    roles = [(circuit.name, role, nodes) for circuit in circuits for role, nodes in circuit.roles.items()]
    there = [carried.inside(nodes) for _, _, nodes in roles]
    groups = [(measure, nodes) for measure in carried.measures for nodes in there]
    values = None if experiment is None else jointly(experiment, groups, "roles")
    rows: list[dict[str, Any]] = []
    for m, measure in enumerate(carried.measures):
        for r, (name, role, nodes) in enumerate(roles):
            test = UNTESTED
            if len(there[r]) >= ROLE and carried.clear:
                matched = Matched(carried.strata, carried.holds(nodes))
                test = summed(matched, carried.shares[m], permutations, carried.seed) if matched.tested.any() else test
            numbers = dict.fromkeys(("effect", "low", "high", "share", "share_low", "share_high"), np.nan)
            if values is not None and there[r]:
                numbers |= _shares(carried, values[m * len(roles) + r], options)
            about = {"circuit": name, "role": role, "measure": measure, "nodes": len(nodes), "inside": len(there[r])}
            said = "tested" if test.sets else "described"
            rows.append(about | numbers | {"p": test.above, "least": test.least, "said": said})
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS["roles"] if name != "p_holm"]).assign(p_holm=1.0)
    for _, own in table[table["said"] == "tested"].groupby(["circuit", "measure"]):
        table.loc[own.index, "p_holm"] = holm(own["p"].to_numpy(dtype=float))
    return table[list(COLUMNS["roles"])]


def _shares(carried: Carried, values: Any, options: Statistics) -> dict[str, float]:
    assert carried.basis is not None
    total, groups = carried.basis.total, carried.basis.groups
    low, high = interval(values, options.level, groups)
    share_low, share_high = ratio_interval(values, total, options.level, groups)
    share = values.mean() / total.mean() if carried.clear else np.nan
    ends = {"low": float(low), "high": float(high), "share_low": float(share_low), "share_high": float(share_high)}
    return {"effect": float(values.mean()), "share": float(share)} | ends


def rank_table(carried: Carried, circuits: Sequence[Circuit], permutations: int) -> pd.DataFrame:
    """The columns of `ranks`: of circuits that score their edges."""
    rows = []
    for circuit in circuits:
        own = own_scores(circuit)
        kept = [n for n, node in enumerate(carried.nodes) if node in own]
        scores = np.array([own[carried.nodes[n]] for n in kept])
        for m, measure in enumerate(carried.measures):
            if not own:
                continue
            sizes = np.abs(carried.shares[m][kept])
            known = carried.clear and len(kept) > 1
            layers = [carried.nodes[n].layer for n in kept]
            test = ranked(sizes, scores, layers, permutations, carried.seed) if known else UNTESTED
            about = {"circuit": circuit.name, "measure": measure, "nodes": len(kept)}
            rows.append(about | {"kendall": test.value, "p": test.above, "least": test.least})
    return pd.DataFrame(rows, columns=list(COLUMNS["ranks"]))


def own_scores(circuit: Circuit) -> dict[Node, float]:
    """What a circuit itself says of its nodes: the summed sizes of the scores of the edges that leave them."""
    graph: Graph = circuit.graph
    found = {}
    for node in circuit.nodes:
        scores = [s for _, _, about in graph.out_edges(str(node), data=True) for s in about.get("scores", {}).values()]
        if scores:
            found[node] = float(np.abs(scores).sum())
    return found


def node_table(carried: Carried, circuits: Sequence[Circuit]) -> pd.DataFrame:
    """The columns of `nodes`."""
    tables = []
    numbers = carried.table.set_index(["measure", "node"])[["effect", "low", "high", "share", "verdict"]]
    for circuit in circuits:
        names = [str(node) for node in circuit.nodes]
        about = node_columns(circuit.nodes) | {
            "circuit": circuit.name,
            "role": [JOINED.join(circuit.graph.nodes[name].get("roles", ())) for name in names],
            "reached": carried.reached(circuit.nodes),
        }
        for measure in carried.measures:
            own = numbers.loc[measure].reindex(names).reset_index(drop=True)
            own["verdict"] = own["verdict"].where(own["verdict"].notna(), "untested")
            tables.append(pd.DataFrame(about).assign(measure=measure).join(own))
    return pd.concat(tables, ignore_index=True)[list(COLUMNS["nodes"])]
