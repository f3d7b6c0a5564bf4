"""Sweeps in words: what was found, what a trial is, and why something is not there."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from steerscope.analysis.columns import COLUMNS
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.stats import holm
from steerscope.reports import words
from steerscope.reports.records import records

DIFFERENCE = "horizontal - vertical"
MODES = {
    "own": "Mode own: every node gets its own activation difference between the vector's two prompts (a head in its "
    "z, before its output "
    "matrix; an MLP in its output), so a trial is the activation addition restricted to the nodes that were drawn.",
    "through": "Mode through: a head gets the z whose image under its output matrix comes closest to the vector "
    "(least squares), an MLP the "
    "vector itself; so each head adds as much of the vector as it can write.",
    "shared": "Mode shared: the vector itself is added to the stream where a node writes. The heads of a layer write "
    "into one stream, so "
    "they are one node here: all heads of the layer (L0A).",
    "given": "Mode given: every node gets the vector that was given for it.",
}
METHODS = {"joint": "in one regression of all pairs", "one at a time": "each beside all nodes and the strong pairs"}
SAME = (
    "Adding one vector of the stream to different heads of a layer is the same edit, since they all write into "
    "one stream; "
    "a sweep must therefore say what each node gets."
)
KINDS = {
    "uniform": "any of all nodes",
    "stratified": "spread evenly over layers and kinds",
    "horizontal": "all in one layer",
    "vertical": "one node a layer",
}
READING = (
    "A contribution is what injecting into a node adds to an outcome when everything else stays as it is: its "
    "coefficient in a regression on "
    "all nodes, prompts as blocks, averaged over what else was injected. It is causal for these injections, "
    "since the nodes were drawn at random.",
    (
        "Intervals come from leaving out each group of prompts in turn: they say how far a number holds for "
        "further prompts of this kind, on this model."
    ),
    "Controls are random vectors that write as much into the stream at the same nodes. A node whose "
    "contribution is that of random vectors "
    "responds to anything; a responsive node responds to this vector.",
    (
        "Disturbance is the KL divergence from the clean run at the scored positions; loss is the rise of the "
        "log-perplexity of the text that truly follows."
    ),
    (
        "Significant is meant after Benjamini-Hochberg over nodes (or pairs). Sentences at the top of this page "
        "use Holm's correction for nodes."
    ),
    "Effects that need more than two nodes are spread over the contributions; a sweep of small k does not see them.",
)


def frame(result: Result, name: str) -> pd.DataFrame:
    """A frame of a sweep; without rows where the result does not have it."""
    found = result.frames.get(name)
    return pd.DataFrame(columns=list(COLUMNS["sweep"][name])) if found is None else found


def flagged(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Rows in which a column of truth values holds."""
    return table[table[name].astype(bool)]


def of_outcome(result: Result, name: str, outcome: str) -> pd.DataFrame:
    """Rows of a frame that are of one outcome."""
    table = frame(result, name)
    return table[table["outcome"] == outcome]


def vectors(manifest: Any, most: int = 3) -> str:
    """The labels of the vectors; of many, the first."""
    labels = [f"({vector.get('label', 'vector')})" for vector in manifest.get("vectors", [])]
    shown = labels if len(labels) <= most else [*labels[:most], f"{len(labels) - most} more"]
    return words.listing(shown or ["the vector"])


def unfinished(manifest: Any) -> list[str]:
    """What a reader must know of a run that is not whole."""
    trials, found = manifest.get("trials", {}), []
    done, planned = trials.get("done", 0), trials.get("planned", 0)
    if done < planned:
        found.append(f"{done:,} of {planned:,} trials are there: the run is not finished.")
    if trials.get("damaged"):
        found.append(
            f"Damaged parts were left out: {words.listing(list(trials['damaged']))}. A resumed run makes them again."
        )
    return found


def headline(result: Result) -> list[str]:
    """What was found; nodes by Holm's p, pairs by the adjusted p, the comparison of designs by Holm's p over
    outcomes.
    """
    if of_outcome(result, "nodes", "effect").empty:
        return ["There is no estimate of any node yet."]
    nodes = claimed(result)
    parts = [_responsive(result, nodes), _useful(result, nodes), _interaction(result), _direction(result)]
    return [part for part in parts if part]


def claimed(result: Result) -> pd.DataFrame:
    """Nodes of which a claim in words may be made, largest first.

    Holm's p is below alpha, the node is responsive, and it does more than random vectors do there, not less.
    """
    table, alpha = of_outcome(result, "nodes", "effect"), result.manifest.get("alpha", 0.05)
    responsive = flagged(frame(result, "frontier"), "responsive")["node"]
    control = table["control"].astype(float).fillna(0.0)
    beyond = (table["contribution"] - control) * table["contribution"] > 0
    rows = table[(table["p_holm"] < alpha) & table["node"].isin(responsive) & beyond]
    return pd.DataFrame(rows.sort_values("contribution", key=abs, ascending=False))


