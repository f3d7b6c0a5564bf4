"""`layer_study`: what each layer of a story model does, and which of it steering uses.

1. On text, without steering: how much the loss of topic words, repeated words, pronouns and all others rises when a
   layer's attention or MLP tells nothing of this text, and whether pronouns still agree (`layer_roles`).
2. Under steering: vectors of topics, sentiment, names, gender and tense at every injection site, at one disturbance
   (`layer_steering`).

A vector is told from random directions, and from other concepts, by the prediction t over reference vectors and by
being larger than all of them, after Holm over all vectors and sites.

What it cannot see: real stories, which are not shipped; sites inside of heads.
"""

import time
from collections.abc import Sequence
from typing import Any

import pandas as pd

from steerscope.analysis.errors import BadArgument, BadMetric, SteerscopeError
from steerscope.analysis.gate import Level, Seed, gated
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import parse_site
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column, Frame, Frames
from steerscope.analysis.tools.record import check, made_now

from .dissect import LIMIT
from .layer_roles import KINDS, agreement_table, text_table
from .layer_steering import KL, SAMPLED, Subject, sites, steered
from .twelve import twelve

_PLACE: Frame = {
    "vector": Column("name of the vector", role="label"),
    "kind": Column("what it is about: topic, sentiment, name, gender, tense"),
    "positions": Column("where it is injected: front, token by token; all, everywhere"),
    "site": Column("where it is recorded and injected", role="label"),
    "layer": Column("layer of the site"),
}
COLUMNS: Frames = {
    "targets": {
        **_PLACE,
        "coefficient": Column("by which the vector is multiplied, so that all disturb alike"),
        "kl": Column("KL(steered || clean), mean over scored positions", "nats"),
        "effect": Column(
            "change of the log-probability of its own words against words of like rarity, mean over prompts",
            "nats",
            "estimate",
        ),
        "low": Column("lower end of its interval over prompts", "nats", "low"),
        "high": Column("upper end of its interval over prompts", "nats", "high"),
        "verdict": Column(
            "specific: told from random directions and from other concepts (Holm over all vectors and sites); concept: "
            "told from random directions only; against: told, and lowers its own words; untested: not told",
            role="verdict",
        ),
        "random": Column("mean effect of random directions of equal norm on the same words", "nats", "reference"),
        "random_low": Column("smallest of them", "nats", "reference_low"),
        "random_high": Column("largest of them", "nats", "reference_high"),
        "concepts": Column("mean effect of other concepts of equal norm on the same words", "nats"),
        "concepts_low": Column("smallest of them", "nats"),
        "concepts_high": Column("largest of them", "nats"),
        "p_prompts": Column("p that the mean effect over prompts is zero"),
        "p_random": Column("p that it is one more of the random directions; 1 where it lies among them"),
        "p_concepts": Column(
            "p that it is one more of the other concepts; 1 where it lies among them, or they are few"
        ),
        "p_holm": Column("the larger of the first two, after Holm"),
        "p_specific": Column("the largest of all three, after Holm"),
    },
    "text": {
        **_PLACE,
        "text": Column("on topic: stories with its own words; off topic: with none of them", role="label"),
        "loss": Column("loss without steering", "nats per token"),
        "change": Column("how much the loss rises under steering", "nats per token", "estimate"),
        "low": Column("lower end of its interval over stories", "nats per token", "low"),
        "high": Column("upper end of its interval over stories", "nats per token", "high"),
    },
    "words": {
        **_PLACE,
        "run": Column("steered, unsteered, or with one reference vector of equal norm", role="label"),
        "where": Column("which tokens of the sampled stories: all, early, late", role="label"),
        "share": Column("share of the vector's own words among them", role="estimate"),
        "low": Column("lower end of its interval over stories", role="low"),
        "high": Column("upper end of its interval over stories", role="high"),
        "stories": Column("how many"),
    },
    "uses": {
        **_PLACE,
        "part": Column(
            "of the exact split at the last position: direct, what is injected there itself; L0 moves, what heads of "
            "the layer move of what changed; L0 looks, that they look elsewhere; L0 MLP; final norm, its scale",
            role="label",
        ),
        "effect": Column(
            "mean change of the logits of its own words, less that of those they are compared with",
            "logits",
            "estimate",
        ),
        "low": Column("lower end of its interval over prompts", "logits", "low"),
        "high": Column("upper end of its interval over prompts", "logits", "high"),
        "share": Column("of the whole effect; missing where that is not told from zero"),
        "share_low": Column("lower end of the share's interval"),
        "share_high": Column("upper end of the share's interval"),
    },
    "loss": {
        "part": Column("what tells nothing of the text: it writes its mean; nothing for the whole model", role="label"),
        "tokens": Column("which tokens: " + "; ".join(f"{name}: {what}" for name, what in KINDS.items()), role="label"),
        "loss": Column("loss of these tokens", "nats"),
        "rise": Column("above that of the whole model", "nats", "estimate"),
        "low": Column("lower end of its interval over stories", "nats", "low"),
        "high": Column("upper end of its interval over stories", "nats", "high"),
        "windows": Column("stories that have such tokens"),
    },
    "agreement": {
        "part": Column("what tells nothing of the text; nothing for the whole model", role="label"),
        "ahead": Column(
            "logit of the pronoun that agrees with the name, minus that of the other", "logits", "estimate"
        ),
        "low": Column("lower end of its interval over sentences", "logits", "low"),
        "high": Column("upper end of its interval over sentences", "logits", "high"),
        "right": Column("share of prompts at which it is ahead"),
        "prompts": Column("how many"),
    },
}


