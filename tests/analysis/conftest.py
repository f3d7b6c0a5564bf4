"""A small random GPT-2 with a real tokenizer, and a planted model: fast, and nothing is downloaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import save_gpt2

from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_gpt2(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Model:
    return load(tiny_folder, name="tiny")


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """One node alone writes into the stream: head L1H2. Every other head and MLP writes nothing."""
    folder = tmp_path_factory.mktemp("planted")
    hf = save_gpt2(folder)
    with torch.no_grad():
        blocks: Any = hf.transformer.h
        for layer, block in enumerate(blocks):
            block.mlp.c_proj.weight.zero_()
            block.mlp.c_proj.bias.zero_()
            keep = block.attn.c_proj.weight[16:24].clone()
            block.attn.c_proj.weight.zero_()
            block.attn.c_proj.bias.zero_()
            if layer == 1:
                block.attn.c_proj.weight[16:24] = 3 * keep
    hf.save_pretrained(folder)
    return load(folder, name="planted")


@pytest.fixture(scope="session")
def stories() -> list[str]:
    names = "Tom Lily Ben Mia Sam Anna Max Sue Tim Amy Jack Zoe Rob Kim".split()
    return [
        f"One day {name} went to the {'park' if i % 2 else 'ship'} and saw a big red" for i, name in enumerate(names)
    ]