def _responsive(result: Result, nodes: pd.DataFrame) -> str:
    manifest, unit = result.manifest, result.manifest.get("metric", {}).get("unit", "")
    table = of_outcome(result, "nodes", "effect")
    model, label = manifest.get("model", {}).get("name", "the model"), vectors(manifest)
    if nodes.empty:
        most = next(records(table.sort_values("contribution", key=abs, ascending=False)))
        beyond = " and goes beyond that of random vectors" if math.isfinite(most.control) else ""
        text = (
            f"No node of {model} can be said to respond to {label}: none of {len(table)} has a contribution "
            "that passes Holm's correction"
            f"{beyond}. The largest is that of {_contribution(most, unit)}."
        )
        why = manifest.get("missing", {}).get("intervals")
        return f"{text} There are no intervals: {str(why).rstrip('.')}." if why else text
    along, against = nodes[nodes["contribution"] > 0], nodes[nodes["contribution"] < 0]
    shown = [_contribution(row, unit) for row in records(nodes.head(3))]
    text = f"{len(nodes)} of {len(table)} nodes of {model} respond to {label}, above all {words.listing(shown)}"
    if len(along) and len(against):
        text += (
            f"; {len(against)} of them lower{'s' if len(against) == 1 else ''} the metric "
            f"({words.listing(_some(against))})"
        )
    return text + "."


def _contribution(row: Any, unit: str) -> str:
    if math.isfinite(row.control):
        control = (
            f"random vectors {words.signed(row.control)}"
            f"{words.between(row.control_low, row.control_high, words.signed)}"
        )
    else:
        control = "no controls were run"
    return f"{row.node} ({words.signed(row.contribution)} {unit}{words.between(row.low, row.high)}; {control})"


def _some(nodes: pd.DataFrame, most: int = 4) -> list[str]:
    names = [str(node) for node in nodes["node"]]
    return names if len(names) <= most else [*names[: most - 1], f"{len(names) - most + 1} more"]


def together(result: Result) -> tuple[float, float]:
    """Effect for each nat of all nodes together, and the same of random vectors (NaN where there are none)."""
    table = frame(result, "nodes")
    found = []
    for column in ("contribution", "control"):
        effect, kl = (
            table.loc[table["outcome"] == outcome, column].astype(float).to_numpy() for outcome in ("effect", "kl")
        )
        found.append(float(effect.sum() / kl.sum()) if kl.sum() > 0 else math.nan)
    return found[0], found[1]


def _useful(result: Result, nodes: pd.DataFrame) -> str:
    if nodes.empty:
        return ""
    unit = f"{result.manifest.get('metric', {}).get('unit', '')} per nat"
    table = flagged(frame(result, "frontier"), "useful")
    table = table[table["node"].isin(nodes["node"])].sort_values("effect", ascending=False)
    everyone, random = together(result)
    typical = f"{words.number(everyone)} {unit}"
    typical += f"; random vectors: {words.number(random)}" if math.isfinite(random) else ""
    if table.empty:
        return (
            "None of them is useful, with more effect for each nat of disturbance than all nodes have together "
            f"({typical})."
        )
    shown = [f"{r.node} ({_efficiency(r)})" for r in records(table.head(4))]
    if len(table) > 4:
        shown.append(f"{len(table) - 4} more")
    return (
        f"Useful, with more effect for each nat of disturbance than all nodes have together ({typical}): "
        f"{words.listing(shown)}."
    )


def _efficiency(row: Any) -> str:
    if not math.isfinite(row.efficiency):
        return "its disturbance cannot be told from zero"
    return f"{words.number(row.efficiency)}{words.between(row.efficiency_low, row.efficiency_high)}"


def _interaction(result: Result) -> str:
    table = of_outcome(result, "pairs", "effect")
    if table.empty:
        return ""
    found = table[table["p_adjusted"] < result.manifest.get("alpha", 0.05)]
    if found.empty:
        return f"No interaction of two nodes is significant ({len(table):,} pairs were tested)."
    row = next(records(found.sort_values("interaction", key=abs, ascending=False)))
    unit = result.manifest.get("metric", {}).get("unit", "")
    return (
        f"The strongest interaction is between {row.first} and {row.second}: both together do "
        f"{words.signed(row.interaction)} {unit}"
        f"{words.between(row.low, row.high)} beyond the sum of their contributions{_manner(result, row)} "
        f"({words.p_value(row.p_adjusted)}, adjusted; {len(found):,} of {len(table):,} pairs are significant)."
    )


def _manner(result: Result, pair: Any) -> str:
    """Whether two nodes stand in for each other: only where both have a significant contribution of the same sign."""
    table = flagged(of_outcome(result, "nodes", "effect"), "significant")
    values = table.loc[table["node"].isin([pair.first, pair.second]), "contribution"].to_numpy(float)
    if len(values) < 2 or values[0] * values[1] <= 0:
        return ""
    same = values[0] * pair.interaction > 0
    return ", so they strengthen each other" if same else ", so they stand in for each other"


