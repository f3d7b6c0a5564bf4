"""What steering vectors do at every injection site of a story model, at one and the same disturbance.

For every vector and site (the stream before a layer, what its attention writes, what its MLP writes):

1. Record the vector there, and scale it so that it disturbs neutral prompts by `KL` nats a token: sites are compared at
   equal disturbance, not at equal norm.
2. Targets: log-probability of the vector's own words against words of like rarity; beside it random directions and
   other concepts of equal norm, which ride along.
3. Loss on stories of its topic and on others.
4. Stories that go on from neutral prompts, sampled: the share of its own words in them, early and late; beside it
   the unsteered model, a random direction and another concept, with the same random numbers.
5. What an effect that is told from random directions goes through: the change of the logits split exactly (`dissect`)
   into the direct path, what each layer's heads move and where they look, each layer's MLP, and the scale of the final
   norm.

Source: Turner et al. 2023 (arXiv 2308.10248) for words in sampled text, and perplexity on and off topic.
What it cannot see: single heads, and paths through both layers, which `dissect` names.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steerscope.analysis.errors import BadArgument, BadInjection, BadMetric, BadVector
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.progress import track
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.generation import complete, row
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import log_prob, perplexity
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.question.references import References
from steerscope.analysis.results.stats import holm, interval, nonzero_p, prediction_p, ratio_interval
from steerscope.analysis.results.verdicts import LEAST, NOISE
from steerscope.analysis.vectors.vector import SteeringVector

from .corpus import topic_stories
from .dissect import dissect
from .zoo import prompts

KL = 0.5  # nats a token
NOISY, OTHERS = 12, 8  # reference vectors of each kind
PROMPTS, SPLIT = 16, 8  # neutral prompts, and those of which effects are split
SAMPLED, EARLY = 24, 10  # tokens that a story goes on for, and those that count as early
TEXTS, LENGTH = 16, 48  # stories of each kind for losses, and their tokens
FIRST = 3  # the first position that is scored: behind BOS and the rows of a pair
NAMES = ("resid_pre", "attn_out", "mlp_out")
Values = NDArray[np.float64]


class Subject(Protocol):
    """What is steered with: `twelve.Concept`, or anything like it."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def kind(self) -> str:
        """What it is about."""

    @property
    def raises(self) -> tuple[str, ...]:
        """Single tokens that it should make more likely."""

    @property
    def lowers(self) -> tuple[str, ...]:
        """Single tokens to compare them with."""

    @property
    def positions(self) -> str:
        """Where it is injected."""

    def vector(self, model: Model, layer: int = 0, site: str = "resid_pre", seed: int = 0) -> SteeringVector:
        """The vector, recorded there."""


@dataclass(frozen=True, eq=False)
class Cell:
    """A vector at a site, at the disturbance that all have."""

    subject: Subject
    site: Site
    experiment: Experiment

    @property
    def place(self) -> dict[str, Any]:
        """What every table says of it."""
        return {
            "vector": self.subject.name,
            "kind": self.subject.kind,
            "positions": self.subject.positions,
            "site": str(self.site),
            "layer": self.site.layer,
        }


def sites(model: Model) -> list[Site]:
    """Everywhere that a vector can come into the stream, in order."""
    names = NAMES if model.has_mlp else NAMES[:2]
    return [Site(name, layer) for layer in range(model.n_layers) for name in names]


def cells(
    model: Model, subjects: Sequence[Subject], at: Sequence[Site], seed: int, missing: dict[str, str]
) -> Iterator[Cell]:
    """All that can be made; why others cannot goes into `missing`."""
    asked = make_prompts(model, prompts("off_topic")[:PROMPTS])
    scored = range(FIRST, max(map(len, asked.ids)))
    for site in at:
        vectors = {one.name: one.vector(model, site.layer, site.name, seed) for one in subjects}
        for subject in subjects:
            vector = vectors[subject.name]
            others = [
                v for name, v in vectors.items() if name != subject.name and v.values.shape == vector.values.shape
            ]
            try:
                plain = Injection(vector, 1.0, positions=subject.positions)
                metric = log_prob(subject.raises, subject.lowers)
                first = Experiment(model, (plain,), asked, metric, 0, scored=scored, seed=seed)
                scaled = first.at_kl(first.injections, KL)
                yield Cell(subject, site, _with_references(replace(first, injections=scaled), others))
            except (BadInjection, BadMetric, BadVector) as error:
                missing[f"{subject.name} at {site}"] = str(error)


