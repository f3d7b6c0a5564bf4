"""The page of `compare_vectors`: three maps of how alike vectors are, and what each pair has in common."""

from typing import Any

import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.matrix import SHOWN, matrix
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.common import everything, framed, legend, missing, model_name, no_intervals, of
from steerscope.reports.reading import drawing
from steerscope.reports.records import records
from steerscope.reports.theme import bold

NAMES = {"direction": "Direction", "effects": "Effects", "carriers": "Carriers"}
NAMED, LABEL = 4, 60  # pairs in words; letters of a label in a table
READING = [
    "Direction: where vectors point. Effects: what they do to the logits at the end of each prompt. Carriers: which "
    "nodes carry what they do there. 1 is alike, 0 unrelated, −1 opposed; strength is left out of all three.",
    "Whatever disturbs a model does some things alike, so each similarity stands beside that with random vectors of "
    "the same norm, place and coefficient. Pale cells are no larger in size than all of those.",
    "On the diagonal: what a vector's mean over one half of the prompts has in common with its own mean over the other "
    "half. It says how far what it does depends on the prompt, and so how alike two vectors can be expected to be "
    "over different prompts (`across` is held against `ceiling`); on the same prompts they can be more alike.",
]


@drawing
def headline(result: Result) -> list[str]:
    """The pairs whose effects are most alike in size, with their directions and carriers."""
    table = of(result, "pairs", by="effects")
    order = table["similarity"].abs().sort_values(ascending=False, kind="stable").index[:NAMED]
    found = [_said(result, row) for row in records(table.loc[order])]
    return [*found, *([f"{len(table) - NAMED} more pairs stand below."] if len(table) > NAMED else [])]


def _said(result: Result, row: Any) -> str:
    """Of one pair: effects, beside random vectors; carriers; direction."""
    rest = {r.by: r for r in records(of(result, "pairs", pair=row.pair))}
    parts = [f"effects {_one(row)}"]
    parts += [f"carriers {_one(rest['carriers'])}"] if "carriers" in rest else []
    cosine = rest["direction"].similarity
    parts.append(f"direction {words.number(cosine)}" if words.finite(cosine) else "of different sites or widths")
    return f"{row.pair} ({_short(row.first)} and {_short(row.second)}): {'; '.join(parts)}."


def _one(row: Any) -> str:
    """How alike two are, where random vectors stand, and whether the pair stands out from all of them."""
    if not words.finite(row.reference):
        return words.ranged(row, "similarity")
    stands = "further from 0 than all random vectors" if row.beyond else "not further from 0 than all random vectors"
    return f"{words.ranged(row, 'similarity')}, {stands} ({words.ranged(row, 'reference')})"


def _short(label: str) -> str:
    return label if len(label) <= LABEL else f"{label[: LABEL - 1]}…"


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    manifest, vectors = result.manifest, result.frames["vectors"]
    about = [
        model_name(result),
        f"coefficient {words.number(manifest.get('coefficient'))}, {manifest.get('positions', 'last')}",
        f"{manifest.get('prompts', {}).get('count', '?')} prompts",
        f"{manifest.get('random_vectors', 0)} random vectors in place of each",
    ]
    by = {"gradient": "estimated by gradients", "ig": "estimated by integrated gradients", "exact": "by exact patching"}
    about += [f"carriers {by[str(manifest['carriers'])]}"] if manifest.get("carriers") in by else []
    columns = ["pair", "by", "similarity", "low", "high", "reference", "reference_low", "reference_high"]
    columns += ["across", "ceiling", "layers"]
    return framed(
        result,
        f"How alike are {len(vectors)} vectors?",
        " · ".join(about),
        headline(result),
        [
            _maps(result),
            _table(vectors),
            everything(result.frames["pairs"], columns, "All pairs", result),
            legend(result, READING),
        ],
    )


def _maps(result: Result) -> Section:
    vectors = result.frames["vectors"]
    numbers = [str(n) for n in vectors["number"][:SHOWN]]
    text = [READING[0], READING[1], *no_intervals(result)]
    text += [f"Of {len(vectors)} vectors the first {SHOWN} are drawn."] if len(vectors) > SHOWN else []
    panels = []
    for way, name in NAMES.items():
        rows = _cells(result, way)
        if rows["interaction"].notna().any():
            chart = matrix(rows, numbers, "", _hover, numbers=True)
            panels.append(Panel(name, chart))
        else:
            panels.append(Panel(name, None, missing(result, way, "no two vectors have a common site and width")))
    return Section("Three maps", text, panels)


def _cells(result: Result, way: str) -> pd.DataFrame:
    """Pairs as the map reads them, and on its diagonal each vector with itself."""
    pairs = of(result, "pairs", by=way).dropna(subset=["similarity"])
    ends = pairs["pair"].str.extract(r"^(?P<a>\d+) and (?P<b>\d+)$")
    named = {"first": "one", "second": "other"}
    cells = pairs.rename(columns=named).assign(
        first=ends["a"], second=ends["b"], interaction=pairs["similarity"], significant=pairs["beyond"]
    )
    vectors, column = result.frames["vectors"], f"{way}_itself"
    if column in vectors:
        own = vectors.assign(first=vectors["number"], second=vectors["number"], interaction=vectors[column])
        own = own.assign(significant=True, one=vectors["vector"], other="")
        cells = pd.concat([cells, own.dropna(subset=["interaction"])], ignore_index=True)
    return cells


def _hover(row: Any, unit: str) -> str:
    if row.first == row.second:
        return f"{bold(f'{row.first}: {row.one}')}\nwith itself over other prompts {words.number(row.interaction)}"
    lines = [bold(f"{row.first}: {row.one}"), f"{row.second}: {row.other}", words.ranged(row, "similarity")]
    if words.finite(row.reference):
        lines.append(f"with random vectors {words.ranged(row, 'reference')}")
    if words.finite(row.across):
        lines.append(f"over different prompts {words.number(row.across)}, each with itself {words.number(row.ceiling)}")
    return "\n".join(lines)


def _table(vectors: pd.DataFrame) -> Section:
    columns = ["number", "vector", "site", "norm", "change", "effects_itself", "carriers_itself"]
    rows = [
        [str(r.number), _short(r.vector), r.site] + [words.number(getattr(r, c)) for c in columns[3:]]
        for r in records(vectors)
    ]
    text = (
        "Change: how far a vector moves the logits. The last two columns: what a vector's effects, and its carriers, "
        "over one half of the prompts have in common with those over the other."
    )
    titles = ["number", "vector", "site", "norm", "change of the logits", "effects, itself", "carriers, itself"]
    return Section("Vectors", [text], table=Table(titles, rows, frozenset(titles[3:])))
