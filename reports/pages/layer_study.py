"""The report of a layer study: what each layer does on text, whether steering works at each site, and what it uses."""

from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.grid import grid
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.common import everything, framed, legend, model_name
from steerscope.reports.reading import drawing
from steerscope.reports.records import records
from steerscope.reports.theme import bold, key

TOLD = ("specific", "concept")
WHOLE = "nothing"  # the part that is silenced in the whole model
KINDS = {
    "topic": "topic words",
    "said before": "words said before",
    "pronoun": "pronouns",
    "other": "other tokens",
    "all": "all tokens",
}
READING = (
    "A vector is told from random directions where its effect is larger, or smaller, than that of all of them, the "
    "prediction t over them is below alpha after Holm over all vectors and sites, and it is not zero over prompts; "
    "specific, where the same holds against other concepts. All cells disturb the neutral prompts alike, so a site at "
    "which less is reached is one at which more of the disturbance is something else."
)


@drawing
def headline(result: Result) -> list[str]:
    """What layers do, whether steering works, what it uses."""
    return [*_layers(result), *_agreement_said(result), *_effective(result), *_used(result)]


def _layers(result: Result) -> list[str]:
    """A sentence a part of the model, of what depends on it more than other tokens do."""
    table, found = result.frames["loss"], []
    for part, rows in table[table["part"] != WHOLE].groupby("part", sort=False):
        own = {r.tokens: r for r in records(rows)}
        base = own.get("other")
        if base is None or str(part).startswith("all"):
            continue
        named = [
            f"of {KINDS[kind]} by {words.ranged(own[kind], 'rise')}"
            for kind in ("topic", "said before", "pronoun")
            if kind in own and words.finite(own[kind].low)
        ]
        found.append(
            f"When {part} tells nothing of the text, the loss rises {words.listing(named)}, and of other tokens by "
            f"{words.ranged(base, 'rise')} nats."
        )
    return found


def _agreement_said(result: Result) -> list[str]:
    rows = {r.part: r for r in records(result.frames["agreement"])}
    whole = rows.pop(WHOLE, None)
    if whole is None:
        return []
    if not whole.low > 0:
        return [
            f"Pronouns are not shown to agree with names: the one that agrees is ahead by "
            f"{words.ranged(whole, 'ahead')} logits."
        ]
    least = min((r for r in rows.values() if not str(r.part).startswith("all")), key=lambda r: r.ahead, default=whole)
    return [
        f"The pronoun that agrees with the name is ahead by {words.ranged(whole, 'ahead')} logits, at "
        f"{words.percent(whole.right)} of the prompts; least is left of it without {least.part} "
        f"({words.ranged(least, 'ahead')})."
    ]


def _effective(result: Result) -> list[str]:
    table, nats = result.frames["targets"], words.number(result.manifest.get("disturbance"))
    if table.empty:
        return ["No vector could be tried at any site."]
    told = table[table["verdict"].isin(TOLD)]
    tried = f"{len(table)} pairs of vector and site"
    if told.empty:
        return [
            f"At a disturbance of {nats} nats, none of {tried} raises its own words in a way that is told from random "
            "directions of equal norm."
        ]
    best = next(records(told.loc[[told["effect"].idxmax()]]))
    sites = [
        f"{site} {int(rows['verdict'].isin(TOLD).sum())} of {len(rows)}"
        for site, rows in table.groupby("site", sort=False)
    ]
    others = (
        f"; other concepts {_span(best, 'concepts')}"
        if words.finite(best.concepts)
        else "; no other concepts to compare"
    )
    return [
        f"At a disturbance of {nats} nats, {len(told)} of {tried} raise their own words beyond random directions of "
        f"equal norm, {int((told['verdict'] == 'specific').sum())} of them beyond other concepts, too "
        f"({words.listing(sites)}).",
        f"The largest of these effects is that of {best.vector} at {best.site}: "
        f"{words.ranged(best, 'effect', words.signed)} nats (random directions {_span(best, 'random')}{others}).",
    ]


def _span(row: Any, name: str) -> str:
    return f"{words.signed(getattr(row, f'{name}_low'))} to {words.signed(getattr(row, f'{name}_high'))}"


def _used(result: Result) -> list[str]:
    """By site, the shares that parts carry, over the vectors that are told there."""
    told = _told_uses(result)
    found = []
    for site, rows in told.groupby("site", sort=False):
        count = rows["vector"].nunique()
        named = [
            f"{part} {words.percent(own['share'].min())} to {words.percent(own['share'].max())}"
            if len(own) > 1
            else f"{part} {words.percent(own['share'].iloc[0])}"
            for part, own in rows.groupby("part", sort=False)
            if own["share"].abs().max() >= 0.02
        ]
        many = f"the {count} vectors that are told" if count > 1 else "the one vector that is told"
        found.append(f"At {site}, the effect of {many} splits into {words.listing(named)}.")
    return found


