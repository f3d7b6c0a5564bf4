"""Pages of the study of variants and of task vectors: what they say of noise, of a difference, of what is missing."""

import re
from dataclasses import replace

import numpy as np
import pytest
from made_study import made_study, made_tasks

from steerscope.analysis.results.result import Result
from steerscope.reports.report import html


def test_of_variants_that_do_not_differ_the_page_tells_what_could_have_been_told() -> None:
    said = made_study(3).summary()
    assert said[0] == "With 3 seeds a variant none of 36 differences from the base is told from chance."
    assert "The smallest differences that 3 seeds could have told" in said[1] and "percentage points" in said[1]


def test_a_variant_that_differs_is_named_with_its_difference_and_interval() -> None:
    result = made_study(5, apart=20.0)
    said = result.summary()
    named = [line for line in said if line.startswith("relu: ")]
    assert len(named) == 6 and "Of 36 differences from the base 6 are told from chance." in said
    [ratio] = [line for line in named if "for each unit of norm" in line]
    row = result.frames["differences"].set_index(["variant", "measure"]).loc[("relu", "per_norm")]
    assert re.search(rf"× {row['difference']:.3g} \[{row['low']:.3g}, {row['high']:.3g}\]", ratio)


@pytest.mark.parametrize("seeds", [2, 3])
def test_more_seeds_could_tell_smaller_differences(seeds: int) -> None:
    fewer, more = (made_study(n).frames["differences"]["smallest"].median() for n in (seeds, seeds + 5))
    assert more < fewer


def test_a_page_has_every_variant_and_no_number_that_is_none() -> None:
    for result in (made_study(3), made_study(2, 5.0), made_tasks()):
        page = re.sub(r"<script.*?</script>", "", html(result), flags=re.DOTALL)
        assert not re.search(r"\bnan\b", page.replace("NaN", "")) and "Traceback" not in page
    study = re.sub(r"<script.*?</script>", "", html(made_study(3)), flags=re.DOTALL)
    assert all(f"<td>{name}</td>" in study for name in ("relu", "RMSNorm", "no norm", "parallel"))


def test_a_task_vector_that_is_like_the_activation_vector_is_not_said_to_differ() -> None:
    result = made_tasks()
    assert any("no difference of the loss on the topic is told" in line for line in result.summary())
    surer = result.frames["differences"].assign(p=0.001, difference=-0.4, low=-0.5, high=-0.3)
    said = replace(result, frames={**result.frames, "differences": surer}).summary()
    assert any("the loss on the topic is 0.400 nats less [−0.500, −0.300]" in line for line in said)


def test_without_an_activation_vector_nothing_is_said_of_its_cosine() -> None:
    result = made_tasks()
    arms = result.frames["arms"].copy()
    arms.loc[arms["measure"] == "cosine with the activation vector", ["value", "low", "high"]] = np.nan
    changed: Result = replace(result, frames={**result.frames, "arms": arms})
    assert not any("cosine" in line for line in changed.summary()) and html(changed)