def _with_references(asked: Experiment, others: Sequence[SteeringVector]) -> Experiment:
    """Random directions beside it, and other concepts: of a pair of prompts other words, recorded the same way; where
    there are none (means, rare names) the other vectors of the study."""
    own = References((("isotropic", NOISY),), tuple((other,) for other in others[:OTHERS]))
    for given in (f"isotropic:{NOISY},concepts:{OTHERS}", own):
        try:
            found = replace(asked, references=given)
            found.steering  # noqa: B018  (drawn here, where it can be refused)
        except (BadArgument, BadVector):
            continue
        return found
    return replace(asked, references=f"isotropic:{NOISY}")


def steered(
    model: Model,
    subjects: Sequence[Subject],
    at: Sequence[Site],
    seed: int,
    level: float,
    alpha: float,
    text: bool = True,
) -> tuple[dict[str, pd.DataFrame], dict[str, str], float]:
    """The tables of steering, what is missing in them, and the largest gap of an exact split (of its mass).

    Args:
        text: false leaves out losses on stories, and stories that go on.
    """
    missing: dict[str, str] = {}
    made, lost, words, uses = [], [], [], []
    told = [tuple(model.tokens(story)) for story in islice(topic_stories(seed + 4001), 40 * TEXTS)] if text else []
    texts = {one.name: _texts(model, one, told) for one in subjects} if text else {}
    unsteered = _sampled(model, [None], seed)[0] if text else []
    total, worst = len(subjects) * len(at), 0.0
    for cell in track(cells(model, subjects, at, seed, missing), "vectors and sites", total):
        made.append((cell, _targets(cell, level)))
        for kind, own in texts.get(cell.subject.name, {}).items():
            if len(own) < 2:
                missing[f"loss on {kind}-topic text of {cell.subject.name}"] = "too few stories of the grammar have it"
                continue
            lost.append(_loss(cell, kind, own, level))
        words += _words(cell, unsteered, seed, level) if text else []
    targets = _told(pd.DataFrame([row for _, row in made]), alpha)
    chosen = [
        cell for (cell, _), verdict in zip(made, targets.get("verdict", []), strict=True) if verdict != "untested"
    ]
    for cell in track(chosen, "splitting effects"):
        used, gap = uses_of(cell, level)
        uses += used
        worst = max(worst, gap)
    return (
        {"targets": targets, "text": pd.DataFrame(lost), "words": pd.DataFrame(words), "uses": pd.DataFrame(uses)},
        missing,
        worst,
    )


def _targets(cell: Cell, level: float) -> dict[str, Any]:
    """The effect on the vector's own words, beside what reference vectors of equal norm do to the same words."""
    experiment, families = cell.experiment, cell.experiment.beside.families
    groups = experiment.prompts.by_group
    own = experiment.effect()
    low, high = interval(own, level, groups)
    beside = np.array([experiment.effect(1 + n).mean() for n in range(len(families))])
    kinds = np.array([name in NOISE for name in families], dtype=bool)
    found: dict[str, Any] = {
        **cell.place,
        "coefficient": experiment.injections[0].coefficient,
        "kl": float(experiment.disturbed().mean()),
        "effect": float(own.mean()),
        "low": float(low),
        "high": float(high),
        "p_prompts": float(nonzero_p(own, groups)),
    }
    for name, values in (("random", beside[kinds]), ("concepts", beside[~kinds])):
        enough = len(values) >= LEAST
        found[name] = float(values.mean()) if len(values) else np.nan
        found[f"{name}_low"] = float(values.min()) if len(values) else np.nan
        found[f"{name}_high"] = float(values.max()) if len(values) else np.nan
        p = float(prediction_p(np.array(own.mean()), values)) if enough else 1.0
        found[f"p_{name}"] = p if len(values) and not values.min() <= own.mean() <= values.max() else 1.0
    return found


