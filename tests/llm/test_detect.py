"""The head census of SmolLM2: its heads have the scores that were measured without this library."""

import pytest

import steerscope as st
from steerscope.circuits.detect import head_census

pytestmark = pytest.mark.llm
# Attention in 40 random words said twice, from TransformerLens' patterns alone. Which words is not known, and scores of
# duplicates and induction depend on them (docs/census.md).
NEAR = {"previous token": 0.05, "duplicate token": 0.12, "induction": 0.12}
KNOWN = {
    ("L11H1", "previous token"): 0.92,
    ("L16H0", "previous token"): 0.90,
    ("L14H3", "duplicate token"): 0.80,
    ("L8H0", "duplicate token"): 0.68,
    ("L18H6", "induction"): 0.92,
    ("L17H3", "induction"): 0.80,
}


def test_its_heads_have_the_scores_that_are_known(smollm2: st.Model) -> None:
    result = head_census(smollm2, sequences=100, length=40, causal=3, text=())
    scores = result.frames["scores"].set_index(["node", "role"])
    for key, value in KNOWN.items():
        assert scores.loc[key, "score"] == pytest.approx(value, abs=NEAR[key[1]]), key
        assert scores.loc[key, "holds"], key
    for role in ("previous token", "duplicate token", "induction"):
        own = result.frames["scores"].query("role == @role")
        assert own.sort_values("score")["node"].iloc[-1] == next(node for node, r in KNOWN if r == role)
    assert scores.loc[("L18H6", "induction, causal"), "holds"]
