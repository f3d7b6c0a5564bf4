import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from steerscope.analysis.errors import BadPrompt
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.prompt_files import read_prompts
from steerscope.analysis.question.prompts import Prompts, continued, make_prompts


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_every_format_gives_the_same_texts(tmp_path: Path) -> None:
    texts = ["Once upon", 'a "quoted", text']
    pd.DataFrame({"text": texts}).to_parquet(tmp_path / "p.parquet")
    pd.DataFrame({"n": [1, 2], "prompt": texts}).to_csv(tmp_path / "p.csv", index=False)
    files = [
        write(tmp_path / "p.txt", '\ufeffOnce upon\n\na "quoted", text\n'),
        write(tmp_path / "p.jsonl", '{"prompt": "Once upon"}\n"a \\"quoted\\", text"\n'),
        tmp_path / "p.csv",
        tmp_path / "p.parquet",
    ]
    assert [read_prompts(file) for file in files] == [texts] * 4


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.txt", "\n  \n", "holds no prompts"),
        ("p.txt", b"caf\xe9", "not UTF-8"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt"', "line 2 is not JSON"),
        ("p.jsonl", '{"other": "a"}', "line 1 has no text under prompt or text"),
        ("p.jsonl", "[1]", r"entry 1 \(line 1\) has no text"),
        ("p.csv", "a,b\n1,2\n", "has the columns a, b"),
        ("p.csv", "", "holds no prompts"),
        ("p.parquet", b"nothing", "not a parquet file"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: str | bytes, words: str
) -> None:
    with pytest.raises(BadPrompt, match=words):
        read_prompts(write(tmp_path / name, content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadPrompt, match="nowhere.txt"):
        read_prompts(tmp_path / "nowhere.txt")


def test_all_faults_are_reported_together(tiny: Model) -> None:
    with pytest.raises(BadPrompt, match="prompt 1 is empty or blank; prompt 3 has .* tokens, tiny reads at most 64"):
        make_prompts(tiny, ["  ", "fine", "word " * 200])


def test_ids_outside_of_the_vocabulary_and_other_things_are_refused(tiny: Model) -> None:
    with pytest.raises(BadPrompt, match="token ids outside of"):
        make_prompts(tiny, [[0, 5, 100_000]])
    with pytest.raises(BadPrompt, match="prompt 1 is float"):
        make_prompts(tiny, [1.5])
    with pytest.raises(BadPrompt, match="one text"):
        make_prompts(tiny, "Once")
    with pytest.raises(BadPrompt, match="no prompts"):
        make_prompts(tiny, [])


def test_bos_is_put_before_a_text_once(tiny: Model) -> None:
    plain, doubled = make_prompts(tiny, ["Once", "<|endoftext|>Once"]).ids
    assert plain == doubled and plain[0] == tiny.bos and tiny.bos not in plain[1:]


def test_the_hash_tells_prompts_apart(tiny: Model) -> None:
    assert make_prompts(tiny, ["a"]).hash == make_prompts(tiny, ["a"]).hash != make_prompts(tiny, ["b"]).hash


class Broken:
    """Something whose own code fails."""

    def __iter__(self) -> Any:
        raise KeyError("no")


@pytest.mark.parametrize(
    "given",
    [
        lambda: (text for text in ["Tom saw", "Lily saw"]),
        lambda: ("Tom saw", "Lily saw"),
        lambda: np.array(["Tom saw", "Lily saw"]),
        lambda: pd.Series(["Tom saw", "Lily saw"], index=[7, 3]),
        lambda: map(str, ["Tom saw", "Lily saw"]),
    ],
)
def test_texts_may_come_in_anything_that_has_an_order(given: Any, tiny: Model) -> None:
    assert make_prompts(tiny, given()) == make_prompts(tiny, ["Tom saw", "Lily saw"])


@pytest.mark.parametrize(
    "given",
    [
        np.array([[1, 2], [3, 4]]),
        torch.tensor([[1, 2], [3, 4]]),
        [np.array([1, 2], dtype=np.uint8), torch.tensor([3, 4])],
        [[np.int64(1), torch.tensor(2)], (3, 4)],
        [range(1, 3), range(3, 5)],
        torch.tensor([[1, 2], [3, 4]]).unbind(),
    ],
)
def test_token_ids_may_come_in_any_sequence(given: Any, tiny: Model) -> None:
    assert make_prompts(tiny, given).ids == ((1, 2), (3, 4))


def test_texts_and_ids_may_be_mixed(tiny: Model) -> None:
    assert make_prompts(tiny, ["Tom", [1, 2]]).texts == ("Tom", "1 2")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prompt": "Tom"}, "got .* for prompts .it is a dict"),
        (b"Tom", "got b'Tom' for prompts .it is a bytes"),
        ({"Tom", "Lily"}, "for prompts .it is a set"),
        (pd.DataFrame({"prompt": ["Tom"]}), "for prompts .it is a DataFrame"),
        (None, "got None for prompts"),
        (5, "got 5 for prompts"),
        (Broken(), "for prompts .*no.*; expected a list"),
        (np.array(5), "for prompts .iteration over a 0-d array"),
        (torch.tensor(5), "for prompts .iteration over a 0-d tensor"),
        (itertools.repeat("Tom"), "got more than 1,000,000 prompts"),
        ([{"role": "user", "content": "Hi"}], "prompt 1 is a dictionary: a chat is a list of messages"),
        ([1, 2], "prompt 1 is one token id: put the list of them in brackets"),
        ([[]], "prompt 1 is empty"),
        ([[[1]]], r"prompt 1 is \[\[1\]\], expected a text or a list of token ids"),
        ([[True]], r"prompt 1 is \[True\], expected"),
        ([[1.0]], r"prompt 1 is \[1.0\], expected"),
        ([[2**70]], "prompt 1 is .*, expected"),
        ([["Tom"]], "prompt 1 is .*, expected"),
        ([[-1]], r"prompt 1 has token ids outside of 0\.\."),
        ([[1] * 65], "prompt 1 has 65 tokens, tiny reads at most 64"),
        ([b"Tom"], "prompt 1 is bytes, expected"),
        ([None], "prompt 1 is NoneType, expected"),
        (["a\ud800b"], "prompt 1 holds a lone surrogate"),
        (["a" * 2_000_000], "prompt 1 has 2,000,000 characters"),
        (torch.zeros(2, 2), "prompt 1 is tensor.*, expected"),
        (torch.zeros(2, 2, 2, dtype=torch.int64), "prompt 1 is Tensor, expected"),
        (torch.zeros(2, 2, dtype=torch.int64, device="meta"), "prompt 1 is tensor.*, expected"),
        (torch.zeros(1, 1, dtype=torch.int64).expand(2, 10**12), "prompt 1 has 1000000000000 tokens"),
        (Prompts(((1, 10**6),), ("",)), "ids up to 1000000; expected .* ids below"),
        (Prompts(((1,) * 65,), ("",)), "up to 65 tokens .*; expected at most 64 tokens"),
        (Prompts(((1,) * 60,), ("",), continuations=((1,) * 5,)), "up to 65 tokens"),
        (Prompts((), ()), "no prompts in given"),
    ],
)
def test_what_is_no_prompt_is_refused_by_its_number(given: Any, words: str, tiny: Model) -> None:
    with pytest.raises(BadPrompt, match=words) as refused:
        make_prompts(tiny, given)
    assert "; expected " in str(refused.value) and str(refused.value).isprintable()


