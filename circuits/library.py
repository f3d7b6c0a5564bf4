"""The circuits that come with steerscope, by name, and files of one's own."""

from functools import cache
from pathlib import Path

import pandas as pd

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadCircuit
from steerscope.analysis.gate import gated

from .circuit import SUFFIXES, Circuit
from .circuit_files import read_circuit

FOLDER = Path(__file__).parent / "data" / "circuits"


def shipped_circuits() -> dict[str, Path]:
    """Names of the shipped circuits and their files."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


@gated(error=BadCircuit)
def circuit(name: str | Path) -> Circuit:
    """A shipped circuit by its name, or one from a YAML or JSON file.

    The name comes first: a file called `ioi` is `./ioi.yaml`.

    Raises:
        BadCircuit: there is no such circuit or file, or something in it is wrong (with file and line).
    """
    known, text = shipped_circuits(), str(name)
    if text in known:
        return _shipped(text)
    if Path(text).suffix.lower() not in SUFFIXES:
        raise BadCircuit(
            f"no circuit {brief(repr(text), 80)}; expected one of {', '.join(known)}, or a file "
            f"({', '.join(SUFFIXES)}); see circuits()"
        )
    return read_circuit(Path(text))


@cache
def _shipped(name: str) -> Circuit:
    return read_circuit(shipped_circuits()[name])


@gated
def circuits() -> pd.DataFrame:
    """One row for each shipped circuit: name, title, model, nodes, edges, level, confidence, task, rivals, source."""
    rows = []
    for name in shipped_circuits():
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
