"""`map_effect`: which known circuits does an effect go through, and which does it leave alone?

1. What each node carries: patched exactly, or as a saved result says.
2. Of every circuit the share that its nodes carry together (necessity and sufficiency, exactly), with an interval over
   prompts; beside it what random vectors of equal norm carry there. Nodes before the injection are undefined.
3. The same share of other sets of nodes of its make: as many of each layer and kind; and, as a second comparison, of
   each third by the size of what they write. Strata of one node (MLPs) have no others and are left out.
4. The number of carriers in the circuit (exact p), and the sum of its nodes' single shares (permutation p), among such
   sets.
5. Its roles by the same test of sums; whether nodes that have a larger score in the circuit itself carry more.
6. What flows along the edges that the circuit claims, each path alone (exact, as `path_effect`); how many of them are
   among as many strongest edges of the effect (`map_overlap`).
7. What arrives where the vector is let through only here (`targeted`).

Prompts are a sample, for intervals; sets of nodes are exchanged, for p. One does not stand for the other.
What a circuit is among others rests on its joint share and on the sum of its nodes' shares, among sets of equal layers
and kinds: the smaller p times two, then Holm over circuits, within a measure. (Of two nodes in a row any set with the
later one carries all: only the sum sees both. Of two of which either is enough, only the joint share sees them.)
Source: the tests are ours; that a circuit should be held against others of its size is in Conmy et al. 2023 (arXiv
2304.14997), p of draws in Phipson and Smyth 2010.
What it cannot see: a circuit's nodes do other things too; that an effect goes through them does not say that it uses
what the circuit computes (`stress` asks that).
"""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadCircuit
from steerscope.analysis.gate import Count, Level, Share, Whole, gated
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.results.result import Result
from steerscope.analysis.tools.patching import checks
from steerscope.analysis.tools.record import made_now, record

from .carried import FEW, Carried, of_experiment, of_result
from .circuit import Circuit
from .library import circuit as read
from .map_columns import COLUMNS
from .map_edges import edge_table
from .map_overlap import overlap_table
from .map_tables import circuit_table, node_table, rank_table, role_table, with_among
from .map_tests import test_table
from .targeted import let_through

SETS, FEWER, LARGE = 200, 99, 100  # sets patched at once; in models of more nodes than `LARGE`
MADE = ("model", "injections", "held", "prompts", "metric", "references", "seed", "warnings")  # kept of a saved result
NO_RUNS = "asked of a saved result; nodes patched at once take runs: give the experiment"


