"""The circuits that come with steerscope, by name, and files of one's own."""

from pathlib import Path

import pandas as pd

from steerscope.analysis.errors import BadCircuit
from steerscope.analysis.gate import gated

from .circuit import Circuit
from .circuit_files import read_circuit
from .shipped import named, shipped


@gated(error=BadCircuit)
def circuit(name: str | Path) -> Circuit:
    """A shipped circuit by its name, or one from a YAML or JSON file.

    The name comes first: a file called `ioi` is `./ioi.yaml`.

    Raises:
        BadCircuit: there is no such circuit or file, or something in it is wrong (with file and line).
    """
    return named(name, "circuits", "circuit", read_circuit)


@gated
def circuits() -> pd.DataFrame:
    """One row for each shipped circuit: name, title, model, nodes, edges, level, confidence, task, rivals, source."""
    rows = []
    for name in shipped("circuits"):
        found = circuit(name)
        rows.append(
            {
                "name": name,
                "title": found.title,
                "model": found.model,
                "nodes": str(len(found.nodes)) if found.nodes else "measured",
                "edges": found.n_edges,
                "level": found.level,
                "confidence": found.confidence,
                "task": found.task or "",
                "rivals": ", ".join(found.rivals),
                "source": found.sources[0],
            }
        )
    return pd.DataFrame(rows)
