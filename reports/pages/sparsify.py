"""The report of `sparsify`: how few dimensions of a vector keep its effect."""

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.kept import NAME, disturbed, kept
from steerscope.reports.page import Page, Panel, Section, Table
from steerscope.reports.pages.common import everything, missing, page
from steerscope.reports.records import records

SCALES = {False: "as they are", True: "scaled back to the vector's norm"}


def sparsify_page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    text = [
        "Dimensions are the model's own, ordered in each row of the vector by itself; the others are set to "
        "zero. The gradient is averaged along "
        "the coefficient, and its order is chosen on one half of the prompts and measured on the other.",
        "Effect kept is not the same output kept: a sparse vector can push as far along the metric and disturb "
        "more besides, so both "
        "are shown. Random vectors of equal norm are judged each by its own change of logits: what a random "
        "vector can lose as "
        "well says nothing about this one.",
    ]
    return page(
        result,
        "How few dimensions does {vector} need in {model}?",
        "dimensions set to zero, exactly",
        sparsify_sentences(result),
        [_curves(result), _smallest(result), _table(result)],
        text=text,
    )


def sparsify_sentences(result: Result) -> list[str]:
    """The best order's smallest fraction, a random choice of as many, the disturbance, random vectors."""
    table, smallest = result.frames["curves"], result.frames["smallest"]
    plain = smallest[~smallest["rescaled"].astype(bool)]
    best = next(records(plain.sort_values("fraction", kind="stable")))
    at = table[~table["rescaled"].astype(bool) & (table["fraction"] == best.fraction)].set_index("order")
    own = at.loc[best.order]
    first = (
        f"{words.percent(best.fraction)}{words.between(best.low, best.high, words.percent)} of the dimensions "
        f"({best.dimensions} a row), "
        f"{NAME[best.order]}, are the fewest tried that keep {words.percent(best.keep)} of the effect: "
        f"{words.percent(own['kept'])}{words.between(own['kept_low'], own['kept_high'], words.percent)} of it, with "
        f"{words.percent(own['kl_kept'])} of the disturbance"
    )
    if best.order != "random" and "random" in at.index:
        other = at.loc["random"]
        first += (
            "; as many random ones keep "
            f"{words.percent(other['kept'])}{words.between(other['kept_low'], other['kept_high'], words.percent)}"
        )
    found = [first + "."]
    if best.control == best.control:
        how = "fewer" if best.control < best.own else "more" if best.control > best.own else "as many"
        found.append(
            f"Random vectors of equal norm need {how}: {words.percent(best.control)}"
            f"{words.between(best.control_low, best.control_high, words.percent)} for as much of their own "
            "change of logits "
            f"(this vector, of its own: {words.percent(best.own)})."
        )
    scaled = smallest[smallest["rescaled"].astype(bool)]
    if len(scaled):
        r = next(records(scaled.sort_values("fraction", kind="stable")))
        found.append(
            "Scaled back to the vector's norm, "
            f"{words.percent(r.fraction)}{words.between(r.low, r.high, words.percent)} "
            f"({NAME[r.order]}) are enough, with {words.percent(r.kl_kept)} of the disturbance."
        )
    return found


def _curves(result: Result) -> Section:
    table, keep = result.frames["curves"], float(result.manifest.get("keep", 0.9))
    panels = []
    for rescaled, name in SCALES.items():
        own = table[table["rescaled"].astype(bool) == rescaled]
        if len(own):
            panels += [Panel(f"Effect, {name}", kept(own, keep)), Panel(f"Disturbance, {name}", disturbed(own))]
    text = (
        "Bands are intervals over prompts. Dotted: random vectors of equal norm, in the same order, each of "
        "its own change of logits"
        f"{'' if table['control'].notna().any() else ' (missing: ' + missing(result, 'controls') + ')'}. The "
        "dashed line is the share that is asked for."
    )
    return Section("Kept against dimensions", [text], panels)


def _smallest(result: Result) -> Section:
    rows = [
        [
            NAME.get(r.order, r.order),
            SCALES[bool(r.rescaled)],
            f"{words.percent(r.fraction)}{words.between(r.low, r.high, words.percent)}",
            str(r.dimensions),
            words.percent(r.kl_kept),
            words.percent(r.own),
            f"{words.percent(r.control)}{words.between(r.control_low, r.control_high, words.percent)}",
        ]
        for r in records(result.frames["smallest"])
    ]
    titles = [
        "order",
        "values",
        "smallest fraction",
        "dimensions a row",
        "disturbance there",
        "for its own change of logits",
        "random vectors",
    ]
    text = (
        f"The smallest fraction tried from which on {words.percent(result.manifest.get('keep', 0.9))} of the "
        "effect is kept, whatever is added."
    )
    return Section("How few are enough", [text], table=Table(titles, rows, frozenset(titles[2:])))


def _table(result: Result) -> Section:
    columns = [
        "order",
        "rescaled",
        "fraction",
        "dimensions",
        "norm",
        "effect",
        "low",
        "high",
        "kept",
        "kl",
        "kl_kept",
        "control",
        "p_adjusted",
        "wrong_way",
    ]
    table = result.frames["curves"].astype({"rescaled": str})
    return everything(table, columns, "All fractions", result)
