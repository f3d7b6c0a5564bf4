"""Whatever the method, a question that is stopped goes on behind the vectors that are done, to the same rows."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from questions import experiment

from steerscope.analysis.carriers import attribute, shapley
from steerscope.analysis.carriers.localize import localize
from steerscope.analysis.model.models import Model
from steerscope.analysis.tools import keeping
from steerscope.analysis.tools.gradients import estimate


def counted(patch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[int]:
    """The vectors that are run, the real one once more along the metric; at one of them somebody presses Ctrl-C."""
    seen: list[int] = []
    values = shapley.Game.values

    def note(vector: int) -> None:
        if vector == stop_at:
            raise KeyboardInterrupt
        seen.append(vector)

    def noted_values(game: shapley.Game, members: Any) -> Any:
        note(game.vector)
        return values(game, members)

    def noted_estimate(asked: Any, method: str, vector: int, *more: Any) -> Any:
        note(vector)
        return estimate(asked, method, vector, *more)

    patch.setattr(shapley.Game, "values", noted_values)
    patch.setattr(attribute, "estimate", noted_estimate)
    return seen


@pytest.mark.parametrize("method", ["shapley", "gradient"])
def test_a_stopped_question_goes_on_to_the_same_rows(
    method: Any, small_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = localize(experiment(small_model, references=4), method=method)
    with monkeypatch.context() as patch:
        seen = counted(patch, stop_at=3)
        with pytest.raises(KeyboardInterrupt, match="after 3 of 5 vectors"), keeping.keeping(tmp_path):
            localize(experiment(small_model, references=4), method=method)
        assert seen == [0, 0, 1, 2]
    with monkeypatch.context() as patch, keeping.keeping(tmp_path):
        seen = counted(patch)
        again = localize(experiment(small_model, references=4), method=method)
        assert seen == [0, 3, 4]
    assert again.frames.keys() == whole.frames.keys()
    for name, frame in whole.frames.items():
        pd.testing.assert_frame_equal(frame, again.frames[name], check_exact=True)
