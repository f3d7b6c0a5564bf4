"""Frames and manifests in words: numbers with their intervals, and sentences by template."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports.records import records


def number(value: Any, digits: int = 3) -> str:
    """A number as a reader wants it: three significant digits, a true minus sign, missing as a dash."""
    value = math.nan if value is None else float(value)
    if not math.isfinite(value):
        return "–"
    if value != 0 and abs(value) < 10 ** (-digits - 1):
        text = f"{value:.1e}"
    else:
        text = f"{value:,.{max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))}f}"
    return text.replace("-", "−")


def short(value: float) -> str:
    """A number that fits a cell; a dot for what rounds to nothing."""
    if abs(value) < 0.005:
        return "·"
    return f"{value:.{0 if abs(value) >= 10 else 1 if abs(value) >= 1 else 2}f}".replace("-", "−")


def signed(value: Any) -> str:
    """The same, with a plus sign."""
    return ("+" if float(value) > 0 else "") + number(value)


def percent(value: Any) -> str:
    """A share as whole percent."""
    return (
        "–"
        if value is None or not math.isfinite(value)
        else f"{100 * value:.0f}%".replace("-0%", "0%").replace("-", "−")
    )


def between(low: Any, high: Any, show: Any = number) -> str:
    """An interval in brackets; nothing where there is none."""
    return f" [{show(low)}, {show(high)}]" if math.isfinite(low) and math.isfinite(high) else ""


def p_value(p: Any) -> str:
    """A p-value, tiny ones as a bound."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def listing(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if not items:
        return "none"
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def injection(manifest: Any) -> str:
    """`3 × (" wedding" - " ") at L0.resid_pre, front`."""
    parts = [
        f"{i['coefficient']:g} × ({i['vector']['label']}) at {i['site']}, {i['positions']}"
        for i in manifest.get("injections", [])
    ]
    return " and ".join(parts) or "the injection"


def claimed(result: Result, measure: str = "necessity") -> pd.DataFrame:
    """The nodes of which a claim in words may be made: Holm's p below alpha; largest first."""
    table = result.frames["effects"]
    rows = table[(table["measure"] == measure) & (table["p_holm"] < result.manifest.get("alpha", 0.05))]
    return pd.DataFrame(rows.sort_values("effect", key=abs, ascending=False))


def headline(result: Result) -> list[str]:
    """What was found, in two or three plain sentences; claims are corrected by Holm over all nodes."""
    totals = result.frames["totals"].set_index("quantity")
    total, manifest = totals.loc["total"], result.manifest
    nodes, name = claimed(result), manifest.get("model", {}).get("name", "the model")
    effect = f"{signed(total['value'])} {total['unit']}{between(total['low'], total['high'])}"
    control = _control(total)
    metric = manifest.get("metric", {}).get("name", "the metric").replace("_", " ")
    if nodes.empty:
        count = manifest.get("prompts", {}).get("count", len(result.frames["prompts"]))
        return [
            f"No head or MLP of {name} can be called a carrier of {injection(manifest)} on these {count} prompts "
            "(none passes Holm's correction over all nodes).",
            f"The whole effect on {metric} is {effect}{control}.",
        ]
    tested = result.frames["effects"].query("measure == 'necessity'")
    along = nodes[nodes["effect"] * total["value"] > 0]
    against = nodes[nodes["effect"] * total["value"] < 0]
    shown = [f"{r.node} ({percent(r.share)})" for r in records(along.head(4))]
    first = f"{len(along)} of {len(tested)} heads and MLPs of {name} carry {injection(manifest)}"
    if shown:
        first += (
            f", above all {listing(shown)}: the share of the effect that is lost when the node is set back to "
            "its clean value"
        )
    if not against.empty:
        first += f"; {len(against)} work against it ({listing(_some(against))})"
    return [
        first + ".",
        f"The whole effect on {metric} is {effect}{control}; {together(result)}",
        *([reach(along)] if shown else []),
    ]


def _some(nodes: pd.DataFrame, most: int = 4) -> list[str]:
    names = [str(node) for node in nodes["node"]]
    return names if len(names) <= most else [*names[: most - 1], f"{len(names) - most + 1} more"]


def together(result: Result) -> str:
    """What the significant carriers explain, patched at once."""
    row = result.frames["totals"].set_index("quantity").loc["carriers_necessity"]
    share = f"{percent(row['share'])}{between(row['share_low'], row['share_high'], percent)}"
    return (
        f"all significant nodes set back together take away {share} of it (which is not the sum of their single "
        "effects)."
    )


def reach(nodes: pd.DataFrame) -> str:
    """How many carriers are specific to this vector."""
    specific, general = (_some(nodes[nodes["reach"] == kind], 6) for kind in ("specific", "general"))
    parts = []
    if specific:
        parts.append(f"specific to this vector, carrying more of it than of random ones: {listing(specific)}")
    if general:
        parts.append(f"general, carrying whatever is put there: {listing(general)}")
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def _control(row: Any) -> str:
    if not math.isfinite(row["control"]):
        return " (no controls were run)"
    band = between(row["control_low"], row["control_high"])
    return f" (random vectors of equal norm: {signed(row['control'])}{band})"
