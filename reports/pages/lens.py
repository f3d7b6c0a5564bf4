"""The report of a trained lens: what it is worth at every layer, beside the logit lens."""

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.layers import by_layer
from steerscope.reports.page import Page, Panel, Section
from steerscope.reports.pages.common import everything, page
from steerscope.reports.records import records
from steerscope.reports.theme import POSITIVE, axis, figure


def lens_page(result: Result) -> Page:
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
    windows = result.manifest.get("windows", {})
    text = [
        "For every layer an affine translator makes the stream's prediction come close to the model's own "
        "(Belrose et al. 2023). "
        f"Trained on {windows.get('count', '?')} windows of {windows.get('tokens', '?')} tokens; measured on "
        "windows that nothing was learned from."
    ]
    return page(
        result,
        "What does a tuned lens see in {model}?",
        "SGD with Nesterov momentum",
        lens_sentences(table),
        [Section("Layers", text, panels), everything(table, list(table.columns), "All layers", result)],
    )


def lens_sentences(table: pd.DataFrame) -> list[str]:
    """KL of both lenses, layer by layer."""
    both = {name: list(records(table[table["lens"] == name].sort_values("layer"))) for name in ("tuned", "logit")}
    named = [
        f"{words.number(a.kl)}{words.between(a.low, a.high)} before layer {a.layer} (logit lens {words.number(b.kl)})"
        for a, b in zip(both["tuned"], both["logit"], strict=True)
    ]
    shown = named if len(named) <= 6 else [*named[:3], *named[-3:]]
    return [
        f"On held-out text the lens' prediction is within a KL of {words.listing(shown)} of the model's own, in nats."
    ]
