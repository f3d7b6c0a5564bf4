"""Groups of prompts: what is found, and what a user or a file says."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerscope.analysis.errors import BadPrompt
from steerscope.analysis.model.models import Model
from steerscope.analysis.question import groups as module
from steerscope.analysis.question.groups import ALIKE, groups_of, longest_common, numbers
from steerscope.analysis.question.prompt_files import read_groups, read_prompts
from steerscope.analysis.question.prompts import make_prompts

NAMES = ("Tom", "Lily", "Ben", "Anna")
TEMPLATES = (
    "One day {} went to the park and played with the ball",
    "The bride had a cake for {} near the ship",
    "Once upon a time there was a dragon and {} saw it",
    "They gave {} a big red ring in the wedding",
)


def test_four_names_in_four_templates_are_four_groups(tiny: Model) -> None:
    texts = [template.format(name) for name in NAMES for template in TEMPLATES]
    assert make_prompts(tiny, texts).groups == (0, 1, 2, 3) * 4
    assert make_prompts(tiny, texts, groups="each").groups == tuple(range(16))


def test_copies_are_one_group_and_other_prompts_are_not(tiny: Model) -> None:
    texts = ["Tom had a red ball", "They saw a dragon", "Tom had a red ball", "Once upon a time"]
    assert make_prompts(tiny, texts).by_group.tolist() == [0, 1, 0, 2]


def test_bos_alone_makes_nobody_alike() -> None:
    assert groups_of([[0, 1, 2], [0, 3, 4], [0, 5, 6]], bos=0).tolist() == [0, 1, 2]
    assert groups_of([[0, 7], [7]], bos=0).tolist() == [0, 0]
    assert groups_of([], bos=0).tolist() == []


def test_the_order_of_tokens_counts() -> None:
    assert groups_of([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]]).tolist() == [0, 1]
    assert groups_of([[1, 2, 3, 4, 5, 6], [1, 2, 9, 4, 5, 6]]).tolist() == [0, 0]


def test_a_chain_of_prompts_that_are_alike_is_one_group() -> None:
    rows = [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 20, 21], [1, 2, 3, 4, 30, 31, 20, 21]]
    assert groups_of([rows[0], rows[2]]).tolist() == [0, 1]
    assert groups_of(rows).tolist() == [0, 0, 0]


def common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Length of the longest common subsequence, by the table."""
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=8).map(tuple), min_size=1, max_size=7))
def test_prompts_of_one_group_are_connected_by_common_subsequences(rows: list[tuple[int, ...]]) -> None:
    """Exactly the pairs that the definition names connect prompts."""
    found = groups_of(rows)
    apart = list(range(len(rows)))
    for a in range(len(rows)):
        for b in range(a):
            if 2 * common(rows[a], rows[b]) >= ALIKE * (len(rows[a]) + len(rows[b])):
                apart = [apart[b] if name == apart[a] else name for name in apart]
    for a in range(len(rows)):
        for b in range(a):
            assert (found[a] == found[b]) == (apart[a] == apart[b] or rows[a] == rows[b])


@given(st.lists(st.integers(0, 9), max_size=80), st.lists(st.integers(0, 9), max_size=80))
def test_the_common_subsequence_is_that_of_the_table(a: list[int], b: list[int]) -> None:
    assert longest_common(a, b) == (common(tuple(a), tuple(b)))


@pytest.mark.parametrize("bound", ["MANY", "LONG", "SHARED", "COMPARED"])
def test_of_very_many_prompts_only_copies_are_looked_for(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[1, 2, 3, 4, 5, 6], [1, 2, 9, 4, 5, 6], [1, 2, 3, 4, 5, 6]]
    assert groups_of(rows).tolist() == [0, 0, 0]
    monkeypatch.setattr(module, bound, 1)
    assert groups_of(rows).tolist() == [0, 1, 0]


def test_thousands_of_prompts_take_seconds() -> None:
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, 5000, 20).tolist() for _ in range(1500)]
    assert len(set(groups_of([*rows, *rows[:5]]).tolist())) == 1500


@pytest.mark.parametrize(
    "rows",
    [
        [[*range(20), 100 + i] for i in range(3000)],  # one template
        [np.random.default_rng(i).permutation(30).tolist() for i in range(1500)],  # the same tokens in any order
        [[*range(2000), 10_000 + i] for i in range(1000)],
    ],
)
def test_no_prompts_take_minutes(rows: list[list[int]]) -> None:
    start = time.process_time()
    groups_of(rows)
    assert time.process_time() - start < 30


def test_names_of_groups_are_numbered_as_they_come(tiny: Model) -> None:
    assert numbers(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]
    prompts = make_prompts(tiny, ["Tom", "Lily", "Ben", "Anna"], groups=["x", 3, "x", None])
    assert prompts.groups == (0, 1, 0, 2)
    assert prompts.some([2, 3]).by_group.tolist() == [0, 2] and prompts.first(2).groups == (0, 1)
    assert prompts.hash == make_prompts(tiny, ["Tom", "Lily", "Ben", "Anna"]).hash


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        ("all", "groups='all'; expected auto, each, or a name for every prompt"),
        (["a"], "got 1 groups for 2 prompts; expected one for each"),
        ([1, 2, 3], "got 3 groups for 2 prompts"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups: Any, match: str, tiny: Model) -> None:
    with pytest.raises(BadPrompt, match=match):
        make_prompts(tiny, ["Tom", "Lily"], groups=groups)


def write(path: Path, names: list[Any] | None) -> Path:
    """Three prompts with their groups, in the format of the file."""
    table = pd.DataFrame({"prompt": ["Tom had", "Lily saw", "Ben and"]})
    if names is not None:
        table["group"] = names
    if path.suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    elif path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("names", [["a", "b", "a"], [7, 8, 7]])
def test_a_file_names_its_groups_in_a_column(suffix: str, names: list[Any], tmp_path: Path, tiny: Model) -> None:
    path = write(tmp_path / f"p{suffix}", names)
    found = read_groups(path)
    assert found == [str(name) for name in names]
    assert make_prompts(tiny, read_prompts(path), groups=found).groups == (0, 1, 0)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_file_without_the_column_names_none(suffix: str, tmp_path: Path) -> None:
    assert read_groups(write(tmp_path / f"p{suffix}", None)) is None


def test_lines_of_text_have_no_groups(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("group\na\n")
    assert read_groups(tmp_path / "p.txt") is None
    (tmp_path / "p.jsonl").write_text('"Tom had"\n\n"Lily saw"\n')
    assert read_groups(tmp_path / "p.jsonl") is None


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_prompt_without_a_group_beside_others_with_one_is_refused(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(BadPrompt, match=r"prompt 2 has no group and others have; expected all or none"):
        read_groups(write(tmp_path / f"p{suffix}", ["a", None, "b"]))
