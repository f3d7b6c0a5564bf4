"""Small models of every architecture, the real models that lie beside the repository, and quiet libraries."""

import os
import tempfile

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
if "XDG_CACHE_HOME" not in os.environ:  # nothing of a user's is read or written; workers and subprocesses share it
    _cache = tempfile.TemporaryDirectory(prefix="steerscope-tests-", ignore_cleanup_errors=True)
    os.environ["XDG_CACHE_HOME"] = _cache.name

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, NATIVE, checkpoint, native
from transformers.utils import logging

from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model

REAL_MODELS = Path(__file__).parents[2] / "shared" / "models"


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> "SmallModels":
    return SmallModels(tmp_path_factory.mktemp("small_models"))


class SmallModels:
    """Random models by name, each saved and loaded once, when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: dict[str, Model] = {}

    def folder(self, name: str) -> Path:
        folder = self._folder / name
        if not folder.exists():
            checkpoint(name).save_pretrained(folder)
        return folder

    def __getitem__(self, name: str) -> Model:
        if name not in self._loaded:
            source: Any = native(name) if name in NATIVE else self.folder(name)
            self._loaded[name] = load(source, name=name)
        return self._loaded[name]


@pytest.fixture(scope="session", params=[*ARCHITECTURES, *NATIVE])
def every_architecture(request: pytest.FixtureRequest, small_models: SmallModels) -> Model:
    """Each of the architectures that we promise to analyse, in turn."""
    return small_models[request.param]


@pytest.fixture(scope="session")
def small_model(small_models: SmallModels) -> Model:
    """A random GPT-2, where one architecture is enough."""
    return small_models["gpt2"]


@pytest.fixture(scope="session")
def stories260k() -> Model:
    """A trained Llama with a SentencePiece vocabulary."""
    folder = REAL_MODELS / "stories260k"
    if not folder.is_dir():
        pytest.skip("no trained model stories260k beside the repository")
    return load(folder)


@pytest.fixture(scope="session", params=["stories260k", pytest.param("babyllama_char", marks=pytest.mark.slow)])
def real_model(request: pytest.FixtureRequest) -> Iterator[Model]:
    """Trained Llamas, where they lie beside the repository."""
    folder = REAL_MODELS / request.param
    if not folder.is_dir():
        pytest.skip(f"no trained model {request.param} beside the repository")
    yield load(folder)
