from pathlib import Path

import pandas as pd
import pytest

from steerscope.analysis.errors import BadPrompt
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.prompts import make_prompts, read_prompts


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
        make_prompts(tiny, [1.5])  # type: ignore[arg-type]
    with pytest.raises(BadPrompt, match="one text"):
        make_prompts(tiny, "Once")
    with pytest.raises(BadPrompt, match="no prompts"):
        make_prompts(tiny, [])


def test_bos_is_put_before_a_text_once(tiny: Model) -> None:
    plain, doubled = make_prompts(tiny, ["Once", "<|endoftext|>Once"]).ids
    assert plain == doubled and plain[0] == tiny.bos and tiny.bos not in plain[1:]


def test_the_hash_tells_prompts_apart(tiny: Model) -> None:
    assert make_prompts(tiny, ["a"]).hash == make_prompts(tiny, ["a"]).hash != make_prompts(tiny, ["b"]).hash
