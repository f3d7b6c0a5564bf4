"""`steerscope tinystories gallery`: the twelve vectors dissected, and one page that links their reports."""

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerscope.commands import options
from steerscope.commands.finish import Answer, Out, command_line

if TYPE_CHECKING:
    from steerscope.analysis.model.models import Model
    from steerscope.analysis.question.experiment import Experiment
    from steerscope.tinystories.twelve import Concept

PAGE = "index.html"
PROMPTS = "off_topic"
RANDOM = 8  # random vectors of equal norm, beside each


def gallery(
    out: Out,
    model: options.ModelName = "tinystories-1l",
    prompts: Annotated[str, typer.Option(help="A shipped set, or a file of prompts.")] = PROMPTS,
    count: Annotated[int, typer.Option(help="How many of the prompts, from the first.", min=1)] = 12,
    layer: Annotated[int, typer.Option(help="Layer to record and inject at.", min=0)] = 0,
    coef: Annotated[float, typer.Option(help="Coefficient of all vectors.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.", min=0)] = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the results in the folder.")] = False,
) -> Answer:
    """The twelve vectors of topics, sentiment, names, gender and tense, each dissected, and a page that links all.

    Example: steerscope tinystories gallery --model tinystories-2l --out out/gallery
    """
    from steerscope.analysis.files import write
    from steerscope.analysis.progress import track
    from steerscope.analysis.question.prompt_files import read_prompts
    from steerscope.commands.finish import check_out, finish, hush
    from steerscope.prompt_sets import prompts_file
    from steerscope.reports.gallery import card
    from steerscope.reports.gallery import gallery as page
    from steerscope.tinystories.dissect import COLUMNS, dissect
    from steerscope.tinystories.twelve import twelve

    texts = read_prompts(prompts_file(prompts))[:count]
    check_out(out, overwrite, beside=[PAGE])
    for concept in twelve():
        check_out(out / _folder(concept), overwrite, COLUMNS, ["report.html"])
    hush()
    from steerscope.loader import load

    loaded = load(model, device=device, dtype=dtype)
    groups: dict[str, list[Any]] = {}
    failed: list[str] = []
    for concept in track(twelve(), "vectors"):
        asked = _experiment(loaded, concept, texts, layer, coef, seed)
        result = dissect(asked)
        told = finish(result, out / _folder(concept), overwrite)
        failed += [f"{concept.name}: {warning}" for warning in told.failed]
        made = card(concept.name, _about(concept), result, [_effect(asked)], f"{_folder(concept)}/report.html")
        groups.setdefault(_heading(concept.kind), []).append(made)
    title = f"Twelve steering vectors inside {loaded.name}"
    subtitle = f"{coef:g} × each vector at layer {layer} · {len(texts)} prompts of {prompts}"
    write(out / PAGE, page(title, subtitle, groups, command_line()))
    found = {"kind": "gallery", "folder": str(out), "page": str(out / PAGE), "vectors": [c.name for c in twelve()]}
    return Answer(found, [f"Gallery: {out / PAGE}"], failed)


def _experiment(
    model: "Model", concept: "Concept", texts: list[Any], layer: int, coef: float, seed: int
) -> "Experiment":
    from steerscope.analysis.question.experiment import Experiment
    from steerscope.analysis.question.injection import Injection
    from steerscope.analysis.question.metrics import log_prob
    from steerscope.analysis.question.prompts import make_prompts

    injection = Injection(concept.vector(model, layer, seed=seed), coef, positions=concept.positions)
    metric = log_prob(concept.raises, concept.lowers)
    more: dict[str, Any] = {"references": f"isotropic:{RANDOM}", "scored": "last", "seed": seed}
    return Experiment(model, (injection,), make_prompts(model, texts), metric, **more)


def _folder(concept: "Concept") -> str:
    return re.sub(r"[^a-z0-9]+", "-", concept.name.lower())


def _heading(kind: str) -> str:
    return {"name": "Names"}.get(kind, f"{kind.capitalize()}s" if kind == "topic" else kind.capitalize())


def _about(concept: "Concept") -> str:
    """How a vector is made, in words."""
    plus, minus = (", ".join(f"“{word.strip() or ' '}”" for word in side) for side in (concept.plus, concept.minus))
    if concept.recipe == "prompt_pair":
        return f"the prompt {plus} minus the prompt {minus}, injected at the front"
    return f"stories cut after {plus}, minus stories cut after {minus}: difference of means, injected everywhere"


def _effect(asked: "Experiment") -> tuple[str, str, str]:
    """What the vector does to its own words against others, with an interval over prompts."""
    from steerscope.analysis.results.stats import interval
    from steerscope.reports import words

    effect = asked.effect()
    low, high = interval(effect, groups=asked.prompts.by_group)
    beside = [asked.effect(vector).mean() for vector in asked.vectors[1:]]
    note = f"nats, its words against others{words.between(low, high)}"
    note += f"; {RANDOM} random vectors {words.signed(min(beside))} to {words.signed(max(beside))}"
    return "steers", words.signed(effect.mean()), note
