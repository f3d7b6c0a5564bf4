"""`carriers`: the main question. Which heads and MLPs carry this injection's effect?

Exact necessity and sufficiency of every node, each with its interval over prompts, its control and
its p-value corrected over nodes; what the significant ones explain together; how stable the list is.
Beside them the vector's two ends: who wrote it (`writers`), and how much of its effect and of the damage it
does survives frozen attention (`freeze_attention`).
"""

import time
from typing import Any

import pandas as pd
import torch

from steerscope.analysis.carriers import effect_table as tables
from steerscope.analysis.columns import COLUMNS
from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import Readout, measure, run
from steerscope.analysis.errors import BadVector
from steerscope.analysis.frozen.freeze_attention import frozen
from steerscope.analysis.origin.writers import written
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.generation import generate, surprises
from steerscope.analysis.question.metrics import kl
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.results.result import Result
from steerscope.analysis.tools.patching import MEASURES, Effects, checks, effects, together
from steerscope.analysis.tools.record import record

TOKENS = 12  # next tokens listed on each side
FEWER = 5  # controls of the writers and of frozen attention, which come along


def carriers(
    experiment: Experiment,
    *,
    level: float = 0.95,
    alpha: float = 0.05,
    completions: int = 4,
    writers: bool = True,
    attention: bool = True,
) -> Result:
    """Exact necessity and sufficiency of every head and MLP for the effect of an injection.

    Args:
        level: of the intervals. alpha: threshold on adjusted p-values.
        completions: prompts to complete with and without the injection.
        writers: whether to say who wrote the vector, too (see `writers`).
        attention: whether to say what survives frozen attention, too (see `freeze_attention`).

    Returns:
        a `Result` of kind "localize"; frames and columns as in `columns.COLUMNS["localize"]`.
    """
    options = Statistics(level, alpha)
    start = time.perf_counter()
    raw = effects(experiment)
    table, found, steadiness = tables.effects_table(experiment, raw, options)
    groups = [(m, [n for n in raw.nodes if str(n) in found[m]]) for m in MEASURES] + [
        (m, list(raw.nodes)) for m in MEASURES
    ]
    joint = together(experiment, groups)
    texts, missing = _completions(experiment, completions)
    ends, found_checks, reasons, about = _ends(experiment, options, writers, attention)
    frames = {
        "effects": table,
        "per_prompt": tables.per_prompt(raw),
        "totals": tables.totals(experiment, raw, joint, options),
        "vectors": tables.vectors(experiment, raw, options),
        "prompts": _prompts(experiment, raw),
        "positions": _positions(experiment),
        "tokens": _tokens(experiment),
        "completions": texts,
        **ends,
    }
    return record(
        "localize",
        experiment,
        frames,
        start,
        checks=[*checks(experiment), *found_checks],
        missing=missing | reasons,
        method="exact",
        level=level,
        alpha=alpha,
        stability=steadiness,
        ends=about,
    )


def _ends(
    experiment: Experiment, options: Statistics, writers: bool, attention: bool
) -> tuple[dict[str, pd.DataFrame], list[dict[str, object]], dict[str, str], dict[str, Any]]:
    """The vector's two ends: who wrote it, and what of it needs attention; their checks, and what is missing."""
    controls = min(FEWER, experiment.controls)
    frames = {name: pd.DataFrame(columns=list(COLUMNS["localize"][name])) for name in ("writers", "attention")}
    checked: list[dict[str, object]] = []
    about: dict[str, Any] = {"controls": controls}
    missing = {
        name: f"localize was run with {name}=False"
        for name, asked in (("writers", writers), ("attention", attention))
        if not asked
    }
    if writers:
        try:
            found, checked = written(experiment, options, controls)
            frames["writers"] = found["writers"]
        except BadVector as error:
            missing["writers"] = str(error).removeprefix("no writers possible: ")
    if attention:
        found, further, reasons, about["text"] = frozen(experiment, options, by=("all",), controls=controls)
        frames["attention"] = found["attention"]
        checked, missing = [*checked, *further], missing | reasons
    return frames, checked, missing, about


