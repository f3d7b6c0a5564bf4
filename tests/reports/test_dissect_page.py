"""The page of `dissect`: its sentences are claims that hold, its trees, texts and bands add up."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from checkpoints import save_gpt2
from made_dissection import PROMPT, dissection
from made_up import ATTACK

from steerscope.analysis.loading.loading import load
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.loader import load as load_shipped
from steerscope.reports import words
from steerscope.reports.figures.routes import bands
from steerscope.reports.gallery import card, gallery
from steerscope.reports.page import Branch, Section, render
from steerscope.reports.pages.dissect import _pieces, headline, page
from steerscope.reports.pages.dissect_audits import composition
from steerscope.reports.pages.dissect_tree import tree
from steerscope.reports.pages.dissect_views import Target, views
from steerscope.reports.pages.dissect_words import TEMPERATURE, told
from steerscope.reports.routes import last_move, steps
from steerscope.tinystories.dissect import COLUMNS, dissect

RISE = {"L0M<-L0H3.ov<-1": 1.42, "L0H3.ov<-1": 0.36, "L0H1.k<-1": -0.1, "final norm": 0.32}
WRITTEN = re.compile(r"([−\d]+)%(?: of the (?:rise|fall))? is written by (\S+?)(?: and|[,;.]|$)")
SIGNED = re.compile(r"([+−][\d.,e−]+) logits are written by (\S+?)(?: and|[,;.]|$)")


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


def first(ends: Mapping[str, float], **about: Any) -> tuple[Any, Target]:
    [view, *_] = views(dissection({" wedding": ends}, **about))
    return view, view.targets[0]


def said(ends: Mapping[str, float]) -> str:
    return " ".join(told(*first(ends), "logits"))


def random_ends(seed: int) -> dict[str, float]:
    """Ends of paths of two layers, of any sizes and signs."""
    draw = np.random.default_rng(seed)
    heads = [f"L{layer}H{h}" for layer in (0, 1) for h in range(3)]
    ends = [f"{h}.{c}<-{j}<-direct" for h in heads for c in ("ov", "k") for j in (1, 2)] + ["L0M<-direct", "direct"]
    ends += [f"L1M<-{h}.ov<-1" for h in heads] + ["L1M.scale", "final norm", "L1M<-others", "L0H0.q<-direct"]
    chosen = draw.choice(len(ends), size=draw.integers(1, len(ends)), replace=False)
    return {ends[n]: float(draw.normal() * 10 ** draw.uniform(-3, 1)) for n in chosen}


def test_a_rise_is_told_in_shares_of_it() -> None:
    text = said(RISE)
    assert "“␣wedding” after “… Lily saw a” rises by 2.00 logits." in text
    assert "71% of the rise is written by L0M and 18% is written by L0H3" in text
    assert (
        "71% of the rise is L0H3 moving the vector from position 1 (“Lily”), read by L0M and 18% is L0H3 moving" in text
    )
    assert f"The final norm's scale gives +0.320 logits of +2.00: {TEMPERATURE}." in text


def test_of_a_fall_shares_are_shares_of_the_fall() -> None:
    text = said({path: -change for path, change in RISE.items()})
    assert "falls by 2.00 logits." in text and "71% of the fall is written by L0M" in text
    assert "final norm's scale gives −0.320 logits of −2.00" in text and "rise" not in text.replace("rises", "rise?")


def test_where_parts_cancel_they_are_told_in_logits() -> None:
    text = said({"L0M<-L0H3.ov<-1": 5.0, "L0H3.ov<-1": -4.5})
    assert "rises by 0.500 logits, what is left of parts of 9.50 logits in all." in text and "%" not in text
    assert "+5.00 logits are written by L0M; against it, −4.50 logits are written by L0H3." in text


def test_what_does_not_change_is_told_as_that() -> None:
    result = dissection({" wedding": {"L0M<-L0H3.ov<-1": 0.0}, " ring": {}})
    assert headline(result) == ["The injection changes no logit that is read here: every part is zero."]
    assert "NaN" not in render(page(result)).split("<script>")[0]
    assert "“␣wedding” after “… Lily saw a” does not change: 4.00 logits cancel." in said({"L0M": 2.0, "L0H1": -2.0})
    assert said({"final norm": 0.0}) == "“␣wedding” after “… Lily saw a” does not change."


@pytest.mark.parametrize("seed", range(40))
def test_every_claim_of_a_random_split_holds(seed: int) -> None:
    ends = random_ends(seed)
    view, target = first(ends)
    text = " ".join(told(view, target, "logits"))
    assert target.change == pytest.approx(sum(ends.values())) and sum(target.ends.values()) == pytest.approx(
        target.change
    )
    assert ("rises" in text) == (target.change > 0)
    names = {"what": "direct"}
    for share, writer in WRITTEN.findall(text):
        own = target.writers[names.get(writer, writer)]
        assert number(share) == round(100 * own / target.change) and own * target.change > 0 and target.clear
    for change, writer in SIGNED.findall(text):
        assert change == words.signed(target.writers[names.get(writer, writer)])
    if TEMPERATURE in text:
        assert f"{words.signed(ends['final norm'])} logits of {words.signed(target.change)}" in text
    if "%" in text:
        assert target.mass <= 3 * abs(target.change) * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_rows_below_a_row_of_the_tree_add_up_to_it(seed: int) -> None:
    view, target = first(random_ends(seed))
    largest = max(map(abs, target.writers.values()))
    for rows in (3, 1000):
        grown = tree(view.place, target, rows)
        assert sum(branch.size for branch in grown) * largest == pytest.approx(target.change)
        for branch in _every(grown):
            assert not branch.parts or sum(part.size for part in branch.parts) == pytest.approx(branch.size)
            assert len(branch.parts) <= 6


def _every(branches: Any) -> Iterator[Branch]:
    for branch in branches:
        yield branch
        yield from _every(branch.parts)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_moved_from_the_tokens_and_the_rest_are_the_change(seed: int) -> None:
    view, target = first(random_ends(seed))
    pieces, _ = _pieces(view, target, "logits")
    moved = [number(re.search(r": (\S+) logits moved", piece.about)[1]) for piece in pieces]  # type: ignore[index]
    expected = [sum(c for p, c in target.ends.items() if last_move(p) == n) for n in range(len(PROMPT))]
    assert moved == pytest.approx(expected, rel=5e-3, abs=1e-9)
    assert [piece.text for piece in pieces] == ["<|endoftext|>", "●Lily", "␣saw", "␣a"]
    assert all((piece.heat > 0) == (change > 0) for piece, change in zip(pieces, expected, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_bands_bring_every_token_the_size_of_its_paths(seed: int) -> None:
    result = dissection({" wedding": random_ends(seed), " ring": random_ends(seed + 1)})
    [view] = views(result)
    [drawn] = bands(view.place, view.position, view.targets, "logits").data
    labels, link = drawn.node.label, drawn.link
    for target in view.targets:
        [at] = [n for n, label in enumerate(labels) if label.startswith(target.token.replace(" ", "␣"))]
        assert words.signed(target.change) in labels[at]
        arriving = sum(v for v, end in zip(link.value, link.target, strict=True) if end == at)
        assert arriving == pytest.approx(sum(map(abs, target.ends.values())))
    for n in set(link.source) & set(link.target):
        inside, out = (
            sum(v for v, end in zip(link.value, way, strict=True) if end == n) for way in (link.target, link.source)
        )
        assert inside == pytest.approx(out)


def test_an_address_is_read_from_the_logits_back() -> None:
    [mlp, head, first_head] = steps("L1M<-L1H3.ov<-4<-L0H2.k<-1")
    assert (mlp.node, head.node, head.channel, head.source, head.layer) == ("L1M", "L1H3", "ov", 4, 1)
    assert (first_head.node, first_head.channel, first_head.source) == ("L0H2", "k", 1)
    assert last_move("L1M<-L1H3.ov<-4<-L0H2.k<-1") == 4 and last_move("L1M<-L0M.scale") == -1


def test_what_heads_of_later_layers_move_is_not_called_the_vector() -> None:
    view, _ = first(RISE)
    assert view.place.said("L0H3.ov<-1").startswith("L0H3 moving the vector from position 1")
    assert view.place.said("L1H3.ov<-1").startswith("L1H3 moving what changes at position 1")
    assert view.place.said("L0H3.ov<-2").startswith("L0H3 moving what changes at position 2")
    assert view.place.said("L0M<-direct") == "what is injected, read by L0M"
    turned = dissection({" wedding": RISE})
    site = {**turned.manifest["injections"][0], "operation": "rotate"}
    [view] = views(replace(turned, manifest={**turned.manifest, "injections": [site]}))
    assert view.place.said("L0H3.ov<-1").startswith("L0H3 moving what changes at position 1")
    assert view.place.said("L1M<-L0M.scale") == "the changed scale of L0M's norm, read by L1M"
    assert view.place.said("L1H2.q<-L0H1.ov<-1").endswith(", read by L1H2's query")


def test_where_nothing_goes_through_a_pair_nothing_is_said_of_ranks() -> None:
    pairs = [("L0H0", "L1H0", 0.2, 1, 0.0, 1, True), ("L0H1", "L1H0", 0.1, 2, 0.0, 2, False)]
    names = ["sender", "receiver", "score", "score_rank", "effect", "effect_rank", "disagree"]
    table = pd.DataFrame(pairs, columns=names).assign(channel="q", signed=0.0)
    result = dissection({" wedding": RISE})
    for effect, count in ((0.0, 0), (1.0, 1)):
        frames = {**result.frames, "composition": table.assign(effect=[effect, 0.0])[list(COLUMNS["composition"])]}
        [section] = composition(replace(result, frames=frames))
        assert len(section.panels) == count and ("disagree for" in " ".join(section.text)) == bool(count)


def test_texts_of_prompts_and_tokens_stay_text() -> None:
    result = dissection({ATTACK: RISE, "<b>": random_ends(1)}, tokens=("<|endoftext|>", ATTACK, " saw", "<i>"))
    html = render(page(result))
    assert "<img src=x" not in html and "</script><img" not in html and "<b>" not in html.split("<script>")[0]
    shown = gallery("t", "s", {"g": [card("<b>", "<i>", result, [("<u>", "<s>", "")], "a b/<.html")]})
    assert "<b>" not in shown and "<i>" not in shown and "<u>" not in shown and 'href="a%20b/%3C.html"' in shown


def test_of_one_prompt_there_is_no_choice_of_prompts_and_of_twelve_the_page_is_light() -> None:
    one = page(dissection({" wedding": RISE}))
    assert not any(section.asks == "Prompt" for section in one.sections)
    targets = {f" {n}": random_ends(n) for n in range(11)}
    many = page(dissection(targets, prompts=12))
    [choice] = [section for section in many.sections if section.asks == "Prompt"]
    assert len(choice.choices) == 12 and len(_depth(choice, "Token").choices) == 11
    script = len(render(one)) - len(re.sub(r"<script>.*?</script>", "", render(one), flags=re.S))
    assert len(render(many)) - script < 3_000_000


def _depth(section: Section, asks: str) -> Section:
    found = [part for choice in section.choices for part in choice.sections if part.asks == asks]
    return found[0]


def test_a_page_of_a_small_model_is_made_from_a_real_run(tmp_path: Path) -> None:
    save_gpt2(tmp_path)
    model = load(tmp_path, name="tiny")
    asked = Experiment(
        model, (Injection(prompt_pair(model, " wedding", " ship", 0), 3.0),), make_prompts(model, ["Tom had a ball"])
    )
    _holds(dissect(asked, most=2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tinystories-1l", "tinystories-2l"])
@pytest.mark.parametrize("coefficient", [0.0, 3.0, 100.0, -3.0])
def test_a_page_of_a_shipped_model_is_made_from_a_real_run(name: str, coefficient: float) -> None:
    model = load_shipped(name)
    prompts = make_prompts(model, ["Lily went to the park and saw a", "Tom looked out of the window and saw"])
    asked = Experiment(model, (Injection(prompt_pair(model, " wedding", " ", 0), coefficient),), prompts)
    _holds(dissect(asked, at="last" if coefficient == 100 else "all", most=1))


def _holds(result: Result) -> None:
    """The page is drawn, and at every place what is shown adds up."""
    html = render(page(result))
    assert not re.search(r"\bnan\b|\bNone\b", re.sub(r"<script.*?</script>", "", html, flags=re.S))
    totals = result.frames["totals"]["change"].sum()
    found = [target for view in views(result) for target in view.targets]
    assert sum(target.change for target in found) == pytest.approx(totals)
    for target in found:
        assert sum(target.writers.values()) == pytest.approx(target.change, abs=1e-6)
        assert sum(target.routes.values()) == pytest.approx(target.change, abs=1e-6)


@pytest.mark.slow
def test_in_a_browser_one_prompt_and_one_token_are_seen_and_drawn(
    browse: Callable[[Path], str], tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    targets = {" wedding": RISE, " ring": random_ends(2)}
    path.write_text(render(page(dissection(targets, prompts=3))), encoding="utf-8")
    document = browse(path)
    assert document.count('<div class="choice" hidden=""') == 2 + 3  # prompts, and the second token of each
    assert document.count('<div class="choice">') == 1 + 3
    assert document.count('class="chart js-plotly-plot"') == 1
