"""Every loop over vectors goes on behind what it has read, to the rows of a question that was not stopped."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_runs import RUNS

from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.tools import keeping
from steerscope.analysis.vectors.prompt_pair import prompt_pair

LOOPS = {  # which keeps what, in the order in which they are done
    "exact": ["vectors", "joint patching", "sets of every vector"],
    "edges": ["edges along the metric", "edges"],
    "path_effect": ["paths"],
    "by_position": ["positions"],
    "self_repair": ["self-repair"],
    "sparsify": ["sparse vectors"],
    "map_effect": ["vectors", "circuits"],
}


def asked(model: Model) -> Experiment:
    prompts = make_prompts(model, ["One day Lily saw a dragon", "Tom had a red ball", "The dog ran to the park"])
    return Experiment(model, (Injection(prompt_pair(model, " wedding", " ship", 0), 3.0),), prompts, references=2)


@pytest.mark.parametrize("name", [n if n != "exact" else pytest.param(n, marks=pytest.mark.slow) for n in LOOPS])
def test_a_stopped_loop_goes_on_behind_what_it_has_read(
    name: str, tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SECONDS", -1.0)
    loops: list[str] = []
    own, stop_at = keeping._Place.keep, 2

    def keep(place: Any, *given: Any) -> None:
        loops.append(place.loop)
        own(place, *given)
        if len(loops) == stop_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(keeping._Place, "keep", keep)
    with pytest.raises(KeyboardInterrupt), keeping.keeping(tmp_path):
        RUNS[name](asked(tiny))
    stop_at = 0
    with keeping.keeping(tmp_path):
        found = RUNS[name](asked(tiny))
    assert [loop for loop in dict.fromkeys(loops) if loop in LOOPS[name]] == LOOPS[name]
    assert len(loops) == len(list((tmp_path / keeping.FOLDER).iterdir()))  # nothing was read twice
    expected = RUNS[name](asked(tiny))
    for frame, rows in found.frames.items():
        pd.testing.assert_frame_equal(rows, expected.frames[frame], check_exact=True)