def _told(table: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Holm over all vectors and sites: what is told from random vectors, and from other concepts, too."""
    if table.empty:
        return table
    random = holm(np.asarray(table[["p_random", "p_prompts"]].max(axis=1), dtype=float))
    specific = holm(np.asarray(table[["p_random", "p_concepts", "p_prompts"]].max(axis=1), dtype=float))
    along = table["effect"].to_numpy() > 0
    verdict = np.where(
        (random < alpha) & ~along,
        "against",
        np.where(random < alpha, np.where(specific < alpha, "specific", "concept"), "untested"),
    )
    return table.assign(p_holm=random, p_specific=specific, verdict=verdict)


def _texts(model: Model, subject: Subject, told: Sequence[tuple[int, ...]]) -> dict[str, list[tuple[int, ...]]]:
    """Stories with several of the vector's own words, and with none of them nor of those that it is compared with."""
    own, against = ({model.target(word) for word in words} for words in (subject.raises, subject.lowers))
    found: dict[str, list[tuple[int, ...]]] = {"on": [], "off": []}
    for story in told:
        ids = story[: min(LENGTH, model.n_ctx)]
        count = sum(token in own for token in ids)
        kind = "on" if count >= 2 else "off" if not count and not against & set(ids) else ""
        if kind and len(found[kind]) < TEXTS and len(ids) > FIRST + 1:
            found[kind].append(ids)
    return found


def _loss(cell: Cell, kind: str, ids: Sequence[tuple[int, ...]], level: float) -> dict[str, Any]:
    """How much the loss on stories rises under steering."""
    model, injections = cell.experiment.model, cell.experiment.injections
    scored = range(FIRST, max(map(len, ids)))
    asked = Experiment(model, injections, make_prompts(model, ids), perplexity(), 0, scored=scored)
    own = asked.effect()
    low, high = interval(own, level, asked.prompts.by_group)
    before = float(asked.value(None).mean())
    return {
        **cell.place,
        "text": f"{kind} topic",
        "loss": before,
        "change": float(own.mean()),
        "low": float(low),
        "high": float(high),
    }


def _sampled(model: Model, runs: Sequence[tuple[Injection, ...] | None], seed: int) -> list[list[list[int]]]:
    """Stories that go on from neutral prompts, under each of several injections, with the same random numbers."""
    asked = make_prompts(model, prompts("off_topic")[:PROMPTS])
    layouts = asked.layouts(model)
    rows = [
        row(model, ids, injections or (), seed + n, layouts[n])
        for injections in runs
        for n, ids in enumerate(asked.ids)
    ]
    made = complete(model, rows, tokens=SAMPLED, temperature=1.0, top_p=0.95)
    return [made[at : at + len(asked)] for at in range(0, len(made), len(asked))]


def _words(cell: Cell, unsteered: Sequence[Sequence[int]], seed: int, level: float) -> list[dict[str, Any]]:
    """The share of the vector's own words in sampled stories."""
    experiment, families = cell.experiment, cell.experiment.beside.families
    chosen = {"steered": 0}
    for name, wanted in (("random vector", True), ("other concept", False)):
        places = [n for n, family in enumerate(families) if (family in NOISE) == wanted]
        chosen |= {name: 1 + places[0]} if places else {}
    made = _sampled(experiment.model, [experiment.steering[n] for n in chosen.values()], seed)
    own = {experiment.model.target(word) for word in cell.subject.raises}
    rows = []
    for name, texts in {**dict(zip(chosen, made, strict=True)), "unsteered": unsteered}.items():
        for where, part in (("all", slice(None)), ("early", slice(EARLY)), ("late", slice(EARLY, None))):
            shares = np.array([np.mean([token in own for token in ids[part]]) for ids in texts if len(ids[part])])
            if len(shares):
                low, high = interval(shares, level)
                told = {"share": float(shares.mean()), "low": float(low), "high": float(high)}
                rows.append({**cell.place, "run": name, "where": where, **told, "stories": len(shares)})
    return rows


def uses_of(cell: Cell, level: float) -> tuple[list[dict[str, Any]], float]:
    """The change of the logits of the vector's own words, less that of those they are compared with, at the last
    position, split exactly by layer and kind of path; and the largest gap of the split."""
    experiment = replace(cell.experiment, prompts=cell.experiment.prompts.first(SPLIT))
    own, against = (
        [experiment.model.target(word) for word in words] for words in (cell.subject.raises, cell.subject.lowers)
    )
    found = dissect(experiment, tokens=[*own, *against], share=1.0, audit=False)
    weight = dict.fromkeys(own, 1 / len(own)) | dict.fromkeys(against, -1 / len(against))
    parts, by_prompt = found.frames["parts"], experiment.prompts.by_group
    named = [part_of(kind, layer) for kind, layer in zip(parts["kind"], parts["layer"], strict=True)]
    weighed = parts.assign(part=named, change=parts["change"] * parts["token_id"].map(weight))
    table = weighed.pivot_table(index="prompt", columns="part", values="change", aggfunc="sum", fill_value=0.0)
    table = table.reindex(range(len(experiment.prompts)), fill_value=0.0)
    whole, rows = table.sum(axis=1).to_numpy(dtype=float), []
    for name in table.columns:
        values = table[name].to_numpy(dtype=float)
        low, high = interval(values, level, by_prompt)
        share_low, share_high = ratio_interval(values, whole, level, by_prompt)
        numbers = {"effect": values.mean(), "low": low, "high": high, "share_low": share_low, "share_high": share_high}
        share = values.mean() / whole.mean() if np.isfinite(share_low) else np.nan
        rows.append({**cell.place, "part": name, "share": float(share), **{k: float(x) for k, x in numbers.items()}})
    return rows, max(check["value"] for check in found.manifest["checks"])


def part_of(kind: str, layer: int) -> str:
    """What a kind of path is called, with its layer."""
    if kind in ("direct", "final norm"):
        return kind
    return f"L{layer} {'MLP' if kind in ('input', 'scale') else 'moves' if kind == 'ov' else 'looks'}"