@gated
def map_effect(
    experiment: Experiment | Result,
    circuit: Circuit | str | Sequence[Circuit | str],
    *,
    sets: Whole | None = None,
    permutations: Count = 1000,
    paths: Whole = 60,
    overlap: Whole = 8,
    targeted: bool = True,
    controls: Whole = 5,
    tasks: Whole = 32,
    level: Level = 0.95,
    alpha: Level = 0.05,
    smallest: Share = 0.02,
) -> Result:
    """Which circuits an effect goes through, beside other sets of nodes of their make.

    Args:
        experiment: what is asked about; or a result of `localize`, which says less.
        circuit: a shipped circuit, a file of one, or several; `steerscope circuits list` names them.
        sets: other sets of each circuit's make that are patched at once, exactly; 200, and 99 in models of more than
            100 nodes, by default.
        permutations: of the sums of single nodes' shares.
        paths: edges of each circuit whose direct path is patched, exactly, those that it scores highest first.
        overlap: gradients a prompt, to score all edges of the effect by: are those that a circuit claims among the
            strongest? 0 for none.
        targeted: whether to let the vector through at the circuit alone, outside of it, and at each role.
        controls: other sets of each circuit's make that it is let through at, beside it.
        tasks: prompts of a circuit's task that are answered then; 0 for none.

    Returns:
        a `Result` of kind "map_effect"; frames and columns as in `COLUMNS`.

    Raises:
        BadCircuit: a circuit of another model, or without a list of nodes; two of one name; none at all.
        BadArgument: a result that does not say what each node carries.
    """
    start = time.perf_counter()
    options = Statistics(level, alpha, smallest)
    given = [circuit] if isinstance(circuit, Circuit | str) else circuit
    circuits = _named([one if isinstance(one, Circuit) else read(one) for one in given])
    subject: Experiment | None = None
    if isinstance(experiment, Result):
        carried = of_result(experiment)
        _check(circuits, carried.model)
    else:
        subject = experiment
        _check(circuits, subject.model)
        carried = of_experiment(subject, options)
    sets = (SETS if len(carried.nodes) <= LARGE else FEWER) if sets is None else sets
    missing = _missing(carried, subject, sets, targeted)
    tests = test_table(carried, circuits, options, subject, sets, permutations)
    table = with_among(circuit_table(carried, circuits, options, subject), tests, carried, options)
    through, reasons, about = let_through(subject, carried, circuits, targeted, controls, tasks, level)
    shared, why = overlap_table(subject, circuits, overlap)
    frames = {
        "circuits": table,
        "tests": tests,
        "roles": role_table(carried, circuits, options, subject, permutations),
        "ranks": rank_table(carried, circuits, permutations),
        "nodes": node_table(carried, circuits),
        "edges": edge_table(carried, circuits, paths, options, subject),
        "overlap": shared,
        "effects": carried.table,
        "targeted": through,
    }
    knobs: dict[str, Any] = {
        "total": carried.total,
        "circuits": [_told(one) for one in circuits],
        "sets": sets if subject is not None else 0,
        "permutations": permutations,
        "paths": paths if subject is not None else 0,
        "overlap": overlap if subject is not None else 0,
        "controls": controls,
        "tasks": about,
        "level": level,
        "alpha": alpha,
        "smallest": smallest,
    }
    if subject is not None:
        return record(
            "map_effect",
            subject,
            frames,
            COLUMNS,
            start,
            checks=checks(subject),
            missing=missing | reasons | why,
            **knobs,
        )
    assert isinstance(experiment, Result)
    kept = {name: experiment.manifest[name] for name in MADE if name in experiment.manifest}
    old = {name: why for name, why in experiment.manifest.get("missing", {}).items() if name in ("intervals",)}
    manifest = kept | {"of": experiment.kind, "missing": old | missing | reasons | why, "checks": []} | knobs
    return Result("map_effect", frames, COLUMNS, manifest | made_now(start))


def _check(circuits: Sequence[Circuit], model: Any) -> None:
    """Refuses circuits of another model before anything is patched."""
    for circuit in circuits:
        circuit.of(model)


def _named(circuits: Sequence[Circuit]) -> Sequence[Circuit]:
    """Refuses none, and two that could not be told apart."""
    twice = [name for name, count in Counter(one.name for one in circuits).items() if count > 1]
    if twice or not circuits:
        what = f"two circuits called {brief(twice[0], 80)}" if twice else "no circuits"
        raise BadCircuit(f"{what}; expected one or more, each with a name of its own; name them, or give one")
    return circuits


def _missing(carried: Carried, subject: Experiment | None, sets: int, targeted: bool) -> dict[str, str]:
    """What could not be computed, and why."""
    found: dict[str, str] = {}
    if subject is None:
        found |= dict.fromkeys(("joint", "size", "targeted"), NO_RUNS)
    elif not sets:
        found["joint"] = "run with sets=0: no other sets were patched"
    if subject is not None and not targeted:
        found["targeted"] = "run with targeted=False"
    if carried.told is None:
        found["carriers"] = FEW
    if not carried.clear:
        found["shares"] = "the whole effect is not told from zero: a share of nothing is no share"
    return found


def _told(circuit: Circuit) -> dict[str, Any]:
    """What the manifest says of a circuit."""
    names = ("name", "title", "model", "level", "task", "confidence", "sources", "rivals", "caveats")
    told = {name: getattr(circuit, name) for name in names}
    return {name: list(value) if isinstance(value, tuple | list) else value for name, value in told.items()}
