"""Tensors with a checksum: values, shapes, names and words; no other numbers, silently, whatever was flipped."""

import os
from pathlib import Path

import pytest
import torch
from flips import flips
from safetensors.torch import save_file
from torch import Tensor

from steerscope.analysis.errors import BadVector
from steerscope.analysis.files import write
from steerscope.analysis.tensors import read_tensors, tensor_bytes

TENSORS = {
    "weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "ids": torch.tensor([[3], [4]]),
    "flag": torch.tensor(True),
    "empty": torch.zeros(0, 4),
}
ABOUT = {"site": "L2.resid_pre", "label": "Zoë \U0001f600"}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and one[n].shape == other[n].shape and torch.equal(one[n], other[n]) for n in one
    )


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    found, about = read_tensors(write(tmp_path / "t", tensor_bytes(TENSORS, ABOUT)), BadVector, "vector")
    assert same(found, TENSORS) and about == ABOUT


def test_views_and_gradients_are_written_as_what_they_show(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4).requires_grad_()
    given = {"turned": base.T, "row": base[1], "same": base}
    found, _ = read_tensors(write(tmp_path / "t", tensor_bytes(given)), BadVector, "vector")
    assert same(found, {name: tensor.detach().contiguous() for name, tensor in given.items()})


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "t", tensor_bytes(TENSORS, ABOUT))
    accepted = 0
    for where in flips(path):
        try:
            found, about = read_tensors(path, BadVector, "vector")
        except BadVector as error:
            assert "\n" not in str(error)
            continue
        assert same(found, TENSORS) and about == ABOUT, where
        accepted += 1
    assert accepted < 0.02 * path.stat().st_size


def test_every_cut_is_refused(tmp_path: Path) -> None:
    content = tensor_bytes(TENSORS, ABOUT)
    for size in range(0, len(content), 3):
        (tmp_path / "t").write_bytes(content[:size])
        with pytest.raises(BadVector, match="is no vector"):
            read_tensors(tmp_path / "t", BadVector, "vector")


def test_another_name_another_shape_and_other_words_have_other_checksums(tmp_path: Path) -> None:
    ids = torch.tensor([[3, 4]])
    for tensors, about in (
        ({"a": ids}, {"site": "x"}),
        ({"b": ids}, {"site": "x"}),
        ({"a": ids.T.contiguous()}, {"site": "x"}),
        ({"a": ids.int()}, {"site": "x"}),
        ({"a": ids}, {"site": "y"}),
    ):
        sums = tensor_bytes(tensors, about)
        (tmp_path / sums.hex()[-8:]).write_bytes(sums)
    first = tensor_bytes({"a": ids}, {"site": "x"})
    forged = first.replace(b'"site":"x"', b'"site":"y"')
    assert forged != first
    (tmp_path / "forged").write_bytes(forged)
    with pytest.raises(BadVector, match="has changed since it was written"):
        read_tensors(tmp_path / "forged", BadVector, "vector")


def test_a_file_without_a_checksum_is_read_only_where_none_is_needed(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "t", {"format": "pt"})
    with pytest.raises(BadVector, match="checksum differs"):
        read_tensors(tmp_path / "t", BadVector, "vector")
    found, about = read_tensors(tmp_path / "t", BadVector, "vector", needed=False)
    assert same(found, TENSORS) and about == {"format": "pt"}
    save_file(TENSORS, tmp_path / "t", {"checksum": "0" * 64})
    with pytest.raises(BadVector, match="checksum differs"):
        read_tensors(tmp_path / "t", BadVector, "vector", needed=False)


@pytest.mark.parametrize(
    "name", ["missing", ".", "pipe", "zero", "empty", "text", "a" * 300, "a\0b", "\ud800"], ids=ascii
)
def test_what_cannot_be_read_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("not tensors at all")
    with pytest.raises(BadVector, match="is no vector .*; expected a safetensors file that can be read; check it"):
        read_tensors(tmp_path / name, BadVector, "vector")
