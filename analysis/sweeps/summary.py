"""`summarize`: a run's trials, as far as they are there, become a `Result` of kind "sweep"."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from steerscope.analysis.errors import BadArgument, DamagedRun
from steerscope.analysis.results.result import Result
from steerscope.analysis.sweeps import tables

from .design import KINDS
from .estimate import GROUPS, LEAST, Trials, open_directions
from .store import Store
from .tables import Table, Unit

COLUMNS = [
    "prompt",
    "nodes",
    "k",
    "design",
    "vector",
    "control",
    "coefficient",
    "effect",
    "kl",
    "perplexity",
    "norm",
    "clean_perplexity",
    "steered_effect",
    "steered_kl",
    "steered_perplexity",
]


def summarize(store: Store, *, level: float = 0.95, alpha: float = 0.05) -> Result:
    """Estimates from the rows that are there; a run need not be finished.

    Raises:
        DamagedRun: no run, or not a single whole part.
    """
    if not (0 < level < 1 and 0 < alpha < 1):
        raise BadArgument(f"level={level}, alpha={alpha}; expected both between 0 and 1; 0.95 and 0.05 are usual")
    about = store.manifest()
    rows = read(store, about)
    units = [Unit.parse(name) for name in about["nodes"]]
    table = Table(rows, units, level, alpha, about["metric"]["unit"])
    real, random = rows.real, rows.random
    pairs, method = tables.pairs(table)
    frames = {
        "nodes": tables.nodes(table),
        "frontier": tables.frontier(table),
        "response": tables.response(table),
        "dose": tables.dose(table),
        "pairs": pairs,
        "trends": tables.trends(table),
        "designs": tables.designs(table),
        "convergence": tables.convergence(table),
        "prompts": _prompts(store, rows),
    }
    done, planned = len(rows.k), about["design"]["trials"]
    manifest = {k: v for k, v in about.items() if k not in ("kind", "format", "files")} | {
        "level": level,
        "alpha": alpha,
        "trials": {
            "planned": planned,
            "done": done,
            "real": int(real.sum()),
            "random": int(random.sum()),
            "damaged": [path.name for path in store.damaged()],
        },
        "pairs": method,
        "whole": tables.whole(table),
        "missing": _missing(table, frames),
        "notes": _notes(table, about),
        **_sessions(store),
        "versions": {
            p: version(p)
            for p in ("steerscope", "torch", "transformers", "transformer-lens", "scipy", "numpy", "pyarrow")
        },
        "summarized": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Result("sweep", frames, manifest)


@dataclass(frozen=True)
class Rows:
    """All trials of a run as arrays; three outcomes: effect, KL, rise of the log-perplexity."""

    x: NDArray[np.bool_]
    y: NDArray[np.float64]
    whole: NDArray[np.float64]
    prompt: NDArray[np.int64]
    k: NDArray[np.int64]
    design: NDArray[np.int64]
    cell: NDArray[np.int64]
    coefficient: NDArray[np.float64]
    control: NDArray[np.int64]
    norm: NDArray[np.float64]
    clean: NDArray[np.float64]

    @property
    def real(self) -> NDArray[np.bool_]:
        return np.asarray(self.control < 0)

    @property
    def random(self) -> NDArray[np.bool_]:
        return np.asarray(self.control >= 0)

    def trials(self, chosen: NDArray[np.bool_]) -> Trials:
        """What the estimates need of some of them."""
        return Trials(self.x, self.y, self.prompt, self.cell).where(chosen)


def read(store: Store, about: dict[str, Any]) -> Rows:
    """The rows that are there, a part at a time.

    Raises:
        DamagedRun: there are none.
    """
    names = {name: i for i, name in enumerate(about["nodes"])}
    parts = [_part(table, names, about["coefficients"]) for table in store.read(COLUMNS)]
    if not parts:
        raise DamagedRun(
            f"no trials in {str(store.folder)!r} yet; expected at least one whole part; "
            f"go on with `steerscope sweep resume {store.folder}`"
        )
    return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _part(table: pa.Table, names: dict[str, int], coefficients: Sequence[float]) -> tuple[Any, ...]:
    column = {name: table[name].combine_chunks() for name in COLUMNS if name != "nodes"}
    lists = table["nodes"].combine_chunks()
    lengths = np.diff(lists.offsets.to_numpy())
    x = np.zeros((len(lists), len(names)), dtype=bool)
    at = [names[name] for name in lists.flatten().to_pylist()]
    x[np.repeat(np.arange(len(lists)), lengths), at] = True

    def array(name: str) -> NDArray[np.float64]:
        return np.asarray(column[name].to_numpy(zero_copy_only=False), dtype=np.float64)

    loss = np.log(array("perplexity")) - np.log(array("clean_perplexity"))
    steered = np.log(array("steered_perplexity")) - np.log(array("clean_perplexity"))
    vector = np.asarray(column["vector"].fill_null(0).to_numpy(), dtype=np.int64)
    coefficient = array("coefficient")
    cell = vector * len(coefficients) + np.searchsorted(np.sort(coefficients), coefficient)
    design = np.array([KINDS.index(d) for d in column["design"].to_pylist()], dtype=np.int64)
    return (
        x,
        np.stack([array("effect"), array("kl"), loss], axis=1),
        np.stack([array("steered_effect"), array("steered_kl"), steered], axis=1),
        array("prompt").astype(np.int64),
        array("k").astype(np.int64),
        design,
        cell,
        coefficient,
        array("control").astype(np.int64),
        array("norm"),
        array("clean_perplexity"),
    )


def _prompts(store: Store, rows: Rows) -> pd.DataFrame:
    """One line a prompt that was visited."""
    prompts = store.prompts().to_pylist()
    frame = pd.DataFrame(
        {
            "prompt": rows.prompt,
            "effect": np.where(rows.real, rows.y[:, 0], np.nan),
            "kl": np.where(rows.real, rows.y[:, 1], np.nan),
            "clean_perplexity": rows.clean,
            "steered_effect": rows.whole[:, 0],
            "steered_kl": rows.whole[:, 1],
            "trials": 1,
        }
    )
    found = frame.groupby("prompt").agg({"trials": "size"} | dict.fromkeys(frame.columns[1:-1], "mean"))
    found = found.reset_index()
    found.insert(1, "text", [prompts[p]["text"] for p in found["prompt"]])
    found.insert(2, "tokens", [len(prompts[p]["ids"]) for p in found["prompt"]])
    return found[
        ["prompt", "text", "tokens", "trials", "effect", "kl", "clean_perplexity", "steered_effect", "steered_kl"]
    ]


def _missing(table: Table, frames: dict[str, pd.DataFrame]) -> dict[str, str]:
    rows, reasons = table.rows, {}
    if len(np.unique(rows.prompt % GROUPS)) < LEAST:
        reasons["intervals"] = f"fewer than {LEAST} prompts were visited: no interval over prompts; give more"
    if not rows.random.any():
        reasons["controls"] = "no trial with random vectors: contributions stand without a control"
    if frames["pairs"].empty:
        reasons["pairs"] = "no two nodes were injected into together often enough; use a larger k or more trials"
    if frames["response"].empty:
        reasons["response"] = "only one value of k and of the coefficient; give a range or a grid"
    if not frames["designs"]["design"].str.contains(" - ").any():
        reasons["designs"] = (
            "horizontal and vertical trials are compared where a sweep has both; add --design horizontal,vertical"
        )
    return reasons


def _notes(table: Table, about: dict[str, Any]) -> list[str]:
    notes = []
    if about["left_out"]:
        notes.append(
            f"Left out: {', '.join(about['left_out'])}. In the last layer they act only on the positions that "
            "are injected, "
            "and none of these is scored."
        )
    open_ = open_directions(table.rows.trials(table.rows.real))
    if open_ > 0:
        notes.append(
            f"The design cannot tell apart {open_} combinations of contributions (such as whole layers that "
            "every trial injects into "
            "equally often); differences within them hold, their levels do not."
        )
    return notes


def _sessions(store: Store) -> dict[str, Any]:
    """What the log says of time, of the executor and of the run's own check."""
    entries = store.sessions()
    seconds, trials = (sum(e[name] for e in entries) for name in ("seconds", "trials"))
    work = {name: sum(e[name] for e in entries) for name in ("forward", "metrics", "writing")}
    checks = [e["check"] for e in entries if e.get("check")]
    shares = {name: round(value / sum(work.values()), 4) for name, value in work.items()} if sum(work.values()) else {}
    return {
        "seconds": round(seconds, 2),
        "trials_per_second": round(trials / seconds, 2) if seconds else 0.0,
        "shares": shares,
        "executor": entries[-1]["executor"] if entries else "",
        "sessions": len(entries),
        "set_aside": [name for e in entries for name in e["damaged"]],
        "checks": checks[-1:],
    }
