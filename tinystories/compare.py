"""`compare_variants`: does the activation function, the norm or the order of attention and MLP matter for steering?

1. Train every variant (`variants`) with every seed, seed by seed, on the same stories for as many steps.
2. Look whether it learned: its loss on held-out stories against that of the frequencies of tokens, and whether a topic
   that was named raises its words.
3. Measure how it is steered (`steering`), concept by concept; the mean over concepts is one number of one model.
4. Compare variants over seeds (`seeds`).

A model that is there is not trained again, one that was measured is not measured again: what a killed study loses is
at most one of them. Models lie in `models`, what was measured in `measured`, beside the tables.

What it cannot see: what other sizes, longer training or other text would show. The sample is of seeds: concepts,
prompts and stories are the same for all models, and an interval says nothing of others.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch

from steerscope.analysis.errors import BadArgument, DamagedRun
from steerscope.analysis.files import write
from steerscope.analysis.gate import Level, Within, gated
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.progress import track
from steerscope.analysis.question.prompts import Prompts, make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frames
from steerscope.analysis.seals import digest, read_json, sealed
from steerscope.analysis.tools.record import made_now

from .card import read_card
from .corpus import openings
from .run import Corpus
from .seeds import differences, summarized
from .steering import LOGGED, MEASURES, SIZES, measured, told
from .train import read_corpus
from .variants import BASE, Recipe, config, factor, trained

_WHAT = "; ".join(f"{name}: {meaning}{f' ({unit})' if unit else ''}" for name, (meaning, unit) in MEASURES.items())
_RATIO = f"of {', '.join(LOGGED)}"
COLUMNS: Frames = {
    "differences": {
        "variant": Column(
            "what is compared with the base, which is gelu, LayerNorm, one after the other", role="label"
        ),
        "factor": Column("what it differs in"),
        "measure": Column(_WHAT, role="measure"),
        "unit": Column("of the difference; times where it is a ratio"),
        "difference": Column(f"variant minus base, means over seeds; {_RATIO} their ratio", "{unit}", "estimate"),
        "low": Column("lower end of its interval over seeds (Welch)", "{unit}", "low"),
        "high": Column("upper end of the same", "{unit}", "high"),
        "p": Column("of no difference, two-sided"),
        "p_holm": Column("the same, corrected over all variants and measures"),
        "told": Column("whether p_holm is below alpha", role="verdict"),
        "smallest": Column(
            "the smallest difference that could have been told, as the spreads over seeds are", "{unit}"
        ),
    },
    "variants": {
        "variant": Column("name of the variant", role="label"),
        "measure": Column(_WHAT, role="measure"),
        "unit": Column("of the value"),
        "value": Column(f"mean over seeds; {_RATIO} the geometric mean", "{unit}", "estimate"),
        "low": Column("lower end of its interval over seeds", "{unit}", "low"),
        "high": Column("upper end of the same", "{unit}", "high"),
        "seeds": Column("models of which the measure is known"),
    },
    "models": {
        "variant": Column("name of the variant", role="label"),
        "seed": Column("of its first weights and the order of its batches", role="label"),
        "loss": Column("on held-out stories", "nats per token", "estimate"),
        "unigram": Column("loss of the frequencies of tokens, on the same stories", "nats per token"),
        "told": Column("how far a topic that was named raises its words over another topic's", "nats"),
        "seconds": Column("of training", "seconds"),
    },
    "measured": {
        "variant": Column("name of the variant", role="label"),
        "seed": Column("of the model", role="label"),
        "concept": Column("topic of the grammar", role="label"),
        "measure": Column(_WHAT, role="measure"),
        "unit": Column("of the value"),
        "value": Column("of one model and concept", "{unit}", "estimate"),
    },
}
Loss = Annotated[float, Within(0, 10, open=True)]


@gated
def compare_variants(
    out: str | Path, recipe: Recipe | None = None, *, loss: Loss = 0.1, level: Level = 0.95, alpha: Level = 0.05
) -> Result:
    """Trains the variants and compares how they are steered; the tables are not saved yet.

    Args:
        out: folder for models and measurements; those that are there are used.
        loss: share of the perplexity that a safe size may cost.

    Returns:
        a `Result` of kind "compare_variants".

    Raises:
        BadArgument: the folder holds another study.
        DamagedRun: a measurement in it has changed since it was written.
        KeyboardInterrupt: with what is done; the same goes on from there.
    """
    start, recipe, out = time.perf_counter(), recipe or Recipe(), Path(out)
    corpus = read_corpus(config(recipe, BASE, 0, out / "models" / "any"))
    rows, models = [], []
    with _one_thread():
        for variant, seed, found in _each(out, recipe, corpus, loss):
            named = {"variant": variant, "seed": seed}
            models.append(named | found["model"])
            rows += [named | row for row in found["rows"]]
    return _result(recipe, corpus, rows, models, {"loss": loss, "level": level, "alpha": alpha}, start)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small models are no faster with more, and the numbers of one are the same everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _each(out: Path, recipe: Recipe, corpus: Corpus, loss: float) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Every variant of a seed, then those of the next one, so that a study that is stopped is even."""
    study = digest(
        json.dumps([recipe.describe() | {"seeds": 0, "first": 0, "variants": []}, loss, corpus.hash]).encode()
    )[:16]
    unigram, todo = _unigram(corpus), list(product(range(recipe.first, recipe.first + recipe.seeds), recipe.variants))
    for seed, variant in track(todo, "models"):
        name = f"{variant.replace(' ', '-')}-{seed}"
        path = out / "measured" / f"{name}.json"
        if not path.is_file():
            folder = trained(config(recipe, variant, seed, out / "models" / name), corpus)
            keep(path, study, _measure(folder, recipe, corpus, unigram, loss))
        yield variant, seed, kept(path, study)


