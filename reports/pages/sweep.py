"""The report of `sweep`: what parts of a steering vector do in randomly chosen nodes."""

import math
from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import sentences_sweep as say
from steerscope.reports import words
from steerscope.reports.page import Page, Section, Table
from steerscope.reports.pages import sweep_figures as figures
from steerscope.reports.pages.common import (
    cell,
    checks,
    failed_checks,
    legend,
    metric_name,
    metric_unit,
    missing,
    reproduce,
    whole_manifest,
)
from steerscope.reports.records import records

ROWS = 20_000  # of a frame that a page carries along as CSV


def sweep_page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    manifest = result.manifest
    model = manifest.get("model", {})
    return Page(
        title=f"Which nodes respond to {say.vectors(manifest)} in {model.get('name', 'the model')}?",
        subtitle=f"randomized injection sweep · mode {manifest.get('mode', '?')} · "
        f"{manifest.get('prompts', {}).get('count', '?')} prompts · "
        f"{manifest.get('trials', {}).get('done', 0):,} trials · {metric_name(manifest)}",
        headline=say.headline(result),
        warnings=[*failed_checks(manifest), *say.unfinished(manifest)],
        glance=_glance(result),
        sections=[
            Section("What a trial injects", say.design(manifest)),
            *figures.sections(result),
            _prompts(result),
            legend("sweep", say.READING),
            _table(result),
            checks(manifest),
            whole_manifest(manifest),
            reproduce(manifest),
        ],
        footer=f"steerscope {manifest.get('versions', {}).get('steerscope', '')} · {manifest.get('created', '')} · "
        f"{words.number(manifest.get('seconds', math.nan))} seconds on {model.get('device', '?')}",
    )


def _glance(result: Result) -> list[tuple[str, str, str]]:
    manifest, unit = result.manifest, metric_unit(result)
    trials = manifest.get("trials", {})
    nodes, rows = say.of_outcome(result, "nodes", "effect"), say.frame(result, "prompts")
    responsive = say.flagged(say.frame(result, "frontier"), "responsive")
    width = (nodes["high"].astype(float) - nodes["low"].astype(float)).median()
    effect, of_effect = _whole(result, "effect")
    kl, of_kl = _whole(result, "kl")
    level, alpha = manifest.get("level", 0.95), manifest.get("alpha", 0.05)
    return [
        ("trials", f"{trials.get('done', 0):,}", f"{trials.get('real', 0):,} with the vector, {_controls(manifest)}"),
        (
            "prompts",
            f"{manifest.get('prompts', {}).get('count', len(rows)):,}",
            str(manifest.get("prompts", {}).get("source", "")),
        ),
        ("whole injection", f"{words.signed(effect)} {unit}", f"mean effect on {metric_name(manifest)}{of_effect}"),
        ("its disturbance", f"{words.number(kl)} nats", f"KL to the clean run{of_kl}"),
        (
            "responsive nodes",
            f"{len(responsive)} of {len(nodes)}",
            f"Benjamini-Hochberg at {alpha:g}, unlike random vectors; {len(say.claimed(result))} pass Holm and do more",
        ),
        (
            "interval width",
            f"{words.number(width)} {unit}" if pd.notna(width) else "–",
            f"median over nodes, of contributions to the effect at level {words.percent(level)}",
        ),
    ]


def _controls(manifest: Any) -> str:
    random, count = manifest.get("trials", {}).get("random", 0), manifest.get("design", {}).get("controls", "?")
    return f"{random:,} controls with {count} random vectors of equal norm" if random else "no controls"


def _whole(result: Result, outcome: str) -> tuple[float, str]:
    """Mean of the fully steered run over prompts, and its interval in words."""
    found = result.manifest.get("whole", {}).get(outcome) or {}
    if found.get("mean") is not None:
        ends = [math.nan if found.get(name) is None else found[name] for name in ("low", "high")]
        return found["mean"], words.between(*ends)
    rows = say.frame(result, "prompts")
    return float(pd.to_numeric(rows[f"steered_{outcome}"]).mean()), ""


def _prompts(result: Result) -> Section:
    table, unit = say.frame(result, "prompts"), metric_unit(result)
    columns = [
        "prompt",
        "tokens",
        "trials",
        f"effect ({unit})",
        "KL (nats)",
        "clean perplexity",
        f"whole injection ({unit})",
        "its KL (nats)",
    ]
    rows = [
        [
            r.text,
            str(r.tokens),
            f"{r.trials:,}",
            words.signed(r.effect),
            words.number(r.kl),
            words.number(r.clean_perplexity),
            words.signed(r.steered_effect),
            words.number(r.steered_kl),
        ]
        for r in records(table)
    ]
    scored = result.manifest.get("metric", {}).get("scored", "")
    text = ["Effect and KL are means over the trials of a prompt with the vector, not random ones."]
    text += [f"Scored: {scored}."] if scored else []
    text += [f"Missing: {missing(result, 'prompts')}."] if table.empty else []
    numeric = frozenset(columns[1:])
    return Section(f"Prompts ({len(table)})", text, table=Table(columns, rows, numeric), folded=True)


def _table(result: Result) -> Section:
    columns = [
        "node",
        "outcome",
        "contribution",
        "low",
        "high",
        "control",
        "control_low",
        "control_high",
        "difference",
        "sampled",
        "p_adjusted",
        "p_holm",
        "p_specific",
    ]
    rows = [[_plain(row[c]) for c in columns] for row in say.frame(result, "nodes")[columns].to_dict("records")]
    text = [
        (
            "A click on a heading sorts. The buttons save the tables as CSV; the trials themselves are in the "
            "parquet files of the run's folder."
        )
    ]
    downloads = {}
    for name, table in result.frames.items():
        downloads[f"{name}.csv"] = table.head(ROWS)
        if len(table) > ROWS:
            text.append(
                f"{name}.csv holds the first {ROWS:,} of {len(table):,} rows; all of them are in "
                f"{name}.parquet of the run's folder."
            )
    numeric = frozenset(columns) - {"node", "outcome"}
    return Section("All nodes", text, table=Table(columns, rows, numeric), folded=True, download=downloads)


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else cell(value)
