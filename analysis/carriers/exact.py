"""`exact`: the main question. Which heads and MLPs carry this injection's effect?

Exact necessity and sufficiency of every node, each with its interval over prompts, its reference and
its p-value corrected over nodes; what the significant ones explain together; how stable the list is.
Beside them the vector's two ends: who wrote it (`writers`), and how much of its effect and of the damage it
does survives frozen attention (`freeze_attention`).
"""

import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.run import Readout, measure
from steerscope.analysis.errors import BadInjection, BadVector
from steerscope.analysis.frozen.freeze_attention import COLUMNS as ATTENTION
from steerscope.analysis.frozen.freeze_attention import frozen
from steerscope.analysis.gate import Level, Share, Whole, gated
from steerscope.analysis.origin.writers import COLUMNS as WRITERS
from steerscope.analysis.origin.writers import written
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.generation import complete, row, surprises
from steerscope.analysis.question.outputs import pieced
from steerscope.analysis.question.reading import values_at
from steerscope.analysis.question.scores import divergence
from steerscope.analysis.results.effects import Statistics
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.tools.patching import MEASURES, Effects, checks, effects
from steerscope.analysis.tools.record import record

from .effect_table import CARRIERS, TOTALS, VECTORS, carrier_table, per_prompt, told, totals, vectors
from .minimal import MINIMAL, minimal

TOKENS = 12  # next tokens listed on each side
COMPLETED = 40  # tokens of each completion
FEWER = 5  # references of the writers and of frozen attention, which come along

COLUMNS: Frames = {
    "effects": CARRIERS,
    "minimal": MINIMAL,
    "per_prompt": {
        "prompt": Column("index of the prompt", role="label"),
        "node": Column("head or MLP", role="node"),
        "measure": Column("necessity or sufficiency", role="measure"),
        "effect": Column("effect of the node on this prompt", "{metric}", "estimate"),
    },
    "totals": TOTALS,
    "vectors": VECTORS,
    "prompts": {
        "prompt": Column("index of the prompt", role="label"),
        "group": Column("number of its group: prompts of a group (a template, copies) are not independent"),
        "text": Column("the prompt, as given (token ids where there is no tokenizer)"),
        "tokens": Column("number of tokens, BOS included"),
        "injected": Column("positions that the injection edits"),
        "scored": Column("positions that the metric reads"),
        "clean": Column("metric of the clean run", "{metric}"),
        "steered": Column("metric of the steered run", "{metric}"),
        "effect": Column("steered minus clean", "{metric}", "estimate"),
        "kl": Column("KL(steered || clean), mean over the scored positions", "nats"),
    },
    "positions": {
        "prompt": Column("index of the prompt", role="label"),
        "position": Column("scored position", role="axis"),
        "token": Column("token at that position"),
        "clean": Column("metric of the clean run at this position", "{metric}"),
        "steered": Column("metric of the steered run at this position", "{metric}"),
        "effect": Column("steered minus clean", "{metric}", "estimate"),
        "kl": Column("KL(steered || clean) at this position", "nats"),
    },
    "tokens": {
        "token": Column("next token, as text", role="label"),
        "id": Column("token id"),
        "clean": Column("probability in the clean run after the whole prompt, mean over prompts"),
        "steered": Column("probability in the steered run, mean over prompts"),
        "change": Column("mean of log steered minus log clean", "nats", "estimate"),
        "kl": Column("contribution to KL(steered || clean), mean over prompts", "nats"),
        "side": Column("gain or loss", role="label"),
    },
    "completions": {
        "prompt": Column("index of the prompt", role="label"),
        "text": Column("the prompt"),
        "clean": Column("completion without the injection"),
        "steered": Column("completion with the injection, same seed"),
        "clean_surprise": Column("loss of the clean completion under the clean model", "nats per token"),
        "steered_surprise": Column(
            "loss of the steered completion under the clean model: high where it is not fluent", "nats per token"
        ),
    },
    "writers": WRITERS["writers"],
    "attention": ATTENTION["attention"],
}


@gated
def exact(
    experiment: Experiment,
    *,
    completions: Whole = 4,
    writers: bool = True,
    attention: bool = True,
    growing: bool = True,
    level: Level = 0.95,
    alpha: Level = 0.05,
    smallest: Share = 0.02,
) -> Result:
    """Exact necessity and sufficiency of every head and MLP for the effect of an injection.

    Args:
        completions: prompts to complete with and without the injection.
        writers: whether to say who wrote the vector, too (see `writers`).
        attention: whether to say what survives frozen attention, too (see `freeze_attention`).
        growing: whether to find small sets of nodes that carry the effect jointly, too (see `minimal`).

    Returns:
        a `Result` of kind "exact".
    """
    options = Statistics(level, alpha, smallest)
    start = time.perf_counter()
    raw = effects(experiment)
    table, about = carrier_table(experiment, raw, options)
    found = [(m, [n for n in raw.nodes if str(n) in told(table, m)]) for m in MEASURES]
    together, _ = totals(experiment, raw, [*found, *((m, raw.nodes) for m in MEASURES)], options)
    texts, missing = _completions(experiment, completions)
    sets, small = _minimal(experiment, raw, options, growing)
    if small["missing"]:
        missing["minimal"] = small.pop("missing")
    ends, found_checks, reasons, beside = _ends(experiment, options, writers, attention)
    frames = {
        "effects": table,
        "minimal": sets,
        "per_prompt": per_prompt(raw),
        "totals": together,
        "vectors": vectors(experiment, raw, options),
        "prompts": _prompts(experiment, raw),
        "positions": _positions(experiment),
        "tokens": _tokens(experiment),
        "completions": texts,
        **ends,
    }
    return record(
        "exact",
        experiment,
        frames,
        COLUMNS,
        start,
        checks=[*checks(experiment), *found_checks],
        missing=missing | reasons,
        method="exact",
        level=level,
        alpha=alpha,
        smallest=smallest,
        precision=raw.precision.describe(),
        ends=beside,
        minimal=small,
        **about,
    )