def test_many_faults_are_not_read_to_the_end(tiny: Model) -> None:
    encoded: list[str] = []

    class Counting:
        def __call__(self, text: str, **options: Any) -> Any:
            encoded.append(text)
            return tiny.tokenizer(text, **options)

    with pytest.raises(BadPrompt, match="prompt 5 has .*; and more"):
        make_prompts(replace(tiny, tokenizer=Counting()), ["word " * 100] * 100)
    assert len(encoded) < 10


@pytest.mark.parametrize(
    ("groups", "words"),
    [([["a"], ["b"]], "unhashable"), ({"a": 1, "b": 2}, "groups="), (5, "groups=5"), (b"ab", "groups=")],
)
def test_groups_that_are_no_names_are_refused(groups: Any, words: str, tiny: Model) -> None:
    with pytest.raises(BadPrompt, match=words):
        make_prompts(tiny, ["Tom", "Lily"], groups=groups)


def test_groups_may_come_in_an_array_or_a_generator(tiny: Model) -> None:
    given: list[Any] = [np.array([3, 3]), (name for name in "aa"), torch.tensor([5, 5])]
    for groups in given:
        assert make_prompts(tiny, ["Tom", "Lily"], groups=groups).groups == (0, 0)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"texts": ("a", "b")}, "got 2 texts for 1 prompts; expected one each"),
        ({"texts": ()}, "got 0 texts for 1 prompts"),
        ({"groups": (1, 2)}, "got 2 groups for 1 prompts"),
        ({"continuations": ((1,), (2,))}, "got 2 continuations for 1 prompts"),
        ({"ids": ((),)}, "prompt 1 is .*; expected token ids, at least one"),
        ({"ids": ((1, -1),)}, "prompt 1 is .*; expected token ids, .* none below 0"),
        ({"continuations": ((),)}, "continuation 1 is"),
        ({"ids": ((1.5,),)}, "got ids="),
        ({"ids": ("ab",)}, "got ids="),
        ({"ids": 5}, "got ids=5"),
        ({"texts": ("a\ud800",)}, "got texts="),
        ({"source": None}, "got source=None"),
        ({"hash": 1}, "hash"),
    ],
)
def test_prompts_whose_parts_do_not_agree_are_none(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(BadPrompt, match=words):
        Prompts(**{"ids": ((1, 2),), "texts": ("a",), **parts})


def test_prompts_are_plain_whatever_they_are_made_of() -> None:
    made = Prompts(np.array([[1, 2]]), ["a"], groups=[np.int64(3)])  # type: ignore[arg-type]
    assert made == Prompts(((1, 2),), ("a",), groups=(3,)) and hash(made) == hash(
        Prompts(((1, 2),), ("a",), groups=(3,))
    )
    assert made.hash == Prompts(((1, 2),), ("a",)).hash


def test_a_choice_of_prompts_is_one_that_there_is(tiny: Model) -> None:
    prompts = make_prompts(tiny, ["Tom", "Lily", "Ben"])
    chosen: Any = np.array([2, 0])
    assert prompts.some(chosen).texts == ("Ben", "Tom") and prompts.some([-1]).texts == ("Ben",)
    assert len(prompts.some([])) == 0 and prompts.first(99) == prompts
    for chosen in ([3], [-4], [True], [0.0], 0, "ab", [None]):
        with pytest.raises(BadPrompt):
            prompts.some(chosen)
    for count in (-1, 1.5, None, "2"):
        with pytest.raises(BadPrompt):
            prompts.first(count)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "continuation", ["", [], [-1], [10**6], "word " * 100, "a" * 2_000_000, "\ud800", 5, None, ["a"]]
)
def test_a_continuation_is_some_tokens_of_the_model(continuation: Any, tiny: Model) -> None:
    with pytest.raises(BadPrompt):
        continued(tiny, make_prompts(tiny, ["Tom"]), continuation)
    assert continued(tiny, make_prompts(tiny, ["Tom"]), np.array([1, 2])).continuations == ((1, 2),)  # type: ignore[arg-type]