def keep(path: Path, study: str, found: Mapping[str, Any]) -> None:
    """Writes what was measured of a model.

    Args:
        study: the hash of the settings that it belongs to.
    """
    write(path, sealed({"study": study, **found}))


def kept(path: Path, study: str) -> dict[str, Any]:
    """What was measured of a model.

    Raises:
        DamagedRun: it has changed since it was written.
        BadArgument: it belongs to other settings.
    """
    found = read_json(path, DamagedRun, "measurement")
    if found.get("study") != study:
        raise BadArgument(
            f"{str(path)!r} belongs to a study of other settings; expected the same; use them, or choose another folder"
        )
    return found


def _measure(folder: Path, recipe: Recipe, corpus: Corpus, unigram: float, loss: float) -> dict[str, Any]:
    """What a trained model is, and how it is steered."""
    card = read_card(folder)
    model = load(folder)
    text = _text(model, recipe, corpus)
    rows = measured(model, recipe.concepts, openings(1, recipe.openings), text, loss)
    about = {"loss": card["held_out"]["loss"], "unigram": unigram, "told": told(model, recipe.concepts)}
    kept = [row | {"value": row["value"] if np.isfinite(row["value"]) else None} for row in rows]
    return {"model": about | {"seconds": 60 * card["minutes"]}, "rows": kept}


def _text(model: Model, recipe: Recipe, corpus: Corpus) -> Prompts:
    """Beginnings of held-out stories, one each."""
    encoded = (model.tokens(story)[: recipe.tokens] for story in corpus.held_out)
    return make_prompts(model, list(islice((ids for ids in encoded if len(ids) == recipe.tokens), recipe.windows)))


def _unigram(corpus: Corpus) -> float:
    """Nats per token of held-out stories, by the frequencies of the text that is learned from (Laplace's rule)."""
    size = corpus.tokenizer.get_vocab_size()
    counts = np.bincount(np.concatenate([text.tokens for text in corpus.texts]), minlength=size) + 1.0
    ids = np.concatenate([encoded.ids for encoded in corpus.tokenizer.encode_batch(corpus.held_out)])
    return float(-np.log(counts / counts.sum())[ids.astype(int)].mean())


def _result(
    recipe: Recipe,
    corpus: Corpus,
    rows: list[dict[str, Any]],
    models: list[dict[str, Any]],
    options: dict[str, float],
    start: float,
) -> Result:
    manifest = {
        "recipe": recipe.describe(),
        "corpus": {"hash": corpus.hash, "characters": corpus.characters, "held_out": len(corpus.held_out)},
        "prompts": {"count": recipe.openings, "texts": openings(1, recipe.openings)},
        "sizes": [float(size) for size in SIZES],
        **options,
        "checks": [],
        "missing": {},
        **made_now(start),
    }
    return Result("compare_variants", tables(rows, models, options["level"], options["alpha"]), COLUMNS, manifest)


def tables(
    rows: list[dict[str, Any]], models: list[dict[str, Any]], level: float, alpha: float
) -> dict[str, pd.DataFrame]:
    """The frames of a study, from what was measured of each model and concept."""
    table = pd.DataFrame(rows)
    table["value"] = table["value"].astype(float)
    table["unit"] = [MEASURES[m][1] for m in table["measure"]]
    by_seed = _by_model(table)
    variants = summarized(by_seed, LOGGED, level)
    variants["unit"] = [MEASURES[m][1] for m in variants["measure"]]
    apart = differences(by_seed, BASE, LOGGED, level, alpha)
    apart["unit"] = ["times" if m in LOGGED else MEASURES[m][1] for m in apart["measure"]]
    apart["factor"] = [factor(v) for v in apart["variant"]]
    return {"differences": apart, "variants": variants, "models": pd.DataFrame(models), "measured": table}


def _by_model(table: pd.DataFrame) -> pd.DataFrame:
    """One number of each model and measure: the mean over concepts, of safe sizes the geometric one; the share of the
    MLPs is that of the effects' sum, since the share of a small effect is no number. Concepts of which a measure is
    missing are left out.
    """
    found = []
    for (variant, seed), own in table.groupby(["variant", "seed"], sort=False):
        by = own.pivot_table(index="concept", columns="measure", values="value", dropna=False)
        values = {name: float(by[name].mean()) for name in MEASURES}
        values |= {name: float(np.exp(np.log(by[name]).mean())) for name in ("safe_front", "safe_all")}
        values["mlp_share"] = float((by["mlp_share"] * by["effect"]).sum() / by["effect"].sum())
        found += [{"variant": variant, "seed": seed, "measure": m, "value": v} for m, v in values.items()]
    return pd.DataFrame(found)