def _prompts(experiment: Experiment, raw: Effects) -> pd.DataFrame:
    prompts = experiment.prompts
    return pd.DataFrame(
        {
            "prompt": range(len(prompts)),
            "text": prompts.texts,
            "tokens": [len(ids) for ids in prompts.full],
            "injected": [",".join(map(str, p)) for p in experiment.injected],
            "scored": [",".join(map(str, p)) for p in experiment.scored_positions.positions],
            "clean": raw.clean,
            "steered": raw.steered,
            "effect": raw.total[0],
            "kl": raw.kl[0],
        }
    )


def _positions(experiment: Experiment) -> pd.DataFrame:
    """The metric and the disturbance at every scored position, not averaged."""
    prompts, model = experiment.prompts, experiment.model
    prepared = (experiment.scored_positions, experiment.clean, experiment.steered)
    scores = [metric.prepare(*prepared) for metric in (experiment.metric, kl())]
    variants = [Variant(p) for p in range(len(prompts))]
    variants += [Variant(p, experiment.edits(0)[p]) for p in range(len(prompts))]
    found: dict[tuple[int, int], dict[str, Any]] = {}
    positions = experiment.scored_positions.positions
    for chunk, readout in run(model, prompts.full, variants, positions, budget=experiment.budget):
        metric, divergence = (score(readout).tolist() for score in scores)
        for place, (row, position) in enumerate(zip(readout.row.tolist(), readout.position.tolist(), strict=True)):
            entry = found.setdefault((readout.variants[row].prompt, position), {})
            steered = chunk[row] >= len(prompts)
            entry |= {"steered": metric[place], "kl": divergence[place]} if steered else {"clean": metric[place]}
    return pd.DataFrame(
        [
            {
                "prompt": prompt,
                "position": position,
                "token": model.token_text(prompts.full[prompt][position]),
                "clean": e["clean"],
                "steered": e["steered"],
                "effect": e["steered"] - e["clean"],
                "kl": e["kl"],
            }
            for (prompt, position), e in sorted(found.items())
        ]
    )


def _tokens(experiment: Experiment) -> pd.DataFrame:
    """What the injection does to the next token after the prompts."""
    prompts, model = experiment.prompts, experiment.model
    count = len(prompts)
    variants = [Variant(p) for p in range(count)] + [Variant(p, experiment.edits(0)[p]) for p in range(count)]
    last = [(len(ids) - 1,) for ids in prompts.ids]
    logits = measure(model, prompts.full, variants, last, _logits, budget=experiment.budget)
    clean, steered = torch.split(logits.double().log_softmax(-1), count)
    gain = (steered.exp() - clean.exp()).mean(0)
    contribution = (steered.exp() * (steered - clean)).mean(0)
    kept = min(TOKENS, model.d_vocab // 2)
    ids = torch.cat([gain.topk(kept).indices, gain.topk(kept, largest=False).indices])
    frame = pd.DataFrame(
        {
            "token": [model.token_text(int(i)) for i in ids],
            "id": ids.cpu().numpy(),
            "clean": clean.exp().mean(0)[ids].cpu().numpy(),
            "steered": steered.exp().mean(0)[ids].cpu().numpy(),
            "change": (steered - clean).mean(0)[ids].cpu().numpy(),
            "kl": contribution[ids].cpu().numpy(),
            "side": ["gain"] * kept + ["loss"] * kept,
        }
    )
    moved = frame["steered"] != frame["clean"]
    return frame[moved].reset_index(drop=True)


def _logits(readout: Readout) -> torch.Tensor:
    assert readout.logits is not None
    return readout.logits


def _completions(experiment: Experiment, count: int) -> tuple[pd.DataFrame, dict[str, str]]:
    columns = ["prompt", "text", "clean", "steered", "clean_surprise", "steered_surprise"]
    model, prompts = experiment.model, experiment.prompts
    if model.tokenizer is None:
        return pd.DataFrame(columns=columns), {"completions": f"{model.name} has no tokenizer"}
    rows = []
    for p in range(min(count, len(prompts))):
        made = [
            generate(model, list(prompts.ids[p]), injections, tokens=40, seed=experiment.seed + p)
            for injections in ((), experiment.injections)
        ]
        losses = surprises(model, [prompts.ids[p]] * 2, made)
        means = [float(own.mean()) if len(own) else float("nan") for own in losses]
        rows.append([p, prompts.texts[p], *map(model.text, made), *means])
    return pd.DataFrame(rows, columns=columns), {}
