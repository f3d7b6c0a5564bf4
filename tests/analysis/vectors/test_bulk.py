"""A table of vectors: each as its recipe makes it alone, what cannot be built listed, a stopped build going on."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from steerscope.analysis.errors import BadNode, BadVector
from steerscope.analysis.model.models import Model
from steerscope.analysis.vectors import bulk, plans
from steerscope.analysis.vectors.bulk import SHIPPED, build_vectors
from steerscope.analysis.vectors.minus_mean import minus_mean
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.single_prompt import single_prompt
from steerscope.analysis.vectors.vector import SteeringVector

TABLE = """name,kind,plus,minus,layer,layer_fraction,coefficient
one,pair, wedding, ship,1,,3
two,single, dragon,,,0.6,5
three,minus_mean, cake,,1,,
same,pair, ball, ball,1,,
deep,pair, ball,,7,,
half,pair, ball, cake,,1.5,
odd,triple,a,b,1,,
twice,pair, ball,,1,,
../out,pair, ball, cake,1,,
last,, ball, cake,,,2
twice,pair, ball, cake,1,,
long,pair,"a b c
d ", x,1,,
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


def test_every_row_is_built_as_it_would_be_alone_or_listed(table: Path, tiny: Model, tmp_path: Path) -> None:
    built = build_vectors(tiny, table, tmp_path / "out", fraction=0.5)
    expected = {
        "one": prompt_pair(tiny, " wedding", " ship", 1),
        "two": single_prompt(tiny, " dragon", 1),
        "three": minus_mean(tiny, " cake", 1),
        "../out": prompt_pair(tiny, " ball", " cake", 1),
        "last": prompt_pair(tiny, " ball", " cake", 1),
        "long": prompt_pair(tiny, "a b c\nd ", " x", 1),
    }
    assert list(built.made["name"]) == list(expected) and built.kept == 0
    for name, vector in expected.items():
        [file] = built.made["file"][built.made["name"] == name]
        assert Path(file).name == file
        found = SteeringVector.load(tmp_path / "out" / file)
        torch.testing.assert_close(found.values, vector.values, atol=1e-5, rtol=1e-5)
        assert (found.site, found.label) == (vector.site, vector.label)
    assert list(built.made["coefficient"]) == ["3", "5", "", "", "2", ""]
    reasons = dict(zip(built.failed["line"], built.failed["reason"], strict=True))
    for line, what in {
        "line 5": "give the same activations",
        "line 6": "layers 0 to 1",
        "line 7": "expected a layer of the model, or a layer_fraction from 0 to 1",
        "line 8": "the kind 'triple'; expected one of pair, single",
        "line 9": "stands there twice",
        "line 12": "stands there twice",
    }.items():
        assert what in reasons.pop(line)
    assert not reasons
    again = pd.read_csv(tmp_path / "out" / "vectors.csv", dtype=str, keep_default_na=False)
    assert list(again["name"]) == list(expected) and list(again["rows"]) == [str(v.rows) for v in expected.values()]
    assert len(pd.read_csv(tmp_path / "out" / "failed.csv")) == 6


def test_a_stopped_build_goes_on_and_a_changed_row_is_built_again(
    table: Path, tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def stopping(model: Model, wanted: Any) -> Any:
        calls.append(len(wanted))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plans.recorded(model, wanted)

    monkeypatch.setattr(bulk, "ROWS", 2)
    monkeypatch.setattr(bulk, "recorded", stopping)
    with pytest.raises(KeyboardInterrupt):
        build_vectors(tiny, table, tmp_path / "out")
    built = build_vectors(tiny, table, tmp_path / "out")
    assert built.kept == 2 and len(built.made) == 6
    (tmp_path / "out" / "two.safetensors").write_bytes(b"damaged")
    table.write_text(table.read_text().replace(" wedding", " ring"))
    built = build_vectors(tiny, table, tmp_path / "out")
    assert built.kept == 4 and len(built.made) == 6
    found = SteeringVector.load(tmp_path / "out" / "one.safetensors")
    assert found.source["plus"] == " ring"


def test_the_table_that_comes_along_can_be_read(tiny: Model, tmp_path: Path) -> None:
    assert SHIPPED.is_file()
    built = build_vectors(tiny, "bulk", tmp_path / "out")
    assert len(built.made) + len(built.failed) == 140 and len(built.made) > 120, built.failed["reason"].tolist()
    assert built.made["category"].nunique() >= 30
    reasons = list(built.failed["reason"])
    assert all("reads at most 64" in reason or "same activations" in reason for reason in reasons), reasons


def test_what_is_no_table_is_refused(tiny: Model, tmp_path: Path) -> None:
    for name, content, what in (
        ("a.txt", "x", "has the suffix '.txt'; expected .csv"),
        ("a.csv", "", "holds no rows"),
        ("b.csv", "name,minus\na,b\n", "line 2 has no text under plus"),
        ("c.csv", 'name,plus\n"a,b\n', "is not CSV"),
        ("d.csv", "name,plus\na,\0\n", "holds a NUL"),
        ("e.csv", "name,name\na,b\n", "several columns named name"),
        ("f.jsonl", '["a"]', "is no object"),
        ("g.jsonl", '{"name": "a"', "is not JSON"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(BadVector, match=what):
            build_vectors(tiny, tmp_path / name, tmp_path / "out")
    with pytest.raises(BadNode):
        build_vectors(tiny, "bulk", tmp_path / "out", site="pattern")