@gated
def layer_study(
    model: Model,
    *,
    vectors: Sequence[Any] | None = None,
    at: Sequence[str] | None = None,
    seed: Seed = 0,
    level: Level = 0.95,
    alpha: Level = 0.05,
) -> Result:
    """What each layer of a story model does, and what vectors at each injection site do.

    Args:
        vectors: those of `steerscope.tinystories.twelve` by default, or such as they are.
        at: injection sites, such as L0.resid_pre; all by default.
        seed: of stories, reference vectors and samples.
        level: of intervals.
        alpha: of what is told from reference vectors, after Holm over all vectors and sites.

    Returns:
        a `Result` of kind "layer_study"; frames and columns as in `COLUMNS`.

    Raises:
        BadArgument: no vectors or sites, or things that are no vectors.
        BadPrompt, BadMetric: a model without the tokenizer's words: one that reads no stories.
        BadNode: a site that the model does not have.
    """
    start = time.perf_counter()
    subjects = _subjects(vectors)
    places = sites(model) if at is None else [model.check(parse_site(one)) for one in at]
    if not places:
        raise BadArgument("at=(); expected at least one injection site; give for example L0.resid_pre")
    _check_english(model)
    loss, agreement = text_table(model, seed, level), agreement_table(model, seed, level)
    found, missing, gap = steered(model, subjects, places, seed, level, alpha)
    frames = {**found, "loss": loss, "agreement": agreement}
    empty = {name: pd.DataFrame(columns=list(columns)) for name, columns in COLUMNS.items()}
    return Result(
        "layer_study",
        {name: frames[name] if len(frames[name]) else empty[name] for name in COLUMNS},
        COLUMNS,
        {
            "model": model.describe(),
            "vectors": [one.name for one in subjects],
            "sites": [str(site) for site in places],
            "disturbance": KL,
            "sampled": SAMPLED,
            "level": level,
            "alpha": alpha,
            "seed": seed,
            "checks": [check("parts of every effect add up to it (of their absolute mass)", gap, LIMIT)],
            "missing": missing,
            **made_now(start),
        },
    )


def _check_english(model: Model) -> None:
    """Refuses a model that cannot say what the study counts.

    Raises:
        BadMetric: it has no tokenizer, or no single tokens for pronouns.
    """
    try:
        for word in (" she", " he"):
            model.target(word)
    except SteerscopeError as error:
        raise BadMetric(
            f"{model.name} is no model of English stories ({error}); expected one whose tokenizer has their words; for "
            "example tinystories-2l"
        ) from error


def _subjects(vectors: Sequence[Any] | None) -> list[Subject]:
    found: list[Any] = list(twelve() if vectors is None else vectors)
    wanted = ("name", "kind", "raises", "lowers", "positions", "vector")
    wrong = next((one for one in found if not all(hasattr(one, name) for name in wanted)), None)
    if wrong is not None or not found:
        got = "none" if wrong is None else f"a {type(wrong).__name__}"
        raise BadArgument(
            f"layer_study got vectors, among them {got}; expected such as steerscope.tinystories.twelve gives, at "
            "least one; leave them out for those"
        )
    return found
