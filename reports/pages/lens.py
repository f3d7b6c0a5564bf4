"""The report of a trained lens: what it is worth at every layer, beside the logit lens; and what a lens reads, for the
reports of `trace` and `breakdown`.
"""

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.layers import by_layer, read
from steerscope.reports.page import Page, Panel, Section
from steerscope.reports.pages.common import everything, layout, of
from steerscope.reports.reading import drawing
from steerscope.reports.records import records
from steerscope.reports.theme import POSITIVE, axis, figure


@drawing
def headline(result: Result) -> list[str]:
    """KL of both lenses, layer by layer."""
    tuned, logit = (records(of(result, "layers", lens=name).sort_values("layer")) for name in ("tuned", "logit"))
    named = [
        f"{words.ranged(a, 'kl')} before layer {words.number(a.layer, 1)} (logit lens {words.number(b.kl)})"
        for a, b in zip(tuned, logit, strict=True)
    ]
    shown = named if len(named) <= 6 else [*named[:3], *named[-3:]]
    aside = result.manifest.get("windows", {}).get("held_out_documents")
    held = f"On {aside} held-out document{'s' * (aside != 1)}" if aside else "On held-out text"
    return [f"{held} the lens' prediction is within a KL of {words.listing(shown)} of the model's own, in nats."]


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    table, steps = result.frames["layers"], result.frames["steps"]
    named = table.assign(value=table["kl"], run=table["lens"] + " lens")
    chart = figure(height=320)
    chart.add_scatter(x=steps["step"], y=steps["loss"], mode="lines", line={"color": POSITIVE, "width": 1.2})
    chart.update_xaxes(axis("step"))
    chart.update_yaxes(axis("KL summed over layers (nats)"), type="log")
    panels = [
        Panel("KL to the model's prediction, held-out text (nats)", by_layer(named, "run", "KL", log=True)),
        Panel("Training", chart),
    ]
    text = [
        "For every layer an affine translator makes the stream's prediction come close to the model's own (Belrose et "
        f"al. 2023). {_split(result)}"
    ]
    sections = [Section("Layers", text, panels), everything(table, list(table.columns), "All layers", result)]
    question, method = "What does a tuned lens see in {model}?", "SGD with Nesterov momentum"
    return layout(result, question, method, headline(result), sections)


def _split(result: Result) -> str:
    """What was learned from, and what was put aside."""
    windows = result.manifest.get("windows", {})
    if "held_out_documents" not in windows:  # of an older lens
        return f"Of {windows.get('count', '?')} windows of {windows.get('tokens', '?')} tokens some were held out."
    return (
        f"Trained on {windows['learned']} windows of {windows['tokens']} tokens of "
        f"{windows['documents'] - windows['held_out_documents']} documents; measured on {windows['held_out']} windows "
        f"of {windows['held_out_documents']} whole documents that nothing was learned from; intervals are over "
        "documents."
    )


def trajectories(table: pd.DataFrame, tokens: pd.DataFrame, text: str) -> list[Section]:
    """Entropy and divergences by layer, then every layer and position of one prompt in each run."""
    title = "Prediction trajectories"
    if table.empty:
        return [Section(title, [], [Panel("Lens", None, "not computed")])]
    names = {
        "kl_final": "KL of the final prediction (later positions, nats)",
        "kl_clean": "KL from the clean run (later positions, nats)",
        "entropy": "Entropy (later positions, nats)",
        "neighbours": "Divergence between neighbouring positions (nats)",
    }
    last, later = int(table["layer"].max()), table[table["where"] == "later"]
    panels = [
        Panel(name, by_layer(later[later["quantity"] == q], "run", q.replace("_", " "), last))
        for q, name in names.items()
    ]
    largest = float(tokens["entropy"].max()) if len(tokens) else 1.0
    runs = [
        Panel(f"Most probable next token, {run}", read(tokens[tokens["run"] == run], largest))
        for run in dict.fromkeys(tokens["run"])
    ]
    return [Section(title, [text], panels), *(Section("", [], [panel]) for panel in runs)]