def _told_uses(result: Result) -> pd.DataFrame:
    """Parts of the effects that are told from random directions and have shares."""
    targets, uses = result.frames["targets"], result.frames["uses"]
    chosen = targets[targets["verdict"].isin(TOLD)][["vector", "site"]]
    joined: pd.DataFrame = uses.merge(chosen, on=["vector", "site"])
    return joined.dropna(subset=["share"])


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    manifest, targets = result.manifest, result.frames["targets"]
    return framed(
        result,
        f"What does each layer of {model_name(result)} do, and what of it does steering use?",
        f"{len(manifest.get('vectors', []))} vectors at {len(manifest.get('sites', []))} sites, each at a disturbance "
        f"of {words.number(manifest.get('disturbance'))} nats a token",
        headline(result),
        [
            _text_section(result),
            _agreement(result),
            _targets(result),
            _words(result),
            _losses(result),
            _uses(result),
            _left_out(result),
            everything(targets, list(targets.columns), "All vectors and sites", result),
            legend(result, [READING]),
        ],
        _glance(targets),
    )


def _glance(targets: pd.DataFrame) -> list[tuple[str, str, str]]:
    told = targets["verdict"].isin(TOLD) if len(targets) else pd.Series(dtype=bool)
    return [("vectors and sites that steer", f"{int(told.sum())} of {len(targets)}", "told from random directions")]


def _text_section(result: Result) -> Section:
    table = result.frames["loss"]
    rows = table[table["part"] != WHOLE]
    if rows.empty:
        return Section("What each layer does on text", [], [Panel("Loss", None, "not measured")])
    names = {part: part for part in rows["part"].drop_duplicates()}
    there = list(dict.fromkeys(map(str, rows["tokens"])))
    kinds = {kind: KINDS.get(kind, kind) for kind in sorted(there, key=lambda kind: [*KINDS, kind].index(kind))}

    def hover(row: Any) -> str:
        return f"{bold(row.part)} silenced, {kinds[str(row.tokens)]}\nloss rises by {words.ranged(row, 'rise')} nats"

    chart = grid(
        rows,
        ("part", "tokens"),
        names,
        kinds,
        hover,
        value="rise",
        limit=float(rows["rise"].abs().max()) or 1.0,
        cell=lambda row: words.short(row.rise),
        muted=lambda row: not row.low * row.high > 0,
    )
    clean = {r.tokens: r for r in records(table[table["part"] == WHOLE])}
    losses = words.listing([f"{kinds[kind]} {words.number(clean[kind].loss)}" for kind in kinds if kind in clean])
    text = (
        "How much the loss rises when a part of the model writes its mean over all stories at every position, by what "
        f"is predicted. Pale cells are not told from zero. The whole model's loss, in nats: {losses}."
    )
    return Section("What each layer does on text", [text], [Panel("Rise of the loss (nats)", chart)])


def _agreement(result: Result) -> Section:
    rows = [[r.part, words.ranged(r, "ahead"), words.percent(r.right)] for r in records(result.frames["agreement"])]
    text = "Names of girls and of boys in the same sentences: how far “ she” is ahead of “ he”, or the other way round."
    titles = ["silenced", "pronoun that agrees is ahead (logits)", "is ahead at"]
    return Section("Agreement", [text], table=Table(titles, rows, frozenset(titles[1:])))


