"""`summarize`: a run's trials, as far as they are there, become a `Result` of kind "sweep"."""

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from steerscope.analysis.gate import Level, Share, gated
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.sweeps import doses, tables

from .estimate import FEW, LEAST
from .rows import Rows, read
from .store import Store
from .tables import Table

COLUMNS: Frames = {
    **tables.NODES,
    **doses.DOSES,
    "prompts": {
        "prompt": Column("index of the prompt", role="label"),
        "text": Column("the prompt (token ids where there is no tokenizer)"),
        "tokens": Column("number of tokens, BOS included"),
        "trials": Column("trials on it"),
        "effect": Column("mean effect of its trials", "{metric}", "estimate"),
        "kl": Column("mean disturbance of its trials", "nats"),
        "clean_perplexity": Column("perplexity of the clean run"),
        "steered_effect": Column("effect of the whole injection", "{metric}"),
        "steered_kl": Column("disturbance of the whole injection", "nats"),
    },
}
PACKAGES = ("steerscope", "torch", "transformers", "transformer-lens", "scipy", "numpy", "pyarrow")


@gated
def summarize(store: Store, *, level: Level = 0.95, alpha: Level = 0.05, smallest: Share = 0.02) -> Result:
    """Estimates from the rows that are there; a run need not be finished.

    Raises:
        DamagedRun: no run, or not a single whole part.
    """
    options = Statistics(level, alpha, smallest)  # refuses what makes no sense, before all rows are read
    about = store.manifest()
    rows = read(store, about)
    table = Table(rows, rows.units, options, about["metric"]["unit"])
    pairs, method = tables.pairs(table)
    frames = {
        "nodes": tables.nodes(table),
        "frontier": tables.frontier(table),
        "response": doses.response(table),
        "dose": doses.dose(table),
        "pairs": pairs,
        "trends": tables.trends(table),
        "designs": doses.designs(table),
        "convergence": tables.convergence(table),
        "prompts": _prompts(store, rows),
    }
    done, planned = len(rows.k), about["design"]["trials"]
    manifest = {k: v for k, v in about.items() if k not in ("kind", "format", "files")} | {
        "level": level,
        "alpha": alpha,
        "smallest": smallest,
        "adds": table.adds,
        "groups": len(np.unique(rows.group)),
        "leave_one_out": {outcome: found["leave_one_out"] for outcome, found in table.judged.items()},
        "trials": {
            "planned": planned,
            "done": done,
            "real": int(rows.real.sum()),
            "random": int(rows.random.sum()),
            "damaged": [path.name for path in store.damaged()],
        },
        "pairs": method,
        "whole": doses.whole(table),
        "missing": _missing(table, frames),
        "notes": _notes(table, about),
        **_sessions(store),
        "versions": {p: version(p) for p in PACKAGES},
        "summarized": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Result("sweep", frames, COLUMNS, manifest)


def _prompts(store: Store, rows: Rows) -> pd.DataFrame:
    """One line a prompt that was visited."""
    prompts = store.prompts().to_pylist()
    frame = pd.DataFrame(
        {
            "prompt": rows.prompt,
            "effect": np.where(rows.real, rows.y[:, 0], np.nan),
            "kl": np.where(rows.real, rows.y[:, 1], np.nan),
            "clean_perplexity": rows.clean,
            "steered_effect": np.where(rows.real, rows.whole[:, 0], np.nan),
            "steered_kl": np.where(rows.real, rows.whole[:, 1], np.nan),
            "trials": 1,
        }
    )
    found = frame.groupby("prompt").agg({"trials": "size"} | dict.fromkeys(frame.columns[1:-1], "mean"))
    found = found.reset_index()
    found["text"] = [prompts[p]["text"] for p in found["prompt"]]
    found["tokens"] = [len(prompts[p]["ids"]) for p in found["prompt"]]
    return found[list(COLUMNS["prompts"])]


def _missing(table: Table, frames: dict[str, pd.DataFrame]) -> dict[str, str]:
    rows, reasons = table.rows, {}
    groups = len(np.unique(rows.group))
    fixed = (
        "every trial injects into the same number of nodes, so that nothing tells what one adds; use a range such as "
        "--k 1-4"
    )
    if groups < LEAST:
        reasons["intervals"] = (
            f"fewer than {LEAST} groups of prompts were visited ({groups}): no interval over prompts; give more"
        )
    if not rows.random.any():
        reasons["controls"] = "no trial with random vectors: no node can be told from them"
    if not table.adds:
        reasons["frontier"] = reasons["trends"] = fixed
    if frames["pairs"].empty:
        reasons["pairs"] = (
            "no two nodes were injected into together often enough, beside trials with one and with neither of them; "
            "use a range of k, or more trials"
            if table.adds
            else fixed
        )
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
            f"Left out: {', '.join(about['left_out'])}. In the last layer they act only on the positions that are "
            "injected, and none of these is scored."
        )
    rows = table.rows
    groups, prompts = len(np.unique(rows.group)), len(np.unique(rows.prompt))
    if groups < prompts:
        notes.append(
            f"{prompts} prompts are in {groups} groups (copies, or one template): intervals and p-values go by group."
        )
    if LEAST <= groups < FEW:
        notes.append(f"Only {groups} groups of prompts: intervals are rough below {FEW}, and may be too narrow.")
    if not table.adds:
        notes.append(
            "Every trial injects into the same number of nodes, so that nothing tells what a node adds: a contribution "
            "is what it does beyond the mean of the nodes that it is exchanged for, and may be negative for a node "
            "that does nothing."
        )
    unknown = [u.name for u, v in zip(table.units, table.contributions.value, strict=True) if not np.isfinite(v).all()]
    if unknown:
        notes.append(f"The design cannot tell what these do: {', '.join(unknown[:20])}{', ...' * (len(unknown) > 20)}.")
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
