"""A model and no network for the command line's tests."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import save_gpt2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_gpt2(folder)
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any connection is an error, also one whose failure a library swallows."""
    tried: list[object] = []

    def refuse(*arguments: object, **__: object) -> None:
        tried.append(arguments)
        raise OSError("something tried to reach a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert not tried
