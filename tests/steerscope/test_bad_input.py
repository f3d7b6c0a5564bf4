"""Bad input: one clear sentence and exit code 2 on the command line, a typed exception in Python."""

import io
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bad_files import FILES, Bad
from checkpoints import save_gpt2

import steerscope as st
from steerscope import cli
from steerscope.analysis.errors import (
    BadArgument,
    BadInjection,
    BadMetric,
    BadNode,
    BadPrompt,
    BadVector,
    ModelNotFound,
    OutputExists,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, prompt files of every badness, a pickle, a result."""
    place = tmp_path_factory.mktemp("place")
    save_gpt2(place / "model")
    (place / "prompts.txt").write_text("One day Tom saw a red ball\nLily went to the park with a ball\n")
    (place / "empty.txt").write_text("\n \n")
    (place / "latin.txt").write_bytes(b"caf\xe9\n")
    (place / "broken.jsonl").write_text('{"prompt": \n')
    (place / "short.txt").write_text("Tom\n")
    (place / "long.txt").write_text("word " * 100)
    pickled = place / "pickled"
    shutil.copytree(place / "model", pickled)
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    (place / "done").mkdir()
    (place / "done" / "manifest.json").write_text("{}")
    (place / "nothing").mkdir()
    return place


BASE = {
    "--model": "{place}/model",
    "--prompts": "{place}/prompts.txt",
    "--out": "{place}/out",
    "--plus": " wedding",
    "--minus": " ship",
    "--layer": "1",
    "--references": "1",
    "--completions": "0",
}
LONG = "One day Tom and Lily went to the park and saw a dragon near the ship"

COMMAND_LINE = [
    (
        {"--model": "tinystories-9l"},
        "'tinystories-9l'; expected a shipped name .tinystories-1l, tinystories-2l.*did you mean",
    ),
    ({"--model": "{place}/nowhere"}, "no folder .*nowhere"),
    ({"--model": "some/hub-model"}, "the hub does not give it"),
    ({"--model": "{place}/nothing"}, "no config.json"),
    ({"--model": "{place}/pickled"}, "pytorch_model.bin, a pickle"),
    ({"--model": "{place}/prompts.txt"}, "is a file; expected a Hugging Face folder"),
    ({"--layer": "7"}, "layers 0 to 1"),
    ({"--layer": "-1"}, "layer=-1; expected an integer from 0"),
    ({"--layer": None}, "no --layer given"),
    ({"--coef": "nan"}, "coefficient=nan; expected a finite number"),
    ({"--coef": "inf"}, "coefficient=inf; expected a finite number"),
    ({"--positions": "nowhere"}, "unknown position 'nowhere'"),
    ({"--positions": "50"}, "position 50 is outside of a prompt"),
    ({"--site": "pattern"}, "cannot be recorded at 'pattern'"),
    ({"--site": "z"}, "needs a head"),
    ({"--plus": " ship"}, "give the same activations"),
    ({"--plus": "", "--minus": ""}, "are both empty"),
    ({"--plus": None}, "expected one of them"),
    ({"--plus": None, "--vector": "{place}/nowhere.safetensors"}, "nowhere.safetensors' is no steering vector"),
    ({"--plus": None, "--vector": "{place}/prompts.txt"}, r"has the suffix '\.txt'; expected one of \.safetensors, "),
    ({"--plus": LONG, "--prompts": "{place}/short.txt"}, "the vector has .* positions and the prompt only"),
    ({"--prompts": "{place}/nowhere.txt"}, "no prompts file"),
    ({"--prompts": "{place}/model"}, "is a folder|Is a directory"),
    ({"--prompts": ""}, "source=''; expected a path"),
    ({"--prompts": "a" * 300}, "expected a path of at most"),
    ({"--prompts": "{place}/empty.txt"}, "holds no prompts"),
    ({"--prompts": "{place}/latin.txt"}, "not UTF-8"),
    ({"--prompts": "{place}/broken.jsonl"}, "line 1 is not JSON"),
    ({"--prompts": "{place}/long.txt"}, "reads at most 64"),
    ({"--metric": "beauty"}, "unknown metric 'beauty'; expected one of logit_direction"),
    ({"--metric": "log_prob"}, "needs --targets"),
    ({"--targets": " ship"}, "takes no --targets"),
    ({"--against": " ship"}, "--against without --targets"),
    ({"--metric": "log_prob", "--targets": " wedding cake"}, "is not a single token"),
    ({"--references": "-1"}, "references='-1'"),
    ({"--level": "2"}, "level=2"),
    ({"--dtype": "float8"}, "unknown dtype 'float8'"),
    ({"--device": "teapot"}, "unknown device 'teapot'"),
    ({"--out": "{place}/done"}, "holds a result already"),
    ({"--out": "{place}/prompts.txt"}, "is a file, expected a folder"),
    ({"--out": "{place}/prompts.txt/x"}, "prompts.txt/x' cannot be written .*; expected a place"),
]


@pytest.mark.parametrize(("changed", "words"), COMMAND_LINE, ids=[str(c) for c, _ in COMMAND_LINE])
def test_the_command_line_says_it_in_one_sentence(
    changed: dict[str, str | None],
    words: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {key: value.format(place=place) for key, value in (BASE | changed).items() if value is not None}
    monkeypatch.setattr(sys, "argv", ["steerscope", "localize", *(f"{k}={v}" for k, v in options.items())])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert re.search(words, error), error
    assert error.startswith("steerscope: ") and "Traceback" not in error and error.count("\n") == 1
    assert not (place / "out").exists()


PYTHON: list[tuple[Callable[[st.Model], object], type[st.SteerscopeError]]] = [
    (lambda m: st.load("tinystories-9l"), ModelNotFound),
    (lambda m: st.load("./nowhere"), ModelNotFound),
    (lambda m: st.load(m.source, dtype="float8"), BadArgument),
    (lambda m: st.load(m.source, device="teapot"), BadArgument),
    (lambda m: st.steering_vector(m, " wedding", " ship", 9), BadNode),
    (lambda m: st.steering_vector(m, " ship", " ship", 0), BadVector),
    (lambda m: st.Injection(st.steering_vector(m, " wedding", " ship", 0), float("nan")), BadInjection),
    (lambda m: st.Injection(st.steering_vector(m, " wedding", " ship", 0), 1.0, 0, "nowhere"), BadInjection),
    (lambda m: st.localize(m, st.Injection(st.steering_vector(m, " wedding", " ship", 0)), [" "]), BadPrompt),
    (lambda m: st.localize(m, st.Injection(st.steering_vector(m, " wedding", " ship", 0)), ["a " * 99]), BadPrompt),
    (lambda m: st.localize(m, [], ["Tom had a ball"]), BadInjection),
    (lambda m: st.localize(m, st.Injection(st.steering_vector(m, " wedding", " ship", 0)), method="x"), BadArgument),
    (lambda m: st.log_prob([]), BadMetric),
    (lambda m: st.read_prompts("nowhere.txt"), BadPrompt),
    (lambda m: st.Result("exact", {}, {}).save(__file__), OutputExists),
]


@pytest.mark.parametrize(("call", "error"), PYTHON)
def test_python_raises_a_typed_exception(
    call: Callable[[st.Model], object], error: type[Exception], place: Path
) -> None:
    with pytest.raises(error):
        call(st.load(place / "model"))


@pytest.fixture(scope="module")
def loaded(place: Path) -> st.Model:
    return st.load(place / "model")


TEXTS: dict[str, list[str]] = {
    "localize": ["localize", *(f"{k}={v}" for k, v in BASE.items() if k != "--prompts"), "--prompts"],
    "sweep run": [
        "sweep",
        "run",
        "--plus=a",
        "--layer=0",
        "--trials=8",
        "--tokens=4",
        "--model=m",
        "--out=o",
        "--prompts",
    ],
    "sweep run of lines": [
        *["sweep", "run", "--plus=a", "--layer=0", "--trials=8", "--tokens=0", "--model=m", "--out=o"],
        "--prompts",
    ],
    "lens train": ["lens", "train", "--model=m", "--out=o", "--tokens=4", "--text"],
}


@pytest.mark.parametrize("command", TEXTS)
@pytest.mark.parametrize("bad", FILES, ids=[bad.name for bad in FILES])
def test_a_file_of_texts_that_cannot_be_used_is_refused_by_every_command(
    bad: Bad,
    command: str,
    loaded: st.Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not bad.corpus and command in ("sweep run", "lens train"):
        pytest.skip("as a corpus it can be used")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("steerscope.loader.load", lambda *_, **__: loaded)
    monkeypatch.setattr(sys, "argv", ["steerscope", *TEXTS[command], str(bad.put(tmp_path))])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2
    assert re.search(bad.words, error), error
    assert error.startswith("steerscope: ") and "; expected " in error
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("command", TEXTS)
def test_texts_that_are_piped_in_are_refused_alike(
    command: str, loaded: st.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("steerscope.loader.load", lambda *_, **__: loaded)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"prompt": 5}')))
    monkeypatch.setattr(sys, "argv", ["steerscope", *TEXTS[command], "-"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "standard input line 1 has no text" in capsys.readouterr().err


def test_prompts_can_be_piped_in(
    loaded: st.Model, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Groups that the lines name are found, too: both come from one reading."""
    told = []
    texts = (place / "prompts.txt").read_text().splitlines()
    lines = [f'{{"prompt": "{text}", "group": 1}}' for text in texts]
    monkeypatch.setattr("steerscope.loader.load", lambda *_, **__: loaded)
    for piped in (texts, lines):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(piped).encode())))
        options = {key: value.format(place=place) for key, value in BASE.items()} | {"--prompts": "-"}
        monkeypatch.setattr(
            sys,
            "argv",
            ["steerscope", "localize", "--dry-run", *(f"{k}={v}" for k, v in options.items() if "com" not in k)],
        )
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
        told.append(capsys.readouterr().out)
    assert "2 prompts in 2 groups" in told[0] and "2 prompts of one group" in told[1]