def _targets(result: Result) -> Section:
    table = result.frames["targets"]
    title = "Is steering effective?"
    if table.empty:
        return Section(title, [], [Panel("Effects", None, "no vector could be tried")])

    def hover(row: Any) -> str:
        return "\n".join(
            [
                f"{bold(row.vector)} at {row.site}, coefficient {words.number(row.coefficient)}",
                f"{words.ranged(row, 'effect', words.signed)} nats; {words.verdict(row.verdict)}",
                f"random directions {_span(row, 'random')}",
                f"other concepts {_span(row, 'concepts')}" if words.finite(row.concepts) else "no other concepts",
            ]
        )

    chart = grid(
        table,
        ("vector", "site"),
        {name: name for name in table["vector"].drop_duplicates()},
        {name: name for name in table["site"].drop_duplicates()},
        hover,
        limit=float(table["effect"].abs().max()) or 1.0,
        cell=lambda row: words.short(row.effect),
        muted=lambda row: row.verdict == "untested",
        marked=lambda row: row.verdict,
        tall=40,
    )
    chart.update_layout(margin_l=130)
    text = (
        "Change of the log-probability of each vector's own words against words of like rarity, at equal disturbance. "
        f"{key(table['verdict'])}"
    )
    rows = [
        [r.vector, r.site, r.positions, words.number(r.coefficient), words.ranged(r, "effect", words.signed)]
        + [_span(r, "random"), _span(r, "concepts") if words.finite(r.concepts) else "–"]
        + [words.p_value(r.p_holm), words.p_value(r.p_specific), r.verdict]
        for r in records(table)
    ]
    titles = ["vector", "site", "positions", "coefficient", "effect (nats)", "random directions", "other concepts"]
    titles += ["p (random, Holm)", "p (all, Holm)", "verdict"]
    return Section(title, [text], [Panel("Effect on the vector's own words (nats)", chart)], Table(titles, rows))


def _words(result: Result) -> Section:
    """The vector's own words in sampled stories, in permille."""
    table = result.frames["words"]
    rows = []
    for (vector, site), own in table.groupby(["vector", "site"], sort=False):
        by = {(r.run, r.where): r for r in records(own)}
        cells = [by.get(("steered", where)) for where in ("all", "early", "late")]
        cells += [by.get((run, "all")) for run in ("unsteered", "random vector", "other concept")]
        rows.append([str(vector), str(site), *("–" if r is None else _permille(r) for r in cells)])
    titles = ["vector", "site", "steered", "early", "late", "unsteered", "a random vector", "another concept"]
    text = (
        f"Share of the vector's own words among the {result.manifest.get('sampled', '?')} tokens that are sampled "
        "after neutral prompts, in permille, with the same random numbers. One random vector and one other concept are "
        "shown to look at; what is told is told by the effects above."
    )
    return Section("Words in sampled stories", [text], table=Table(titles, rows, frozenset(titles[2:])))


def _permille(row: Any) -> str:
    return words.ranged(row, "share", lambda x: words.number(1000 * x)).split(" [")[0] + words.between(
        1000 * row.low, 1000 * row.high
    )


def _losses(result: Result) -> Section:
    table = result.frames["text"]
    rows = []
    for (vector, site), own in table.groupby(["vector", "site"], sort=False):
        by = {r.text: r for r in records(own)}
        cells = [by.get("on topic"), by.get("off topic")]
        rows.append(
            [str(vector), str(site), *("–" if r is None else words.ranged(r, "change", words.signed) for r in cells)]
        )
    titles = ["vector", "site", "stories with its words", "stories with none of them"]
    text = "How much the loss rises under steering, in nats a token, on stories of the grammar."
    return Section("Loss on and off topic", [text], table=Table(titles, rows, frozenset(titles[2:])))


def _uses(result: Result) -> Section:
    told = _told_uses(result)
    title = "What steering uses"
    if told.empty:
        return Section(title, [], [Panel("Shares of the effect", None, "no effect is told from random directions")])
    table = told.assign(at=told["vector"] + " at " + told["site"])

    def hover(row: Any) -> str:
        share = f"{words.percent(row.share)}{words.between(row.share_low, row.share_high, words.percent)}"
        return f"{bold(row.at)}\n{row.part}: {share} of the effect\n{words.ranged(row, 'effect', words.signed)} nats"

    chart = grid(
        table,
        ("at", "part"),
        {name: name for name in table["at"].drop_duplicates()},
        {name: name for name in sorted(table["part"].drop_duplicates(), key=lambda part: (part != "direct", part))},
        hover,
        value="share",
        limit=1.0,
        cell=lambda row: words.percent(row.share),
        muted=lambda row: not row.share_low * row.share_high > 0,
    )
    chart.update_layout(margin_l=240)
    text = (
        "Every effect that is told from random directions, at the last position of neutral prompts, split exactly: the "
        "direct path from what is injected there; what each layer's heads move, and that they look elsewhere; each "
        "layer's MLP; and the scale of the final norm, which is temperature and not steering. Shares add up to 1; pale "
        "cells are not told from zero."
    )
    return Section(title, [text], [Panel("Share of the effect", chart)])


def _left_out(result: Result) -> Section:
    """What could not be tried, and why."""
    rows = [[name, str(why)] for name, why in result.manifest.get("missing", {}).items()]
    return Section("What could not be tried", [], table=Table(["what", "why"], rows), folded=True)