def _minimal(
    experiment: Experiment, raw: Effects, options: Statistics, growing: bool
) -> tuple[pd.DataFrame, dict[str, Any]]:
    if not growing:
        return pd.DataFrame(columns=list(MINIMAL)), {"missing": "exact was run with growing=False"}
    return minimal(experiment, raw.along, raw.nodes, options, own=raw.own)


def _ends(
    experiment: Experiment, options: Statistics, writers: bool, attention: bool
) -> tuple[dict[str, pd.DataFrame], list[dict[str, object]], dict[str, str], dict[str, Any]]:
    """The vector's two ends: who wrote it, and what of it needs attention; their checks, and what is missing."""
    references = min(FEWER, len(experiment.beside))
    frames = {name: pd.DataFrame(columns=list(COLUMNS[name])) for name in ("writers", "attention")}
    checked: list[dict[str, object]] = []
    about: dict[str, Any] = {"references": references}
    missing = {
        name: f"exact was run with {name}=False"
        for name, asked in (("writers", writers), ("attention", attention))
        if not asked
    }
    if writers:
        try:
            found, checked = written(experiment, options, references)
            frames["writers"] = found["writers"]
        except (BadVector, BadInjection) as error:
            missing["writers"] = str(error).removeprefix("no writers possible: ")
    if attention:
        found, further, reasons, about["text"] = frozen(experiment, options, by=("all",), references=references)
        frames["attention"] = found["attention"]
        checked, missing = [*checked, *further], missing | reasons
    return frames, checked, missing, about


def _prompts(experiment: Experiment, raw: Effects) -> pd.DataFrame:
    prompts = experiment.prompts
    return pd.DataFrame(
        {
            "prompt": range(len(prompts)),
            "group": prompts.by_group,
            "text": prompts.texts,
            "tokens": [len(ids) for ids in prompts.full],
            "injected": [",".join(map(str, p)) for p in experiment.injected],
            "scored": [",".join(map(str, p)) for p in experiment.scored_positions.positions],
            "clean": raw.clean,
            "steered": raw.steered,
            "effect": raw.basis.total,
            "kl": raw.kl[0],
        }
    )


def _positions(experiment: Experiment) -> pd.DataFrame:
    """The metric and the disturbance at every scored position, not averaged."""
    prompts, scored = experiment.prompts, experiment.scored_positions
    places = [(prompt, position) for prompt, own in enumerate(scored.positions) for position in own]
    clean, steered = (
        values_at(scored, run, experiment.along).cpu().numpy() for run in (experiment.clean, experiment.steered)
    )
    disturbed = pieced(lambda a, b: divergence(a, b.log_softmax(-1)), experiment.steered, experiment.clean)
    return pd.DataFrame(
        {
            "prompt": [prompt for prompt, _ in places],
            "position": [position for _, position in places],
            "token": [experiment.model.token_text(prompts.full[prompt][position]) for prompt, position in places],
            "clean": clean,
            "steered": steered,
            "effect": steered - clean,
            "kl": disturbed.double().cpu().numpy(),
        }
    )


def _tokens(experiment: Experiment) -> pd.DataFrame:
    """What the injection does to the next token after the prompts."""
    model = experiment.model
    clean, steered = (_after(experiment, vector).double().log_softmax(-1) for vector in (None, 0))
    gain = (steered.exp() - clean.exp()).mean(0)
    contribution = (steered.exp() * (steered - clean)).mean(0)
    kept = min(TOKENS, model.d_vocab_out // 2)
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


def _after(experiment: Experiment, vector: int | None) -> Float[Tensor, "prompt vocab"]:
    """Logits at the last token of every prompt (of its own: without a continuation)."""
    prompts, scored = experiment.prompts, experiment.scored_positions
    last = [len(ids) - 1 for ids in prompts.ids]
    if all(p in own for p, own in zip(last, scored.positions, strict=True)):
        starts = np.cumsum([0, *map(len, scored.positions)])
        places = [int(start) + own.index(p) for start, p, own in zip(starts, last, scored.positions, strict=False)]
        return experiment.outputs_of(vector).rows(torch.tensor(places))
    variants = [Variant(p, own) for p, own in enumerate(experiment.edits_of(vector))]
    positions = [(p,) for p in last]
    return measure(experiment.model, prompts.full, variants, positions, _logits, budget=experiment.budget)


def _logits(readout: Readout) -> Float[Tensor, "read vocab"]:
    assert readout.logits is not None
    return readout.logits


def _completions(experiment: Experiment, count: int) -> tuple[pd.DataFrame, dict[str, str]]:
    columns = list(COLUMNS["completions"])
    model, prompts = experiment.model, experiment.prompts
    if model.tokenizer is None:
        return pd.DataFrame(columns=columns), {"completions": f"{model.name} has no tokenizer"}
    chosen = range(min(count, len(prompts)))
    asked = [
        row(model, prompts.ids[p], injections, experiment.seed + p, experiment.layouts[p])
        for p in chosen
        for injections in ((), experiment.injections)
    ]
    made = complete(model, asked, tokens=COMPLETED)
    losses = surprises(model, [one.prompt for one in asked], made)
    means = [float(own.mean()) if len(own) else float("nan") for own in losses]
    texts = [model.text(ids) for ids in made]
    rows = [[p, prompts.texts[p], *texts[2 * p : 2 * p + 2], *means[2 * p : 2 * p + 2]] for p in chosen]
    return pd.DataFrame(rows, columns=columns), {}
