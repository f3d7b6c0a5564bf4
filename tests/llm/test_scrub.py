"""Causal scrubbing of SmolLM2: six heads explain how it answers IOI, and six others do not."""

import pytest

import steerscope as st

pytestmark = pytest.mark.llm
OTHERS = {"lowers the repeated name": ["L23H4"], "name mover": ["L22H0", "L22H1", "L22H2", "L22H7"], "late": ["L29H2"]}


def test_what_its_heads_write_at_the_end_explains_ioi_and_what_others_write_does_not(smollm2: st.Model) -> None:
    prompts = st.task("ioi")(smollm2, n=32)
    ours = st.hypothesis("ioi-smollm2")
    others = st.Hypothesis("others", ours.claims, roles=OTHERS)
    result = st.scrub(smollm2, [ours, others], prompts, draws=2, alone=False)
    table = result.frames["recovered"].set_index("hypothesis")
    assert table["share"]["ioi-smollm2"] > 0.7 and table["low"]["ioi-smollm2"] > 0.5
    assert table["share"]["others"] < 0.3
    assert all(check["passed"] for check in result.manifest["checks"])