def _direction(result: Result) -> str:
    table = frame(result, "designs")
    table = table[table["design"] == DIFFERENCE].dropna(subset=["p"])
    if table.empty:
        return ""
    unit, p = result.manifest.get("metric", {}).get("unit", ""), holm(table["p"].to_numpy(float))
    parts = []
    for row, corrected in zip(records(table), p, strict=True):
        if corrected < result.manifest.get("alpha", 0.05):
            of, name = (
                (unit, "effect")
                if row.outcome == "effect"
                else ("nats", {"kl": "disturbance"}.get(row.outcome, row.outcome))
            )
            more = "more" if row.mean > 0 else "less"
            parts.append(f"{words.number(abs(row.mean))} {of} {more} {name}{_size(row)}")
    start = "Horizontally (in one layer)"
    if not parts:
        effect = next((r for r in records(table) if r.outcome == "effect"), None)
        value = (
            ""
            if effect is None
            else f" (effect {words.signed(effect.mean)} {unit}{words.between(effect.low, effect.high)})"
        )
        return (
            f"{start} and vertically (over layers) the same number of nodes at the same norm do the same, as far "
            f"as can be told{value}."
        )
    return (
        f"{start} the same number of nodes at the same norm has {words.listing(parts)} than vertically (over layers)."
    )


def _size(row: Any) -> str:
    """The interval of a difference's size."""
    return words.between(*((row.low, row.high) if row.mean > 0 else (-row.high, -row.low)))


def design(manifest: Any) -> list[str]:
    """What a trial injects and how trials are drawn, in words."""
    about, trials = manifest.get("design", {}), manifest.get("trials", {})
    low, high = (*about.get("k", [1, 1]), 1)[:2]
    nodes = f"{low} node{'s' if low > 1 else ''}"
    if low < high:
        nodes = f"{low} {'or' if high == low + 1 else 'to'} {high} nodes (each number equally likely)"
    kinds = [f"{kind} ({KINDS.get(kind, kind)})" for kind in about.get("kinds", ["uniform"])]
    text = f"Each of {trials.get('planned', about.get('trials', 0)):,} trials injects into {nodes}, drawn {_or(kinds)}"
    text += f", with {vectors(manifest)} at {_coefficients(manifest)}, positions {manifest.get('positions', 'all')}."
    extra = []
    if about.get("antithetic"):
        extra.append("Every set is followed by its complement.")
    if about.get("mixed"):
        extra.append("Every node draws its own vector.")
    if about.get("controls"):
        extra.append(
            f"One in {about.get('control_every', '?')} draws is a control: the same nodes with one of "
            f"{about['controls']} random vectors "
            "that write as much into the stream."
        )
    if about.get("visit"):
        extra.append(f"{about['visit']} trials in a row share prompt, vector and coefficient.")
    mode = MODES.get(manifest.get("mode", ""), f"Mode {manifest.get('mode', 'unknown')}.")
    return [f"{mode} {SAME}", " ".join([text, *extra, *_cost(manifest)]), *map(str, manifest.get("notes", []))]


def _or(items: Sequence[str]) -> str:
    return " or ".join(items)


def _coefficients(manifest: Any) -> str:
    values = [f"{float(value):g}" for value in manifest.get("coefficients", [1.0])]
    if len(values) == 1:
        return f"coefficient {values[0]}"
    return f"coefficients {words.listing(values)} in turn (contributions are means over them)"


def _cost(manifest: Any) -> list[str]:
    shares = manifest.get("shares") or {}
    if not manifest.get("seconds"):
        return []
    text = (
        f"It took {words.number(manifest['seconds'])} seconds ({words.number(manifest.get('trials_per_second'))} "
        "trials a second"
    )
    spent = [f"{words.percent(share)} {name}" for name, share in shares.items()]
    return [text + (f"; {', '.join(spent)} " if spent else "").rstrip() + ")."]


def slopes(result: Result) -> list[str]:
    """Slopes over layers whose p is below alpha, Holm over all slopes."""
    table = frame(result, "trends")
    table = table[table["layer"].isna()].dropna(subset=["p"])
    if table.empty:
        return []
    names = {"head": "heads", "mlp": "MLPs", "attention": "attention, all heads"}
    unit, found = result.manifest.get("metric", {}).get("unit", ""), []
    for row, corrected in zip(records(table), holm(table["p"].to_numpy(float)), strict=True):
        if corrected < result.manifest.get("alpha", 0.05):
            of, outcome = (unit, "effect") if row.outcome == "effect" else ("nats", "disturbance")
            found.append(
                f"{outcome} of {names.get(row.kind, row.kind)} {words.signed(row.contribution)} {of} per "
                f"layer{words.between(row.low, row.high)}"
            )
    if not found:
        return ["No slope over layers is significant (Holm over all slopes)."]
    return [f"Significant slopes (Holm over all slopes): {'; '.join(found)}."]
