"""The page of causal scrubbing: its sentences are true of whatever was found, and its trees are those of the claims."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from steerscope.analysis.results.result import Result
from steerscope.circuits.scrub import COLUMNS
from steerscope.reports.page import Page
from steerscope.reports.pages.scrub import ROWS, headline, page
from steerscope.reports.report import html

NOTHING = math.nan
EVIL = "<script>alert(1)</script>"


def row(node: str = "logits", share: float = 0.9, control: float = 0.1, **more: Any) -> dict[str, Any]:
    """A row of the table, with intervals of a tenth on either side."""
    made: dict[str, Any] = {"hypothesis": "h", "node": node, "feature": "token at S2", "at": "", "p_holm": 0.001}
    for name, ends, value in (
        ("share", "", share),
        ("control", "control_", control),
        ("branch", "branch_", NOTHING),
        ("squared", "squared_", share),
    ):
        made |= {name: value, f"{ends}low": value - 0.1, f"{ends}high": value + 0.1}
    made |= {"beyond": share > control + 0.2, "score": 1.0, "alike": 3.0, "exchanged": 9.0, "claim": -1, "within": -1}
    return made | more


def result(*rows: dict[str, Any], **manifest: Any) -> Result:
    frame = pd.DataFrame(list(rows), columns=list(COLUMNS["recovered"]))
    about = {"model": {"name": "m"}, "prompts": {"count": 9}, "steering": "none", "checks": [], "missing": {}}
    return Result("scrub", {"recovered": frame}, COLUMNS, about | manifest)


def said(*rows: dict[str, Any], **manifest: Any) -> str:
    return " ".join(headline(result(*rows, **manifest)))


def test_what_is_recovered_is_said_beside_features_that_are_shuffled() -> None:
    text = said(row())
    assert "“h” recovers 90% [80%, 100%]" in text and "shuffled over the prompts it recovers less, 10%" in text
    text = said(row(share=0.9, control=0.85, p_holm=0.4))
    assert "from which it is not told (p = 0.400, Holm): what it says of features is not shown" in text
    text = said(row(control=NOTHING))
    assert "it could fail only by what it leaves out" in text and "shuffled" not in text


@pytest.mark.parametrize("share", [0.05, 0.0, -0.4])
def test_a_hypothesis_that_recovers_nothing_is_said_to(share: float) -> None:
    text = said(row(share=share))
    assert "is not shown to recover anything" in text and "recovers" not in text


def test_without_a_gain_or_an_interval_the_sentence_says_so() -> None:
    text = said(row(share=NOTHING), missing={"share": "the model answers no better"})
    assert text == "Nothing can be said of “h”: the model answers no better."
    assert "(no interval over prompts)" in said(row(low=NOTHING, high=NOTHING))
    assert headline(result()) == []
    assert "more than the model's own score" in said(row(share=1.2)) and "own score" not in said(row(share=1.05))


def test_claims_that_lose_are_named_and_those_that_cannot_fail_are_not_counted() -> None:
    claims = [
        row("logits < L1H0", share=1, control=NOTHING, claim=0),
        row("logits < L1H0 < q:L0H0", share=0.3, control=0.2, claim=1, within=0),
        row("logits < L1H0 < k:L0H0", share=0.95, control=0.2, claim=2, within=0),
    ]
    text = said(row(), *claims)
    assert "Of 2 claims that can fail alone, 1 loses something: logits < L1H0 < q:L0H0 (30% [20%, 40%])" in text
    assert "; 1 recovers more than with features shuffled." in text
    assert "Of the one claim that can fail alone, none is shown to lose anything" in said(row(), claims[2])
    assert "can fail alone" not in said(row(), claims[0])


def picture(drawn: Page) -> Any:
    [section] = [section for section in drawn.sections if section.title == "Claim by claim"]
    return section.panels[0]


def test_a_tree_has_a_box_for_every_claim_beside_what_reads_it() -> None:
    claims = [
        row("logits < a", claim=0),
        row("logits < a < q:b", claim=1, within=0),
        row("logits < a < k:c", share=1, control=NOTHING, claim=2, within=0),
        row("logits < d", claim=3),
    ]
    chart = picture(page(result(row(), *claims))).figure
    at = {note.text.split("\n")[0].strip("\ufdd0\ufdd1"): (note.x, note.y) for note in chart.layout.annotations}
    columns = {name: round(x) for name, (x, _) in at.items()}
    assert columns == {"the whole tree": 0, "a": 1, "q:b": 2, "k:c": 2, "d": 1}
    assert at["a"][1] == (at["q:b"][1] + at["k:c"][1]) / 2 and len({place for place in at.values()}) == 5
    assert len(chart.layout.shapes) == 4
    [grey] = [note for note in chart.layout.annotations if "cannot fail" in note.text]
    assert "k:c" in grey.text


def test_of_a_tree_that_has_no_room_the_claims_nearest_to_the_logits_are_drawn() -> None:
    claims = [row("logits < a", claim=0)]
    claims += [row(f"logits < a < q:b{i}", claim=1 + i, within=0) for i in range(3)]
    claims += [row(f"logits < a < q:b0 < v:c{i}", claim=4 + i, within=1) for i in range(ROWS)]
    panel = picture(page(result(row(), *claims)))
    assert panel.title == f"h, 4 of {len(claims)} claims: those nearest to the logits"
    assert len(panel.figure.layout.annotations) == 5


def test_names_of_users_are_text_and_numbers_that_lead_nowhere_harm_nobody() -> None:
    claims = [row(f"logits < {EVIL}", claim=0, within=0, feature=EVIL), row("x", claim=0, within=7)]
    hypotheses = [{"name": EVIL, "title": EVIL, "sources": [EVIL], "caveats": [EVIL], "reported": {EVIL: 1.0}}]
    found = result(row(hypothesis="h"), *claims, hypotheses=hypotheses)
    assert EVIL not in html(found)
    both = result(row(), row(hypothesis=EVIL, share=np.inf))
    assert EVIL not in html(both) and "Hypothesis" in html(both)
